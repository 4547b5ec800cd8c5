//! The YAML parser's sentences in the words of someone who writes YAML, with the usual slips recognised by what stands in the text.

use std::ops::Range;
use std::sync::Arc;

use crate::diagnostic::{Diagnostic, SourceText};

/// Explains a syntax error that the parser reported with this sentence at this place.
pub fn explain(source: &Arc<SourceText>, said: &str, at: Range<usize>) -> Diagnostic {
    let text = &source.text;
    if let Some(found) = bare_template(source, at.start) {
        return found;
    }
    if let Some(tab) = tab_indent(text, at.start) {
        return Diagnostic::error("yaml-tab", "a tab cannot indent YAML").label(source, tab, "a tab").help("indent with spaces");
    }
    let cut_short = ["indentation", "end of stream", "EOF"].iter().any(|word| said.contains(word));
    if (said.contains("quoted scalar") && cut_short || said.contains("document indicator"))
        && let Some((quote, place)) = unclosed_quote(text, at.start)
    {
        return Diagnostic::error("yaml-quote", format!("the {quote} quote is never closed"))
            .label(source, place, "opened here")
            .label(source, at, "the text cannot go on here")
            .help("close the quote at the end of the text, or double it when it is part of the text");
    }
    if said.starts_with("mapping values are not allowed") {
        let before = &text[text[..at.start].rfind('\n').map_or(0, |line| line + 1)..at.start];
        let problem = Diagnostic::error("yaml-indent", "a `:` begins a mapping where none can begin").label(source, at.clone(), "");
        return problem.help(if before.contains(": ") {
            "quote a text that holds `: `"
        } else {
            "give keys of one mapping the same indentation, and put a space behind each `:`"
        });
    }
    let (code, message, help) = plain_words(said, character(text, at.start));
    let diagnostic = Diagnostic::error(code, message).label(source, at, "");
    help.into_iter().fold(diagnostic, Diagnostic::help)
}

/// `url: {{ env.URL }}` is a mapping inside a mapping to YAML, and `{ path: /{{ id }} }` nothing at all. `near` is a byte inside of the braces or on
/// their line.
pub fn bare_template(source: &Arc<SourceText>, near: usize) -> Option<Diagnostic> {
    let text = &source.text;
    let line_start = text[..near].rfind('\n').map_or(0, |at| at + 1);
    let line_end = text[near..].find('\n').map_or(text.len(), |at| near + at);
    let line = &text[line_start..line_end];
    let (braces, start) = line.match_indices("{{").find_map(|(at, _)| {
        let before = line[..at].trim_end();
        let in_quotes = before.matches('"').count() % 2 == 1 || before.matches('\'').count() % 2 == 1;
        if in_quotes {
            return None;
        }
        if before.is_empty() || before.ends_with([':', '-', ',', '[', '{']) {
            return Some((at, at));
        }
        // The text that the braces stand in, where the parser could not go on.
        let begins = [": ", ", ", "{ ", "[", "{"].into_iter().filter_map(|mark| Some(before.rfind(mark)? + mark.len())).max()?;
        (line_start + at == near).then_some((at, begins))
    })?;
    let start = line_start + start;
    let close = line[braces..].find("}}").map_or(line_end, |at| line_start + braces + at + 2);
    // Text that goes on behind the braces belongs into the quotes too.
    let more = text[close..line_end].find([' ', ',', '}', ']']).unwrap_or(line_end - close);
    let template = &text[start..close + more];
    let quoted = if template.contains('"') { format!("'{template}'") } else { format!("\"{template}\"") };
    let diagnostic = Diagnostic::error("template-unquoted", "a template without quotes is a YAML mapping, not a text");
    Some(diagnostic.label(source, start..close + more, "quote this text").help(format!("write {quoted}")))
}

/// A place that a caret can stand under, one character wide; the end of the text moves back to the last character that shows.
pub fn visible(text: &str, at: usize) -> Range<usize> {
    let shown = text.trim_end();
    match text.get(at..).and_then(|rest| rest.chars().next()).filter(|_| at < shown.len()) {
        Some(here) => at..at + here.len_utf8(),
        None => shown.char_indices().next_back().map_or(0..0, |(start, last)| start..start + last.len_utf8()),
    }
}

fn character(text: &str, at: usize) -> char {
    text.get(at..).and_then(|rest| rest.chars().next()).unwrap_or(' ')
}

/// The first tab in the indentation of the line at `near`.
fn tab_indent(text: &str, near: usize) -> Option<Range<usize>> {
    let start = text[..near].rfind('\n').map_or(0, |at| at + 1);
    let indent = text[start..].find(|c: char| c != ' ' && c != '\t').unwrap_or(0);
    let tab = text[start..start + indent].find('\t')?;
    Some(start + tab..start + tab + 1)
}

/// The last quote before `near` that opens a value and is not closed on its line.
fn unclosed_quote(text: &str, near: usize) -> Option<(&'static str, Range<usize>)> {
    let mut end = near;
    loop {
        let start = text[..end].rfind('\n').map_or(0, |at| at + 1);
        let line = &text[start..end];
        for (quote, name) in [('"', "double"), ('\'', "single")] {
            if line.matches(quote).count() % 2 == 1 {
                let opening =
                    line.match_indices(quote).map(|(at, _)| at).find(|at| line[..*at].trim_end().ends_with([':', '-', ',', '[', '{']));
                if let Some(at) = opening {
                    return Some((name, start + at..start + at + 1));
                }
            }
        }
        end = start.checked_sub(1)?;
    }
}

/// Code, message and the way out.
fn plain_words(said: &str, found: char) -> (&'static str, String, Option<&'static str>) {
    let said = said.rsplit_once(" at line ").map_or(said, |(sentence, _)| sentence);
    let (code, message, help) = match said {
        _ if said.starts_with("while parsing a block mapping, did not find expected key") => {
            ("yaml-indent", "this key lines up with no mapping above it", Some("give keys of one mapping the same indentation"))
        }
        _ if said.contains("did not find expected '-'") => (
            "yaml-indent",
            "this line stands in a list but has no `-`",
            Some("begin each item with `- `, or end the list by indenting less"),
        ),
        _ if said.contains("wrongly indented") || said.contains("invalid indentation") => {
            ("yaml-indent", "the line is indented too little to belong to the text above", Some("indent it deeper than the key"))
        }
        _ if said.starts_with("simple key expected ':'") => {
            ("yaml-syntax", "a key without a `:`", Some("write `key: value`, with a space after the `:`"))
        }
        _ if said.starts_with("block sequence entries are not allowed") => {
            ("yaml-syntax", "a list cannot begin behind a key on the same line", Some("put `- ` on a new line, or write `[a, b]`"))
        }
        _ if said.contains("flow mapping") => ("yaml-bracket", "a `{` is not closed, or a `,` is missing", Some("close it with `}`")),
        _ if said.contains("flow sequence") || said.contains("illegal placement of ':'") => {
            ("yaml-bracket", "a `[` is not closed, or a `,` is missing", Some("close it with `]`"))
        }
        _ if said.contains("bracket") => ("yaml-bracket", "brackets do not match", Some("each `[` needs its `]`, each `{` its `}`")),
        _ if said.contains("escape") => {
            ("yaml-syntax", "a backslash in double quotes must begin a known escape", Some("double the backslash, or use single quotes"))
        }
        _ if said.contains("trailing content after") => (
            "yaml-quote",
            "text follows a closing quote",
            Some("put all of the text in one pair of quotes; a `'` inside single quotes is written `''`"),
        ),
        _ if said.contains("anchor or alias") => ("yaml-anchor", "`*` and `&` begin an alias or an anchor", Some("quote the text")),
        _ if said.starts_with("unexpected character") => {
            let message = format!("a text cannot begin with `{found}` unless it is quoted");
            return ("yaml-syntax", message, Some("quote the text"));
        }
        _ if said.contains("recursion limit") => ("file-too-deep", "lists and mappings nest too deep", None),
        _ if said.contains("tab") => ("yaml-tab", "a tab stands where YAML wants spaces", Some("use spaces")),
        _ => return ("yaml-syntax", said.to_owned(), None),
    };
    (code, message.to_owned(), help)
}

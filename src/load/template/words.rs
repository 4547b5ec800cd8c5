//! What a template may say: its names, statements, filters and tests, and where in SQL its expressions may stand.

use std::ops::Range;

use super::{Problem, ROOTS, Target, Uses, problem, sql, tags};
use crate::diagnostic::suggest::{known_names, list, near};
use crate::dialect::Dialect;

const STATEMENTS: &[&str] = &["if", "elif", "else", "endif", "for", "endfor", "set", "endset", "with", "endwith", "raw", "endraw"];
const TESTS: &[&str] = &["defined", "undefined", "none", "true", "false", "in", "startingwith", "endingwith"];
const FILTERS: &[&str] =
    &["default", "d", "upper", "lower", "trim", "replace", "split", "join", "length", "first", "last", "int", "string", "ident"];

/// Notes what a name reads, and refuses one that is not known. `own` are names that only this template has.
pub(super) fn note_use(uses: &mut Uses, target: Target, own: &[&str], name: &str, span: Range<usize>) -> Result<(), Problem> {
    let (root, rest) = name.split_once('.').map_or((name, None), |(root, rest)| (root, Some(rest)));
    let leaf = rest.map(|rest| rest.split('.').next().unwrap_or(rest));
    let known = |words: &[&str]| -> Result<(), Problem> {
        let unknown = |leaf: &str| {
            let told = problem("template-name", format!("`{root}` has no `{leaf}`")).at(span.clone());
            told.help(near(leaf, words.iter().copied()).unwrap_or_else(|| format!("`{root}` has {}", list(words.iter().copied()))))
        };
        match leaf {
            Some(leaf) if words.contains(&leaf) => Ok(()),
            Some(leaf) => Err(unknown(leaf)),
            None => Ok(()),
        }
    };
    match (root, leaf) {
        ("params", Some(leaf)) => {
            uses.params.entry(leaf.to_owned()).or_insert(span);
        }
        ("env", Some(leaf)) => {
            uses.env.entry(leaf.to_owned()).or_insert(span);
        }
        (_, None) if ROOTS.contains(&root) => {
            let example = match root {
                "params" => "params.since",
                "env" => "env.HOME",
                "secret" => "secret.file('path')",
                "run" => "run.id",
                "event" => "event.message",
                _ => "pipeline.name",
            };
            return Err(problem("template-name", format!("`{root}` stands alone; its parts are named with a dot"))
                .at(span)
                .help(format!("write for example `{example}`")));
        }
        ("secret", _) => {
            known(&["file"])?;
            uses.secret = true;
        }
        ("run", _) => {
            known(&["id", "started_at", "scheduled_at", "interval_start", "interval_end"])?;
            uses.run = true;
            uses.run_id |= leaf == Some("id");
        }
        ("pipeline", _) => known(&["name"])?,
        ("event", _) if target != Target::Message => {
            let message = "`event` is what a notification is about, and there is none here";
            return Err(problem("template-name", message).at(span).help("use it in the `body` of `notify:`"));
        }
        ("event", _) => known(&["kind", "stage", "message", "help"])?,
        _ => {
            let here = |name: &&str| *name != "event" || target == Target::Message;
            let help = known_names(root, "names", own.iter().chain(ROOTS).copied().filter(here));
            return Err(problem("template-name", format!("unknown name `{root}` in a template")).at(span).help(help));
        }
    }
    Ok(())
}

/// The place of the first use of a dotted name.
pub(super) fn place_of(text: &str, pieces: &[tags::Piece], name: &str) -> Range<usize> {
    let path: Vec<&str> = name.split('.').collect();
    let words: Vec<tags::Word<'_>> = pieces
        .iter()
        .flat_map(|piece| match piece {
            tags::Piece::Text(_) => Vec::new(),
            tags::Piece::Expression(tag) | tags::Piece::Statement(tag) => tags::words(text, tag.clone()).collect(),
        })
        .collect();
    let starts = |window: &&[tags::Word<'_>]| {
        let same = window.iter().zip(&path).all(|(word, part)| word.text == *part);
        let followed = path.len() > 1 || window[0].before != '.';
        same && followed && window[0].before != '.' && window[1..].iter().all(|word| word.before == '.')
    };
    let found = words.windows(path.len()).find(starts);
    found.map_or(0..text.len(), |window| window[0].span.start..window[window.len() - 1].span.end)
}

pub(super) fn check_words(text: &str, target: Target, pieces: &[tags::Piece]) -> Result<(), Problem> {
    for piece in pieces {
        let (tag, statement) = match piece {
            tags::Piece::Text(_) => continue,
            tags::Piece::Expression(tag) => (tag, false),
            tags::Piece::Statement(tag) => (tag, true),
        };
        let words: Vec<tags::Word<'_>> = tags::words(text, tag.clone()).collect();
        if let Some(first) = words.first().filter(|first| statement && !STATEMENTS.contains(&first.text)) {
            let message = format!("`{{% {} %}}` is not part of haul's templates", first.text);
            return Err(problem("template-syntax", message).at(first.span.clone()).help("write expressions, `if`, `for` and `set`"));
        }
        for (index, word) in words.iter().enumerate() {
            let says =
                |at: Option<usize>, said: &str| at.and_then(|at| words.get(at)).is_some_and(|word| word.text == said && word.before != '.');
            let is = says(index.checked_sub(1), "is") || (says(index.checked_sub(1), "not") && says(index.checked_sub(2), "is"));
            if word.before == '|' {
                check_filter(word, target)?;
            } else if is && word.before == 'a' && word.text != "not" && !TESTS.contains(&word.text) {
                let help = known_names(word.text, "tests", TESTS.iter().copied());
                return Err(problem("template-syntax", format!("unknown test `{}`", word.text)).at(word.span.clone()).help(help));
            }
        }
    }
    Ok(())
}

fn check_filter(word: &tags::Word<'_>, target: Target) -> Result<(), Problem> {
    let name = word.text;
    let problem = |message: String| problem("template-filter", message).at(word.span.clone());
    match (name, target) {
        ("ident", Target::Text | Target::Message) => {
            Err(problem("`| ident` quotes a name for SQL, and this is not SQL".to_owned()).help("remove it"))
        }
        ("safe" | "escape" | "e" | "tojson", Target::Sql(_)) => {
            Err(problem(format!("there is no `| {name}`: no value enters SQL unquoted"))
                .help("an expression becomes a quoted literal; for a name use `| ident`"))
        }
        _ if FILTERS.contains(&name) => Ok(()),
        _ => Err(problem(format!("unknown filter `{name}`")).help(known_names(name, "filters", FILTERS.iter().copied()))),
    }
}

/// The scan before any value is known: block tags vanish, expressions become holes.
pub(super) fn check_places(text: &str, dialect: Dialect, pieces: &[tags::Piece]) -> Result<(), Problem> {
    if let Some(at) = text.find(sql::HOLE) {
        return Err(problem("template-sql", "SQL cannot hold a NUL character").at(at..at + 1));
    }
    let mut blank = String::with_capacity(text.len());
    let mut holes = Vec::new();
    for piece in pieces {
        match piece {
            tags::Piece::Text(range) => blank.push_str(&text[range.clone()]),
            tags::Piece::Statement(_) => {}
            tags::Piece::Expression(range) => {
                blank.push(sql::HOLE);
                holes.push(range.clone());
            }
        }
    }
    // Branches that stand side by side can glue texts together that never meet; the scan of the rendered text judges those.
    let branches = pieces.iter().any(|piece| matches!(piece, tags::Piece::Statement(_)));
    for (place, hole) in sql::places(dialect, &blank).into_iter().zip(holes) {
        if let Some(problem) = misplaced(place).filter(|_| !(branches && place == sql::Place::Glued)) {
            return Err(problem.at(hole));
        }
    }
    Ok(())
}

pub(super) fn misplaced(place: sql::Place) -> Option<Problem> {
    let (message, help) = match place {
        sql::Place::Open | sql::Place::Tight => return None,
        sql::Place::Glued => ("an expression stands against another word of the SQL", "leave a blank before and after `{{ … }}`"),
        sql::Place::Literal => {
            ("an expression stands inside quotes", "remove the quotes around `{{ … }}`: it becomes a quoted literal by itself")
        }
        sql::Place::Identifier => (
            "an expression stands inside a quoted name",
            "remove the quotes and write `{{ … | ident }}`: it becomes a quoted name by itself",
        ),
        sql::Place::Comment => ("an expression stands inside an SQL comment", "take it out of the comment, or write `{# … #}` around it"),
    };
    Some(problem("template-sql", message).help(help))
}

//! SQL text → syntax tree, with bare names spelled as the columns are, and problems that point into the text.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use datafusion::sql::sqlparser::ast;
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::keywords::{Keyword, RESERVED_FOR_COLUMN_ALIAS, RESERVED_FOR_IDENTIFIER, RESERVED_FOR_TABLE_ALIAS};
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan, Tokenizer, TokenizerError, Word};

use crate::diagnostic::suggest;

/// Nesting the parser follows; deeper is refused before it can exhaust the stack.
const DEPTH: usize = 48;

/// A problem in a SQL text, still without the place of that text in the document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub code: &'static str,
    pub span: Option<Range<usize>>,
    pub message: String,
    pub help: Option<String>,
}

impl Fault {
    pub(super) fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, span: None, message: message.into(), help: None }
    }

    pub(super) fn span(mut self, span: Option<Range<usize>>) -> Self {
        self.span = span;
        self
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// The names a text may use, to find the spelling that a bare name means.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    by_lowercase: BTreeMap<String, BTreeSet<String>>,
}

impl Names {
    pub(super) fn new<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let mut known = Self::default();
        names.into_iter().for_each(|name| known.add(name));
        known
    }

    pub(super) fn add(&mut self, name: &str) {
        self.by_lowercase.entry(name.to_lowercase()).or_default().insert(name.to_owned());
    }

    /// The spelling that a bare name means; `None` when no name is like it. The error lists the names it could mean.
    pub(super) fn spelling(&self, bare: &str) -> Result<Option<&str>, Vec<&str>> {
        let Some(spellings) = self.by_lowercase.get(&bare.to_lowercase()) else { return Ok(None) };
        match spellings.get(bare) {
            Some(exact) => Ok(Some(exact)),
            None if spellings.len() == 1 => Ok(spellings.first().map(String::as_str)),
            None => Err(spellings.iter().map(String::as_str).collect()),
        }
    }

    /// The nearest name, as a help.
    pub(super) fn suggest(&self, wrong: &str) -> Option<String> {
        suggest::near(wrong, self.by_lowercase.values().filter_map(|spellings| spellings.first()).map(String::as_str))
    }
}

/// Every word of a text with its place.
#[derive(Clone, Debug, Default)]
pub(super) struct Words(Vec<Used>);

/// A word where it is used.
#[derive(Clone, Debug)]
struct Used {
    word: String,
    span: Range<usize>,
    /// The same place as the parser counts it.
    start: Location,
    /// The word that it stands behind with a point.
    of: Option<String>,
    role: Role,
}

/// What a word can be by what stands around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// It stands before a parenthesis.
    Function,
    /// It stands before a point, or behind `from` or `join`.
    Table,
    /// It stands behind `as`.
    Alias,
    Other,
}

impl Words {
    /// The place of a word that the parser has read.
    pub(super) fn place(&self, ident: &ast::Ident) -> Option<Range<usize>> {
        let read = self.0.iter().find(|used| used.start == ident.span.start).map(|used| used.span.clone());
        read.or_else(|| self.first(&ident.value, |_| true))
    }

    /// The first place where a column is used under the name of this table, or under none.
    pub(super) fn column(&self, table: Option<&str>, name: &str) -> Option<Range<usize>> {
        let same = |of: Option<&str>| match (table, of) {
            (Some(table), Some(of)) => table.eq_ignore_ascii_case(of),
            (None, None) => true,
            _ => false,
        };
        self.first(name, |used| used.role == Role::Other && same(used.of.as_deref())).or_else(|| self.first(name, |_| true))
    }

    /// The first place where a table is used.
    pub(super) fn table(&self, name: &str) -> Option<Range<usize>> {
        self.first(name, |used| used.role == Role::Table).or_else(|| self.first(name, |_| true))
    }

    /// Whether any of the words is one of these names, in whatever case.
    pub(super) fn any<'a>(&self, names: impl IntoIterator<Item = &'a String>) -> bool {
        names.into_iter().any(|name| self.first(name, |_| true).is_some())
    }

    fn first(&self, word: &str, fits: impl Fn(&Used) -> bool) -> Option<Range<usize>> {
        let lower = word.to_lowercase();
        let fitting = || self.0.iter().filter(|used| fits(used));
        let exact = fitting().find(|used| used.word == word);
        exact.or_else(|| fitting().find(|used| used.word.to_lowercase() == lower)).map(|used| used.span.clone())
    }
}

/// The words of a text, whatever they mean; `None` when it cannot be cut into words.
pub(super) fn words(sql: &str) -> Option<Words> {
    tokens(sql, &Names::default(), Aliases::Win).ok().map(|(_, words)| words)
}

/// What `total` means in `select sum(total) as total` over a column `Total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Aliases {
    /// The alias, wherever it is spelled so.
    Win,
    /// The column, wherever it is not the alias's own definition.
    Lose,
}

/// Parses one expression.
pub(super) fn expression(sql: &str, names: &Names) -> Result<(ast::Expr, Words), Fault> {
    let (tokens, words) = tokens(sql, names, Aliases::Win)?;
    let mut parser = parser(tokens);
    let parsed = parser.parse_expr().and_then(|expr| parser.expect_token(&Token::EOF).map(|_| expr));
    parsed.map(|expr| (expr, words)).map_err(|error| parser_fault(sql, &error))
}

/// Parses one query.
pub(super) fn query(sql: &str, names: &Names, aliases: Aliases) -> Result<(ast::Statement, Words), Fault> {
    let (tokens, words) = tokens(sql, names, aliases)?;
    let mut parser = parser(tokens);
    let mut statements = parser.parse_statements().map_err(|error| parser_fault(sql, &error))?;
    if statements.len() > 1 {
        return Err(Fault::new("transform-syntax", "a `sql` step holds more than one statement").help("write one query"));
    }
    match statements.pop() {
        Some(statement @ ast::Statement::Query(_)) => Ok((statement, words)),
        Some(_) => {
            Err(Fault::new("transform-syntax", "a `sql` step holds a statement that is no query").help("start with `select` or `with`"))
        }
        None => Err(Fault::new("transform-syntax", "a `sql` step holds no query").help("start with `select` or `with`")),
    }
}

fn parser(tokens: Vec<TokenWithSpan>) -> Parser<'static> {
    static DIALECT: GenericDialect = GenericDialect;
    Parser::new(&DIALECT).with_recursion_limit(DEPTH).with_tokens_with_locations(tokens)
}

/// Cuts the text into tokens, and respells the bare words that mean a known name.
fn tokens(sql: &str, names: &Names, aliases: Aliases) -> Result<(Vec<TokenWithSpan>, Words), Fault> {
    let tokenized = Tokenizer::new(&GenericDialect, sql).tokenize_with_location();
    let mut tokens = tokenized.map_err(|error: TokenizerError| {
        let at = offset(sql, error.location);
        Fault::new("transform-syntax", format!("the SQL does not parse: {}", lowercase_first(&error.message))).span(Some(at..sql.len()))
    })?;
    let mut names = names.clone();
    let solid: Vec<usize> = (0..tokens.len()).filter(|at| !matches!(tokens[*at].token, Token::Whitespace(_))).collect();
    let is = |token: &Token, bare: &str| matches!(token, Token::Word(word) if word.quote_style.is_none() && word.value.eq_ignore_ascii_case(bare));
    let is_as = |token: &Token| is(token, "as");
    let is_cast = |token: &Token| is(token, "cast") || is(token, "try_cast");
    // Whether each open parenthesis is that of a cast, in which `as` stands before a type.
    let mut casts = Vec::new();
    for (place, &at) in solid.iter().enumerate() {
        match &tokens[at].token {
            Token::LParen => casts.push(place.checked_sub(1).is_some_and(|before| is_cast(&tokens[solid[before]].token))),
            Token::RParen => drop(casts.pop()),
            Token::Word(alias)
                if casts.last() != Some(&true)
                    && place.checked_sub(1).is_some_and(|before| is_as(&tokens[solid[before]].token))
                    && (aliases == Aliases::Win || names.spelling(&alias.value) == Ok(None)) =>
            {
                names.add(&alias.value);
            }
            _ => {}
        }
    }
    let mut words = Vec::new();
    for (place, &at) in solid.iter().enumerate() {
        let token = |place: Option<usize>| place.and_then(|place| solid.get(place)).map(|at| &tokens[*at].token);
        let (before, after) = (token(place.checked_sub(1)), token(Some(place + 1)));
        let defined = before.is_some_and(is_as);
        let as_keyword = defined || is_keyword_here(&tokens, &solid, place);
        let role = match after {
            _ if defined => Role::Alias,
            Some(Token::LParen) => Role::Function,
            Some(Token::Period) => Role::Table,
            _ if before.is_some_and(|before| is(before, "from") || is(before, "join")) => Role::Table,
            _ => Role::Other,
        };
        let of = match (before, token(place.checked_sub(2))) {
            (Some(Token::Period), Some(Token::Word(table))) => Some(table.value.clone()),
            _ => None,
        };
        let span = tokens[at].span;
        let Token::Word(word) = &mut tokens[at].token else { continue };
        let range = offset(sql, span.start)..offset(sql, span.end);
        words.push(Used { word: word.value.clone(), span: range.clone(), start: span.start, of, role });
        if word.quote_style.is_some() || as_keyword {
            continue;
        }
        match names.spelling(&word.value) {
            Ok(Some(spelling)) if spelling != word.value => {
                *word = Word { value: spelling.to_owned(), quote_style: Some('"'), keyword: Keyword::NoKeyword };
            }
            Ok(_) => {}
            Err(several) => {
                let list = several.iter().map(|name| format!("`\"{name}\"`")).collect::<Vec<_>>().join(" or ");
                return Err(Fault::new("transform-ambiguous", format!("`{}` could mean more than one column", word.value))
                    .span(Some(range))
                    .help(format!("write {list}")));
            }
        }
    }
    Ok((tokens, Words(words)))
}

/// Whether the word stands where SQL needs it as it is: a function's name, a reserved word, the `date` of `date '2026-01-31'` or `day::date`,
/// the unit of an interval or of `extract(year from …)`.
fn is_keyword_here(tokens: &[TokenWithSpan], solid: &[usize], place: usize) -> bool {
    let token = |place: Option<usize>| place.and_then(|place| solid.get(place)).map(|at| &tokens[*at].token);
    let (before, after) = (token(place.checked_sub(1)), token(Some(place + 1)));
    let Some(Token::Word(word)) = token(Some(place)) else { return false };
    let literal = |token: Option<&Token>| matches!(token, Some(Token::SingleQuotedString(_) | Token::Number(..)));
    let extracted = before == Some(&Token::LParen)
        && matches!(token(place.checked_sub(2)), Some(Token::Word(word)) if word.value.eq_ignore_ascii_case("extract"));
    let reserved = word.keyword != Keyword::NoKeyword
        && (RESERVED.contains(&word.keyword)
            || RESERVED_FOR_COLUMN_ALIAS.contains(&word.keyword)
            || RESERVED_FOR_TABLE_ALIAS.contains(&word.keyword)
            || RESERVED_FOR_IDENTIFIER.contains(&word.keyword));
    let cast = before == Some(&Token::DoubleColon);
    after == Some(&Token::LParen) || reserved || literal(before) || literal(after) || extracted || cast
}

/// Words of expressions that the parser's own lists of reserved words leave out.
const RESERVED: &[Keyword] = &[
    Keyword::AND,
    Keyword::AS,
    Keyword::ASC,
    Keyword::BETWEEN,
    Keyword::BY,
    Keyword::CASE,
    Keyword::CAST,
    Keyword::DESC,
    Keyword::DISTINCT,
    Keyword::ELSE,
    Keyword::END,
    Keyword::ESCAPE,
    Keyword::EXISTS,
    Keyword::FALSE,
    Keyword::FIRST,
    Keyword::ILIKE,
    Keyword::IN,
    Keyword::IS,
    Keyword::LAST,
    Keyword::LIKE,
    Keyword::NOT,
    Keyword::NULL,
    Keyword::NULLS,
    Keyword::OR,
    Keyword::SIMILAR,
    Keyword::THEN,
    Keyword::TRUE,
    Keyword::WHEN,
];

fn parser_fault(sql: &str, error: &ParserError) -> Fault {
    let message = match error {
        ParserError::RecursionLimitExceeded => "it is nested too deeply".to_owned(),
        ParserError::TokenizerError(message) | ParserError::ParserError(message) => message.clone(),
    };
    // The parser tells the place in its words only: `… at Line: 1, Column: 8`.
    let (said, place) = message.rsplit_once(" at Line: ").map_or((message.as_str(), None), |(said, place)| (said, Some(place)));
    let at = place.and_then(|place| {
        let (line, column) = place.split_once(", Column: ")?;
        Some(offset(sql, Location { line: line.trim().parse().ok()?, column: column.trim().parse().ok()? }))
    });
    let span = match at {
        Some(at) => {
            let rest = &sql[at..];
            let word = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
            at..at + word.max(rest.chars().next().map_or(0, char::len_utf8))
        }
        None => sql.len()..sql.len(),
    };
    Fault::new("transform-syntax", format!("the SQL does not parse: {}", lowercase_first(said))).span(Some(span))
}

fn lowercase_first(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_lowercase().chain(chars).collect())
}

/// A place as the parser counts it (lines and columns in characters, from 1), in bytes.
fn offset(sql: &str, place: Location) -> usize {
    let line_start: usize = sql.split_inclusive('\n').take((place.line as usize).saturating_sub(1)).map(str::len).sum();
    let line = &sql[line_start.min(sql.len())..];
    let column = (place.column as usize).saturating_sub(1);
    line_start + line.char_indices().nth(column).map_or(line.len(), |(at, _)| at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names {
        Names::new(["id", "Total", "key", "KEY", "été"])
    }

    #[test]
    fn bare_names_find_their_column() {
        let shown = |sql: &str| expression(sql, &names()).map(|(expr, _)| expr.to_string());
        assert_eq!(shown("ID + total").as_deref(), Ok("\"id\" + \"Total\""));
        assert_eq!(shown("\"ID\" + upper(ÉTÉ)").as_deref(), Ok("\"ID\" + upper(\"été\")"));
        assert_eq!(shown("key").as_deref(), Ok("key"));
        let keywords = Names::new(["Date", "End", "Year", "Status"]);
        let shown = |sql: &str| expression(sql, &keywords).map(|(expr, _)| expr.to_string());
        assert_eq!(
            shown("case when date > DATE '2026-01-31' then status end").as_deref(),
            Ok("CASE WHEN \"Date\" > DATE '2026-01-31' THEN \"Status\" END")
        );
        assert_eq!(shown("extract(year from date) = year").as_deref(), Ok("EXTRACT(YEAR FROM \"Date\") = \"Year\""));
        assert_eq!(shown("date >= cast('2020-01-01' as date)").as_deref(), Ok("\"Date\" >= CAST('2020-01-01' AS DATE)"));
        assert_eq!(shown("date = year::date").as_deref(), Ok("\"Date\" = \"Year\"::DATE"));
        let fault = expression("1 + Key", &names()).expect_err("ambiguous");
        assert_eq!((fault.code, fault.span), ("transform-ambiguous", Some(4..7)));
    }

    #[test]
    fn a_syntax_error_points_at_the_word() {
        let place = |sql: &str| expression(sql, &names()).expect_err(sql).span.map(|span| sql[span].to_owned());
        assert_eq!(place("é +\n  total) x").as_deref(), Some(")"));
        assert_eq!(place("'open").as_deref(), Some("'open"));
        assert_eq!(place("1 +").as_deref(), Some(""));
        assert!(query("drop table x", &names(), Aliases::Win).is_err_and(|fault| fault.message.contains("no query")));
        assert!(query("select 1; select 2", &names(), Aliases::Win).is_err_and(|fault| fault.message.contains("more than one")));
        assert!(query("", &names(), Aliases::Win).is_err_and(|fault| fault.message.contains("holds no query")));
    }
}

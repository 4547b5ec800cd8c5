//! Steps → typed programs, every problem at once.

use std::collections::BTreeSet;

use datafusion::sql::sqlparser::ast;

use super::compile::{Compiled, Segment};
use super::dedupe::Dedupe;
use super::expression::{self, list};
use super::lookup::Tables;
use super::query::{self, Query};
use super::rows::{Hidden, RowStep, Rows, Value, What};
use super::sql::{self, Fault, Names};
use super::{InputColumns, Problem, Pushed, push, values};
use crate::data::change::ROW;
use crate::data::{Column, Schema, Type};
use crate::define::pipeline::{At, Expr, Mask, Step};
use crate::dialect::Dialect;
use crate::load::template;

/// The name that `sql` steps may use for the rows so far.
const INPUT: &str = "input";

/// A fault of the text that stands at a place of the document.
pub(super) fn problem(fault: Fault, at: &At) -> Problem {
    Problem { code: fault.code, at: at.clone(), span: fault.span, word: None, message: fault.message, help: fault.help }
}

/// The fault of an expression, without words that may quote a secret in it: names may be repeated that stand in the file, or are columns.
fn unquoted(fault: Fault, expr: &Expr, schema: &Schema) -> Fault {
    let Some(written) = &expr.written else { return fault };
    let is_open = |text: &str| {
        let mut names = text.split('`').skip(1).step_by(2).peekable();
        names.peek().is_some() && names.all(|name| schema.find(name).is_some() || template::place_of(written, name).is_some())
    };
    if matches!(fault.code, "transform-type" | "transform-syntax") || !is_open(&fault.message) {
        return Fault::new(fault.code, "the SQL is wrong here; it holds a secret, so what is wrong is not quoted");
    }
    Fault { help: fault.help.filter(|help| is_open(help)), ..fault }
}

/// Collects typed steps and problems.
pub(super) struct Builder {
    inputs: Vec<InputColumns>,
    /// The columns after the steps so far.
    pub(super) schema: Schema,
    /// Names that may stand before a column's in the next step.
    qualifiers: Vec<String>,
    /// Columns whose type is not known, because the step that makes them has a problem. What uses them is not reported again.
    pub(super) unknown: BTreeSet<String>,
    /// A query has a problem, so that the columns after it are not known.
    pub(super) lost: bool,
    /// The dialect of the source, while every step so far was taken over by it.
    pub(super) push: Option<Dialect>,
    pushed: Pushed,
    pub(super) segments: Vec<Segment>,
    pub(super) lines: Vec<String>,
    pub(super) problems: Vec<Problem>,
    /// What `lookup` steps may look into.
    pub(super) tables: Tables,
}

impl Builder {
    /// `push` is the dialect of the only input, when that can filter and project by itself.
    pub(super) fn new(inputs: &[InputColumns], push: Option<Dialect>) -> Self {
        let first = inputs.first();
        Self {
            inputs: inputs.to_vec(),
            schema: first.map(|input| input.schema.clone()).unwrap_or_default(),
            qualifiers: first.map(|input| input.name.clone()).into_iter().chain([INPUT.to_owned()]).collect(),
            unknown: BTreeSet::new(),
            lost: false,
            push,
            pushed: Pushed::default(),
            segments: Vec::new(),
            lines: Vec::new(),
            problems: Vec::new(),
            tables: Tables::new(),
        }
    }

    /// The program, or every problem of every step.
    pub(super) fn finish(self) -> Result<Compiled, Vec<Problem>> {
        if !self.problems.is_empty() {
            return Err(self.problems);
        }
        let (segments, schema, pushed, lines) = (self.segments, self.schema, self.pushed, self.lines);
        Ok(Compiled { segments, schema, pushed, lines, changes: None, key: Vec::new() })
    }

    /// Types any step.
    pub(super) async fn step(&mut self, step: &Step) {
        let query = match step {
            // Nothing is known of the columns behind a query that has a problem.
            _ if self.lost => return,
            Step::Dedupe { key, at } => return self.dedupe(key, at).await,
            Step::Sql(expr) => self.sql(expr).await,
            Step::Lookup(lookup) => return self.lookup(lookup),
            _ => return self.row_step(step),
        };
        self.push = None;
        match query {
            Some(query) => {
                self.schema = query.schema.clone();
                self.inputs = vec![InputColumns { name: INPUT.to_owned(), schema: Schema::default() }];
                self.segments.push(Segment::Query(Box::new(query)));
            }
            None => self.lost = true,
        }
    }

    async fn sql(&mut self, expr: &Expr) -> Option<Query> {
        self.lines.push(format!("sql: {}", one_line(expr.shown())));
        let mut inputs = std::mem::take(&mut self.inputs);
        if let [only] = &mut inputs[..] {
            only.schema = self.schema.clone();
        }
        let query = query::sql(&expr.sql, &inputs, INPUT).await;
        match query {
            Ok(query) => Some(query),
            Err(fault) => {
                self.report(fault, expr);
                None
            }
        }
    }

    async fn dedupe(&mut self, key: &[String], at: &At) {
        self.push = None;
        self.lines.push(format!("dedupe: {}", joined(key.iter())));
        let places: Vec<usize> = key.iter().filter_map(|name| self.find(name, at)).collect();
        if places.is_empty() || places.len() < key.len() {
            return;
        }
        match Dedupe::new(places, &self.schema).await {
            Ok(dedupe) => {
                self.segments.push(Segment::Dedupe(Box::new(dedupe)));
            }
            Err(fault) => self.problems.push(problem(fault, at)),
        }
    }

    /// Reports a problem of an expression, unless it follows from one that is reported already.
    fn report(&mut self, fault: Fault, expr: &Expr) {
        if !self.follows(&fault, expr) {
            let fault = unquoted(fault, expr, &self.schema);
            let word = fault.span.clone().and_then(|span| expr.sql.get(span)).map(str::to_owned);
            self.problems.push(Problem { word, ..problem(fault, &expr.at) });
        }
    }

    /// Whether a problem of an expression comes of a column whose own problem is reported already: it stands at that column, or at no word of an
    /// expression that uses it.
    fn follows(&self, fault: &Fault, expr: &Expr) -> bool {
        let at = fault.span.as_ref().map_or(expr.sql.as_str(), |span| &expr.sql[span.clone()]);
        fault.code != "transform-syntax" && sql::words(at).is_some_and(|words| words.any(&self.unknown))
    }

    /// Types a step that looks at one row at a time.
    pub(super) fn row_step(&mut self, step: &Step) {
        // Any other step ends what can be pushed.
        self.push = self.push.filter(|_| matches!(step, Step::Filter(_) | Step::Select(_) | Step::Drop(_)));
        let what = match step {
            Step::Filter(expr) => self.filter(expr),
            Step::Select(names) => self.select(names),
            Step::Drop(names) => self.drop_columns(names),
            Step::Rename(renames) => self.rename(renames),
            Step::Set(columns) => self.set(columns),
            Step::Cast(casts) => self.cast(casts),
            Step::Mask(masks) => self.mask(masks),
            Step::Dedupe { .. } | Step::Lookup(_) | Step::Sql(_) => return,
        };
        if self.push.is_some() {
            self.lines.iter_mut().last().into_iter().for_each(|line| line.push_str(" (by the source)"));
            return;
        }
        let step = RowStep { what, after: self.schema.to_arrow() };
        match self.segments.last_mut() {
            Some(Segment::Rows(rows)) => rows.steps.push(step),
            _ => self.segments.push(Segment::Rows(Rows { steps: vec![step] })),
        }
    }

    fn typed(&mut self, name: &str, expr: &Expr) -> Option<expression::Typed> {
        let qualifiers: Vec<&str> = self.qualifiers.iter().map(String::as_str).collect();
        match expression::typed(name, &expr.sql, &self.schema, &qualifiers) {
            Ok(typed) => Some(typed),
            Err(fault) => {
                self.report(fault, expr);
                None
            }
        }
    }

    /// The place of a column that a step names; its case may differ where that leaves one choice.
    pub(super) fn find(&mut self, name: &str, at: &At) -> Option<usize> {
        let names = Names::new(self.schema.columns.iter().map(|column| column.name.as_str()));
        let fault = match names.spelling(name) {
            Ok(Some(spelling)) => return self.schema.find(spelling).map(|(place, _)| place),
            Ok(None) => {
                let help = names.suggest(name).unwrap_or_else(|| format!("the columns are {}", list(&self.schema)));
                Fault::new("transform-column", format!("unknown column `{name}`")).help(help)
            }
            Err(several) => Fault::new("transform-ambiguous", format!("`{name}` could mean more than one column"))
                .help(format!("write one of {}", several.join(", "))),
        };
        self.problems.push(problem(fault, at));
        None
    }

    fn filter(&mut self, expr: &Expr) -> What {
        self.lines.push(format!("filter: {}", one_line(expr.shown())));
        let Some(typed) = self.typed("filter", expr) else { return What::Columns(Vec::new()) };
        if typed.column.ty != Type::Bool {
            let fault = Fault::new("transform-type", format!("a filter is true or false; this is {}", typed.column.ty));
            if !self.follows(&fault, expr) {
                self.problems.push(problem(fault.help("compare it with something"), &expr.at));
            }
        }
        self.push_filter(expr, &typed.parsed);
        What::Filter(typed.program)
    }

    /// Leaves a condition to the source, or the parts of it that the source can decide.
    fn push_filter(&mut self, expr: &Expr, parsed: &ast::Expr) {
        let Some(dialect) = self.push else { return };
        let push = push::condition(parsed, &self.schema, dialect);
        if let Some(push) = &push {
            self.pushed.text.push(match &expr.written {
                None => format!("filter: {}", push.sql),
                Some(written) => format!("filter: {}{}", if push.whole { "" } else { "a part of " }, one_line(written)),
            });
            let both = self.pushed.filter.take().map_or_else(|| push.sql.clone(), |before| format!("{before} AND {}", push.sql));
            self.pushed.filter = Some(both);
        }
        if !push.is_some_and(|push| push.whole) {
            self.push = None;
        }
    }

    fn select(&mut self, names: &[(String, At)]) -> What {
        let mut places = Vec::new();
        for (name, at) in names {
            let Some(place) = self.find(name, at) else { continue };
            if places.contains(&place) {
                self.problems.push(problem(Fault::new("transform-column", format!("column `{name}` is selected twice")), at));
            } else {
                places.push(place);
            }
        }
        self.lines.push(format!("select: {}", joined(names.iter().map(|(name, _)| name))));
        // What numbers the rows of changes goes along unasked.
        places.extend(self.schema.find(ROW).map(|(place, _)| place).filter(|place| !places.contains(place)));
        self.keep(places)
    }

    fn drop_columns(&mut self, names: &[(String, At)]) -> What {
        let dropped: Vec<usize> = names.iter().filter_map(|(name, at)| self.find(name, at)).collect();
        let kept: Vec<usize> = (0..self.schema.columns.len()).filter(|place| !dropped.contains(place)).collect();
        if let (true, Some((_, at))) = (kept.is_empty(), names.first()) {
            self.problems.push(problem(Fault::new("transform-column", "no column is left").help("drop fewer columns"), at));
        }
        self.lines.push(format!("drop: {}", joined(names.iter().map(|(name, _)| name))));
        self.keep(kept)
    }

    fn keep(&mut self, places: Vec<usize>) -> What {
        self.schema.columns = places.iter().map(|place| self.schema.columns[*place].clone()).collect();
        if self.push.is_some() {
            let names: Vec<String> = self.schema.columns.iter().map(|column| column.name.clone()).collect();
            self.pushed.text.retain(|line| !line.starts_with("columns: "));
            self.pushed.text.push(format!("columns: {}", names.join(", ")));
            self.pushed.columns = Some(names);
        }
        What::Columns(places)
    }

    fn rename(&mut self, renames: &[(String, String, At)]) -> What {
        let found: Vec<(usize, &String, &At)> =
            renames.iter().filter_map(|(old, new, at)| self.find(old, at).map(|place| (place, new, at))).collect();
        for (place, new, _) in &found {
            self.schema.columns[*place].name.clone_from(new);
        }
        for (place, new, at) in found {
            if self.schema.columns.iter().enumerate().any(|(other, column)| other != place && column.name == *new) {
                let fault = Fault::new("transform-column", format!("there is a column `{new}` already"))
                    .help("drop it first, or choose another name");
                self.problems.push(problem(fault, at));
            }
        }
        self.lines.push(format!("rename: {}", joined(renames.iter().map(|(old, new, _)| format!("{old} → {new}")))));
        What::Columns((0..self.schema.columns.len()).collect())
    }

    fn set(&mut self, columns: &[(String, Expr)]) -> What {
        let mut values: Vec<Value> = (0..self.schema.columns.len()).map(Value::Column).collect();
        let mut after = self.schema.clone();
        for (name, expr) in columns {
            let typed = self.typed(name, expr);
            let (value, column) = match typed {
                Some(typed) => (typed.is_column.map_or(Value::Computed(typed.program), Value::Column), typed.column),
                None => {
                    self.unknown.insert(name.clone());
                    (Value::Column(0), Column::new(name, Type::Text))
                }
            };
            self.lines.push(format!("set: {name} = {} ({})", one_line(expr.shown()), column.ty));
            match after.find(name).map(|(place, _)| place) {
                Some(place) => {
                    values[place] = value;
                    after.columns[place] = column;
                }
                None => {
                    values.push(value);
                    after.columns.push(column);
                }
            }
        }
        self.schema = after;
        What::Set(values)
    }

    fn cast(&mut self, casts: &[(String, Type, At)]) -> What {
        let mut places = Vec::new();
        for (name, to, at) in casts {
            let Some(place) = self.find(name, at) else { continue };
            let column = &mut self.schema.columns[place];
            let from = std::mem::replace(&mut column.ty, to.clone());
            self.lines.push(format!("cast: {} {from} → {to}", column.name));
            if from != *to {
                column.native = None;
            }
            if matches!(from, Type::Native { .. }) && from != *to {
                self.problems.push(problem(expression::native(name), at));
                continue;
            }
            match values::castable(&from, to) {
                Ok(()) => places.push((place, from, to.clone())),
                Err(message) if !self.unknown.contains(name) => {
                    self.problems
                        .push(problem(Fault::new("transform-type", message).help("cast to text first, or leave the column as it is"), at));
                }
                Err(_) => {}
            }
        }
        What::Cast(places)
    }

    fn mask(&mut self, masks: &[(String, Mask, At)]) -> What {
        let mut places = Vec::new();
        for (name, mask, at) in masks {
            let Some(place) = self.find(name, at) else { continue };
            let column = &mut self.schema.columns[place];
            if matches!((mask, &column.ty), (Mask::Hash { .. }, Type::Native { .. })) {
                self.problems.push(problem(expression::native(name), at));
                continue;
            }
            let (hidden, how) = match mask {
                Mask::Hash { salt } => (Hidden::Hash(column.ty.clone(), salt.clone()), "hash"),
                Mask::Redact(text) => (Hidden::Redact(text.clone()), "redact"),
                Mask::Null => (Hidden::Null, "null"),
            };
            self.lines.push(format!("mask: {} ({how})", column.name));
            if matches!(mask, Mask::Null) {
                column.nullable = true;
            } else {
                column.ty = Type::Text;
                column.native = None;
            }
            places.push((place, hidden));
        }
        What::Mask(places)
    }
}

pub(super) fn joined(names: impl Iterator<Item = impl std::fmt::Display>) -> String {
    names.map(|name| name.to_string()).collect::<Vec<_>>().join(", ")
}

fn one_line(sql: &str) -> String {
    sql.split_whitespace().collect::<Vec<_>>().join(" ")
}

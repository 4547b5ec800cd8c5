//! Steps compiled once against real columns, then run on batches.
//!
//! [`compile`] types every step and reports all problems at once; [`Compiled`] runs them. Steps that look at one row at a time run on a
//! batch where it stands ([`Compiled::apply`]), `lookup` too, which waits for somebody else's rows; from the first `dedupe` or `sql` step on, rows stream through DataFusion under a memory
//! limit, with spill files ([`Compiled::run`]). Untouched columns keep their logical type and their arrays. A value that does not fit is a
//! rejected row that names column and value, never a NULL; integer arithmetic never wraps.
//!
//! Names: a quoted name means exactly the column of that spelling. A bare name means the column of that spelling, else the only column
//! that differs from it by case; more than one is a problem.

mod builder;
mod carried;
mod changes;
mod compile;
mod dedupe;
mod expression;
mod input;
mod join;
mod lookup;
mod memory;
mod midnight;
mod native;
mod push;
mod query;
mod rewrite;
mod rows;
mod session;
mod sql;
mod sum;
mod values;

use std::ops::Range;

use crate::data::Schema;
use crate::define::pipeline::At;

pub use changes::compile_changes;
pub(crate) use compile::compile_rows;
pub use compile::{Compiled, check_expression, check_query, compile};
pub use lookup::{Looked, Lookup, Table, Tables, Tally, comparable};
pub use native::computes;

/// A problem of a step, before the run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// A stable diagnostic code.
    pub code: &'static str,
    /// The place in the pipeline's document.
    pub at: At,
    /// Bytes of the rendered SQL that stands at `at`; `None` means all of it.
    pub span: Option<Range<usize>>,
    /// What stands in those bytes.
    pub word: Option<String>,
    /// What is wrong.
    pub message: String,
    /// The way out.
    pub help: Option<String>,
}

/// One input of a transform: its name in `sql` steps and its columns.
#[derive(Clone, Debug)]
pub struct InputColumns {
    /// The table name that queries use.
    pub name: String,
    /// The columns that come in.
    pub schema: Schema,
}

/// What the source does instead of the transform.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pushed {
    /// The columns the source is asked for, when these are not all of them.
    pub columns: Option<Vec<String>>,
    /// The condition the source is asked for, in its own SQL.
    pub filter: Option<String>,
    /// One line for each pushed part, for the plan.
    pub text: Vec<String>,
}

#[cfg(test)]
mod tests;

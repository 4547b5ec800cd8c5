//! One SQL expression → a typed program over a batch's columns.

use std::ops::ControlFlow;
use std::sync::Arc;

use datafusion::common::{Column as Reference, DFSchema, DataFusionError};
use datafusion::logical_expr::execution_props::ExecutionProps;
use datafusion::logical_expr::expr_fn::cast;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{Expr, ExprSchemable, Volatility};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::physical_expr::create_physical_expr;
use datafusion::physical_plan::PhysicalExpr;
use datafusion::sql::sqlparser::ast::{self, VisitMut, VisitorMut};

use super::sql::{self, Fault, Names, Words};
use super::{rewrite, session};
use crate::data::change::ROW;
use crate::data::{Column, Schema, Type};

/// A typed expression.
#[derive(Clone, Debug)]
pub(super) struct Typed {
    /// Evaluates it over a batch of the columns it was typed against.
    pub program: Arc<dyn PhysicalExpr>,
    /// Its syntax, names resolved.
    pub parsed: ast::Expr,
    /// The column it makes, under the given name.
    pub column: Column,
    /// The place of the column that it is, when it is nothing but one.
    pub is_column: Option<usize>,
}

/// Parses an expression without knowing any column.
pub(super) fn check_syntax(sql: &str) -> Result<(), Fault> {
    let (mut parsed, words) = sql::expression(sql, &Names::default())?;
    walk(&mut parsed, &words, &mut |_| Ok(()))
}

/// Types an expression against columns. `qualifiers` are the names that may stand before a column's.
pub(super) fn typed(name: &str, sql: &str, schema: &Schema, qualifiers: &[&str]) -> Result<Typed, Fault> {
    let names = Names::new(schema.columns.iter().map(|column| column.name.as_str()));
    let (mut parsed, words) = sql::expression(sql, &names)?;
    walk(&mut parsed, &words, &mut |expr| resolve(expr, schema, qualifiers, &names, &words))?;
    let fault = |error: DataFusionError| Fault::new("transform-type", session::words(&error));
    let columns = DFSchema::try_from(schema.to_arrow()).map_err(fault)?;
    let state = session::planning();
    let with_alias = ast::ExprWithAlias { expr: parsed.clone(), alias: None };
    let logical = state.create_logical_expr_from_sql_expr(with_alias, &columns).map_err(fault)?;
    let is_column = match &logical {
        Expr::Column(Reference { name, .. }) => schema.find(name).map(|(place, _)| place),
        _ => None,
    };
    let is_unbounded = |column: &Reference| schema.find(&column.name).is_some_and(|(_, column)| column.ty == Type::Number);
    if let Some(number) = rewrite::computed(&logical, false, &is_unbounded) {
        return Err(unbounded(&number).span(words.column(None, &number)));
    }
    let is_native = |column: &Reference| schema.find(&column.name).is_some_and(|(_, column)| matches!(column.ty, Type::Native { .. }));
    if let Some(name) = rewrite::computed(&logical, true, &is_native) {
        return Err(native(&name).span(words.column(None, &name)));
    }
    let logical = rewrite::compare_as_meant(logical, &columns).map_err(fault)?.data;
    let context =
        SimplifyContext::builder().with_schema(Arc::new(columns.clone())).with_config_options(Arc::clone(state.config_options())).build();
    let simplifier = ExprSimplifier::new(context);
    let logical = simplifier.coerce(logical, &columns).map_err(fault)?;
    let checked = rewrite::check_overflow(logical, &columns).map_err(fault)?.data;
    let simple = simplifier.simplify(checked).map_err(fault)?;
    let found = simple.get_type(&columns).map_err(fault)?;
    let ty = match is_column.and_then(|place| schema.columns.get(place)) {
        Some(column) => column.ty.clone(),
        None => Type::from_arrow(&found)
            .ok_or_else(|| Fault::new("transform-type", format!("the value has the type {found}, which no column can have")))?,
    };
    let simple = if ty.to_arrow() == found { simple } else { cast(simple, ty.to_arrow()) };
    let nullable = simple.nullable(&columns).unwrap_or(true);
    let program = create_physical_expr(&simple, &columns, &ExecutionProps::new(), &PhysicalPlanningContext::default()).map_err(fault)?;
    let column = match is_column.and_then(|place| schema.columns.get(place)) {
        Some(column) => Column { name: name.to_owned(), ..column.clone() },
        None => Column { name: name.to_owned(), ty, nullable, native: None },
    };
    Ok(Typed { program, parsed, column, is_column })
}

/// The fault of computing with a decimal that is carried as text.
pub(super) fn unbounded(name: &str) -> Fault {
    Fault::new("transform-type", format!("column `{name}` is a decimal without precision, which an expression cannot compute with"))
        .help(format!("write `cast({name} as decimal(38,10))`, with the digits it needs"))
}

/// The fault of computing with bytes that only their own engine understands.
pub(super) fn native(name: &str) -> Fault {
    Fault::new("transform-type", format!("only its own engine can compute with column `{name}`")).help("cast it to text where it is read")
}

/// The fault of a function whose value changes from one try to the next.
pub(super) fn unrepeatable(name: &str) -> Fault {
    Fault::new("transform-function", format!("`{name}` gives another value each time, so a retried split would not give the same rows"))
        .help("for the time of the run write `cast({{ run.started_at }} as timestamptz)`")
}

/// Replaces a name by the column it means.
fn resolve(expr: &mut ast::Expr, schema: &Schema, qualifiers: &[&str], names: &Names, words: &Words) -> Result<(), Fault> {
    let name = match expr {
        ast::Expr::Identifier(name) => name.clone(),
        ast::Expr::CompoundIdentifier(parts) => match &parts[..] {
            [table, column] if qualifiers.iter().any(|known| known.eq_ignore_ascii_case(&table.value)) => column.clone(),
            [table, ..] => {
                let known = qualifiers.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(" or ");
                let fault = Fault::new("transform-column", format!("unknown table `{}`", table.value));
                return Err(fault.span(words.place(table)).help(format!("a step sees one table; leave the name out, or write {known}")));
            }
            [] => return Ok(()),
        },
        _ => return Ok(()),
    };
    if schema.find(&name.value).is_none() {
        let fault = Fault::new("transform-column", format!("unknown column `{}`", name.value));
        let all = || format!("the columns are {}", list(schema));
        return Err(fault.span(words.place(&name)).help(names.suggest(&name.value).unwrap_or_else(all)));
    }
    *expr = ast::Expr::Identifier(ast::Ident { quote_style: Some('"'), ..name });
    Ok(())
}

/// The first columns by name, for a help.
pub(super) fn list(schema: &Schema) -> String {
    const SHOWN: usize = 12;
    let names: Vec<String> =
        schema.columns.iter().filter(|column| column.name != ROW).take(SHOWN).map(|column| format!("`{}`", column.name)).collect();
    let more = if schema.columns.len() > SHOWN { ", …" } else { "" };
    format!("{}{more}", names.join(", "))
}

/// Replaces a name in a syntax tree.
type Resolve<'a> = dyn FnMut(&mut ast::Expr) -> Result<(), Fault> + 'a;

/// Visits every part of an expression; refuses what needs more than one row.
fn walk(expr: &mut ast::Expr, words: &Words, resolve: &mut Resolve<'_>) -> Result<(), Fault> {
    struct Walk<'a> {
        words: &'a Words,
        resolve: &'a mut Resolve<'a>,
    }
    impl VisitorMut for Walk<'_> {
        type Break = Fault;

        fn pre_visit_query(&mut self, _: &mut ast::Query) -> ControlFlow<Fault> {
            ControlFlow::Break(Fault::new("transform-syntax", "a subquery cannot stand here").help("use a `sql` step"))
        }

        fn post_visit_expr(&mut self, expr: &mut ast::Expr) -> ControlFlow<Fault> {
            if let ast::Expr::Function(function) = expr
                && let Err(fault) = scalar_function(function, self.words)
            {
                return ControlFlow::Break(fault);
            }
            match (self.resolve)(expr) {
                Ok(()) => ControlFlow::Continue(()),
                Err(fault) => ControlFlow::Break(fault),
            }
        }
    }
    match expr.visit(&mut Walk { words, resolve }) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(fault) => Err(fault),
    }
}

fn scalar_function(function: &ast::Function, words: &Words) -> Result<(), Fault> {
    let name = function.name.to_string().to_lowercase();
    let state = session::planning();
    let place = place_of(function, words);
    if function.over.is_some() || state.aggregate_functions().contains_key(&name) || state.window_functions().contains_key(&name) {
        return Err(Fault::new("transform-function", format!("`{name}` looks at more than one row"))
            .span(place)
            .help("use a `sql` step, such as `select …, count(*) from input group by …`"));
    }
    if let Some(known) = state.scalar_functions().get(&name) {
        return match known.signature().volatility {
            Volatility::Immutable => Ok(()),
            Volatility::Stable | Volatility::Volatile => Err(unrepeatable(&name).span(place)),
        };
    }
    Err(unknown_function(&name).span(place))
}

/// Where a function's name stands.
pub(super) fn place_of(function: &ast::Function, words: &Words) -> Option<std::ops::Range<usize>> {
    function.name.0.last().and_then(ast::ObjectNamePart::as_ident).and_then(|name| words.place(name))
}

/// The fault of a function that is not there.
pub(super) fn unknown_function(name: &str) -> Fault {
    let state = session::planning();
    let scalar = state.scalar_functions().keys().chain(state.aggregate_functions().keys()).chain(state.window_functions().keys());
    let fault = Fault::new("transform-function", format!("unknown function `{name}`"));
    match Names::new(scalar.map(String::as_str)).suggest(name) {
        Some(help) => fault.help(help),
        None => fault,
    }
}

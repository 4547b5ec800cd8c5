//! What a query does with the logical types that DataFusion carries beside its own: numbers without precision, the values of an enum, JSON, what
//! only its own engine understands.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::Field;
use datafusion::common::tree_node::{Transformed, TreeNodeRecursion};
use datafusion::common::{Column as Reference, DFSchema, ExprSchema, Result};
use datafusion::logical_expr::expr::{Alias, Cast};
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{Expr, LogicalPlan, Projection, SubqueryAlias, Union};

use super::sql::{Fault, Words};
use super::{expression, rewrite};
use crate::data::{NATIVE_KEY, Schema, TYPE_KEY, Type};

/// Refuses to compute with what is carried as the text of a number, or as bytes of an engine's own.
pub(super) fn check(plan: &LogicalPlan, words: &Words) -> Result<(), Fault> {
    let mut found: Option<Fault> = None;
    // A plan that cannot be walked is refused where it is made ready.
    let _ = plan.apply_with_subqueries(|plan| {
        let schema = merge_schema(&plan.inputs());
        let ty = |column: &Reference| schema.field_from_column(column).ok().and_then(|field| logical(field));
        let exprs = plan.expressions();
        let computed =
            |casts, is_meant: &dyn Fn(&Reference) -> bool| exprs.iter().find_map(|expr| rewrite::computed(expr, casts, is_meant));
        let is_number = |column: &Reference| ty(column) == Some(Type::Number);
        let is_native = |column: &Reference| matches!(ty(column), Some(Type::Native { .. }));
        let compared = || rewrite::compared(plan).into_iter().find(&is_number).map(|column| column.name);
        if let Some(name) = computed(false, &is_number).or_else(compared) {
            found = Some(expression::unbounded(&name).span(words.column(None, &name)));
        } else if let Some(name) = computed(true, &is_native).or_else(|| told_apart(plan, &ty)) {
            found = Some(expression::native(&name).span(words.column(None, &name)));
        }
        Ok(if found.is_some() { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    });
    found.map_or(Ok(()), Err)
}

/// The column of an engine's own type that a node of a plan orders by, or puts beside values of another type.
fn told_apart(plan: &LogicalPlan, ty: &dyn Fn(&Reference) -> Option<Type>) -> Option<String> {
    let is_native = |ty: &Option<Type>| matches!(ty, Some(Type::Native { .. }));
    let of = |expr: &Expr| expr.try_as_col().and_then(ty);
    match plan {
        LogicalPlan::Sort(sort) => sort
            .expr
            .iter()
            .filter_map(|sort| sort.expr.try_as_col())
            .find(|column| is_native(&ty(column)))
            .map(|column| column.name.clone()),
        LogicalPlan::Join(join) => join
            .on
            .iter()
            .filter(|(left, right)| of(left) != of(right))
            .flat_map(|(left, right)| [left, right])
            .find(|expr| is_native(&of(expr)))
            .and_then(|expr| Some(expr.try_as_col()?.name.clone())),
        LogicalPlan::Union(union) => {
            let place = (0..union.schema.fields().len()).find(|&place| {
                let types: Vec<Option<Type>> = fields(&union.inputs, place).map(logical).collect();
                types.iter().any(is_native) && types.iter().any(|ty| *ty != types[0])
            })?;
            Some(union.schema.field(place).name().clone())
        }
        _ => None,
    }
}

/// The plan in which every union has the logical types that all of its branches agree on: DataFusion takes those of any branch that has one.
/// It is for its schema, and not to be run.
pub(super) fn agreed(plan: LogicalPlan) -> Result<LogicalPlan> {
    let agreed = plan.transform_up_with_subqueries(|plan| {
        let LogicalPlan::Union(Union { inputs, schema }) = plan else { return Ok(Transformed::yes(plan.recompute_schema()?)) };
        let columns = schema.iter().enumerate().map(|(place, (table, field))| {
            let field = field.as_ref().clone().with_metadata(common(fields(&inputs, place)));
            (table.cloned(), Arc::new(field))
        });
        let schema = DFSchema::new_with_metadata(columns.collect(), HashMap::new())?;
        Ok(Transformed::yes(LogicalPlan::Union(Union { inputs, schema: Arc::new(schema) })))
    })?;
    Ok(agreed.data)
}

/// The column at a place of each branch, but for those that have nothing but NULL there.
fn fields(branches: &[Arc<LogicalPlan>], place: usize) -> impl Iterator<Item = &Field> {
    branches.iter().filter(move |branch| !is_null(branch, place)).map(move |branch| branch.schema().field(place).as_ref())
}

fn is_null(plan: &LogicalPlan, place: usize) -> bool {
    match plan {
        LogicalPlan::Projection(Projection { expr, .. }) => {
            let mut expr = &expr[place];
            while let Expr::Alias(Alias { expr: inner, .. }) | Expr::Cast(Cast { expr: inner, .. }) = expr {
                expr = inner;
            }
            matches!(expr, Expr::Literal(value, _) if value.is_null())
        }
        LogicalPlan::SubqueryAlias(SubqueryAlias { input, .. }) => is_null(input, place),
        _ => false,
    }
}

/// What all columns say of their type. A native type is only that of its logical one.
fn common<'a>(mut fields: impl Iterator<Item = &'a Field>) -> HashMap<String, String> {
    let Some(first) = fields.next() else { return HashMap::new() };
    let (mut ty, mut native) = (first.metadata().get(TYPE_KEY), first.metadata().get(NATIVE_KEY));
    let mut same = true;
    for field in fields {
        let metadata = field.metadata();
        same &= metadata.get(TYPE_KEY) == ty;
        ty = ty.filter(|_| same);
        native = native.filter(|native| same && metadata.get(NATIVE_KEY) == Some(native));
    }
    let known = [(TYPE_KEY, ty), (NATIVE_KEY, native)];
    known.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?.clone()))).collect()
}

fn logical(field: &Field) -> Option<Type> {
    let schema = Schema::from_arrow(&arrow::datatypes::Schema::new(vec![field.clone()])).ok()?;
    schema.columns.into_iter().next().map(|column| column.ty)
}

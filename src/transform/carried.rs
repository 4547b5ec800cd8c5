//! What a query does with the logical types that DataFusion carries beside its own: numbers without precision, the values of an enum, JSON, what
//! only its own engine understands.

use std::sync::Arc;

use arrow::datatypes::Field;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Column as Reference, ExprSchema};
use datafusion::logical_expr::expr::{Alias, Cast};
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{Expr, LogicalPlan, Projection, SubqueryAlias};

use super::sql::{Fault, Words};
use super::{expression, rewrite};
use crate::data::{Schema, Type};

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
            found = Some(expression::unbounded(&name).span(words.place(&name)));
        } else if let Some(name) = computed(true, &is_native).or_else(|| told_apart(plan, &ty)) {
            found = Some(expression::native(&name).span(words.place(&name)));
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

fn logical(field: &Field) -> Option<Type> {
    let schema = Schema::from_arrow(&arrow::datatypes::Schema::new(vec![field.clone()])).ok()?;
    schema.columns.into_iter().next().map(|column| column.ty)
}

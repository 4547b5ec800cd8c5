//! What haul changes in DataFusion's typed expressions: instants stay in microseconds, integers never wrap, and a decimal that is carried as
//! text is not mistaken for one.

use std::sync::{Arc, OnceLock};

use arrow::compute::kernels::numeric;
use arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, Result, ScalarValue, exec_err, internal_err};
use datafusion::logical_expr::expr::{Between, BinaryExpr, Cast, InList, ScalarFunction, TryCast};
use datafusion::logical_expr::expr_fn::cast;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ExprSchemable, LogicalPlan, Operator, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use datafusion::optimizer::AnalyzerRule;

use crate::data::Type;

/// [`keep_micros`] over every expression of a query.
#[derive(Debug)]
pub(super) struct KeepMicros;

/// [`check_overflow`] over every expression of a query.
#[derive(Debug)]
pub(super) struct CheckOverflow;

impl AnalyzerRule for KeepMicros {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        everywhere(plan, keep_micros)
    }

    fn name(&self) -> &str {
        "keep_micros"
    }
}

impl AnalyzerRule for CheckOverflow {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        everywhere(plan, check_overflow)
    }

    fn name(&self) -> &str {
        "check_overflow"
    }
}

/// Rewrites every expression of a plan; the columns keep their names.
fn everywhere(plan: LogicalPlan, rewrite: fn(Expr, &DFSchema) -> Result<Transformed<Expr>>) -> Result<LogicalPlan> {
    let rewritten = plan.transform_up_with_subqueries(|plan| {
        let schema = merge_schema(&plan.inputs());
        let names = NamePreserver::new(&plan);
        plan.map_expressions(|expr| {
            let name = names.save(&expr);
            Ok(rewrite(expr, &schema)?.update_data(|expr| name.restore(expr)))
        })?
        .map_data(LogicalPlan::recompute_schema)
    })?;
    Ok(rewritten.data)
}

/// Before types are made to agree: what is compared with an instant in microseconds becomes one, and so do casts to timestamps. DataFusion
/// would compare in nanoseconds, which reach from 1677 to 2262 only.
pub(super) fn keep_micros(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    expr.transform_up(|expr| {
        Ok(match expr {
            Expr::Cast(Cast { expr, field }) => match micros(field.data_type()) {
                Some(ty) => Transformed::yes(cast(*expr, ty)),
                None => Transformed::no(Expr::Cast(Cast { expr, field })),
            },
            Expr::TryCast(TryCast { expr, field }) => match micros(field.data_type()) {
                Some(ty) => Transformed::yes(Expr::TryCast(TryCast::new(expr, ty))),
                None => Transformed::no(Expr::TryCast(TryCast { expr, field })),
            },
            Expr::BinaryExpr(BinaryExpr { left, op, right }) if compares(op) => {
                let (left, right) = (to_instant_like(*left, &right, schema), right);
                let right = to_instant_like(*right, &left, schema);
                Transformed::yes(Expr::BinaryExpr(BinaryExpr { left: Box::new(left), op, right: Box::new(right) }))
            }
            Expr::Between(Between { expr, negated, low, high }) => {
                let low = Box::new(to_instant_like(*low, &expr, schema));
                let high = Box::new(to_instant_like(*high, &expr, schema));
                Transformed::yes(Expr::Between(Between { expr, negated, low, high }))
            }
            Expr::InList(InList { expr, list, negated }) => {
                let list = list.into_iter().map(|item| to_instant_like(item, &expr, schema)).collect();
                Transformed::yes(Expr::InList(InList { expr, list, negated }))
            }
            other => Transformed::no(other),
        })
    })
}

fn compares(op: Operator) -> bool {
    use Operator::{Eq, Gt, GtEq, IsDistinctFrom, IsNotDistinctFrom, Lt, LtEq, NotEq};
    matches!(op, Eq | NotEq | Lt | LtEq | Gt | GtEq | IsDistinctFrom | IsNotDistinctFrom)
}

/// The same timestamp type in microseconds, when it is one in nanoseconds.
fn micros(ty: &DataType) -> Option<DataType> {
    match ty {
        DataType::Timestamp(TimeUnit::Nanosecond, None) => Some(Type::Timestamp.to_arrow()),
        DataType::Timestamp(TimeUnit::Nanosecond, Some(_)) => Some(Type::TimestampTz.to_arrow()),
        _ => None,
    }
}

fn to_instant_like(expr: Expr, other: &Expr, schema: &DFSchema) -> Expr {
    let (Ok(ty), Ok(like)) = (expr.get_type(schema), other.get_type(schema)) else { return expr };
    let needs = matches!(ty, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Date32)
        || matches!(ty, DataType::Timestamp(TimeUnit::Nanosecond, _));
    match like {
        DataType::Timestamp(TimeUnit::Microsecond, _) if needs => cast(expr, like),
        _ => expr,
    }
}

/// Where an expression computes or compares with a column whose decimals are carried as text; the column's name.
pub(super) fn unbounded_decimal(expr: &Expr, is_unbounded: &dyn Fn(&Column) -> bool) -> Option<String> {
    let mut found = None;
    let walked = expr.apply(|expr| {
        let harmless = match expr {
            Expr::Cast(_) | Expr::TryCast(_) | Expr::Alias(_) | Expr::IsNull(_) | Expr::IsNotNull(_) => true,
            Expr::AggregateFunction(function) => function.func.name() == "count",
            _ => false,
        };
        if !harmless {
            expr.apply_children(|child| {
                if let Expr::Column(column) = child
                    && is_unbounded(column)
                {
                    found.get_or_insert_with(|| column.name.clone());
                }
                Ok(TreeNodeRecursion::Continue)
            })?;
        }
        Ok(TreeNodeRecursion::Continue)
    });
    walked.ok().and(found)
}

/// After types agree: integer `+`, `-`, `*` and negation fail where they would wrap.
pub(super) fn check_overflow(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    expr.transform_up(|expr| {
        Ok(match expr {
            Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
                let checked = match op {
                    Operator::Plus => Some(Checked::Add),
                    Operator::Minus => Some(Checked::Subtract),
                    Operator::Multiply => Some(Checked::Multiply),
                    _ => None,
                };
                match checked {
                    Some(checked) if is_integer(&left, schema) && is_integer(&right, schema) => {
                        Transformed::yes(checked.call(vec![*left, *right]))
                    }
                    _ => Transformed::no(Expr::BinaryExpr(BinaryExpr { left, op, right })),
                }
            }
            Expr::Negative(inner) => {
                if is_integer(&inner, schema) {
                    let zero = Expr::Literal(ScalarValue::new_zero(&inner.get_type(schema)?)?, None);
                    Transformed::yes(Checked::Subtract.call(vec![zero, *inner]))
                } else {
                    Transformed::no(Expr::Negative(inner))
                }
            }
            other => Transformed::no(other),
        })
    })
}

fn is_integer(expr: &Expr, schema: &DFSchema) -> bool {
    expr.get_type(schema).is_ok_and(|ty| ty.is_integer())
}

/// Integer arithmetic that fails where it would wrap. Both operands have one type, which is the result's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Checked {
    Add,
    Subtract,
    Multiply,
}

impl Checked {
    fn call(self, args: Vec<Expr>) -> Expr {
        static FUNCTIONS: OnceLock<[Arc<ScalarUDF>; 3]> = OnceLock::new();
        let make = |checked| Arc::new(ScalarUDF::from(CheckedFunction { checked, signature: Signature::any(2, Volatility::Immutable) }));
        let functions = FUNCTIONS.get_or_init(|| [make(Self::Add), make(Self::Subtract), make(Self::Multiply)]);
        Expr::ScalarFunction(ScalarFunction::new_udf(functions[self as usize].clone(), args))
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct CheckedFunction {
    checked: Checked,
    signature: Signature,
}

impl ScalarUDFImpl for CheckedFunction {
    fn name(&self) -> &str {
        match self.checked {
            Checked::Add => "checked_add",
            Checked::Subtract => "checked_subtract",
            Checked::Multiply => "checked_multiply",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, args: &[DataType]) -> Result<DataType> {
        match args {
            [left, right] if left == right => Ok(left.clone()),
            _ => internal_err!("checked arithmetic over two types"),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let operation = match self.checked {
            Checked::Add => numeric::add,
            Checked::Subtract => numeric::sub,
            Checked::Multiply => numeric::mul,
        };
        let [left, right] = &args.args[..] else { return exec_err!("checked arithmetic takes two values") };
        datafusion::physical_expr_common::datum::apply(left, right, operation)
    }
}

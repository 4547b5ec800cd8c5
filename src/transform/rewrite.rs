//! What haul changes in DataFusion's typed expressions: instants stay in microseconds, a uuid is compared with its text form, integers never
//! wrap, and a decimal that is carried as text is not mistaken for one.

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
    AggregateUDF, ColumnarValue, Distinct, Expr, ExprSchemable, LogicalPlan, Operator, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
    Signature, Volatility, WindowFunctionDefinition,
};
use datafusion::optimizer::AnalyzerRule;

use super::{midnight, sum};
use crate::data::Type;

/// [`compare_as_meant`] over every expression of a query.
#[derive(Debug)]
pub(super) struct CompareAsMeant;

/// [`check_overflow`] over every expression of a query.
#[derive(Debug)]
pub(super) struct CheckOverflow;

impl AnalyzerRule for CompareAsMeant {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        everywhere(plan, compare_as_meant)
    }

    fn name(&self) -> &str {
        "compare_as_meant"
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

/// Before types are made to agree: what is compared with an instant in microseconds becomes one, and so do casts to timestamps; DataFusion
/// would compare in nanoseconds, which reach from 1677 to 2262 only.
pub(super) fn compare_as_meant(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
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
                let left = to_type_of(&right, *left, schema);
                let right = to_type_of(&left, *right, schema);
                Transformed::yes(Expr::BinaryExpr(BinaryExpr { left: Box::new(left), op, right: Box::new(right) }))
            }
            Expr::Between(Between { expr, negated, low, high }) => {
                let expr = Box::new(to_type_of(&low, *expr, schema));
                let low = Box::new(to_type_of(&expr, *low, schema));
                let high = Box::new(to_type_of(&expr, *high, schema));
                Transformed::yes(Expr::Between(Between { expr, negated, low, high }))
            }
            Expr::InList(InList { expr, list, negated }) => {
                let list = list.into_iter().map(|item| to_type_of(&expr, item, schema)).collect();
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

/// Makes an expression agree with what it is compared with, where DataFusion would choose another type.
fn to_type_of(other: &Expr, expr: Expr, schema: &DFSchema) -> Expr {
    let (Ok(ty), Ok(like)) = (expr.get_type(schema), other.get_type(schema)) else { return expr };
    match like {
        DataType::Timestamp(TimeUnit::Microsecond, _) => match ty {
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Date32 | DataType::Timestamp(TimeUnit::Nanosecond, _) => {
                cast(expr, like)
            }
            _ => expr,
        },
        // A uuid is compared with its text form. A text that is none stays, and is a type error.
        DataType::FixedSizeBinary(16) => match &expr {
            Expr::Literal(ScalarValue::Utf8(Some(text)), _) => match uuid::Uuid::parse_str(text) {
                Ok(uuid) => Expr::Literal(ScalarValue::FixedSizeBinary(16, Some(uuid.into_bytes().to_vec())), None),
                Err(_) => expr,
            },
            _ => expr,
        },
        _ => expr,
    }
}

/// Where an expression computes or compares with one of some columns, to `cast` it included if that is computing; the column's name.
pub(super) fn computed(expr: &Expr, casts: bool, is_meant: &dyn Fn(&Column) -> bool) -> Option<String> {
    let mut found = None;
    let walked = expr.apply(|expr| {
        let harmless = match expr {
            Expr::Cast(_) | Expr::TryCast(_) => !casts,
            Expr::Alias(_) | Expr::IsNull(_) | Expr::IsNotNull(_) => true,
            Expr::AggregateFunction(function) => function.func.name() == "count" && !function.params.distinct,
            _ => false,
        };
        if !harmless {
            expr.apply_children(|child| {
                if let Expr::Column(column) = child
                    && is_meant(column)
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

/// The columns whose values a node of a plan orders or tells apart as they are.
pub(super) fn compared(plan: &LogicalPlan) -> Vec<Column> {
    let exprs: Vec<&Expr> = match plan {
        LogicalPlan::Sort(sort) => sort.expr.iter().map(|sort| &sort.expr).collect(),
        LogicalPlan::Aggregate(aggregate) => aggregate.group_expr.iter().collect(),
        LogicalPlan::Join(join) => join.on.iter().flat_map(|(left, right)| [left, right]).collect(),
        LogicalPlan::Distinct(Distinct::On(distinct)) => {
            distinct.on_expr.iter().chain(distinct.sort_expr.iter().flatten().map(|sort| &sort.expr)).collect()
        }
        LogicalPlan::Distinct(Distinct::All(input)) => return input.schema().columns(),
        LogicalPlan::RecursiveQuery(query) if query.is_distinct => return query.static_term.schema().columns(),
        _ => Vec::new(),
    };
    exprs.into_iter().filter_map(Expr::try_as_col).cloned().collect()
}

/// After types agree: integer `+`, `-`, `*` and negation fail where they would wrap, and so do sums; an infinite day is an infinite instant.
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
            Expr::Cast(Cast { expr, field }) => match field.data_type() {
                DataType::Timestamp(TimeUnit::Microsecond, zone) if expr.get_type(schema)? == DataType::Date32 => {
                    Transformed::yes(midnight::of(*expr, zone.is_some()))
                }
                _ => Transformed::no(Expr::Cast(Cast { expr, field })),
            },
            Expr::AggregateFunction(mut function) if sums(&function.func, &function.params.args, schema) => {
                function.func = sum::checked();
                Transformed::yes(Expr::AggregateFunction(function))
            }
            Expr::WindowFunction(mut function) => match &function.fun {
                WindowFunctionDefinition::AggregateUDF(func) if sums(func, &function.params.args, schema) => {
                    function.fun = WindowFunctionDefinition::AggregateUDF(sum::checked());
                    Transformed::yes(Expr::WindowFunction(function))
                }
                _ => Transformed::no(Expr::WindowFunction(function)),
            },
            other => Transformed::no(other),
        })
    })
}

/// Whether an aggregate is a sum that could wrap.
fn sums(function: &AggregateUDF, args: &[Expr], schema: &DFSchema) -> bool {
    function.name() == "sum" && args.len() == 1 && args[0].get_type(schema).is_ok_and(|ty| sum::wraps(&ty))
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

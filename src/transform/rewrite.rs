//! What haul changes in DataFusion's typed expressions: instants stay in microseconds, integers never wrap, and a decimal that is carried as
//! text is not mistaken for one.

use std::sync::{Arc, OnceLock};

use arrow::compute::kernels::numeric;
use arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::DFSchema;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Result, ScalarValue, exec_err, internal_err};
use datafusion::logical_expr::expr::{Between, BinaryExpr, Cast, InList, ScalarFunction, TryCast};
use datafusion::logical_expr::expr_fn::cast;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ExprSchemable, Operator, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use crate::data::{Schema, Type};

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
pub(super) fn unbounded_decimal(expr: &Expr, schema: &Schema) -> Option<String> {
    let number = |expr: &Expr| match expr {
        Expr::Column(column) => {
            schema.find(&column.name).filter(|(_, column)| column.ty == Type::Number).map(|(_, column)| column.name.clone())
        }
        _ => None,
    };
    let mut found = None;
    let walked = expr.apply(|expr| {
        if !matches!(expr, Expr::Cast(_) | Expr::TryCast(_) | Expr::Alias(_) | Expr::IsNull(_) | Expr::IsNotNull(_)) {
            expr.apply_children(|child| {
                found = found.take().or_else(|| number(child));
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
                    Some(checked) if left.get_type(schema)?.is_integer() && right.get_type(schema)?.is_integer() => {
                        Transformed::yes(checked.call(vec![*left, *right]))
                    }
                    _ => Transformed::no(Expr::BinaryExpr(BinaryExpr { left, op, right })),
                }
            }
            Expr::Negative(inner) => {
                let ty = inner.get_type(schema)?;
                if ty.is_integer() {
                    let zero = Expr::Literal(ScalarValue::new_zero(&ty)?, None);
                    Transformed::yes(Checked::Subtract.call(vec![zero, *inner]))
                } else {
                    Transformed::no(Expr::Negative(inner))
                }
            }
            other => Transformed::no(other),
        })
    })
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

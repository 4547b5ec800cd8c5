//! The instant that a day begins with, where DataFusion's own cast fails on an infinite day.

use std::sync::{Arc, OnceLock};

use arrow::array::{AsArray, PrimitiveArray};
use arrow::datatypes::{DataType, Date32Type, TimestampMicrosecondType};
use datafusion::common::{Result, exec_datafusion_err};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

use super::values;
use crate::data::Type;

/// A date as a timestamp, naive or in UTC.
pub(super) fn of(date: Expr, zoned: bool) -> Expr {
    static FUNCTIONS: OnceLock<[Arc<ScalarUDF>; 2]> = OnceLock::new();
    let make = |zoned| Arc::new(ScalarUDF::from(Midnight { zoned, signature: Signature::any(1, Volatility::Immutable) }));
    let functions = FUNCTIONS.get_or_init(|| [make(false), make(true)]);
    Expr::ScalarFunction(ScalarFunction::new_udf(functions[usize::from(zoned)].clone(), vec![date]))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Midnight {
    zoned: bool,
    signature: Signature,
}

impl ScalarUDFImpl for Midnight {
    fn name(&self) -> &str {
        if self.zoned { "midnight_utc" } else { "midnight" }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(if self.zoned { Type::TimestampTz } else { Type::Timestamp }.to_arrow())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = args.number_rows;
        let days = args.args[0].to_array(rows)?;
        let beyond = || exec_datafusion_err!("overflow: the date is beyond what a timestamp can hold");
        let instants: PrimitiveArray<TimestampMicrosecondType> =
            days.as_primitive::<Date32Type>().try_unary(|day| values::midnight(day).ok_or_else(beyond))?;
        Ok(ColumnarValue::Array(Arc::new(instants.with_data_type(args.return_type().clone()))))
    }
}

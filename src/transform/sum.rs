//! The sum of integers, which fails where DataFusion's own would wrap.

use std::sync::{Arc, OnceLock};

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{ArrowPrimitiveType, DataType, Decimal128Type, Field, FieldRef, Int64Type, UInt64Type};
use datafusion::common::{Result, ScalarValue, exec_err};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::format_state_name;
use datafusion::logical_expr::{Accumulator, AggregateUDF, AggregateUDFImpl, Signature, Volatility};

/// `sum` over `Int64` or `UInt64`.
pub(super) fn checked() -> Arc<AggregateUDF> {
    static SUM: OnceLock<Arc<AggregateUDF>> = OnceLock::new();
    SUM.get_or_init(|| Arc::new(AggregateUDF::from(CheckedSum { signature: Signature::any(1, Volatility::Immutable) }))).clone()
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct CheckedSum {
    signature: Signature,
}

impl AggregateUDFImpl for CheckedSum {
    fn name(&self) -> &str {
        "checked_sum"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, args: &[DataType]) -> Result<DataType> {
        match args {
            [ty @ (DataType::Int64 | DataType::UInt64)] => Ok(ty.clone()),
            _ => exec_err!("a checked sum takes one integer"),
        }
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        Ok(Box::new(Sum { ty: args.return_type().clone(), sum: 0, values: 0 }))
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        let field = |part: &str, ty: DataType| Arc::new(Field::new(format_state_name(args.name, part), ty, true));
        Ok(vec![field("sum", DataType::Decimal128(38, 0)), field("values", DataType::Int64)])
    }
}

/// The sum in 128 bits, which no count of 64-bit values that fits on a disk can overflow.
#[derive(Debug)]
struct Sum {
    ty: DataType,
    sum: i128,
    /// Values that are not NULL; the sum of none is NULL.
    values: i64,
}

impl Sum {
    /// Adds the values, or takes them away.
    fn add(&mut self, array: &ArrayRef, sign: i128) {
        fn total<T: ArrowPrimitiveType>(array: &ArrayRef) -> i128
        where
            i128: From<T::Native>,
        {
            array.as_primitive::<T>().iter().flatten().map(i128::from).sum()
        }
        let sum = if self.ty == DataType::UInt64 { total::<UInt64Type>(array) } else { total::<Int64Type>(array) };
        self.sum += sign * sum;
        self.values += sign as i64 * (array.len() - array.null_count()) as i64;
    }
}

impl Accumulator for Sum {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        values.iter().for_each(|array| self.add(array, 1));
        Ok(())
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        values.iter().for_each(|array| self.add(array, -1));
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let some = self.values > 0;
        let fits = if self.ty == DataType::UInt64 {
            u64::try_from(self.sum).map(|sum| ScalarValue::UInt64(some.then_some(sum)))
        } else {
            i64::try_from(self.sum).map(|sum| ScalarValue::Int64(some.then_some(sum)))
        };
        match fits {
            Ok(sum) => Ok(sum),
            Err(_) => exec_err!("overflow: the sum {} does not fit in 64 bits; sum a decimal instead", self.sum),
        }
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![ScalarValue::Decimal128(Some(self.sum), 38, 0), ScalarValue::Int64(Some(self.values))])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let [sums, values] = states else { return exec_err!("the state of a checked sum has two parts") };
        self.sum += sums.as_primitive::<Decimal128Type>().iter().flatten().sum::<i128>();
        self.values += values.as_primitive::<Int64Type>().iter().flatten().sum::<i64>();
        Ok(())
    }

    fn size(&self) -> usize {
        size_of_val(self)
    }
}

//! The sum of numbers, which fails where DataFusion's own would wrap.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Decimal256Array, Int64Array, new_empty_array};
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Decimal128Type, Decimal256Type, DecimalType, Field, FieldRef, Int64Type, UInt64Type, i256,
};
use datafusion::common::{Result, ScalarValue, exec_err};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::format_state_name;
use datafusion::logical_expr::{Accumulator, AggregateUDF, AggregateUDFImpl, EmitTo, GroupsAccumulator, Signature, Volatility};

/// Digits that a decimal's sum has more than the decimal, as DataFusion gives them.
const MORE_DIGITS: u8 = 10;
/// The type of a sum that goes on.
const WIDE: DataType = DataType::Decimal256(Decimal256Type::MAX_PRECISION, 0);

/// `sum` over what [`wraps`].
pub(super) fn checked() -> Arc<AggregateUDF> {
    static SUM: OnceLock<Arc<AggregateUDF>> = OnceLock::new();
    SUM.get_or_init(|| Arc::new(AggregateUDF::from(CheckedSum { signature: Signature::any(1, Volatility::Immutable) }))).clone()
}

/// Whether a sum of values that fit on a disk could leave the type that it is computed in.
pub(super) fn wraps(ty: &DataType) -> bool {
    match ty {
        DataType::Int64 | DataType::UInt64 => true,
        DataType::Decimal128(precision, _) => precision + MORE_DIGITS > Decimal128Type::MAX_PRECISION,
        DataType::Decimal256(precision, _) => precision + MORE_DIGITS > Decimal256Type::MAX_PRECISION,
        _ => false,
    }
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
            [DataType::Decimal128(_, scale)] => Ok(DataType::Decimal128(Decimal128Type::MAX_PRECISION, *scale)),
            [DataType::Decimal256(_, scale)] => Ok(DataType::Decimal256(Decimal256Type::MAX_PRECISION, *scale)),
            _ => exec_err!("a checked sum takes one integer or decimal"),
        }
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        let ty = args.return_type().clone();
        Ok(if args.is_distinct {
            Box::new(DistinctSum { ty, counts: HashMap::new() })
        } else {
            Box::new(Sum { ty, sum: i256::ZERO, values: 0 })
        })
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        !args.is_distinct
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn GroupsAccumulator>> {
        Ok(Box::new(Sums { ty: args.return_type().clone(), sums: Vec::new(), values: Vec::new() }))
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        let field = |part: &str, ty: DataType| Arc::new(Field::new(format_state_name(args.name, part), ty, true));
        if args.is_distinct {
            return Ok(vec![field("values", DataType::new_list(WIDE, true))]);
        }
        Ok(vec![field("sum", WIDE), field("values", DataType::Int64)])
    }
}

/// The sum in 256 bits, which no count of 64-bit values or decimals of 38 digits that fits on a disk can overflow.
#[derive(Debug)]
struct Sum {
    ty: DataType,
    sum: i256,
    /// Values that are not NULL; the sum of none is NULL.
    values: i64,
}

impl Sum {
    fn add(&mut self, value: i256) -> Result<()> {
        self.sum = added(self.sum, value)?;
        Ok(())
    }

    /// The sum of a batch.
    fn of(&self, array: &ArrayRef) -> Result<i256> {
        fn total<T: ArrowPrimitiveType>(array: &ArrayRef) -> i256
        where
            i128: From<T::Native>,
        {
            i256::from_i128(array.as_primitive::<T>().iter().flatten().map(i128::from).sum())
        }
        match self.ty {
            DataType::Int64 => Ok(total::<Int64Type>(array)),
            DataType::UInt64 => Ok(total::<UInt64Type>(array)),
            _ => {
                let mut sum = Sum { ty: self.ty.clone(), sum: i256::ZERO, values: 0 };
                wide(array).flatten().try_for_each(|value| sum.add(value))?;
                Ok(sum.sum)
            }
        }
    }
}

fn added(sum: i256, value: i256) -> Result<i256> {
    sum.checked_add(value).map_or_else(|| exec_err!("overflow: the sum has more digits than a decimal can hold"), Ok)
}

/// The values of an array, in 256 bits.
fn wide(array: &ArrayRef) -> Box<dyn Iterator<Item = Option<i256>> + '_> {
    match array.data_type() {
        DataType::Int64 => Box::new(array.as_primitive::<Int64Type>().iter().map(|value| value.map(|value| i256::from_i128(value.into())))),
        DataType::UInt64 => {
            Box::new(array.as_primitive::<UInt64Type>().iter().map(|value| value.map(|value| i256::from_i128(value.into()))))
        }
        DataType::Decimal128(..) => Box::new(array.as_primitive::<Decimal128Type>().iter().map(|value| value.map(i256::from_i128))),
        _ => Box::new(array.as_primitive::<Decimal256Type>().iter()),
    }
}

/// The sum as a value of its type; without `some` it is NULL.
fn value(ty: &DataType, sum: i256, some: bool) -> Result<ScalarValue> {
    let narrow = sum.to_i128();
    let fits = match ty {
        DataType::UInt64 => narrow.and_then(|sum| u64::try_from(sum).ok()).map(|sum| ScalarValue::UInt64(some.then_some(sum))),
        DataType::Int64 => narrow.and_then(|sum| i64::try_from(sum).ok()).map(|sum| ScalarValue::Int64(some.then_some(sum))),
        DataType::Decimal128(precision, scale) => narrow
            .filter(|sum| Decimal128Type::is_valid_decimal_precision(*sum, *precision))
            .map(|sum| ScalarValue::Decimal128(some.then_some(sum), *precision, *scale)),
        DataType::Decimal256(precision, scale) => Some(sum)
            .filter(|sum| Decimal256Type::is_valid_decimal_precision(*sum, *precision))
            .map(|sum| ScalarValue::Decimal256(some.then_some(sum), *precision, *scale)),
        _ => None,
    };
    match fits {
        Some(sum) => Ok(sum),
        None if ty.is_integer() => exec_err!("overflow: the sum {sum} does not fit in 64 bits; sum a decimal instead"),
        None => exec_err!("overflow: the sum has more digits than a decimal can hold"),
    }
}

impl Accumulator for Sum {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        for array in values {
            self.add(self.of(array)?)?;
            self.values += (array.len() - array.null_count()) as i64;
        }
        Ok(())
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        for array in values {
            self.add(self.of(array)?.wrapping_neg())?;
            self.values -= (array.len() - array.null_count()) as i64;
        }
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        value(&self.ty, self.sum, self.values > 0)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![state(self.sum), ScalarValue::Int64(Some(self.values))])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let [sums, values] = states else { return exec_err!("the state of a checked sum has two parts") };
        wide(sums).flatten().try_for_each(|sum| self.add(sum))?;
        self.values += values.as_primitive::<Int64Type>().iter().flatten().sum::<i64>();
        Ok(())
    }

    fn size(&self) -> usize {
        size_of_val(self)
    }
}

/// The sums of many groups.
struct Sums {
    ty: DataType,
    sums: Vec<i256>,
    /// Values of each group that are not NULL.
    values: Vec<i64>,
}

impl Sums {
    /// Makes room for groups that are new.
    fn extend(&mut self, groups: usize) {
        self.sums.resize(groups, i256::ZERO);
        self.values.resize(groups, 0);
    }
}

impl GroupsAccumulator for Sums {
    fn update_batch(&mut self, values: &[ArrayRef], groups: &[usize], filter: Option<&BooleanArray>, total: usize) -> Result<()> {
        self.extend(total);
        for (row, (value, &group)) in wide(&values[0]).zip(groups).enumerate() {
            if let Some(value) = value.filter(|_| counts(filter, row)) {
                self.sums[group] = added(self.sums[group], value)?;
                self.values[group] += 1;
            }
        }
        Ok(())
    }

    fn evaluate(&mut self, emit: EmitTo) -> Result<ArrayRef> {
        let (sums, values) = (emit.take_needed(&mut self.sums), emit.take_needed(&mut self.values));
        if sums.is_empty() {
            return Ok(new_empty_array(&self.ty));
        }
        let found = sums.into_iter().zip(values).map(|(sum, values)| value(&self.ty, sum, values > 0));
        ScalarValue::iter_to_array(found.collect::<Result<Vec<_>>>()?)
    }

    fn state(&mut self, emit: EmitTo) -> Result<Vec<ArrayRef>> {
        let sums = Decimal256Array::from_iter_values(emit.take_needed(&mut self.sums)).with_data_type(WIDE);
        Ok(vec![Arc::new(sums), Arc::new(Int64Array::from(emit.take_needed(&mut self.values)))])
    }

    fn merge_batch(&mut self, states: &[ArrayRef], groups: &[usize], total: usize) -> Result<()> {
        self.extend(total);
        let [sums, values] = states else { return exec_err!("the state of a checked sum has two parts") };
        let values = values.as_primitive::<Int64Type>();
        for (row, (sum, &group)) in wide(sums).zip(groups).enumerate() {
            if let Some(sum) = sum {
                self.sums[group] = added(self.sums[group], sum)?;
                self.values[group] += values.value(row);
            }
        }
        Ok(())
    }

    fn convert_to_state(&self, values: &[ArrayRef], filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        let sums = wide(&values[0]).enumerate().map(|(row, value)| value.filter(|_| counts(filter, row)));
        let sums: Decimal256Array = sums.collect();
        let values = Int64Array::from_iter_values(sums.iter().map(|sum| i64::from(sum.is_some())));
        Ok(vec![Arc::new(sums.with_data_type(WIDE)), Arc::new(values)])
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.sums.capacity() * size_of::<i256>() + self.values.capacity() * size_of::<i64>()
    }
}

/// Whether a row passes the filter of its aggregate.
fn counts(filter: Option<&BooleanArray>, row: usize) -> bool {
    filter.is_none_or(|filter| filter.is_valid(row) && filter.value(row))
}

fn state(value: i256) -> ScalarValue {
    ScalarValue::Decimal256(Some(value), Decimal256Type::MAX_PRECISION, 0)
}

/// The sum of each value once.
#[derive(Debug)]
struct DistinctSum {
    ty: DataType,
    /// How often each value is there, so that it can be taken away again.
    counts: HashMap<i256, u64>,
}

impl Accumulator for DistinctSum {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        for value in values.iter().flat_map(wide).flatten() {
            *self.counts.entry(value).or_default() += 1;
        }
        Ok(())
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        for value in values.iter().flat_map(wide).flatten() {
            let count = self.counts.entry(value).or_default();
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.counts.remove(&value);
            }
        }
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let mut sum = Sum { ty: self.ty.clone(), sum: i256::ZERO, values: 0 };
        self.counts.keys().try_for_each(|value| sum.add(*value))?;
        value(&self.ty, sum.sum, !self.counts.is_empty())
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let values: Vec<ScalarValue> = self.counts.keys().map(|value| state(*value)).collect();
        Ok(vec![ScalarValue::List(ScalarValue::new_list_nullable(&values, &WIDE))])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let lists = states.iter().flat_map(|state| state.as_list::<i32>().iter().flatten());
        lists.into_iter().try_for_each(|values| self.update_batch(&[values]))
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.counts.capacity() * size_of::<(i256, u64)>()
    }
}

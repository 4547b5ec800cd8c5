//! Parquet row groups → batches.

use std::sync::Arc;

use ::parquet::arrow::ProjectionMask;
use ::parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use ::parquet::basic::{LogicalType, Type as Physical};
use arrow::array::{Array, ArrayRef, AsArray, BooleanArray};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Field, SchemaRef, Time64NanosecondType, TimeUnit, TimestampNanosecondType};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use arrow::util::display::array_value_to_string;

use super::{AS_KEY, Pages, failed};
use crate::connectors::files::store::Store;
use crate::connectors::files::stream::Give;
use crate::data::text::Builder;
use crate::data::{BatchLimit, Chunk, Reject, Schema, Type, normalize};
use crate::failure::Failure;

/// An open Parquet file.
pub(in crate::connectors::files) struct ParquetFile {
    path: String,
    pages: Pages,
    metadata: ArrowReaderMetadata,
    schema: Schema,
}

/// A run of row groups: the first and the one after the last, their rows, and their bytes as they lie.
type Run = ((usize, usize), u64, u64);

impl ParquetFile {
    /// Reads the file's footer.
    pub(in crate::connectors::files) fn open(store: &dyn Store, path: &str) -> Result<Self, Failure> {
        let pages = Pages(Arc::from(store.ranges(path)?));
        let read = |options| ArrowReaderMetadata::load(&pages, options).map_err(|error| failed("read", path, error));
        let mut metadata = read(ArrowReaderOptions::new())?;
        if let Some(schema) = without_int96(&metadata) {
            metadata = read(ArrowReaderOptions::new().with_schema(schema))?;
        }
        let schema = logical(&metadata).map_err(|message| {
            Failure::permanent(format!("`{path}`: {message}")).help("leave the column out of the file, or write it as text or JSON there")
        })?;
        Ok(Self { path: path.to_owned(), pages, metadata, schema })
    }

    /// Its columns.
    pub(in crate::connectors::files) fn schema(&self) -> &Schema {
        &self.schema
    }

    /// Its rows.
    pub(in crate::connectors::files) fn rows(&self) -> u64 {
        self.metadata.metadata().file_metadata().num_rows().max(0) as u64
    }

    /// Its row groups in runs of at least so many bytes; one run when there are none.
    pub(in crate::connectors::files) fn runs(&self, bytes: u64) -> Vec<Run> {
        let groups = self.metadata.metadata().row_groups();
        let mut runs: Vec<Run> = Vec::new();
        for (place, group) in groups.iter().enumerate() {
            let (rows, size) = (group.num_rows().max(0) as u64, group.compressed_size().max(0) as u64);
            match runs.last_mut() {
                Some((range, all_rows, all_bytes)) if *all_bytes < bytes => {
                    range.1 = place + 1;
                    *all_rows += rows;
                    *all_bytes += size;
                }
                _ => runs.push(((place, place + 1), rows, size)),
            }
        }
        if runs.is_empty() {
            runs.push(((0, 0), 0, 0));
        }
        runs
    }

    /// Reads some or all row groups as the columns of a schema; `false` when nobody wants more.
    pub(in crate::connectors::files) fn read(
        &self,
        groups: Option<(usize, usize)>,
        schema: &Schema,
        limit: BatchLimit,
        give: Give<'_>,
    ) -> Result<bool, Failure> {
        let all = self.metadata.metadata().row_groups();
        let (from, to) = groups.unwrap_or((0, all.len()));
        let chosen = all.get(from..to).ok_or_else(|| Failure::permanent(format!("`{}` has no row groups {from}..{to}", self.path)))?;
        let places = schema.columns.iter().map(|column| {
            let found = self.schema.find(&column.name).map(|(place, _)| place);
            found.ok_or_else(|| crate::connectors::files::look::column_gone(&self.path, &column.name))
        });
        let places = places.collect::<Result<Vec<usize>, Failure>>()?;
        let before: u64 = all[..from].iter().map(|group| group.num_rows().max(0) as u64).sum();
        let mask = ProjectionMask::roots(self.metadata.parquet_schema(), places.iter().copied());
        // Columns come in the file's order, whatever order they are asked for in.
        let mut sorted = places.clone();
        sorted.sort_unstable();
        let order: Vec<usize> = places.iter().filter_map(|place| sorted.iter().position(|other| other == place)).collect();
        let rows: u64 = chosen.iter().map(|group| group.num_rows().max(0) as u64).sum();
        let bytes: u64 = chosen.iter().map(|group| group.total_byte_size().max(0) as u64).sum();
        let stored: u64 = chosen.iter().map(|group| group.compressed_size().max(0) as u64).sum();
        let fit = limit.bytes as u64 / bytes.checked_div(rows).unwrap_or(0).max(1);
        let batch_rows = (limit.rows as u64).min(fit).max(1) as usize;
        let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(self.pages.clone(), self.metadata.clone())
            .with_row_groups((from..to).collect())
            .with_projection(mask)
            .with_batch_size(batch_rows)
            .build()
            .map_err(|error| failed("read", &self.path, error))?;
        let mut row = before;
        for batch in reader {
            let batch = batch.map_err(|error| Failure::permanent(format!("cannot read `{}`", self.path)).cause(error))?;
            let read = batch.num_rows() as u64;
            let batch = batch.project(&order).map_err(|error| Failure::permanent("columns cannot be put in order").cause(error))?;
            let (batch, rejects) = self.without_inexact(batch, row)?;
            let batch = normalize(&texts_back(&batch, schema, &self.path)?, schema).map_err(|failure| failure.during(&self.path))?;
            row += read;
            if !give(Chunk { rejects, bytes: stored * read / rows.max(1), ..Chunk::of(batch) }) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Takes out the rows whose times are finer than a microsecond, which nothing here holds.
    fn without_inexact(&self, batch: RecordBatch, before: u64) -> Result<(RecordBatch, Vec<Reject>), Failure> {
        let mut keep = vec![true; batch.num_rows()];
        let mut rejects = Vec::new();
        for (field, array) in batch.schema().fields().iter().zip(batch.columns()) {
            for row in finer_than_micros(array) {
                if std::mem::replace(&mut keep[row], false) {
                    let reason = format!(
                        "column `{}`: the value {} is finer than a microsecond",
                        field.name(),
                        array_value_to_string(array, row).unwrap_or_default()
                    );
                    let origin = format!("{}:row {}", self.path, before + row as u64 + 1);
                    rejects.push(Reject { origin, reason, row: as_json(&batch, row) });
                }
            }
        }
        if rejects.is_empty() {
            return Ok((batch, rejects));
        }
        let kept = filter_record_batch(&batch, &BooleanArray::from(keep));
        Ok((kept.map_err(|error| Failure::permanent("bad rows cannot be taken out of a batch").cause(error))?, rejects))
    }
}

/// A schema in which timestamps of the old INT96 form are microseconds: as nanoseconds, years after 2262 would wrap around.
fn without_int96(metadata: &ArrowReaderMetadata) -> Option<SchemaRef> {
    let roots = metadata.parquet_schema().root_schema().get_fields();
    let is_int96 = |place: usize| roots.get(place).is_some_and(|root| root.is_primitive() && root.get_physical_type() == Physical::INT96);
    let fields = metadata.schema().fields();
    if !(0..fields.len()).any(is_int96) {
        return None;
    }
    let field = |(place, field): (usize, &Arc<Field>)| {
        if is_int96(place) {
            field.as_ref().clone().with_data_type(DataType::Timestamp(TimeUnit::Microsecond, None))
        } else {
            field.as_ref().clone()
        }
    };
    Some(Arc::new(arrow::datatypes::Schema::new(fields.iter().enumerate().map(field).collect::<Vec<_>>())))
}

/// The logical columns: our own metadata, then Parquet's annotations, then the nearest type of the Arrow form.
fn logical(metadata: &ArrowReaderMetadata) -> Result<Schema, String> {
    let mut schema = Schema::from_arrow(metadata.schema())?;
    let roots = metadata.parquet_schema().root_schema().get_fields();
    for ((column, field), root) in schema.columns.iter_mut().zip(metadata.schema().fields()).zip(roots) {
        // A file is another engine than the one its rows came from.
        column.native = None;
        let annotation = if root.is_primitive() { root.get_basic_info().logical_type_ref().cloned() } else { None };
        column.ty = match (&column.ty, annotation) {
            (Type::Text, Some(LogicalType::Json)) => Type::Json,
            (Type::Bytes, Some(LogicalType::Uuid)) if *field.data_type() == DataType::FixedSizeBinary(16) => Type::Uuid,
            (Type::Text, _) if field.metadata().get(AS_KEY).is_some_and(|word| word == "interval") => Type::Interval,
            (Type::Native { .. }, _) => Type::Bytes,
            (ty, _) => ty.clone(),
        };
        if let (Type::Array(item), DataType::List(inner)) = (&mut column.ty, field.data_type())
            && **item == Type::Text
            && inner.metadata().get(AS_KEY).is_some_and(|word| word == "interval")
        {
            **item = Type::Interval;
        }
    }
    Ok(schema)
}

/// Columns that Parquet holds as text, in their own type again.
fn texts_back(batch: &RecordBatch, schema: &Schema, path: &str) -> Result<RecordBatch, Failure> {
    let is_text = |array: &ArrayRef| matches!(array.data_type(), DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    let mut arrays = batch.columns().to_vec();
    let mut changed = false;
    for (array, column) in arrays.iter_mut().zip(&schema.columns) {
        if column.ty == Type::Interval && is_text(array) {
            *array = interval_array(array, path, &column.name)?;
            changed = true;
        }
        if let (Type::Array(item), DataType::List(_)) = (&column.ty, array.data_type())
            && **item == Type::Interval
            && is_text(array.as_list::<i32>().values())
        {
            let list = array.as_list::<i32>();
            let DataType::List(field) = column.ty.to_arrow() else { continue };
            let values = interval_array(list.values(), path, &column.name)?;
            *array = Arc::new(arrow::array::ListArray::new(field, list.offsets().clone(), values, list.nulls().cloned()));
            changed = true;
        }
    }
    if !changed {
        return Ok(batch.clone());
    }
    let fields: Vec<Field> = batch
        .schema()
        .fields()
        .iter()
        .zip(&arrays)
        .map(|(field, array)| field.as_ref().clone().with_data_type(array.data_type().clone()))
        .collect();
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::new(arrow::datatypes::Schema::new(fields)), arrays, &options)
        .map_err(|error| Failure::permanent("intervals cannot be read from their text").cause(error))
}

fn interval_array(array: &ArrayRef, path: &str, column: &str) -> Result<ArrayRef, Failure> {
    let texts = arrow::compute::cast(array, &DataType::Utf8)
        .map_err(|error| Failure::permanent(format!("`{path}`: column `{column}` cannot be read as text")).cause(error))?;
    let texts = texts.as_string::<i32>();
    let mut builder = Builder::new(&Type::Interval, false);
    for text in texts {
        match text {
            None => builder.append_null(),
            Some(text) => builder
                .append(text)
                .map_err(|reason| Failure::bad_rows(format!("`{path}`: column `{column}`: the value `{text}` {reason}")))?,
        }
    }
    Ok(builder.finish())
}

/// Rows whose time has nanoseconds that a microsecond does not hold.
fn finer_than_micros(array: &ArrayRef) -> Vec<usize> {
    let values = match array.data_type() {
        DataType::Timestamp(TimeUnit::Nanosecond, _) => array.as_primitive::<TimestampNanosecondType>().values(),
        DataType::Time64(TimeUnit::Nanosecond) => array.as_primitive::<Time64NanosecondType>().values(),
        _ => return Vec::new(),
    };
    let finer = |(row, value): (usize, &i64)| (value % 1000 != 0 && array.is_valid(row)).then_some(row);
    values.iter().enumerate().filter_map(finer).collect()
}

fn as_json(batch: &RecordBatch, row: usize) -> String {
    let member = |(field, array): (&Arc<Field>, &ArrayRef)| {
        let value = if array.is_null(row) { serde_json::Value::Null } else { array_value_to_string(array, row).unwrap_or_default().into() };
        (field.name().clone(), value)
    };
    serde_json::Value::Object(batch.schema().fields().iter().zip(batch.columns()).map(member).collect()).to_string()
}

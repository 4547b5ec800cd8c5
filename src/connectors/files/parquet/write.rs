//! Batches → Parquet.

use std::io::Write;
use std::sync::Arc;

use ::parquet::arrow::ArrowSchemaConverter;
use ::parquet::arrow::arrow_writer::{ArrowWriter, ArrowWriterOptions};
use ::parquet::basic::{Compression as Codec, GzipLevel, LogicalType, Type as Physical, ZstdLevel};
use ::parquet::errors::ParquetError;
use ::parquet::file::properties::{EnabledStatistics, WriterProperties};
use ::parquet::schema::types::{SchemaDescriptor, Type as Node};
use arrow::array::{Array, ArrayRef, AsArray, ListArray};
use arrow::datatypes::{DataType, Date32Type, Field, FieldRef, SchemaRef, Time64MicrosecondType, TimestampMicrosecondType};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};

use super::AS_KEY;
use crate::connectors::files::codec::write_failed;
use crate::data::text::Printer;
use crate::data::{Schema, Type};
use crate::define::pipeline::Compression;
use crate::failure::Failure;

/// Encoded bytes of a row group, all of which are in memory until it is complete.
const ROW_GROUP_BYTES: usize = 16 << 20;
/// Rows of a row group.
const ROW_GROUP_ROWS: usize = 1 << 20;

/// Writes one Parquet file.
pub(in crate::connectors::files) struct ParquetWriter<W: Write + Send> {
    path: String,
    schema: Schema,
    stored: SchemaRef,
    writer: ArrowWriter<W>,
}

impl<W: Write + Send> ParquetWriter<W> {
    /// Begins a file of a schema's columns.
    pub(in crate::connectors::files) fn new(path: &str, file: W, schema: &Schema, compression: Compression) -> Result<Self, Failure> {
        let stored = stored_schema(schema);
        let broken = |error: ParquetError| failed(path, error);
        let options = ArrowWriterOptions::new()
            .with_properties(properties(compression))
            .with_parquet_schema(annotated(&stored, schema).map_err(broken)?);
        let writer = ArrowWriter::try_new_with_options(file, Arc::clone(&stored), options).map_err(broken)?;
        Ok(Self { path: path.to_owned(), schema: schema.clone(), stored, writer })
    }

    /// Writes a batch of the schema.
    pub(in crate::connectors::files) fn write(&mut self, batch: &RecordBatch) -> Result<(), Failure> {
        for (array, column) in batch.columns().iter().zip(&self.schema.columns) {
            if let Some(what) = not_in_parquet(array) {
                return Err(Failure::bad_rows(format!("column `{}` of `{}` holds {what}, which Parquet cannot", column.name, self.path))
                    .help("filter such rows, set them to NULL, or write CSV or NDJSON"));
            }
        }
        let arrays = batch.columns().iter().zip(&self.schema.columns).zip(self.stored.fields());
        let arrays = arrays.map(|((array, column), field)| as_stored(array, &column.ty, field)).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let stored = RecordBatch::try_new_with_options(Arc::clone(&self.stored), arrays, &options)
            .map_err(|error| Failure::permanent("a batch does not fit its Parquet file").cause(error))?;
        self.writer.write(&stored).map_err(|error| failed(&self.path, error))
    }

    /// About how many bytes the row group will have that is not written yet.
    pub(in crate::connectors::files) fn waiting(&self) -> usize {
        self.writer.in_progress_size()
    }

    /// Writes the footer.
    pub(in crate::connectors::files) fn end(self) -> Result<W, Failure> {
        self.writer.into_inner().map_err(|error| failed(&self.path, error))
    }
}

/// How haul writes Parquet.
pub(super) fn properties(compression: Compression) -> WriterProperties {
    let codec = match compression {
        Compression::Plain => Codec::UNCOMPRESSED,
        Compression::Gzip => Codec::GZIP(GzipLevel::default()),
        Compression::Zstd => Codec::ZSTD(ZstdLevel::default()),
        Compression::Snappy => Codec::SNAPPY,
    };
    WriterProperties::builder()
        .set_compression(codec)
        .set_created_by(concat!("haul ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_max_row_group_bytes(Some(ROW_GROUP_BYTES))
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .build()
}

/// The library reports a failed write as text around the system's error.
pub(super) fn failed(path: &str, error: ParquetError) -> Failure {
    match error {
        ParquetError::External(cause) => match cause.downcast::<std::io::Error>() {
            Ok(error) => write_failed(path, *error),
            Err(cause) => Failure::permanent(format!("cannot write `{path}`")).cause(cause),
        },
        error => write_failed(path, std::io::Error::other(error)),
    }
}

/// The Arrow columns that stand for ours in a file: intervals are text, since the library writes none.
fn stored_schema(schema: &Schema) -> SchemaRef {
    let arrow = schema.to_arrow();
    let fields = schema.columns.iter().zip(arrow.fields()).map(|(column, field)| {
        let mut metadata = field.metadata().clone();
        metadata.remove("haul.native");
        let field = field.as_ref().clone().with_metadata(metadata);
        match &column.ty {
            Type::Interval => interval_field(&field),
            Type::Array(item) if **item == Type::Interval => {
                field.with_data_type(DataType::List(Arc::new(interval_field(&Field::new("item", DataType::Utf8, true)))))
            }
            _ => field,
        }
    });
    Arc::new(arrow::datatypes::Schema::new(fields.collect::<Vec<_>>()))
}

fn interval_field(field: &Field) -> Field {
    let mut metadata = field.metadata().clone();
    metadata.insert(AS_KEY.to_owned(), "interval".to_owned());
    field.clone().with_data_type(DataType::Utf8).with_metadata(metadata)
}

/// Parquet's own schema, with the annotations for UUID and JSON that the Arrow form does not carry.
fn annotated(stored: &SchemaRef, schema: &Schema) -> Result<SchemaDescriptor, ParquetError> {
    let plain = ArrowSchemaConverter::new().convert(stored)?;
    let fields = plain.root_schema().get_fields().iter().zip(&schema.columns);
    let fields = fields.map(|(node, column)| annotate(node, &column.ty)).collect::<Result<Vec<_>, _>>()?;
    let root = Node::group_type_builder(plain.root_schema().name()).with_fields(fields).build()?;
    Ok(SchemaDescriptor::new(Arc::new(root)))
}

fn annotate(node: &Arc<Node>, ty: &Type) -> Result<Arc<Node>, ParquetError> {
    let info = node.get_basic_info();
    let (physical, length, logical) = match ty {
        Type::Json => (Physical::BYTE_ARRAY, -1, LogicalType::Json),
        Type::Uuid => (Physical::FIXED_LEN_BYTE_ARRAY, 16, LogicalType::Uuid),
        Type::Array(item) if matches!(**item, Type::Json | Type::Uuid) => return annotate_list(node, item),
        _ => return Ok(Arc::clone(node)),
    };
    let node = Node::primitive_type_builder(info.name(), physical)
        .with_repetition(info.repetition())
        .with_length(length)
        .with_logical_type(Some(logical))
        .build()?;
    Ok(Arc::new(node))
}

/// A list is a group around a repeated group around the item.
fn annotate_list(node: &Arc<Node>, item: &Type) -> Result<Arc<Node>, ParquetError> {
    let fields =
        node.get_fields().iter().map(|field| if field.is_primitive() { annotate(field, item) } else { annotate_list(field, item) });
    let info = node.get_basic_info();
    let node = Node::group_type_builder(info.name())
        .with_repetition(info.repetition())
        .with_logical_type(info.logical_type_ref().cloned())
        .with_converted_type(info.converted_type())
        .with_fields(fields.collect::<Result<Vec<_>, _>>()?)
        .build()?;
    Ok(Arc::new(node))
}

fn as_stored(array: &ArrayRef, ty: &Type, field: &FieldRef) -> ArrayRef {
    match (ty, field.data_type()) {
        (Type::Interval, _) => interval_texts(array),
        (Type::Array(item), DataType::List(inner)) if **item == Type::Interval => {
            let list = array.as_list::<i32>();
            Arc::new(ListArray::new(Arc::clone(inner), list.offsets().clone(), interval_texts(list.values()), list.nulls().cloned()))
        }
        _ => Arc::clone(array),
    }
}

fn interval_texts(array: &ArrayRef) -> ArrayRef {
    Arc::new(Printer::new(array, &Type::Interval).texts())
}

/// A value that Parquet's types have no place for.
fn not_in_parquet(array: &ArrayRef) -> Option<&'static str> {
    let holds = |row: usize, odd: bool| odd && array.is_valid(row);
    match array.data_type() {
        DataType::Date32 => {
            let mut values = array.as_primitive::<Date32Type>().values().iter().enumerate();
            values.any(|(row, value)| holds(row, matches!(*value, i32::MAX | i32::MIN))).then_some("an infinite date")
        }
        DataType::Timestamp(..) => {
            let mut values = array.as_primitive::<TimestampMicrosecondType>().values().iter().enumerate();
            values.any(|(row, value)| holds(row, matches!(*value, i64::MAX | i64::MIN))).then_some("an infinite timestamp")
        }
        DataType::Time64(_) => {
            let mut values = array.as_primitive::<Time64MicrosecondType>().values().iter().enumerate();
            values.any(|(row, value)| holds(row, *value >= 86_400_000_000)).then_some("the time 24:00:00")
        }
        DataType::List(_) => not_in_parquet(array.as_list::<i32>().values()),
        _ => None,
    }
}

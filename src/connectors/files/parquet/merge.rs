//! Puts the row groups of several Parquet files into one, without decoding them.

use std::io::Write;
use std::sync::Arc;

use ::parquet::column::writer::ColumnCloseResult;
use ::parquet::file::metadata::{PageIndexPolicy, ParquetMetaDataReader};
use ::parquet::file::writer::SerializedFileWriter;

use super::write::properties;
use super::{Pages, failed};
use crate::connectors::files::store::Store;
use crate::define::pipeline::Compression;
use crate::failure::Failure;

/// Writes all row groups of the parts, which were written for the same columns, and gives the file back.
pub(in crate::connectors::files) fn merge<W: Write + Send>(store: &dyn Store, parts: &[String], path: &str, file: W) -> Result<W, Failure> {
    let written = |error| super::write::failed(path, error);
    let mut file = Some(file);
    let mut writer: Option<SerializedFileWriter<W>> = None;
    for part in parts {
        let pages = Pages(Arc::from(store.ranges(part)?));
        let metadata = ParquetMetaDataReader::new()
            .with_page_index_policy(PageIndexPolicy::Optional)
            .parse_and_finish(&pages)
            .map_err(|error| failed("read", part, error))?;
        if let Some(file) = file.take() {
            let about = metadata.file_metadata();
            let mut first =
                SerializedFileWriter::new(file, about.schema_descr().root_schema_ptr(), Arc::new(properties(Compression::Plain)))
                    .map_err(written)?;
            for pair in about.key_value_metadata().into_iter().flatten() {
                first.append_key_value_metadata(pair.clone());
            }
            writer = Some(first);
        }
        let Some(writer) = &mut writer else { continue };
        for (place, group) in metadata.row_groups().iter().enumerate() {
            let mut out = writer.next_row_group().map_err(written)?;
            for (column, chunk) in group.columns().iter().enumerate() {
                let result = ColumnCloseResult {
                    bytes_written: chunk.compressed_size().max(0) as u64,
                    rows_written: group.num_rows().max(0) as u64,
                    metadata: chunk.clone(),
                    bloom_filter: None,
                    column_index: metadata.column_index().and_then(|index| index.get(place)?.get(column)).cloned(),
                    offset_index: metadata.offset_index().and_then(|index| index.get(place)?.get(column)).cloned(),
                };
                out.append_column(&pages, result).map_err(written)?;
            }
            out.close().map_err(written)?;
        }
    }
    match (writer, file) {
        (Some(writer), _) => writer.into_inner().map_err(written),
        (None, Some(file)) => Ok(file),
        (None, None) => Err(Failure::permanent(format!("`{path}` has no parts"))),
    }
}

//! One view of the files of a source: cut into splits, read split by split.

use std::io::Read;
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use super::codec;
use super::csv::{Boundaries, CsvRows, header};
use super::cuts::{self, Cut};
use super::encoding::{BYTE_ORDER_MARK, lies_in_utf8};
use super::look;
use super::ndjson::NdjsonRows;
use super::parquet::ParquetFile;
use super::source::{self, Look};
use super::store::{Found, Store};
use super::stream::{self, Give};
use crate::connectors::text::{Rows, RowsOut};
use crate::connectors::{Reading, Split, SplitGoal, Splits};
use crate::data::{BatchLimit, BatchStream, Position, Schema};
use crate::define::pipeline::{Compression, FileFormat, FilesSource};
use crate::failure::Failure;
use crate::tasks;

/// One view of the files of a source.
pub(super) struct FileReading {
    inner: Arc<Inner>,
}

struct Inner {
    store: Arc<dyn Store>,
    spec: FilesSource,
    look: Arc<Look>,
    schema: Schema,
    /// Which of the schema's columns were guessed.
    guessed: Vec<bool>,
    limit: BatchLimit,
}

/// What a split covers: whole files, a run of row groups of one Parquet file, or a run of records of one file of text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Piece {
    file: Found,
    /// The first row group and the one after the last.
    groups: Option<(usize, usize)>,
    /// The first record, and the byte after the last one.
    #[serde(default)]
    records: Option<(Cut, u64)>,
    rows: Option<u64>,
    bytes: u64,
}

impl FileReading {
    /// A view through a request's columns.
    pub(super) fn new(store: Arc<dyn Store>, spec: FilesSource, look: Arc<Look>, schema: Schema, limit: BatchLimit) -> Self {
        let guessed = schema.columns.iter().map(|column| {
            let (place, own) = look.schema.find(&column.name)?;
            // A column that is asked for as text is read as it is written.
            Some(look.guessed[place] && own.ty == column.ty)
        });
        let guessed = guessed.map(|guessed| guessed.unwrap_or(false)).collect();
        Self { inner: Arc::new(Inner { store, spec, look, schema, guessed, limit }) }
    }
}

#[async_trait]
impl Reading for FileReading {
    fn schema(&self) -> &Schema {
        &self.inner.schema
    }

    async fn splits(&self, goal: SplitGoal) -> Result<Splits, Failure> {
        let inner = Arc::clone(&self.inner);
        let pieces = tasks::blocking(move || inner.pieces(goal)).await?;
        let groups = gather(pieces, goal.most.max(1));
        let only = goal.most <= 1;
        let splits = groups.into_iter().enumerate().map(|(place, pieces)| {
            Ok(Split {
                id: if only { "all".to_owned() } else { format!("{place:04}") },
                label: label(&pieces),
                rows: pieces.iter().map(|piece| piece.rows).sum(),
                range: serde_json::to_value(&pieces).map_err(|error| Failure::permanent("a split cannot be recorded").cause(error))?,
            })
        });
        let splits = splits.collect::<Result<_, Failure>>()?;
        Ok(Splits { splits, fingerprint: Some(fingerprint(&self.inner.look.files)) })
    }

    async fn fingerprint(&self) -> Result<Option<String>, Failure> {
        let inner = Arc::clone(&self.inner);
        tasks::blocking(move || Ok(Some(fingerprint(&source::files(&*inner.store, &inner.spec)?)))).await
    }

    async fn read(&self, split: &Split, _: Option<&Position>) -> Result<BatchStream, Failure> {
        let pieces: Vec<Piece> = serde_json::from_value(split.range.clone())
            .map_err(|error| Failure::permanent(format!("the recorded split `{}` is not one of files", split.id)).cause(error))?;
        let inner = Arc::clone(&self.inner);
        Ok(stream::chunks(move |give| {
            for piece in &pieces {
                if !inner.read(piece, give)? {
                    break;
                }
            }
            Ok(())
        }))
    }
}

impl Inner {
    /// What can be read apart: files, and runs of at least so many bytes of row groups in Parquet and of records in text.
    fn pieces(&self, goal: SplitGoal) -> Result<Vec<Piece>, Failure> {
        let mut pieces = Vec::new();
        for file in &self.look.files {
            let whole = Piece { file: file.clone(), groups: None, records: None, rows: None, bytes: file.size };
            if self.spec.format != FileFormat::Parquet {
                let mut from = Cut { at: 0, line: 1 };
                for cut in if goal.most > 1 { self.cuts(file, goal)? } else { Vec::new() } {
                    pieces.push(Piece { records: Some((from, cut.at)), bytes: cut.at - from.at, ..whole.clone() });
                    from = cut;
                }
                let records = (from.at > 0).then_some((from, file.size));
                pieces.push(Piece { records, bytes: file.size - from.at, ..whole });
                continue;
            }
            for (groups, rows, bytes) in ParquetFile::open(&*self.store, &file.path)?.runs(goal.bytes) {
                pieces.push(Piece { groups: Some(groups), rows: Some(rows), bytes, ..whole.clone() });
            }
        }
        Ok(pieces)
    }

    /// Where a file of text can be cut: one that is large, near, not compressed and in UTF-8.
    fn cuts(&self, file: &Found, goal: SplitGoal) -> Result<Vec<Cut>, Failure> {
        let every = goal.bytes.max(file.size / goal.most as u64).max(1);
        let plain = self.spec.compression.unwrap_or_else(|| codec::by_ending(&file.path)) == Compression::Plain;
        if !plain || !self.store.is_near() || file.size < every.saturating_mul(2) {
            return Ok(Vec::new());
        }
        let failed = |error| codec::read_failed(&file.path, error);
        let encoding = if let FileFormat::Csv(dialect) = &self.spec.format { &dialect.encoding } else { "utf-8" };
        let mut start = Vec::new();
        self.store.open(&file.path)?.take(BYTE_ORDER_MARK.len() as u64).read_to_end(&mut start).map_err(failed)?;
        if !lies_in_utf8(encoding, &start) {
            return Ok(Vec::new());
        }
        let content = self.store.open(&file.path)?;
        let cuts = match &self.spec.format {
            FileFormat::Csv(dialect) => Boundaries::new(content, dialect).and_then(|records| cuts::csv(records, every)),
            _ => cuts::ndjson(content, every),
        };
        let mut cuts = cuts.map_err(failed)?;
        // Nothing is behind the end of the last line.
        cuts.retain(|cut| cut.at < file.size);
        Ok(cuts)
    }

    /// The content of a run of records, and the count of its bytes.
    fn records(&self, path: &str, from: Cut, to: u64) -> Result<codec::Content, Failure> {
        let content = self.store.open_at(path, from.at)?.take(to.saturating_sub(from.at));
        codec::decompress(Box::new(content), Compression::Plain).map_err(|error| codec::read_failed(path, error))
    }

    /// Reads one piece; `false` when nobody wants more. Its last chunk is held back until the file was looked at once more: a split whose file
    /// changed while it was read does not come to its end.
    fn read(&self, piece: &Piece, give: Give<'_>) -> Result<bool, Failure> {
        self.unchanged(piece)?;
        let mut last = None;
        let wanted = self.rows(piece, &mut |chunk| last.replace(chunk).is_none_or(&mut *give))?;
        if !wanted {
            return Ok(false);
        }
        self.unchanged(piece)?;
        Ok(last.is_none_or(give))
    }

    fn unchanged(&self, piece: &Piece) -> Result<(), Failure> {
        let path = &piece.file.path;
        if self.store.stat(path)?.as_ref() == Some(&piece.file) {
            return Ok(());
        }
        Err(Failure::permanent(format!("`{path}` is gone or has changed since the read of it was planned"))
            .help("run again with `--fresh` once nobody writes the file"))
    }

    fn rows(&self, piece: &Piece, give: Give<'_>) -> Result<bool, Failure> {
        let path = &piece.file.path;
        match &self.spec.format {
            FileFormat::Parquet => {
                let file = ParquetFile::open(&*self.store, path)?;
                file.read(piece.groups, &self.schema, self.limit, give)
            }
            FileFormat::Csv(dialect) => {
                let (content, count) = look::content(&*self.store, &self.spec, path)?;
                let mut rows = CsvRows::open(path, content, count, dialect)?;
                if let Some((from, to)) = piece.records {
                    let (content, count) = self.records(path, from, to)?;
                    rows = match from.at {
                        0 if dialect.header => CsvRows::open(path, content, count, dialect)?,
                        // It may hold nothing but empty lines, which tell no columns.
                        0 => CsvRows::without_header(path, content, count, dialect, &self.look.schema)?,
                        _ => CsvRows::from_line(from.line, path, content, count, dialect, header(&rows).to_vec()),
                    };
                }
                let places = rows.places(&self.schema)?;
                self.give(rows, places, give)
            }
            FileFormat::Ndjson => {
                let mut rows = match piece.records {
                    Some((from, to)) if from.at > 0 => {
                        let (content, count) = self.records(path, from, to)?;
                        NdjsonRows::from_line(from.line, path, content, count)
                    }
                    records => {
                        let whole = || look::content(&*self.store, &self.spec, path);
                        let (content, count) = records.map_or_else(whole, |(from, to)| self.records(path, from, to))?;
                        NdjsonRows::open(path, content, count)?
                    }
                };
                rows.want(Some(&self.look.schema), &self.schema, &self.guessed, false);
                self.give(rows, Vec::new(), give)
            }
        }
    }

    fn give(&self, mut rows: impl Rows, places: Vec<usize>, give: Give<'_>) -> Result<bool, Failure> {
        let mut out = RowsOut::new(&self.schema, &self.guessed, places, self.limit);
        while let Some(chunk) = rows.fill(&mut out)? {
            if !give(chunk) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Puts neighbours together until there are at most so many groups, of about equal bytes.
fn gather(pieces: Vec<Piece>, most: usize) -> Vec<Vec<Piece>> {
    if pieces.len() <= most {
        return pieces.into_iter().map(|piece| vec![piece]).collect();
    }
    let total: u64 = pieces.iter().map(|piece| piece.bytes).sum();
    let mut groups: Vec<Vec<Piece>> = Vec::with_capacity(most);
    let mut before: u64 = 0;
    for piece in pieces {
        // The group that the middle of the piece falls into, by bytes.
        let middle = u128::from(before) * 2 + u128::from(piece.bytes);
        let place = if total == 0 { 0 } else { (middle * most as u128 / (u128::from(total) * 2)) as usize };
        before += piece.bytes;
        if groups.is_empty() || place >= groups.len() {
            groups.push(Vec::new());
        }
        if let Some(last) = groups.last_mut() {
            last.push(piece);
        }
    }
    groups
}

fn label(pieces: &[Piece]) -> String {
    let one = |piece: &Piece| match (piece.groups, piece.records) {
        (Some((from, to)), _) => format!("{} row groups {from}..{to}", piece.file.path),
        (None, Some((from, to))) => format!("{} bytes {}..{to}", piece.file.path, from.at),
        (None, None) => piece.file.path.clone(),
    };
    match pieces {
        [] => "no files".to_owned(),
        [only] => one(only),
        [first, .., last] => format!("{} pieces: {} … {}", pieces.len(), one(first), one(last)),
    }
}

/// Changes when a file of the source comes, goes or changes.
fn fingerprint(files: &[Found]) -> String {
    let text: Vec<String> = files.iter().map(|file| format!("{}\0{}\0{}\n", file.path, file.size, file.stamp)).collect();
    format!("{:032x}", xxh3_128(text.concat().as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_cover_everything_in_order() {
        for (sizes, most) in [(vec![1; 10], 3), (vec![100, 1, 1, 1], 2), (vec![0; 5], 2), (vec![1, 1, 100], 2), (vec![5; 4], 4)] {
            let pieces: Vec<Piece> = sizes
                .iter()
                .enumerate()
                .map(|(place, bytes)| Piece {
                    file: Found { path: place.to_string(), size: *bytes, stamp: String::new() },
                    groups: None,
                    records: None,
                    rows: None,
                    bytes: *bytes,
                })
                .collect();
            let groups = gather(pieces.clone(), most);
            assert!(groups.len() <= most && groups.iter().all(|group| !group.is_empty()), "{sizes:?}");
            assert_eq!(groups.concat(), pieces);
        }
    }
}

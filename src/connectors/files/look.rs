//! The columns of files: from their header, a sample of their rows, or their own schema.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::csv::{self, CsvRows};
use super::ndjson::NdjsonRows;
use super::source::Look;
use super::store::{Found, Store};
use super::{codec, parquet};
use crate::connectors::text::{ObjectSample, with_declared};
use crate::data::text::Guess;
use crate::data::{Column, Schema};
use crate::define::pipeline::{CsvDialect, FilesSource};
use crate::failure::Failure;

/// Opens a file's content, decompressed, with the count of its bytes as they lie.
pub(super) fn content(store: &dyn Store, spec: &FilesSource, path: &str) -> Result<codec::Content, Failure> {
    let how = spec.compression.unwrap_or_else(|| codec::by_ending(path));
    codec::decompress(store.open(path)?, how).map_err(|error| codec::read_failed(path, error))
}

/// How many rows of each file are sampled: an equal share, and at least one.
fn share(sample: usize, files: usize, place: usize) -> usize {
    (sample / files + usize::from(place < sample % files)).max(1)
}

/// Rows of a sample, and the bytes of text they took.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::connectors) struct Sampled {
    /// Rows.
    pub rows: u64,
    /// Bytes of their text, decompressed.
    pub bytes: u64,
}

/// Rows over all files, by the bytes of the sample. Readers read ahead, so the bytes that lie in the file are shared out by text.
#[derive(Default)]
struct Estimate {
    rows: u64,
    bytes: u64,
    cut: bool,
}

/// Counts a file's bytes as they lie, and its text.
struct Counts {
    file: Arc<AtomicU64>,
    text: Arc<AtomicU64>,
}

impl Estimate {
    fn add(&mut self, sampled: Sampled, most: usize, counts: &Counts) {
        let (file, text) = (counts.file.load(Ordering::Relaxed), counts.text.load(Ordering::Relaxed));
        self.rows += sampled.rows;
        self.bytes += (u128::from(file) * u128::from(sampled.bytes) / u128::from(text.max(1))) as u64;
        self.cut |= sampled.rows as usize >= most;
    }

    fn rows(&self, files: &[Found]) -> Option<u64> {
        let total: u64 = files.iter().map(|file| file.size).sum();
        if !self.cut {
            return Some(self.rows);
        }
        (self.bytes > 0).then(|| (u128::from(total) * u128::from(self.rows) / u128::from(self.bytes)) as u64)
    }
}

/// Opens a file's content for a sample.
fn counted(store: &dyn Store, spec: &FilesSource, path: &str) -> Result<(Box<dyn Read + Send>, Counts), Failure> {
    let (content, file) = content(store, spec, path)?;
    let text = Arc::default();
    Ok((Box::new(codec::Counted::new(content, &text)), Counts { file, text }))
}

/// CSV: the header, and the types of a sample over all files.
pub(super) fn csv(store: &dyn Store, spec: &FilesSource, dialect: &CsvDialect, files: Vec<Found>) -> Result<Look, Failure> {
    let mut names: Vec<String> = Vec::new();
    let mut guesses: Vec<Guess> = Vec::new();
    let mut estimate = Estimate::default();
    for (place, file) in files.iter().enumerate() {
        let (content, counts) = counted(store, spec, &file.path)?;
        let mut rows = CsvRows::open(&file.path, content, Arc::clone(&counts.file), dialect)?;
        let own = csv::header(&rows);
        if place == 0 {
            names = own.to_vec();
            guesses = vec![Guess::default(); names.len()];
        } else {
            agree(&files[0].path, &names, &file.path, own)?;
        }
        // Guesses stand in this file's order while it is sampled.
        let order: Vec<usize> = own.iter().filter_map(|name| names.iter().position(|other| other == name)).collect();
        let mut own_guesses: Vec<Guess> = order.iter().map(|place| guesses[*place].clone()).collect();
        let most = share(spec.sample, files.len(), place);
        let seen = rows.sample(&mut own_guesses, most)?;
        for (place, guess) in order.into_iter().zip(own_guesses) {
            guesses[place] = guess;
        }
        estimate.add(seen, most, &counts);
    }
    let columns = names.into_iter().zip(guesses).map(|(name, guess)| match spec.columns.get(&name) {
        Some(ty) => (Column::new(name, ty.clone()), false),
        None => (Column::new(name, guess.decide()), true),
    });
    let (columns, guessed) = columns.unzip();
    Ok(Look { rows: estimate.rows(&files), files, schema: Schema { columns }, guessed })
}

/// NDJSON: the keys and values of a sample over all files, then the declared ones that it did not hold.
pub(super) fn ndjson(store: &dyn Store, spec: &FilesSource, files: Vec<Found>) -> Result<Look, Failure> {
    let mut sample = ObjectSample::default();
    let mut estimate = Estimate::default();
    for (place, file) in files.iter().enumerate() {
        let (content, counts) = counted(store, spec, &file.path)?;
        let mut rows = NdjsonRows::open(&file.path, content, Arc::clone(&counts.file))?;
        let most = share(spec.sample, files.len(), place);
        let seen = rows.sample(&mut sample, most)?;
        estimate.add(seen, most, &counts);
    }
    let (schema, guessed) = with_declared(sample.decide(), &spec.columns);
    Ok(Look { rows: estimate.rows(&files), files, schema, guessed })
}

/// Parquet: what the files say of themselves.
pub(super) fn parquet(store: &dyn Store, spec: &FilesSource, files: Vec<Found>) -> Result<Look, Failure> {
    let mut rows = 0;
    let mut first: Option<Schema> = None;
    for file in &files {
        let parquet = parquet::ParquetFile::open(store, &file.path)?;
        rows += parquet.rows();
        let own = parquet.schema();
        let Some(first) = &first else {
            first = Some(own.clone());
            continue;
        };
        let names = |schema: &Schema| -> Vec<String> { schema.columns.iter().map(|column| column.name.clone()).collect() };
        agree(&files[0].path, &names(first), &file.path, &names(own))?;
        for column in &first.columns {
            if let Some((_, other)) = own.find(&column.name).filter(|(_, other)| other.ty != column.ty) {
                return Err(Failure::permanent(format!(
                    "column `{}` is {} in `{}` and {} in `{}`",
                    column.name, column.ty, files[0].path, other.ty, file.path
                ))
                .help("read the files as two sources, and cast one of them"));
            }
        }
    }
    let schema = first.unwrap_or_default();
    for (name, ty) in &spec.columns {
        if let Some((_, column)) = schema.find(name).filter(|(_, column)| column.ty != *ty) {
            return Err(Failure::permanent(format!(
                "column `{name}` is {} in `{}`, and `columns` declares {ty}",
                column.ty, files[0].path
            ))
            .help(format!("Parquet files carry their own types; use the step `cast: {{ {name}: \"{ty}\" }}`")));
        }
    }
    let guessed = vec![false; schema.columns.len()];
    Ok(Look { files, schema, guessed, rows: Some(rows) })
}

/// Two files of one pattern have the same columns, in whatever order.
fn agree(first: &str, names: &[String], path: &str, own: &[String]) -> Result<(), Failure> {
    let missing = names.iter().find(|name| !own.contains(name)).map(|name| (name, first, path));
    let extra = own.iter().find(|name| !names.contains(name)).map(|name| (name, path, first));
    match missing.or(extra) {
        None => Ok(()),
        Some((name, with, without)) => Err(Failure::permanent(format!("`{with}` has the column `{name}`, and `{without}` has not"))
            .help("files of one pattern must have the same columns: narrow the pattern, or read them as two sources")),
    }
}

/// A column that other files of the pattern, or an earlier look at this one, had.
pub(super) fn column_gone(path: &str, name: &str) -> Failure {
    Failure::permanent(format!("`{path}` has no column `{name}`")).help("all files of one pattern must have the same columns")
}

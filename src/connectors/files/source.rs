//! Files as a source: which files, what columns.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;

use super::reading::FileReading;
use super::store::{Found, Store};
use super::{look, manifest, paths};
use crate::connectors::{Description, ReadRequest, Reading, Source, requested};
use crate::data::{Schema, Type};
use crate::define::pipeline::{FileFormat, FilesSource};
use crate::failure::Failure;
use crate::tasks;

/// The files that a path or pattern means. Columns are looked up at the first question, and again when a file has changed.
pub(super) struct FileSource {
    store: Arc<dyn Store>,
    spec: FilesSource,
    last: Arc<Mutex<Option<Arc<Look>>>>,
}

/// What a look at the files found.
pub(super) struct Look {
    /// Sorted by path.
    pub files: Vec<Found>,
    /// The columns, in the order of the first file.
    pub schema: Schema,
    /// Which columns' types were guessed from a sample.
    pub guessed: Vec<bool>,
    /// Estimated rows over all files.
    pub rows: Option<u64>,
}

impl FileSource {
    /// Touches nothing yet.
    pub(super) fn new(store: Arc<dyn Store>, spec: FilesSource) -> Self {
        Self { store, spec, last: Arc::default() }
    }

    async fn look(&self) -> Result<Arc<Look>, Failure> {
        let (store, spec, last) = (Arc::clone(&self.store), self.spec.clone(), Arc::clone(&self.last));
        tasks::blocking(move || {
            let files = files(&*store, &spec)?;
            let known = last.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if let Some(look) = known.filter(|look| look.files == files) {
                return Ok(look);
            }
            let look = Arc::new(look_at(&*store, &spec, files)?);
            *last.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&look));
            Ok(look)
        })
        .await
    }
}

/// The files of a source, sorted by path. A path that ends in `/` means a folder of parts: those its manifest names, or else all of its
/// files of the format.
pub(super) fn files(store: &dyn Store, spec: &FilesSource) -> Result<Vec<Found>, Failure> {
    let Some(folder) = spec.path.strip_suffix('/') else { return paths::select(store, &spec.path) };
    paths::check(&spec.path).map_err(Failure::permanent)?;
    match manifest::files(store, folder)? {
        Some(files) => Ok(files),
        None => paths::select(store, &format!("{}/*.{}*", glob::Pattern::escape(folder), ending(&spec.format))),
    }
}

/// The usual ending of a format's files.
pub(super) fn ending(format: &FileFormat) -> &'static str {
    match format {
        FileFormat::Csv(_) => "csv",
        FileFormat::Ndjson => "ndjson",
        FileFormat::Parquet => "parquet",
    }
}

fn look_at(store: &dyn Store, spec: &FilesSource, files: Vec<Found>) -> Result<Look, Failure> {
    let look = match &spec.format {
        FileFormat::Csv(dialect) => look::csv(store, spec, dialect, files)?,
        FileFormat::Ndjson => look::ndjson(store, spec, files)?,
        FileFormat::Parquet => look::parquet(store, spec, files)?,
    };
    let declared: &BTreeMap<String, Type> = &spec.columns;
    if let Some(name) = declared.keys().find(|name| look.schema.find(name).is_none()) {
        let names: Vec<&str> = look.schema.columns.iter().map(|column| column.name.as_str()).collect();
        return Err(Failure::permanent(format!("`{}` has no column `{name}`, which `columns` declares", look.files[0].path))
            .help(format!("its columns are {}", names.join(", "))));
    }
    if look.schema.columns.is_empty() {
        return Err(Failure::permanent(format!("`{}` has no columns: nothing is in it", spec.path))
            .help("declare them with `columns: { name: type }`, or check the path"));
    }
    Ok(look)
}

#[async_trait]
impl Source for FileSource {
    async fn describe(&self) -> Result<Description, Failure> {
        let look = self.look().await?;
        Ok(Description {
            schema: look.schema.clone(),
            key: Vec::new(),
            rows: look.rows,
            bytes: Some(look.files.iter().map(|file| file.size).sum()),
            wire: None,
            consistency: match look.files.len() {
                1 => "one file; a change of it during the read is refused".to_owned(),
                files => format!("{files} files; a change of one during the read is refused"),
            },
        })
    }

    async fn open(&self, request: ReadRequest) -> Result<Arc<dyn Reading>, Failure> {
        if request.filter.is_some() {
            return Err(Failure::permanent("files cannot filter rows while they are read"));
        }
        let look = self.look().await?;
        let schema = requested(&look.schema, &request)?;
        Ok(Arc::new(FileReading::new(Arc::clone(&self.store), self.spec.clone(), look, schema, request.limit)))
    }
}

//! The files connector on real files.

mod load;
mod read;
mod s3;
mod write;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use haul::connectors::files::Root;
use haul::connectors::{Sink, Source};
use haul::define::pipeline::{Compression, Connection, CsvDialect, Engine, FileFormat, FilesSink, FilesSource, WriteMode};
use haul::failure::Failure;
use haul::secret::Secret;

/// A folder of files.
struct Folder {
    folder: tempfile::TempDir,
}

impl Folder {
    fn new() -> Self {
        Self { folder: tempfile::Builder::new().prefix("haul-test-").tempdir().expect("a temporary folder") }
    }

    /// Writes a file.
    fn file(&self, path: &str, content: impl AsRef<[u8]>) -> &Self {
        let path = self.folder.path().join(path);
        std::fs::create_dir_all(path.parent().expect("a path below the folder")).expect("folders");
        std::fs::write(path, content).expect("a file");
        self
    }

    fn read(&self, path: &str) -> String {
        String::from_utf8(self.bytes(path)).expect("text")
    }

    fn bytes(&self, path: &str) -> Vec<u8> {
        std::fs::read(self.folder.path().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    fn exists(&self, path: &str) -> bool {
        self.folder.path().join(path).exists()
    }

    /// Every file below the folder, sorted.
    fn all(&self) -> Vec<String> {
        fn walk(folder: &Path, root: &Path, found: &mut Vec<String>) {
            for entry in std::fs::read_dir(folder).expect("a folder") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    walk(&path, root, found);
                } else {
                    found.push(path.strip_prefix(root).expect("below the root").to_str().expect("a name").to_owned());
                }
            }
        }
        let mut found = Vec::new();
        walk(self.folder.path(), self.folder.path(), &mut found);
        found.sort();
        found
    }

    /// Every file below the folder but the records that loads leave.
    fn visible(&self) -> Vec<String> {
        self.all().into_iter().filter(|path| !path.ends_with("/load.json")).collect()
    }

    fn root(&self) -> Arc<Root> {
        root("file:.", self.folder.path()).expect("a folder's URL")
    }

    fn source(&self, spec: FilesSource) -> Arc<dyn Source> {
        self.root().source(&spec)
    }

    fn sink(&self, spec: FilesSink) -> Arc<dyn Sink> {
        self.root().sink(&spec)
    }
}

fn root(url: &str, base: &Path) -> Result<Arc<Root>, Failure> {
    let engine = if url.starts_with("s3:") { Engine::S3 } else { Engine::File };
    let connection = Connection {
        name: "data".to_owned(),
        engine: Some(engine),
        url: Secret::new(url.to_owned()),
        max_connections: 8,
        http: Default::default(),
        at: String::new(),
    };
    Root::new(&connection, base)
}

fn csv() -> CsvDialect {
    CsvDialect { delimiter: b',', quote: Some(b'"'), escape: None, header: true, null: vec![String::new()], encoding: "utf-8".to_owned() }
}

fn format_of(path: &str) -> FileFormat {
    if path.contains("parquet") {
        FileFormat::Parquet
    } else if path.contains("ndjson") {
        FileFormat::Ndjson
    } else {
        FileFormat::Csv(csv())
    }
}

/// A source of the format that the path names.
fn from(path: &str) -> FilesSource {
    FilesSource {
        connection: "data".to_owned(),
        path: path.to_owned(),
        format: format_of(path),
        compression: None,
        columns: BTreeMap::new(),
        sample: 10_000,
    }
}

/// A sink of the format and compression that the path names.
fn to(path: &str) -> FilesSink {
    let compression = if path.contains("gz") {
        Compression::Gzip
    } else if path.contains("zst") || path.contains("parquet") {
        Compression::Zstd
    } else {
        Compression::Plain
    };
    FilesSink {
        connection: "data".to_owned(),
        path: path.to_owned(),
        format: format_of(path),
        compression,
        mode: WriteMode::Replace,
        roll: None,
    }
}

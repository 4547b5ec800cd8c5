//! A prefix of a bucket, through `object_store`. An object is there whole or not at all, and a small document is changed on condition
//! that nobody changed it meanwhile (`If-Match`), which stands in for the lock and the rename of a file system.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    Error, GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutPayload, UpdateVersion, WriteMultipart,
};
use tokio::runtime::Handle;

use super::{Change, Found, Pending, Ranges, Store};
use crate::failure::Failure;

/// Bytes of one part of an upload in parts; smaller objects are put in one request.
const PART_BYTES: usize = 8 << 20;
/// Parts of one object under way at the same time.
const PARTS_UNDER_WAY: usize = 4;
/// Bytes fetched at a time for a reader that goes here and there in an object.
const BLOCK_BYTES: u64 = 1 << 20;
/// Such blocks kept: about one a column of a wide Parquet file.
const KEPT_BLOCKS: usize = 64;
/// Objects looked at at the same time.
const HEADS_UNDER_WAY: usize = 16;
/// How often a small document is tried again when somebody else changed it first.
const CHANGE_TRIES: usize = 64;

/// A prefix of a bucket.
pub(in crate::connectors::files) struct Object {
    store: Arc<dyn ObjectStore>,
    prefix: String,
    label: String,
}

impl Object {
    /// Nothing is asked of the store yet. The label must hold no secret.
    pub(in crate::connectors::files) fn new(store: Arc<dyn ObjectStore>, prefix: &str, label: String) -> Self {
        Self { store, prefix: prefix.trim_matches('/').to_owned(), label }
    }

    fn key(&self, path: &str) -> Result<Path, Failure> {
        let key = if path.is_empty() { self.prefix.clone() } else { super::join(&self.prefix, path) };
        Path::parse(&key).map_err(|error| Failure::permanent(format!("`{path}` cannot name an object")).cause(error))
    }

    /// The path below the prefix; `None` for what lies elsewhere.
    fn path(&self, key: &Path) -> Option<String> {
        let key = key.as_ref();
        if self.prefix.is_empty() { Some(key.to_owned()) } else { Some(key.strip_prefix(&self.prefix)?.strip_prefix('/')?.to_owned()) }
    }

    fn failed(&self, doing: &str, path: &str, error: Error) -> Failure {
        let message = format!("cannot {doing} `{path}` in {}", self.label);
        match &error {
            Error::NotFound { .. } => Failure::permanent(message).help("check the path, the prefix and the bucket"),
            Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => {
                Failure::permanent(message).help("check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the bucket's policy")
            }
            Error::NotImplemented { .. } | Error::NotSupported { .. } => {
                Failure::permanent(message).help("the store must know conditional puts (If-Match, If-None-Match)")
            }
            Error::InvalidPath { .. } | Error::UnknownConfigurationKey { .. } => Failure::permanent(message),
            // A refusal that names a cause in the request (4xx) does not pass by itself; anything else of a network may.
            Error::Generic { source, .. } if refused(&source.to_string()) => Failure::permanent(message),
            _ => Failure::transient(message),
        }
        .cause(error)
    }

    fn found(&self, meta: ObjectMeta) -> Option<Found> {
        let stamp = meta.e_tag.unwrap_or_else(|| meta.last_modified.timestamp_micros().to_string());
        Some(Found { path: self.path(&meta.location)?, size: meta.size, stamp })
    }
}

fn refused(text: &str) -> bool {
    ["status 4", "status: 4", "client error"].iter().any(|word| text.contains(word)) && !text.contains("408") && !text.contains("429")
}

fn wait<F: Future>(future: F) -> F::Output {
    Handle::current().block_on(future)
}

impl Store for Object {
    fn label(&self) -> String {
        self.label.clone()
    }

    fn list(&self, folder: &str, depth: usize) -> Result<Vec<Found>, Failure> {
        let key = self.key(folder)?;
        let prefix = (!key.as_ref().is_empty()).then_some(&key);
        let mut metas: Vec<ObjectMeta> = wait(self.store.list(prefix).try_collect()).map_err(|error| self.failed("list", folder, error))?;
        let skip = if folder.is_empty() { 0 } else { folder.len() + 1 };
        let near = |path: String| {
            let below = &path[skip..];
            below.matches('/').count() <= depth && !below.split('/').rev().skip(1).any(|name| name.starts_with('.'))
        };
        metas.retain(|meta| self.path(&meta.location).is_some_and(near));
        // Some stores list objects without their etags, by which a read knows that an object is still the same: those are looked at.
        let whole = futures::stream::iter(metas).map(async |meta: ObjectMeta| match meta.e_tag {
            Some(_) => Ok(Some(meta)),
            None => self.store.head(&meta.location).await.map(Some).or_else(|error| match error {
                Error::NotFound { .. } => Ok(None),
                error => Err(error),
            }),
        });
        let whole =
            wait(whole.buffered(HEADS_UNDER_WAY).try_collect::<Vec<_>>()).map_err(|error| self.failed("look into", folder, error))?;
        Ok(whole.into_iter().flatten().filter_map(|meta| self.found(meta)).collect())
    }

    fn names(&self, folder: &str) -> Result<Vec<String>, Failure> {
        let key = self.key(folder)?;
        let prefix = (!key.as_ref().is_empty()).then_some(&key);
        let found = wait(self.store.list_with_delimiter(prefix)).map_err(|error| self.failed("list", folder, error))?;
        let keys = found.objects.into_iter().map(|meta| meta.location).chain(found.common_prefixes);
        Ok(keys.filter_map(|key| key.filename().map(str::to_owned)).collect())
    }

    fn stat(&self, path: &str) -> Result<Option<Found>, Failure> {
        match wait(self.store.head(&self.key(path)?)) {
            Ok(meta) => Ok(self.found(meta)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failed("look at", path, error)),
        }
    }

    fn open_at(&self, path: &str, start: u64) -> Result<Box<dyn Read + Send>, Failure> {
        let options = GetOptions { range: (start > 0).then_some(GetRange::Offset(start)), ..GetOptions::default() };
        let got = wait(self.store.get_opts(&self.key(path)?, options)).map_err(|error| self.failed("read", path, error))?;
        Ok(Box::new(Body { stream: got.into_stream(), chunk: Bytes::new() }))
    }

    fn is_near(&self) -> bool {
        false
    }

    fn ranges(&self, path: &str) -> Result<Box<dyn Ranges>, Failure> {
        let key = self.key(path)?;
        let meta = wait(self.store.head(&key)).map_err(|error| self.failed("look at", path, error))?;
        Ok(Box::new(Parts { store: Arc::clone(&self.store), meta, blocks: Mutex::default() }))
    }

    fn create(&self, path: &str) -> Result<Box<dyn Pending>, Failure> {
        let upload = Upload {
            store: Arc::clone(&self.store),
            key: self.key(path)?,
            path: path.to_owned(),
            label: self.label.clone(),
            small: Vec::new(),
            large: None,
        };
        Ok(Box::new(upload))
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), Failure> {
        wait(self.store.copy(&self.key(from)?, &self.key(to)?)).map_err(|error| self.failed("copy", from, error))?;
        self.remove(from)
    }

    fn renames_folders(&self) -> bool {
        false
    }

    fn rename_folder(&self, from: &str, _to: &str) -> Result<(), Failure> {
        Err(Failure::permanent(format!("`{from}` in {} cannot be moved as a whole", self.label)))
    }

    fn check_target(&self, path: &str, _folder: bool) -> Result<(), Failure> {
        self.key(path).map(drop)
    }

    fn remove(&self, path: &str) -> Result<(), Failure> {
        match wait(self.store.delete(&self.key(path)?)) {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.failed("remove", path, error)),
        }
    }

    fn remove_folder(&self, path: &str) -> Result<(), Failure> {
        let key = self.key(path)?;
        let metas: Vec<ObjectMeta> = wait(self.store.list(Some(&key)).try_collect()).map_err(|error| self.failed("list", path, error))?;
        for meta in metas {
            wait(self.store.delete(&meta.location)).map_err(|error| self.failed("remove", path, error))?;
        }
        Ok(())
    }

    fn remove_empty_folder(&self, _path: &str) -> Result<(), Failure> {
        // Only objects exist.
        Ok(())
    }

    fn read_small(&self, path: &str) -> Result<Option<Vec<u8>>, Failure> {
        let read = async { self.store.get(&self.key(path)?).await?.bytes().await.map_err(Small::Store) };
        match wait(read) {
            Ok(bytes) => Ok(Some(bytes.into())),
            Err(Small::Store(Error::NotFound { .. })) => Ok(None),
            Err(Small::Store(error)) => Err(self.failed("read", path, error)),
            Err(Small::Failure(failure)) => Err(failure),
        }
    }

    fn change(&self, path: &str, change: Change<'_>) -> Result<(), Failure> {
        let key = self.key(path)?;
        for _ in 0..CHANGE_TRIES {
            let (old, version) = match wait(self.store.get(&key)) {
                Ok(got) => {
                    let version = UpdateVersion { e_tag: got.meta.e_tag.clone(), version: got.meta.version.clone() };
                    let bytes = wait(got.bytes()).map_err(|error| self.failed("read", path, error))?;
                    (Some(bytes), PutMode::Update(version))
                }
                Err(Error::NotFound { .. }) => (None, PutMode::Create),
                Err(error) => return Err(self.failed("read", path, error)),
            };
            let Some(new) = change(old.as_deref())? else { return Ok(()) };
            match wait(self.store.put_opts(&key, PutPayload::from(new), version.into())) {
                Ok(_) => return Ok(()),
                Err(Error::Precondition { .. } | Error::AlreadyExists { .. }) => {}
                Err(error) => return Err(self.failed("write", path, error)),
            }
        }
        Err(Failure::transient(format!("`{path}` in {} was changed by others {CHANGE_TRIES} times in a row", self.label)))
    }

    fn promise(&self) -> &'static str {
        "whole objects, records changed on condition"
    }
}

/// Either side of a read of a small document.
enum Small {
    Store(Error),
    Failure(Failure),
}

impl From<Error> for Small {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}

impl From<Failure> for Small {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

/// The body of an object, as it comes.
struct Body {
    stream: BoxStream<'static, object_store::Result<Bytes>>,
    chunk: Bytes,
}

impl Read for Body {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() {
            match wait(self.stream.next()) {
                Some(chunk) => self.chunk = chunk.map_err(|error| io::Error::new(io::ErrorKind::ConnectionReset, error))?,
                None => return Ok(0),
            }
        }
        let length = into.len().min(self.chunk.len());
        into[..length].copy_from_slice(&self.chunk.split_to(length));
        Ok(length)
    }
}

/// Ranges of one object, all of the version that was there first. Readers ask for many small ones, here and there: whole blocks are
/// fetched, and the last ones kept.
struct Parts {
    store: Arc<dyn ObjectStore>,
    meta: ObjectMeta,
    blocks: Mutex<VecDeque<(u64, Bytes)>>,
}

impl Parts {
    /// The block of that number.
    fn block(&self, number: u64) -> io::Result<Bytes> {
        let kept = || self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, block)) = kept().iter().find(|(kept, _)| *kept == number) {
            return Ok(block.clone());
        }
        let range = number * BLOCK_BYTES..((number + 1) * BLOCK_BYTES).min(self.meta.size);
        let options = GetOptions::new().with_range(Some(range)).with_if_match(self.meta.e_tag.clone());
        let read = async { self.store.get_opts(&self.meta.location, options).await?.bytes().await };
        let block = wait(read).map_err(|error| io::Error::new(io::ErrorKind::ConnectionReset, error))?;
        let mut blocks = kept();
        if blocks.len() >= KEPT_BLOCKS {
            blocks.pop_front();
        }
        blocks.push_back((number, block.clone()));
        Ok(block)
    }
}

impl Ranges for Parts {
    fn size(&self) -> u64 {
        self.meta.size
    }

    fn get(&self, start: u64, length: usize) -> io::Result<Bytes> {
        let end = start + length as u64;
        if end > self.meta.size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut bytes = BytesMut::with_capacity(length);
        while bytes.len() < length {
            let at = start + bytes.len() as u64;
            let block = self.block(at / BLOCK_BYTES)?;
            let from = (at % BLOCK_BYTES) as usize;
            let part = block.get(from..(from + length - bytes.len()).min(block.len())).filter(|part| !part.is_empty());
            bytes.extend_from_slice(part.ok_or(io::ErrorKind::UnexpectedEof)?);
        }
        Ok(bytes.freeze())
    }
}

/// An object that is being sent.
struct Upload {
    store: Arc<dyn ObjectStore>,
    key: Path,
    path: String,
    label: String,
    small: Vec<u8>,
    large: Option<WriteMultipart>,
}

impl Write for Upload {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.large.is_none() {
            if self.small.len() + bytes.len() <= PART_BYTES {
                self.small.extend_from_slice(bytes);
                return Ok(bytes.len());
            }
            let upload = wait(self.store.put_multipart(&self.key)).map_err(io::Error::other)?;
            // Parts are started as tasks, which needs the runtime's context.
            let _context = Handle::current().enter();
            let mut upload = WriteMultipart::new_with_chunk_size(upload, PART_BYTES);
            upload.write(&std::mem::take(&mut self.small));
            self.large = Some(upload);
        }
        if let Some(upload) = &mut self.large {
            wait(upload.wait_for_capacity(PARTS_UNDER_WAY)).map_err(io::Error::other)?;
            let _context = Handle::current().enter();
            upload.write(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Pending for Upload {
    fn finish(mut self: Box<Self>) -> Result<(), Failure> {
        let done = match self.large.take() {
            Some(upload) => wait(upload.finish()),
            None => wait(self.store.put(&self.key, PutPayload::from(std::mem::take(&mut self.small)))),
        };
        done.map(drop).map_err(|error| Failure::transient(format!("cannot write `{}` in {}", self.path, self.label)).cause(error))
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let Some(upload) = self.large.take() {
            // Parts that were sent are dropped by the store; when even that fails, its own rule for unfinished uploads does it.
            let _ = wait(upload.abort());
        }
    }
}

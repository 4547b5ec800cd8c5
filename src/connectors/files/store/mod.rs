//! Where files lie: a folder of this machine, or a prefix of a bucket. Paths are relative to it and use `/`.
//!
//! All calls block; callers run them on blocking threads. A failure names the path.

mod local;
mod object;

use std::io::{Read, Write};

use bytes::Bytes;

pub(in crate::connectors) use local::Local;
pub(super) use object::Object;

use crate::failure::Failure;

/// One file that is there.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(in crate::connectors) struct Found {
    /// Below the root.
    pub path: String,
    /// Bytes, compressed as they lie.
    pub size: u64,
    /// Changes when the content does: the time of the last change in nanoseconds, or the object's etag.
    pub stamp: String,
}

/// A file that is being written under a name of its own. Dropping it unfinished removes what was written.
pub(in crate::connectors) trait Pending: Write + Send {
    /// Makes everything written durable under the name it was created with. An error anywhere means that nothing is there.
    fn finish(self: Box<Self>) -> Result<(), Failure>;
}

/// Access to parts of one file that does not change meanwhile.
pub(in crate::connectors) trait Ranges: Send + Sync {
    /// Its size in bytes.
    fn size(&self) -> u64;
    /// Bytes `start..start + length`.
    fn get(&self, start: u64, length: usize) -> std::io::Result<Bytes>;
}

/// Decides what becomes of a small document: `None` leaves it as it is.
pub(in crate::connectors) type Change<'a> = &'a mut dyn FnMut(Option<&[u8]>) -> Result<Option<Vec<u8>>, Failure>;

/// A place that holds files.
pub(in crate::connectors) trait Store: Send + Sync {
    /// The place, for messages: a folder's path, or `s3://bucket/prefix`.
    fn label(&self) -> String;

    /// Files below a folder (`""` is the root), at most `depth` folders further down, in no order. A folder that is missing holds none.
    fn list(&self, folder: &str, depth: usize) -> Result<Vec<Found>, Failure>;

    /// The names of everything right in a folder, files and folders alike, hidden or not, in no order.
    fn names(&self, folder: &str) -> Result<Vec<String>, Failure>;

    /// One file; `None` when it is not there.
    fn stat(&self, path: &str) -> Result<Option<Found>, Failure>;

    /// Reads a file from its start.
    fn open(&self, path: &str) -> Result<Box<dyn Read + Send>, Failure> {
        self.open_at(path, 0)
    }

    /// Reads a file from some byte on.
    fn open_at(&self, path: &str, start: u64) -> Result<Box<dyn Read + Send>, Failure>;

    /// Whether files lie near enough to look through one before it is read.
    fn is_near(&self) -> bool;

    /// Reads a file here and there.
    fn ranges(&self, path: &str) -> Result<Box<dyn Ranges>, Failure>;

    /// Begins a file, and the folders above it. Until it is finished nothing of that name is there, or the old file is.
    fn create(&self, path: &str) -> Result<Box<dyn Pending>, Failure>;

    /// Moves a file over whatever bears the new name, durably.
    fn rename(&self, from: &str, to: &str) -> Result<(), Failure>;

    /// Whether folders can be moved in one step.
    fn renames_folders(&self) -> bool;

    /// Moves a folder to a name that is free, in one step and durably.
    fn rename_folder(&self, from: &str, to: &str) -> Result<(), Failure>;

    /// Fails when something of another kind, or a link, stands where a file or folder is to be written.
    fn check_target(&self, path: &str, folder: bool) -> Result<(), Failure>;

    /// Removes a file; fine when it is not there.
    fn remove(&self, path: &str) -> Result<(), Failure>;

    /// Removes a folder of ours and everything in it; fine when it is not there.
    fn remove_folder(&self, path: &str) -> Result<(), Failure>;

    /// Removes a folder when nothing is in it; otherwise leaves it.
    fn remove_empty_folder(&self, path: &str) -> Result<(), Failure>;

    /// Reads a small document whole; `None` when it is not there.
    fn read_small(&self, path: &str) -> Result<Option<Vec<u8>>, Failure>;

    /// Changes a small document so that no other change comes between reading and writing it. The change may be called again when
    /// another one came first. On this machine the document's folder is locked while it is called.
    fn change(&self, path: &str, change: Change<'_>) -> Result<(), Failure>;

    /// What `rename` and `change` promise, for a plan's guarantee.
    fn promise(&self) -> &'static str;
}

/// The path of something in a folder; the root is the folder `""`.
pub(super) fn join(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
}

/// The folder a path lies in, and its last name.
pub(super) fn parent(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

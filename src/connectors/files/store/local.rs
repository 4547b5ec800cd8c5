//! A folder of this machine. Whatever is reported as done has been synced, names included.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread::{self, JoinHandle};
use std::time::UNIX_EPOCH;

use bytes::Bytes;

use super::{Change, Found, Pending, Ranges, Store, parent};
use crate::failure::Failure;

/// Bytes that are written before the disk is asked to take them.
const SYNC_BYTES: usize = 32 << 20;
/// Bytes gathered before a write reaches the kernel.
const WRITE_BUFFER_BYTES: usize = 256 << 10;

/// A folder of this machine.
pub(in crate::connectors) struct Local {
    root: PathBuf,
}

impl Local {
    /// Nothing is touched yet.
    pub(in crate::connectors) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// The full path of something below the root, after making sure that no symbolic link on the way leads out of the root. The last
    /// name itself is only looked at when it is there.
    fn inside(&self, path: &str) -> Result<PathBuf, Failure> {
        let full = self.root.join(path);
        let mut seen = full.as_path();
        let real = loop {
            match seen.canonicalize() {
                Ok(real) => break real,
                Err(error) if error.kind() == ErrorKind::NotFound && seen != self.root => {
                    if seen.is_symlink() {
                        return Err(Failure::permanent(format!("`{path}` is a symbolic link to nothing")));
                    }
                    seen = seen.parent().unwrap_or(&self.root);
                }
                // A root that is not there yet holds no links either.
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(full),
                Err(error) => return Err(failed("look at", &full, error)),
            }
        };
        let root = self.root.canonicalize().map_err(|error| failed("look at", &self.root, error))?;
        if real.starts_with(&root) {
            Ok(full)
        } else {
            Err(Failure::permanent(format!("`{path}` leads out of {} by a symbolic link", self.root.display()))
                .help("name a connection whose folder holds the file"))
        }
    }

    fn walk(&self, folder: &str, depth: usize, found: &mut Vec<Found>) -> Result<(), Failure> {
        let full = self.inside(folder)?;
        let entries = match fs::read_dir(&full) {
            Ok(entries) => entries,
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(()),
            Err(error) => return Err(failed("list", &full, error)),
        };
        for entry in entries {
            let entry = entry.map_err(|error| failed("list", &full, error))?;
            let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
            let path = super::join(folder, &name);
            let kind = entry.file_type().map_err(|error| failed("look at", &entry.path(), error))?;
            // A link to a folder is not followed (it may lead round in circles); a link to a file is when it stays inside.
            if kind.is_dir() {
                if depth > 0 && !name.starts_with('.') {
                    self.walk(&path, depth - 1, found)?;
                }
            } else if let Some(file) = self.stat(&path)? {
                found.push(file);
            }
        }
        Ok(())
    }
}

impl Store for Local {
    fn label(&self) -> String {
        self.root.display().to_string()
    }

    fn list(&self, folder: &str, depth: usize) -> Result<Vec<Found>, Failure> {
        let mut found = Vec::new();
        self.walk(folder, depth, &mut found)?;
        Ok(found)
    }

    fn names(&self, folder: &str) -> Result<Vec<String>, Failure> {
        let full = self.inside(folder)?;
        let names = || -> io::Result<Vec<String>> {
            fs::read_dir(&full)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
        };
        match names() {
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(Vec::new()),
            names => names.map_err(|error| failed("list", &full, error)),
        }
    }

    fn stat(&self, path: &str) -> Result<Option<Found>, Failure> {
        let full = self.inside(path)?;
        let meta = match fs::metadata(&full) {
            Ok(meta) if meta.is_file() => meta,
            Ok(_) => return Ok(None),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
            Err(error) => return Err(failed("look at", &full, error)),
        };
        let changed = meta.modified().map_err(|error| failed("look at", &full, error))?;
        let stamp = changed.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
        Ok(Some(Found { path: path.to_owned(), size: meta.len(), stamp: stamp.to_string() }))
    }

    fn open_at(&self, path: &str, start: u64) -> Result<Box<dyn Read + Send>, Failure> {
        let full = self.inside(path)?;
        let mut file = File::open(&full).map_err(|error| failed("open", &full, error))?;
        if start > 0 {
            file.seek(SeekFrom::Start(start)).map_err(|error| failed("read", &full, error))?;
        }
        Ok(Box::new(file))
    }

    fn is_near(&self) -> bool {
        true
    }

    fn ranges(&self, path: &str) -> Result<Box<dyn Ranges>, Failure> {
        let full = self.inside(path)?;
        let file = File::open(&full).map_err(|error| failed("open", &full, error))?;
        let size = file.metadata().map_err(|error| failed("look at", &full, error))?.len();
        Ok(Box::new(OpenFile { file: Mutex::new(file), size }))
    }

    fn create(&self, path: &str) -> Result<Box<dyn Pending>, Failure> {
        let target = self.inside(path)?;
        let folder = target.parent().unwrap_or(&self.root);
        make_folder(folder)?;
        let (_, name) = parent(path);
        let aside = folder.join(format!(".{name}.{:016x}.tmp", fastrand::u64(..)));
        Ok(Box::new(Aside::new(aside, target)?))
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), Failure> {
        let (from, to) = (self.inside(from)?, self.inside(to)?);
        if to.is_symlink() {
            return Err(Failure::permanent(format!("{} is a symbolic link; it is not replaced", to.display())).help("name the file itself"));
        }
        if let Some(folder) = to.parent() {
            make_folder(folder)?;
        }
        fs::rename(&from, &to).map_err(|error| failed("rename", &from, error))?;
        sync_folder_of(&to)?;
        sync_folder_of(&from)
    }

    fn renames_folders(&self) -> bool {
        true
    }

    fn check_target(&self, path: &str, folder: bool) -> Result<(), Failure> {
        let full = self.inside(path)?;
        match fs::symlink_metadata(&full) {
            Ok(meta) if meta.is_symlink() => {
                Err(Failure::permanent(format!("`{path}` is a symbolic link; it is not replaced")).help("name what it leads to"))
            }
            Ok(meta) if folder && !meta.is_dir() => Err(Failure::permanent(format!("`{path}` is a file, and is to be a folder"))
                .help("leave the `/` at the end out, or choose another name")),
            Ok(meta) if !folder && !meta.is_file() => {
                Err(Failure::permanent(format!("`{path}` is no file, and is to be one"))
                    .help("end the path in `/` to write a folder of parts"))
            }
            _ => Ok(()),
        }
    }

    fn rename_folder(&self, from: &str, to: &str) -> Result<(), Failure> {
        let (from, to) = (self.inside(from)?, self.inside(to)?);
        if let Some(folder) = to.parent() {
            make_folder(folder)?;
        }
        fs::rename(&from, &to).map_err(|error| failed("rename", &from, error))?;
        sync_folder_of(&to)?;
        sync_folder_of(&from)
    }

    fn remove(&self, path: &str) -> Result<(), Failure> {
        let full = self.inside(path)?;
        match fs::remove_file(&full) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(failed("remove", &full, error)),
        }
    }

    fn remove_folder(&self, path: &str) -> Result<(), Failure> {
        let full = self.inside(path)?;
        match fs::remove_dir_all(&full) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(failed("remove", &full, error)),
        }
    }

    fn remove_empty_folder(&self, path: &str) -> Result<(), Failure> {
        let full = self.inside(path)?;
        match fs::remove_dir(&full) {
            Err(error) if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::DirectoryNotEmpty) => {
                Err(failed("remove", &full, error))
            }
            _ => Ok(()),
        }
    }

    fn read_small(&self, path: &str) -> Result<Option<Vec<u8>>, Failure> {
        let full = self.inside(path)?;
        match fs::read(&full) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("read", &full, error)),
        }
    }

    fn change(&self, path: &str, change: Change<'_>) -> Result<(), Failure> {
        let full = self.inside(path)?;
        let folder = full.parent().unwrap_or(&self.root);
        make_folder(folder)?;
        // The folder stays when documents in it are replaced, so its lock is the same for everybody. It ends with the process.
        let lock = File::open(folder).map_err(|error| failed("open", folder, error))?;
        lock.lock().map_err(|error| failed("lock", folder, error))?;
        let old = self.read_small(path)?;
        if let Some(new) = change(old.as_deref())? {
            // Under the lock nobody else has this name, and one that a killed process left is written over.
            let (_, name) = parent(path);
            let mut aside = Aside::new(folder.join(format!(".{name}.tmp")), full.clone())?;
            aside.write_all(&new).map_err(|error| failed("write", &full, error))?;
            Box::new(aside).finish()?;
        }
        Ok(())
    }

    fn promise(&self) -> &'static str {
        "written aside, synced, renamed"
    }
}

/// A file under a hidden name, which gets its own name when all of it is on the disk.
struct Aside {
    file: io::BufWriter<File>,
    /// Bytes that no sync has been asked for.
    unsynced: usize,
    /// A sync under way. Its answer counts: the kernel tells an error only once.
    syncing: Option<JoinHandle<io::Result<()>>>,
    aside: PathBuf,
    target: PathBuf,
    done: bool,
}

impl Aside {
    fn new(aside: PathBuf, target: PathBuf) -> Result<Self, Failure> {
        let options = OpenOptions::new().write(true).create(true).truncate(true).open(&aside);
        let file = options.map_err(|error| failed("create", &aside, error))?;
        let file = io::BufWriter::with_capacity(WRITE_BUFFER_BYTES, file);
        Ok(Self { file, unsynced: 0, syncing: None, aside, target, done: false })
    }

    /// Lets the disk work while more is written, so that little is left to wait for at the end. One sync at a time.
    fn sync_ahead(&mut self) -> io::Result<()> {
        if self.unsynced < SYNC_BYTES || self.syncing.as_ref().is_some_and(|syncing| !syncing.is_finished()) {
            return Ok(());
        }
        self.synced()?;
        let file = self.file.get_ref().try_clone()?;
        self.syncing = Some(thread::Builder::new().name("sync".to_owned()).spawn(move || file.sync_data())?);
        self.unsynced = 0;
        Ok(())
    }

    /// Waits for the sync under way.
    fn synced(&mut self) -> io::Result<()> {
        match self.syncing.take().map(JoinHandle::join) {
            None => Ok(()),
            Some(answer) => answer.unwrap_or_else(|_| Err(io::Error::other("the thread that synced has died"))),
        }
    }
}

impl Write for Aside {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = self.file.write(bytes)?;
        self.unsynced += length;
        self.sync_ahead()?;
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Pending for Aside {
    fn finish(mut self: Box<Self>) -> Result<(), Failure> {
        self.file.flush().map_err(|error| failed("write", &self.target, error))?;
        self.synced().and_then(|()| self.file.get_ref().sync_all()).map_err(|error| failed("sync", &self.target, error))?;
        fs::rename(&self.aside, &self.target).map_err(|error| failed("rename", &self.aside, error))?;
        self.done = true;
        sync_folder_of(&self.target)
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        if !self.done {
            // Nothing more can be done about a failure here: the name is hidden, and clean-up removes the folder.
            let _ = fs::remove_file(&self.aside);
        }
    }
}

struct OpenFile {
    file: Mutex<File>,
    size: u64,
}

impl Ranges for OpenFile {
    fn size(&self) -> u64 {
        self.size
    }

    fn get(&self, start: u64, length: usize) -> io::Result<Bytes> {
        let mut file = self.file.lock().map_err(|_| io::Error::other("another reader of the file panicked"))?;
        let mut bytes = vec![0; length];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut bytes)?;
        Ok(bytes.into())
    }
}

/// Creates a folder and those above it, each synced into the one above.
fn make_folder(folder: &Path) -> Result<(), Failure> {
    if folder.is_dir() {
        return Ok(());
    }
    if let Some(above) = folder.parent().filter(|above| !above.as_os_str().is_empty()) {
        make_folder(above)?;
    }
    match fs::create_dir(folder) {
        Ok(()) => sync_folder_of(folder),
        Err(error) if error.kind() == ErrorKind::AlreadyExists && folder.is_dir() => Ok(()),
        Err(error) => Err(failed("create", folder, error)),
    }
}

/// Makes a new, renamed or removed name durable: it lives in the folder's own data.
fn sync_folder_of(path: &Path) -> Result<(), Failure> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match File::open(folder).and_then(|folder| folder.sync_all()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed("sync", folder, error)),
    }
}

/// Errors of a local disk do not pass by themselves, except a call that was interrupted.
fn failed(doing: &str, path: &Path, error: io::Error) -> Failure {
    let message = format!("cannot {doing} {}", path.display());
    let failure = match error.kind() {
        ErrorKind::Interrupted | ErrorKind::WouldBlock | ErrorKind::TimedOut => Failure::transient(message),
        _ => Failure::permanent(message),
    };
    let help = match error.kind() {
        ErrorKind::NotFound => Some("check the path and the folder of the connection"),
        ErrorKind::PermissionDenied => Some("give the user that runs haul access to it"),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
            Some("make room, then run again: committed splits are kept")
        }
        _ => None,
    };
    let failure = failure.cause(error);
    match help {
        Some(help) => failure.help(help),
        None => failure,
    }
}

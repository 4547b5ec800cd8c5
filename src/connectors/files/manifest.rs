//! The manifest of a folder of parts: which files belong to whole loads, written when a load is complete.

use serde::{Deserialize, Serialize};

use super::codec::Seal;
use super::store::{Found, Store, join};
use crate::failure::Failure;

/// Its name in the folder; hidden, so that patterns do not read it.
pub(super) const NAME: &str = ".haul-manifest.json";
const VERSION: u32 = 1;

/// What the folder holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Manifest {
    version: u32,
    /// In the order they were published.
    pub loads: Vec<PublishedLoad>,
    /// Parts that are replaced and may still be in the folder: they are to be removed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub replaced: Vec<String>,
}

/// One load, all of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PublishedLoad {
    /// Tells loads apart; see [`super::state::Record`].
    pub id: String,
    /// The run that wrote it.
    pub run: String,
    /// In split order.
    pub parts: Vec<PublishedPart>,
}

/// One part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PublishedPart {
    /// Its name in the folder.
    pub name: String,
    /// Its rows.
    pub rows: u64,
    /// Its size and hash.
    pub seal: Seal,
}

impl Manifest {
    /// A manifest of some loads.
    pub(super) fn of(loads: Vec<PublishedLoad>) -> Self {
        Self { version: VERSION, loads, replaced: Vec::new() }
    }

    /// Reads the text of a manifest.
    pub(super) fn parse(bytes: &[u8], folder: &str) -> Result<Self, Failure> {
        let broken = |what: String| {
            Failure::permanent(format!("the manifest `{folder}/{NAME}` {what}")).help("restore it, or empty the folder and load it again")
        };
        let manifest: Self = serde_json::from_slice(bytes).map_err(|error| broken("cannot be read".to_owned()).cause(error))?;
        if manifest.version == VERSION { Ok(manifest) } else { Err(broken(format!("has the version {}, not {VERSION}", manifest.version))) }
    }

    /// The text that [`Manifest::parse`] reads.
    pub(super) fn text(&self) -> Result<Vec<u8>, Failure> {
        serde_json::to_vec_pretty(self).map_err(|error| Failure::permanent("a manifest cannot be written").cause(error))
    }

    /// The names of all parts.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.loads.iter().flat_map(|load| &load.parts).map(|part| part.name.as_str())
    }
}

/// A folder's manifest; `None` when it has none.
pub(super) fn read(store: &dyn Store, folder: &str) -> Result<Option<Manifest>, Failure> {
    let bytes = store.read_small(&join(folder, NAME))?;
    bytes.map(|bytes| Manifest::parse(&bytes, folder)).transpose()
}

/// The files that a folder's manifest names, sorted; `None` when it has none. One that is missing is a failure: the folder is not whole.
pub(super) fn files(store: &dyn Store, folder: &str) -> Result<Option<Vec<Found>>, Failure> {
    let Some(manifest) = read(store, folder)? else { return Ok(None) };
    let mut files = Vec::new();
    for name in manifest.names() {
        super::paths::check(name).map_err(Failure::permanent)?;
        let path = join(folder, name);
        let found = store.stat(&path)?;
        files.push(found.ok_or_else(|| {
            Failure::permanent(format!("`{path}` is missing, and the folder's manifest names it")).help("load the folder again")
        })?);
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(Some(files))
}

/// The names of everything in a folder that is haul's: the parts that its manifest names, those that are replaced and not removed yet, and the
/// manifest itself, also one that a killed process did not finish.
pub(super) fn own_names(store: &dyn Store, folder: &str) -> Result<Vec<String>, Failure> {
    let manifest = read(store, folder)?.unwrap_or_default();
    let parts = manifest.names().map(str::to_owned).chain(manifest.replaced.iter().cloned());
    Ok(parts.chain([NAME.to_owned(), format!(".{NAME}.tmp")]).collect())
}

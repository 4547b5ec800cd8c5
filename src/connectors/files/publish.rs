//! Committed parts → the target, in steps that a crash may fall between.

use std::collections::{HashMap, HashSet};
use std::io::{self, Read, Write};

use super::codec::{self, Compressor, Hashed, Seal, write_failed};
use super::csv::CsvWriter;
use super::manifest::{self, Manifest, PublishedLoad, PublishedPart};
use super::parquet;
use super::part::{self, Encoder};
use super::sink::Target;
use super::state::{LoadRecord, Part, Record, Stage, Work};
use super::store::{Store, join};
use crate::connectors::Load;
use crate::define::pipeline::{FileFormat, WriteMode};
use crate::failure::Failure;

/// Makes a load visible. Whatever an earlier try has done is found and not done again.
pub(super) fn publish(target: &Target, work: &Work, load: &Load) -> Result<(), Failure> {
    let record = work.read(&*target.store)?;
    work.fence(&record, load)?;
    let current = loaded(&record)?;
    if current.stage != Stage::Published {
        if target.is_folder() {
            publish_folder(target, work, load, current)?;
        } else {
            publish_file(target, work, load, current)?;
        }
    }
    clean(target, work)
}

/// Removes what a load that is published leaves: the parts that it has replaced, and everything in its work folder but the record.
pub(super) fn clean(target: &Target, work: &Work) -> Result<(), Failure> {
    if target.is_folder() {
        remove_replaced(target)?;
    }
    work.clean(&*target.store)
}

/// Removes the parts in the target's folder that are replaced, also by a load that was cut before it did so.
fn remove_replaced(target: &Target) -> Result<(), Failure> {
    let replaced = manifest::read(&*target.store, target.folder())?.unwrap_or_default().replaced;
    if replaced.is_empty() {
        return Ok(());
    }
    for name in &replaced {
        target.store.remove(&join(target.folder(), name))?;
    }
    change_manifest(target, |manifest| manifest.replaced.retain(|name| !replaced.contains(name)))
}

/// Changes the manifest of the target's folder. The change may be called again when somebody else was first.
fn change_manifest(target: &Target, mut change: impl FnMut(&mut Manifest)) -> Result<(), Failure> {
    let folder = target.folder();
    target.store.change(&join(folder, manifest::NAME), &mut |old| {
        let mut manifest = old.map(|old| Manifest::parse(old, folder)).transpose()?.unwrap_or_else(|| Manifest::of(Vec::new()));
        change(&mut manifest);
        manifest.text().map(Some)
    })
}

fn loaded(record: &Record) -> Result<&LoadRecord, Failure> {
    record.load.as_ref().ok_or_else(|| Failure::permanent("there is no load to publish; it was never prepared"))
}

fn set_stage(record: &mut Record, stage: Stage) {
    if let Some(load) = &mut record.load {
        load.stage = stage;
    }
}

/// One file: name it in the record with its seal, rename it, say so in the record. After a crash in between, the seal tells whether the
/// rename was done.
fn publish_file(target: &Target, work: &Work, load: &Load, current: &LoadRecord) -> Result<(), Failure> {
    let store = &*target.store;
    let (file, seal) = match &current.stage {
        Stage::Publishing { file, seal } if is_sealed(store, &work.file(file), seal)? || is_sealed(store, &target.spec.path, seal)? => {
            (file.clone(), seal.clone())
        }
        _ => whole(target, work, load, &current.in_order())?,
    };
    work.change(store, load, |record| {
        set_stage(record, Stage::Publishing { file: file.clone(), seal: seal.clone() });
        Ok(())
    })?;
    work.change(store, load, |record| {
        if store.stat(&work.file(&file))?.is_some() {
            store.rename(&work.file(&file), &target.spec.path)?;
        } else if !is_sealed(store, &target.spec.path, &seal)? {
            return Err(Failure::permanent(format!("`{}` is gone before it became `{}`", work.file(&file), target.spec.path))
                .help("run again with `--fresh`"));
        }
        set_stage(record, Stage::Published);
        Ok(())
    })
}

/// Whether a file is there and is that one.
fn is_sealed(store: &dyn Store, path: &str, seal: &Seal) -> Result<bool, Failure> {
    match store.stat(path)? {
        Some(found) if found.size == seal.bytes => {
            let content = store.open(path)?;
            Ok(codec::seal(content).map_err(|error| codec::read_failed(path, error))? == *seal)
        }
        _ => Ok(false),
    }
}

/// The file that holds all parts: the only one as it is, or a new one.
fn whole(target: &Target, work: &Work, load: &Load, parts: &[Part]) -> Result<(String, Seal), Failure> {
    if let [only] = parts
        && (only.header || !has_header(target))
    {
        return Ok((only.file.clone(), only.seal.clone()));
    }
    let name = format!("whole.{:016x}.part", fastrand::u64(..));
    let path = work.file(&name);
    let file = Hashed::new(target.store.create(&path)?);
    if parts.is_empty() {
        let encoder = Encoder::new(&target.spec, &load.schema, &path, file, true)?;
        return Ok((name, encoder.finish(&path)?));
    }
    let file = match &target.spec.format {
        FileFormat::Parquet => {
            let paths: Vec<String> = parts.iter().map(|part| work.file(&part.file)).collect();
            parquet::merge(&*target.store, &paths, &path, file)?
        }
        FileFormat::Csv(_) | FileFormat::Ndjson => joined(target, work, load, parts, &path, file)?,
    };
    Ok((name, file.finish()?))
}

fn has_header(target: &Target) -> bool {
    matches!(&target.spec.format, FileFormat::Csv(dialect) if dialect.header)
}

/// Text files one after the other; compressed ones too, since gzip members and zstd frames may be.
fn joined(target: &Target, work: &Work, load: &Load, parts: &[Part], path: &str, mut file: Hashed) -> Result<Hashed, Failure> {
    if let FileFormat::Csv(dialect) = &target.spec.format
        && dialect.header
        && !parts[0].header
    {
        let header = Compressor::new(file, target.spec.compression).map_err(|error| write_failed(path, error))?;
        let header = CsvWriter::new(path, header, &load.schema, dialect, true)?.end()?;
        file = header.end().map_err(|error| write_failed(path, error))?;
    }
    for part in parts {
        let from = work.file(&part.file);
        let mut content = Checked { content: target.store.open(&from)?, left: part.seal.bytes };
        io::copy(&mut content, &mut file).map_err(|error| write_failed(path, error))?;
        if content.left != 0 {
            return Err(Failure::permanent(format!("`{from}` is shorter than when it was committed")).help("run again with `--fresh`"));
        }
    }
    file.flush().map_err(|error| write_failed(path, error))?;
    Ok(file)
}

/// Counts down what is read.
struct Checked {
    content: Box<dyn Read + Send>,
    left: u64,
}

impl Read for Checked {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let length = self.content.read(into)?;
        self.left = self.left.checked_sub(length as u64).ok_or_else(|| io::Error::other("a part is longer than when it was committed"))?;
        Ok(length)
    }
}

/// The name of a part in its folder. No two loads share one, those of two stages of a run included: one must not take the place of another,
/// and a reader in the middle of a swap misses a file rather than reads one of another load.
fn final_name(target: &Target, current: &LoadRecord, part: &Part) -> String {
    format!("{}.{}", stem(current, part), part::ending(&target.spec))
}

/// That name without the ending, which has no dot.
fn stem(current: &LoadRecord, part: &Part) -> String {
    let id = current.id();
    format!("part-{}-{}-{}", part::name(&part.split), part::name(current.run()), &id[..16])
}

/// A name without its endings.
fn without_ending(name: &str) -> &str {
    name.split_once('.').map_or(name, |(stem, _)| stem)
}

fn published(target: &Target, current: &LoadRecord) -> PublishedLoad {
    let parts = current.in_order();
    let parts =
        parts.iter().map(|part| PublishedPart { name: final_name(target, current, part), rows: part.rows, seal: part.seal.clone() });
    PublishedLoad { id: current.id(), run: current.run().to_owned(), parts: parts.collect() }
}

fn publish_folder(target: &Target, work: &Work, load: &Load, current: &LoadRecord) -> Result<(), Failure> {
    let store = &*target.store;
    work.change(store, load, |record| {
        set_stage(record, Stage::Moving);
        Ok(())
    })?;
    if !is_published(target, current)? {
        // What another load is moving in may stand beside this one's parts, but does not go away with the folder.
        check_folder(target, (target.spec.mode == WriteMode::Replace).then_some(current))?;
        if target.swaps() {
            swap(target, work, load, current)?;
        } else {
            add(target, work, load, current)?;
        }
    }
    work.change(store, load, |record| {
        set_stage(record, Stage::Published);
        Ok(())
    })
}

/// Whether the folder's manifest names the load.
pub(super) fn is_published(target: &Target, current: &LoadRecord) -> Result<bool, Failure> {
    let manifest = manifest::read(&*target.store, target.folder())?;
    Ok(manifest.is_some_and(|manifest| manifest.loads.iter().any(|load| load.id == current.id())))
}

/// Fails when something in the target's folder was not written by haul. A load that was cut while its parts were being moved into the folder
/// goes on with them: those of any load are known, or only those of `own`.
pub(super) fn check_folder(target: &Target, own: Option<&LoadRecord>) -> Result<(), Failure> {
    let store = &*target.store;
    // In this order: a part that is published meanwhile is in the record that is read later, or in the manifest that is read last.
    let there = store.names(target.folder())?;
    let loads = match own {
        Some(own) => vec![own.clone()],
        None => {
            let loads = Work::records_beside(store, &target.spec.path)?.into_iter().filter_map(|record| record.load);
            loads.filter(|load| load.stage == Stage::Moving).collect()
        }
    };
    let parts: HashSet<String> = loads.iter().flat_map(|load| load.parts.iter().map(|part| stem(load, part))).collect();
    let own: HashSet<String> = manifest::own_names(store, target.folder())?.into_iter().collect();
    let is_known = |name: &String| own.contains(name) || parts.contains(without_ending(name));
    // Nobody reads what is hidden as a part; it only matters where it would go away with the folder.
    let stranger = there.into_iter().filter(|name| !is_known(name) && (target.swaps() || !name.starts_with('.'))).min();
    stranger.map_or(Ok(()), |name| {
        let path = join(target.folder(), &name);
        Err(Failure::permanent(format!("`{path}` was not written by haul, and stands in the folder to be written"))
            .help("move it away, or write to another folder"))
    })
}

/// Takes back what a load has done to its target that was cut amid it and will not go on: a folder that it was about to replace gets its name
/// again, and the parts that were moved in go, for nothing names them. The load may have written another format than is written now.
pub(super) fn take_back(target: &Target, work: &Work, load: Option<&LoadRecord>) -> Result<(), Failure> {
    let Some(load) = load.filter(|load| load.stage == Stage::Moving) else { return Ok(()) };
    let (store, folder, last) = (&*target.store, target.folder(), work.file("last"));
    if target.renames_folders && store.names(folder)?.is_empty() && !store.names(&last)?.is_empty() {
        store.remove_empty_folder(folder)?;
        return store.rename_folder(&last, folder);
    }
    if is_published(target, load)? {
        return Ok(());
    }
    let parts: HashMap<String, &Part> = load.parts.iter().map(|part| (stem(load, part), part)).collect();
    for name in store.names(folder)? {
        if let Some(part) = parts.get(without_ending(&name)) {
            let path = join(folder, &name);
            if is_sealed(store, &path, &part.seal)? {
                store.remove(&path)?;
            }
        }
    }
    Ok(())
}

/// Moves a part to its final name, unless it is there. Nothing else of that name is written over.
fn move_part(store: &dyn Store, from: &str, to: &str, part: &Part) -> Result<(), Failure> {
    let is_there = is_sealed(store, to, &part.seal)?;
    if !is_there && store.stat(to)?.is_some() {
        return Err(Failure::permanent(format!("`{to}` stands where a part is to be")).help("move it away, or write to another folder"));
    }
    match store.stat(from)? {
        Some(_) => store.rename(from, to),
        None if is_there => Ok(()),
        None => Err(Failure::permanent(format!("`{from}` is gone before it became `{to}`")).help("run again with `--fresh`")),
    }
}

/// Replaces the folder: the new one is made beside it, complete with its manifest, and takes its name. Between two renames there is no
/// folder, and never one with parts of two loads.
fn swap(target: &Target, work: &Work, load: &Load, current: &LoadRecord) -> Result<(), Failure> {
    let store = &*target.store;
    let folder = target.folder();
    let (next, last) = (work.file("next"), work.file("last"));
    work.change(store, load, |_| {
        for part in current.in_order() {
            let to = join(&next, &final_name(target, current, &part));
            move_part(store, &work.file(&part.file), &to, &part)?;
        }
        let text = Manifest::of(vec![published(target, current)]).text()?;
        store.change(&join(&next, manifest::NAME), &mut |_| Ok(Some(text.clone())))?;
        if !store.names(folder)?.is_empty() {
            store.remove_folder(&last)?;
            store.rename_folder(folder, &last)?;
        }
        store.remove_empty_folder(folder)?;
        store.rename_folder(&next, folder)
    })
    .map(drop)
}

/// Adds parts to the folder one by one, then names them in its manifest. When they replace others, those are to be removed from then on.
fn add(target: &Target, work: &Work, load: &Load, current: &LoadRecord) -> Result<(), Failure> {
    let store = &*target.store;
    let folder = target.folder();
    remove_replaced(target)?;
    for part in current.in_order() {
        work.fence(&work.read(store)?, load)?;
        move_part(store, &work.file(&part.file), &join(folder, &final_name(target, current, &part)), &part)?;
    }
    let load = published(target, current);
    let is_own = |name: &str| load.parts.iter().any(|part| part.name == name);
    change_manifest(target, |manifest| {
        manifest.loads.retain(|other| other.id != load.id);
        if target.spec.mode == WriteMode::Replace {
            let replaced: Vec<String> = manifest.names().map(str::to_owned).collect();
            manifest.replaced.extend(replaced);
            manifest.loads.clear();
        }
        // A load that was begun again has parts of the same names as before.
        manifest.replaced.retain(|name| !is_own(name));
        manifest.loads.push(load.clone());
    })
}

/// Where the rows of a load are now, in order, each with whether it starts with a header.
pub(super) fn places(target: &Target, work: &Work, current: &LoadRecord) -> Result<Vec<(String, bool)>, Failure> {
    let store = &*target.store;
    let in_target = match &current.stage {
        Stage::Published => true,
        Stage::Publishing { file, seal } => store.stat(&work.file(file))?.is_none() && is_sealed(store, &target.spec.path, seal)?,
        Stage::Loading | Stage::Moving => false,
    };
    if !target.is_folder() && in_target {
        return Ok(vec![(target.spec.path.clone(), true)]);
    }
    let mut places = Vec::new();
    for part in current.in_order() {
        let name = final_name(target, current, &part);
        let own = work.file(&part.file);
        // In the work folder no other file has ever its name.
        let mut found = store.stat(&own)?.is_some_and(|file| file.size == part.seal.bytes).then_some(own);
        if target.is_folder() {
            for path in [join(&work.file("next"), &name), join(target.folder(), &name)] {
                if found.is_none() && is_sealed(store, &path, &part.seal)? {
                    found = Some(path);
                }
            }
        }
        let path = found
            .ok_or_else(|| Failure::permanent(format!("the part of split `{}` is gone", part.split)).help("run again with `--fresh`"))?;
        places.push((path, part.header));
    }
    Ok(places)
}

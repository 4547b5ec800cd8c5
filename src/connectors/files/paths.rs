//! Which paths may be named, and which files a pattern means.

use glob::{MatchOptions, Pattern};

use super::store::{Found, Store, parent};
use crate::failure::Failure;

/// haul's own folder beside what it writes: loads in the making, and the record of those that were published.
pub(super) const WORK_FOLDER: &str = ".haul";

/// Most files one pattern may mean. They are all named in the record of a load.
const MOST_FILES: usize = 100_000;

/// `*` stays within a name, and hidden files are only meant when the dot is written.
const MATCH: MatchOptions = MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: true };

/// Checks a path or pattern below a root. The error says what is wrong with it.
pub(super) fn check(path: &str) -> Result<(), String> {
    if path.is_empty() {
        return Err("the path is empty".to_owned());
    }
    if path.starts_with('/') {
        return Err(format!("`{path}` is absolute; paths are below the connection's folder"));
    }
    if let Some(odd) = path.chars().find(|c| c.is_control() || *c == '\\') {
        return Err(format!("`{}` holds the character {odd:?}, which no path may", path.escape_debug()));
    }
    let inner = path.strip_suffix('/').unwrap_or(path);
    for name in inner.split('/') {
        match name {
            "" => return Err(format!("`{path}` holds an empty name between two slashes")),
            "." | ".." => return Err(format!("`{path}` holds `{name}`; a path only leads down")),
            WORK_FOLDER => return Err(format!("`{path}` names `{WORK_FOLDER}`, where haul keeps its own records")),
            name if name.len() > 200 => return Err(format!("a name in `{path}` is longer than 200 bytes")),
            name if name.ends_with(' ') || name.starts_with(' ') => return Err(format!("a name in `{path}` starts or ends with a space")),
            _ => {}
        }
    }
    Ok(())
}

/// Checks a path to write to: nothing that a shell or a source would take for a pattern.
pub(super) fn check_target(path: &str) -> Result<(), String> {
    check(path)?;
    if is_pattern(path) {
        return Err(format!("`{path}` holds one of `*?[`, which mean many files when they are read"));
    }
    Ok(())
}

/// Whether a path means files by pattern.
pub(super) fn is_pattern(path: &str) -> bool {
    path.contains(['*', '?', '['])
}

/// The files that a path or pattern means, sorted by path. None is a failure.
pub(super) fn select(store: &dyn Store, path: &str) -> Result<Vec<Found>, Failure> {
    check(path).map_err(Failure::permanent)?;
    if !is_pattern(path) {
        return match store.stat(path)? {
            Some(found) => Ok(vec![found]),
            None => Err(Failure::permanent(format!("there is no file `{path}` in {}", store.label()))
                .help("check the path; it is relative to the connection's folder")),
        };
    }
    let pattern = Pattern::new(path).map_err(|error| Failure::permanent(format!("`{path}` is not a pattern: {}", error.msg)))?;
    let literal = path.find(['*', '?', '[']).map_or(path, |at| &path[..at]);
    let (folder, _) = parent(literal);
    let below = if folder.is_empty() { path } else { &path[folder.len() + 1..] };
    let depth = if below.contains("**") { usize::MAX } else { below.matches('/').count() };
    let mut found = store.list(folder, depth)?;
    found.retain(|file| pattern.matches_with(&file.path, MATCH));
    if found.is_empty() {
        return Err(Failure::permanent(format!("`{path}` matches no file in {}", store.label()))
            .help("check the pattern; it is relative to the connection's folder, and `*` does not match hidden files or `/`"));
    }
    if found.len() > MOST_FILES {
        return Err(Failure::permanent(format!("`{path}` matches {} files; at most {MOST_FILES} can be read as one", found.len())));
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_only_lead_down() {
        for path in ["a.csv", "a/b/*.csv", "out/", "ü/日本.csv", ".hidden/x"] {
            assert_eq!(check(path), Ok(()), "{path}");
        }
        for path in
            ["", "/etc/passwd", "../x", "a/../b", "./a", "a//b", "a\0b", "a\nb", "a\\b", ".haul/x", "out/.haul/", " a", &"x".repeat(201)]
        {
            assert!(check(path).is_err(), "{path:?} was allowed");
        }
        assert!(check_target("a*.csv").is_err());
    }
}

//! Transform steps, and the lists of columns that steps and outputs name.

use super::caches;
use super::inputs::column_type;
use super::pipeline::{Mask, Step};
use super::reader::{Grammar, Reader};
use crate::diagnostic::Diagnostic;
use crate::load::document::child;
use crate::load::file;
use crate::load::shape::Entries;
use crate::secret::Secret;

/// Reads the steps of a transform; those that cannot be understood have been reported and are left out.
pub fn read(reader: &mut Reader<'_>, at: &str, said: &[file::Step]) -> Vec<Step> {
    said.iter().enumerate().filter_map(|(index, step)| one(reader, &format!("{at}/{index}"), step)).collect()
}

fn one(reader: &mut Reader<'_>, at: &str, said: &file::Step) -> Option<Step> {
    let file::Step { filter, select, drop, rename, set, cast, mask, dedupe, lookup, sql } = said;
    if let Some(condition) = filter {
        return Some(Step::Filter(reader.datafusion(&format!("{at}/filter"), condition, Grammar::Expression)?));
    }
    if let Some(columns) = select {
        return Some(Step::Select(names(reader, &format!("{at}/select"), columns)));
    }
    if let Some(columns) = drop {
        return Some(Step::Drop(names(reader, &format!("{at}/drop"), columns)));
    }
    if let Some(columns) = rename {
        return Some(Step::Rename(renames(reader, &format!("{at}/rename"), columns)));
    }
    if let Some(columns) = set {
        let one = |(name, said): &(String, String)| {
            let at = child(&format!("{at}/set"), name);
            Some((name.clone(), reader.datafusion(&at, said, Grammar::Expression)?))
        };
        return columns.0.iter().map(one).collect::<Option<_>>().map(Step::Set);
    }
    if let Some(columns) = cast {
        let one = |(name, said): &(String, String)| {
            let at = child(&format!("{at}/cast"), name);
            Some((name.clone(), column_type(reader, &at, said)?, at))
        };
        return columns.0.iter().map(one).collect::<Option<_>>().map(Step::Cast);
    }
    if let Some(columns) = mask {
        let one = |(name, said): &(String, file::Mask)| {
            let at = child(&format!("{at}/mask"), name);
            Some((name.clone(), masked(reader, &at, said)?, at))
        };
        return columns.0.iter().map(one).collect::<Option<_>>().map(Step::Mask);
    }
    if let Some(columns) = dedupe {
        let at = format!("{at}/dedupe");
        let key = names(reader, &at, columns).into_iter().map(|(name, _)| name).collect();
        return Some(Step::Dedupe { key, at });
    }
    if let Some(said) = lookup {
        return caches::lookup(reader, &format!("{at}/lookup"), said).map(Step::Lookup);
    }
    reader.datafusion(&format!("{at}/sql"), sql.as_ref()?, Grammar::Query).map(Step::Sql)
}

fn masked(reader: &mut Reader<'_>, at: &str, said: &file::Mask) -> Option<Mask> {
    Some(match said {
        file::Mask::Hash(salt) => Mask::Hash { salt: Secret::new(reader.text(&format!("{at}/hash"), salt)?) },
        file::Mask::Redact(text) => Mask::Redact(reader.text(&format!("{at}/redact"), text)?),
        file::Mask::Null => Mask::Null,
        file::Mask::Unclear => return None,
    })
}

fn renames(reader: &mut Reader<'_>, at: &str, said: &Entries<String>) -> Vec<(String, String, String)> {
    let mut renames: Vec<(String, String, String)> = Vec::new();
    for (old, new) in &said.0 {
        let at = child(at, old);
        if let Some((first, _, first_at)) = renames.iter().find(|(_, name, _)| name == new) {
            let message = format!("`{first}` and `{old}` are both renamed to `{new}`");
            let problem = reader.document.at_value(Diagnostic::error("duplicate-name", message), &at, "the second");
            let problem = reader.document.at_value(problem, first_at, "the first");
            reader.problems.push(problem.help("give each its own name"));
        }
        renames.push((old.clone(), new.clone(), at));
    }
    renames
}

/// A list of columns with their places. Empty names and names given twice are reported.
pub fn names(reader: &mut Reader<'_>, at: &str, said: &[String]) -> Vec<(String, String)> {
    let mut names: Vec<(String, String)> = Vec::new();
    for (index, name) in said.iter().enumerate() {
        let at = format!("{at}/{index}");
        if name.is_empty() {
            reader.error("empty", &at, "a column's name is empty", "name a column, or remove the item");
        } else if let Some((_, first)) = names.iter().find(|(earlier, _)| earlier == name) {
            let problem = Diagnostic::error("duplicate-name", format!("the column `{name}` is named twice"));
            let problem = reader.document.at_value(problem, &at, "again here");
            let problem = reader.document.at_value(problem, first, "first here");
            reader.problems.push(problem.help("remove one of the two"));
        }
        names.push((name.clone(), at));
    }
    names
}

/// The name haul gives a type that other systems call something else.
pub fn usual_type(name: &str) -> Option<&'static str> {
    let name = name.trim().to_lowercase();
    Some(match name.split('(').next().unwrap_or_default().trim() {
        "boolean" => "bool",
        "tinyint" | "byte" | "i8" => "int8",
        "smallint" | "short" | "int2" | "i16" => "int16",
        "int" | "integer" | "int4" | "i32" => "int32",
        "bigint" | "long" | "i64" => "int64",
        "u64" | "unsigned" => "uint64",
        "real" | "float" | "float4" => "float32",
        "double" | "double precision" | "float8" => "float64",
        "numeric" | "number" | "money" => "decimal(p,s)",
        "string" | "str" | "varchar" | "char" | "character varying" | "clob" => "text",
        "bytea" | "blob" | "binary" | "varbinary" => "bytes",
        "datetime" | "timestamp without time zone" => "timestamp",
        "timestamp with time zone" | "instant" => "timestamptz",
        "jsonb" => "json",
        "guid" => "uuid",
        "array" | "list" => "array(…)",
        _ => return None,
    })
}

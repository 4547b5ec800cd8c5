//! PostgreSQL's types: what haul knows of each, and which logical type it is. See `docs/postgresql.md` for the table.

use std::collections::HashMap;
use std::sync::Arc;

use sqlx::Row;
use sqlx::postgres::PgRow;
use sqlx::postgres::types::Oid;

use super::error::failure;
use super::session::Session;
use crate::data::Type;
use crate::failure::Failure;

/// The first object identifier that is not PostgreSQL's own, and so differs from server to server.
const FIRST_FOREIGN_OID: u32 = 16384;
/// Types whose binary form is an object identifier that means nothing elsewhere, or that have no binary form of use: read as text.
const AS_TEXT: &[u32] = &[18, 24, 1033, 2202, 2203, 2204, 2205, 2206, 3734, 3769, 4089, 4096, 4191];
/// Types whose modifier [`modifier_of`] can make: numeric, varchar, char, bit, varbit, and the times.
const COUNTED: [u32; 9] = [1700, 1043, 1042, 1560, 1562, 1083, 1266, 1114, 1184];

/// How values of a type stand in COPY BINARY.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Bool,
    Int2,
    Int4,
    Int8,
    Oid,
    Float4,
    Float8,
    /// With precision and scale when they are stated and fit a decimal.
    Numeric(Option<(u8, i8)>),
    /// Every type whose binary form is its text.
    Text,
    Bytea,
    Date,
    Time,
    Timestamp,
    TimestampTz,
    Interval,
    Uuid,
    Json,
    Jsonb,
    Enum(Arc<[String]>),
    Array(Box<PgType>),
    /// Bytes that only PostgreSQL understands.
    Opaque,
}

/// One type with its modifier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PgType {
    /// How its values are coded.
    pub kind: Kind,
    /// As `format_type` spells it.
    pub name: String,
    /// In this database.
    pub oid: u32,
    /// The type modifier; -1 when there is none.
    pub modifier: i32,
    /// Whether values are read through `::text`; such a type cannot be written in binary form.
    pub as_text: bool,
    /// Whether the binary form means the same on every server that has a type of this name.
    pub portable: bool,
}

impl PgType {
    /// The type `text`.
    pub(super) fn text() -> Self {
        Self { kind: Kind::Text, name: "text".to_owned(), oid: 25, modifier: -1, as_text: false, portable: true }
    }

    /// Whether it is text that stays as it comes: neither cut nor padded.
    pub(super) fn is_text(&self) -> bool {
        self.oid == 25 || (self.oid == 1043 && self.modifier == -1)
    }

    /// The logical type of its values.
    pub(super) fn logical(&self) -> Type {
        match &self.kind {
            Kind::Bool => Type::Bool,
            Kind::Int2 => Type::Int(16),
            Kind::Int4 => Type::Int(32),
            Kind::Int8 => Type::Int(64),
            Kind::Oid => Type::UInt(32),
            Kind::Float4 => Type::Float(32),
            Kind::Float8 => Type::Float(64),
            Kind::Numeric(Some((precision, scale))) => Type::Decimal(*precision, *scale),
            Kind::Numeric(None) => Type::Number,
            Kind::Text => Type::Text,
            Kind::Bytea => Type::Bytes,
            Kind::Date => Type::Date,
            Kind::Time => Type::Time,
            Kind::Timestamp => Type::Timestamp,
            Kind::TimestampTz => Type::TimestampTz,
            Kind::Interval => Type::Interval,
            Kind::Uuid => Type::Uuid,
            Kind::Json | Kind::Jsonb => Type::Json,
            Kind::Enum(labels) => Type::Enum(Arc::clone(labels)),
            Kind::Array(item) => Type::Array(Box::new(item.logical())),
            Kind::Opaque => Type::Native { engine: "postgres", name: self.name.clone() },
        }
    }
}

/// A row of `pg_type`.
struct Entry {
    name: String,
    typtype: String,
    base: u32,
    base_modifier: i32,
    item: u32,
    is_array: bool,
    binary: bool,
    labels: Option<Vec<String>>,
}

/// Looks types up by identifier and modifier, in the order asked. Domains are seen through to their base type.
pub(super) async fn resolve(session: &mut Session, wanted: &[(u32, i32)]) -> Result<Vec<PgType>, Failure> {
    let entries = entries(session, wanted).await?;
    let based: Vec<(u32, i32)> = wanted.iter().map(|wanted| see_through(&entries, *wanted)).collect();
    let items = based.iter().map(|(oid, modifier)| {
        let item = entries.get(oid).map_or(0, |entry| entry.item);
        see_through(&entries, (item, *modifier))
    });
    let all: Vec<(u32, i32)> = based.iter().copied().chain(items).collect();
    let names = names(session, &all).await?;
    let (own, items) = names.split_at(based.len());
    let types = based.iter().zip(own).zip(items).map(|((key, name), item)| {
        let item = entries.get(&key.0).map(|entry| describe(&entries, see_through(&entries, (entry.item, key.1)), item, None));
        describe(&entries, *key, name, item)
    });
    Ok(types.collect())
}

fn see_through(entries: &HashMap<u32, Entry>, (mut oid, mut modifier): (u32, i32)) -> (u32, i32) {
    while let Some(domain) = entries.get(&oid).filter(|entry| entry.typtype == "d") {
        (oid, modifier) = (domain.base, domain.base_modifier);
    }
    (oid, modifier)
}

fn describe(entries: &HashMap<u32, Entry>, (oid, modifier): (u32, i32), name: &str, item: Option<PgType>) -> PgType {
    let as_text = PgType { as_text: true, ..PgType::text() };
    let Some(entry) = entries.get(&oid) else { return as_text };
    if AS_TEXT.contains(&oid) || !entry.binary || matches!(&*entry.typtype, "c" | "p") {
        return as_text;
    }
    let mut portable = true;
    let kind = match oid {
        16 => Kind::Bool,
        17 => Kind::Bytea,
        19 | 25 | 1042 | 1043 => Kind::Text,
        20 => Kind::Int8,
        21 => Kind::Int2,
        23 => Kind::Int4,
        26 => Kind::Oid,
        114 => Kind::Json,
        700 => Kind::Float4,
        701 => Kind::Float8,
        1082 => Kind::Date,
        1083 => Kind::Time,
        1114 => Kind::Timestamp,
        1184 => Kind::TimestampTz,
        1186 => Kind::Interval,
        1700 => Kind::Numeric(decimal(modifier)),
        2950 => Kind::Uuid,
        3802 => Kind::Jsonb,
        _ if entry.typtype == "e" => Kind::Enum(entry.labels.clone().unwrap_or_default().into()),
        _ if entry.name == "citext" => Kind::Text,
        _ if entry.is_array => {
            // The binary form of an array holds its items' type by number.
            portable = entry.item < FIRST_FOREIGN_OID;
            match item {
                Some(item) if item.as_text => return as_text,
                Some(item) if !matches!(item.kind, Kind::Opaque | Kind::Array(_)) => Kind::Array(Box::new(item)),
                _ if portable => Kind::Opaque,
                _ => return as_text,
            }
        }
        _ => Kind::Opaque,
    };
    PgType { kind, name: name.to_owned(), oid, modifier, as_text: false, portable }
}

/// Precision and scale of a numeric's modifier, when an exact decimal can hold every value.
fn decimal(modifier: i32) -> Option<(u8, i8)> {
    let packed = modifier.checked_sub(4).filter(|packed| *packed >= 0)?;
    let precision = (packed >> 16) & 0xffff;
    // Eleven bits with a sign, since PostgreSQL 15.
    let scale = ((packed & 0x7ff) ^ 1024) - 1024;
    let precision = precision.max(scale);
    (precision <= 76 && scale >= 0).then_some((precision as u8, scale as i8))
}

async fn entries(session: &mut Session, wanted: &[(u32, i32)]) -> Result<HashMap<u32, Entry>, Failure> {
    let oids: Vec<Oid> = wanted.iter().map(|(oid, _)| Oid(*oid)).collect();
    let rows = sqlx::query(
        "with recursive wanted(oid) as (
           select distinct unnest($1::oid[])
           union
           select next.oid from wanted join pg_catalog.pg_type t on t.oid = wanted.oid
             cross join lateral (values (t.typbasetype), (t.typelem)) next(oid) where next.oid <> 0)
         select t.oid, t.typname::text, t.typtype::text, t.typbasetype, t.typtypmod, t.typelem,
           coalesce(item.typarray = t.oid, false), t.typsend::oid <> 0 and t.typreceive::oid <> 0,
           (select array_agg(e.enumlabel::text order by e.enumsortorder) from pg_catalog.pg_enum e where e.enumtypid = t.oid)
         from wanted join pg_catalog.pg_type t on t.oid = wanted.oid left join pg_catalog.pg_type item on item.oid = t.typelem",
    )
    .bind(oids)
    .fetch_all(session.raw())
    .await
    .map_err(failure)?;
    rows.iter().map(|row| entry(row).map_err(failure)).collect()
}

fn entry(row: &PgRow) -> Result<(u32, Entry), sqlx::Error> {
    let entry = Entry {
        name: row.try_get(1)?,
        typtype: row.try_get(2)?,
        base: row.try_get::<Oid, _>(3)?.0,
        base_modifier: row.try_get(4)?,
        item: row.try_get::<Oid, _>(5)?.0,
        is_array: row.try_get(6)?,
        binary: row.try_get(7)?,
        labels: row.try_get(8)?,
    };
    Ok((row.try_get::<Oid, _>(0)?.0, entry))
}

async fn names(session: &mut Session, types: &[(u32, i32)]) -> Result<Vec<String>, Failure> {
    let (oids, modifiers): (Vec<Oid>, Vec<i32>) = types.iter().map(|(oid, modifier)| (Oid(*oid), *modifier)).unzip();
    sqlx::query_scalar(
        "select coalesce(pg_catalog.format_type(nullif(oid, 0), modifier), '-')
         from unnest($1::oid[], $2::int4[]) with ordinality as wanted(oid, modifier, place) order by place",
    )
    .bind(oids)
    .bind(modifiers)
    .fetch_all(session.raw())
    .await
    .map_err(failure)
}

/// Finds types by the names `format_type` gives them; names that this database knows no type by are left out. Nothing is parsed: a name of
/// another engine is simply not found.
pub(super) async fn by_name(session: &mut Session, names: &[String]) -> Result<HashMap<String, PgType>, Failure> {
    let modifiers: Vec<i32> = names.iter().map(|name| modifier_of(name)).collect();
    let rows: Vec<(String, Oid, i32)> = sqlx::query_as(
        "select wanted.name, t.oid, taken.modifier from unnest($1::text[], $2::int4[]) as wanted(name, modifier)
         cross join pg_catalog.pg_type t
         cross join lateral (select case when t.oid = any($3::oid[]) or t.typelem = any($3::oid[]) then wanted.modifier else -1 end) as taken(modifier)
         where t.typtype in ('b', 'e', 'r', 'm') and pg_catalog.format_type(t.oid, taken.modifier) = wanted.name",
    )
    .bind(names)
    .bind(&modifiers)
    .bind(COUNTED.map(Oid).as_slice())
    .fetch_all(session.raw())
    .await
    .map_err(failure)?;
    let wanted: Vec<(u32, i32)> = rows.iter().map(|(_, oid, modifier)| (oid.0, *modifier)).collect();
    let types = resolve(session, &wanted).await?;
    Ok(rows.into_iter().map(|(name, ..)| name).zip(types).collect())
}

/// The modifier that a canonical type name states in its parentheses; -1 without one or where it takes more than counting.
fn modifier_of(name: &str) -> i32 {
    let stated = || {
        let (kind, rest) = name.split_once('(')?;
        let (arguments, _) = rest.split_once(')')?;
        let mut arguments = arguments.split(',').map(|argument| argument.trim().parse::<i32>());
        let first = arguments.next()?.ok()?;
        Some(match kind {
            "numeric" => ((first << 16) | (arguments.next()?.ok()? & 0x7ff)) + 4,
            "character varying" | "character" => first + 4,
            "bit" | "bit varying" | "time" | "timestamp" => first,
            _ => return None,
        })
    };
    stated().unwrap_or(-1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modifiers_are_read_and_written() {
        for (name, decimal_of) in [
            ("numeric(15,2)", Some((15, 2))),
            ("numeric(76,0)", Some((76, 0))),
            ("numeric(3,5)", Some((5, 5))),
            ("numeric(77,0)", None),
            ("numeric(5,-2)", None),
            ("numeric", None),
        ] {
            assert_eq!(decimal(modifier_of(name)), decimal_of, "{name}");
        }
        assert_eq!(modifier_of("character varying(20)"), 24);
        assert_eq!(modifier_of("timestamp(3) without time zone"), 3);
        assert_eq!(modifier_of("text"), -1);
    }
}

//! The SQL dialects that haul writes, and the only place that quotes identifiers and literals.

/// The SQL dialects that haul writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// PostgreSQL.
    Postgres,
    /// SQLite.
    Sqlite,
    /// DataFusion's, used by transforms.
    DataFusion,
}

impl Dialect {
    /// Quotes one identifier. The error says why the engine could not have such a name: a NUL, or too long.
    pub fn ident(self, name: &str) -> Result<String, String> {
        if name.contains('\0') {
            return Err(format!("the name `{}` holds a NUL character", name.escape_debug()));
        }
        if name.is_empty() {
            return Err("a name is empty".to_owned());
        }
        if self == Self::Postgres && name.len() > 63 {
            return Err(format!("the name `{name}` has {} bytes; PostgreSQL keeps only 63", name.len()));
        }
        Ok(format!("\"{}\"", name.replace('"', "\"\"")))
    }

    /// Quotes a dotted name, part by part.
    pub fn qualified(self, parts: &[String]) -> Result<String, String> {
        Ok(parts.iter().map(|part| self.ident(part)).collect::<Result<Vec<_>, _>>()?.join("."))
    }

    /// A text literal that no text can break out of. None of the dialects can hold a NUL.
    pub fn text(self, value: &str) -> Result<String, String> {
        if value.contains('\0') {
            return Err("a text with a NUL character cannot stand in SQL".to_owned());
        }
        let doubled = value.replace('\'', "''");
        // The E form reads backslashes the same way whatever `standard_conforming_strings` says.
        Ok(if self == Self::Postgres && value.contains('\\') {
            format!("E'{}'", doubled.replace('\\', "\\\\"))
        } else {
            format!("'{doubled}'")
        })
    }

    /// A boolean literal. SQLite has none; it stores 1 and 0.
    pub fn bool(self, value: bool) -> &'static str {
        match (self, value) {
            (Self::Sqlite, true) => "1",
            (Self::Sqlite, false) => "0",
            (_, true) => "true",
            (_, false) => "false",
        }
    }

    /// A date literal of a checked `YYYY-MM-DD`. SQLite keeps dates as text.
    pub fn date(self, date: &str) -> String {
        match self {
            Self::Sqlite => format!("'{date}'"),
            Self::Postgres | Self::DataFusion => format!("DATE '{date}'"),
        }
    }

    /// An instant of a checked RFC 3339 text in UTC. DataFusion and SQLite read the bare text as the type it is compared with.
    pub fn timestamp(self, instant: &str) -> String {
        match self {
            Self::Postgres => format!("TIMESTAMPTZ '{instant}'"),
            Self::Sqlite | Self::DataFusion => format!("'{instant}'"),
        }
    }
}

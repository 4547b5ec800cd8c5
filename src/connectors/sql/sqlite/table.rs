//! What a database holds: tables, views, their columns and unique keys, as SQLite's own pragmas tell them.

use rusqlite::{Connection as Sqlite, OptionalExtension, Result, params};

/// One table or view.
#[derive(Clone, Debug)]
pub(super) struct Table {
    /// As the database spells it.
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) columns: Vec<TableColumn>,
    /// The place of the column that is SQLite's own row number under another name.
    pub(super) row_number: Option<usize>,
    /// A name under which the row number can be read; `None` for views, tables without one, and tables that hide all three names.
    pub(super) rowid: Option<&'static str>,
    /// The columns of the primary key and of every unique index over whole columns, primary key first.
    pub(super) unique: Vec<Vec<String>>,
    /// The statement that made it.
    pub(super) sql: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Table,
    WithoutRowid,
    View,
    Virtual,
}

#[derive(Clone, Debug)]
pub(super) struct TableColumn {
    pub(super) name: String,
    /// The declared type; empty when there is none.
    pub(super) declared: String,
    pub(super) not_null: bool,
    pub(super) has_default: bool,
    pub(super) generated: bool,
}

impl Table {
    /// Looks a table or view up; SQLite's names do not tell ASCII letters of different case apart.
    pub(super) fn find(connection: &Sqlite, name: &str) -> Result<Option<Self>> {
        let found: Option<(String, String, bool)> = connection
            .query_row("select name, type, wr from pragma_table_list where schema = 'main' and name = ?1 collate nocase", [name], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?))
            })
            .optional()?;
        let Some((name, kind, without_rowid)) = found else { return Ok(None) };
        let kind = match kind.as_str() {
            "view" => Kind::View,
            "virtual" => Kind::Virtual,
            _ if without_rowid => Kind::WithoutRowid,
            _ => Kind::Table,
        };
        let (columns, key) = columns(connection, &name)?;
        let mut unique: Vec<Vec<String>> = Vec::new();
        if !key.is_empty() {
            unique.push(key.iter().map(|place| columns[*place].name.clone()).collect());
        }
        let mut own_index = false;
        for (index, origin) in unique_indexes(connection, &name)? {
            own_index |= origin == "pk";
            let parts = index_columns(connection, &index)?;
            if let Some(parts) = parts.filter(|parts| !unique.contains(parts)) {
                unique.push(parts);
            }
        }
        let row_number = match key[..] {
            [place] if kind == Kind::Table && !own_index && columns[place].declared.eq_ignore_ascii_case("integer") => Some(place),
            _ => None,
        };
        let hidden = |name: &str| columns.iter().any(|column| column.name.eq_ignore_ascii_case(name));
        let rowid = match kind {
            Kind::Table => ["rowid", "_rowid_", "oid"].into_iter().find(|name| !hidden(name)),
            _ => None,
        };
        let sql = connection
            .query_row("select sql from sqlite_schema where name = ?1 and type in ('table', 'view')", [&name], |row| row.get(0))
            .optional()?
            .flatten()
            .unwrap_or_default();
        Ok(Some(Self { name, kind, columns, row_number, rowid, unique, sql }))
    }

    /// The column of that name: spelled the same, else the same but for the case of ASCII letters.
    pub(super) fn column(&self, name: &str) -> Option<(usize, &TableColumn)> {
        let columns = || self.columns.iter().enumerate();
        columns().find(|(_, column)| column.name == name).or_else(|| columns().find(|(_, column)| column.name.eq_ignore_ascii_case(name)))
    }

    /// Whether no value of a column can be NULL. In tables with row numbers SQLite lets NULLs into primary keys.
    pub(super) fn never_null(&self, place: usize) -> bool {
        self.columns[place].not_null || self.row_number == Some(place)
    }

    /// A unique key none of whose columns can be NULL, the primary key before others; empty when there is none.
    pub(super) fn key(&self) -> Vec<String> {
        let solid = |key: &&Vec<String>| key.iter().all(|name| self.column(name).is_some_and(|(place, _)| self.never_null(place)));
        self.unique.iter().find(solid).cloned().unwrap_or_default()
    }
}

/// All columns but the hidden ones of virtual tables, and the places of the primary key's columns in the key's order.
fn columns(connection: &Sqlite, table: &str) -> Result<(Vec<TableColumn>, Vec<usize>)> {
    let mut statement = connection
        .prepare("select name, type, \"notnull\", dflt_value is not null, pk, hidden from pragma_table_xinfo(?1) where hidden <> 1")?;
    let mut key = Vec::new();
    let mut columns = Vec::new();
    let mut rows = statement.query([table])?;
    while let Some(row) = rows.next()? {
        let place: i64 = row.get(4)?;
        if place > 0 {
            key.push((place, columns.len()));
        }
        columns.push(TableColumn {
            name: row.get(0)?,
            declared: row.get(1)?,
            not_null: row.get(2)?,
            has_default: row.get(3)?,
            generated: row.get::<_, i64>(5)? != 0,
        });
    }
    key.sort_unstable();
    Ok((columns, key.into_iter().map(|(_, column)| column).collect()))
}

fn unique_indexes(connection: &Sqlite, table: &str) -> Result<Vec<(String, String)>> {
    let mut statement =
        connection.prepare("select name, origin from pragma_index_list(?1) where \"unique\" and not partial order by seq desc")?;
    statement.query_map([table], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
}

/// `None` when the index holds an expression.
fn index_columns(connection: &Sqlite, index: &str) -> Result<Option<Vec<String>>> {
    let mut statement = connection.prepare("select name from pragma_index_info(?1) order by seqno")?;
    statement.query_map(params![index], |row| row.get(0))?.collect()
}

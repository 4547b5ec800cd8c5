//! The tables that are followed, as they are now.

use sqlx::postgres::types::Oid;

use super::slot::Slot;
use crate::connectors::sql::postgres::catalog::{self, TableColumn, ident};
use crate::connectors::sql::postgres::columns_of;
use crate::connectors::sql::postgres::error::failure;
use crate::connectors::sql::postgres::session::Session;
use crate::connectors::sql::postgres::source::{PgSource, Relation};
use crate::connectors::sql::postgres::types::{Kind, PgType};
use crate::data::{Column, Schema, Type, change};
use crate::failure::Failure;

/// One table.
#[derive(Clone)]
pub(super) struct Followed {
    /// Which of several tables it is; `None` of a single one.
    pub number: Option<usize>,
    pub label: String,
    pub oid: u32,
    /// Quoted.
    pub table: String,
    pub schema: Schema,
    /// Places of the key in the schema.
    pub key: Vec<usize>,
    pub key_names: Vec<String>,
    types: Vec<PgType>,
    /// The numbers of the columns' types, as the log names them.
    pub logged: Vec<u32>,
    /// Transactions that ended before this place in the log may have seen columns that are gone now.
    pub seen: u64,
}

impl Followed {
    pub(super) async fn find(session: &mut Session, source: &PgSource, number: Option<usize>) -> Result<Self, Failure> {
        let seen = Slot::end_of_log(session).await?;
        let relation = Relation::find(session, &source.spec).await?;
        let label = relation.label.clone();
        let Some(table) = relation.table.as_ref().filter(|table| table.kind == 'r') else {
            return Err(Failure::permanent(format!("{label} is no plain table, and only the changes of one can be followed"))
                .help("follow its partitions one by one, or follow it by a cursor"));
        };
        let (identity, primary_key, children): (String, bool, bool) = sqlx::query_as(
            "select c.relreplident::text,
               exists (select from pg_catalog.pg_index i where i.indrelid = c.oid and i.indisprimary and i.indimmediate),
               exists (select from pg_catalog.pg_inherits h where h.inhparent = c.oid)
             from pg_catalog.pg_class c where c.oid = $1",
        )
        .bind(Oid(table.oid))
        .fetch_one(session.raw())
        .await
        .map_err(failure)?;
        if children {
            return Err(Failure::permanent(format!("tables inherit from {label}, and the log tells of their rows by other names"))
                .help("follow those tables one by one, or follow it by a cursor"));
        }
        // A server refuses every update and delete of a published table whose rows have no name.
        if relation.key.is_empty() || !(identity == "f" || identity == "d" && primary_key) {
            return Err(Failure::permanent(format!(
                "changed and deleted rows of {label} have no name: it has no primary key, or another replica identity"
            ))
            .help(format!("add a primary key, and `alter table {label} replica identity default`")));
        }
        // Generated columns are not in the log; who computes them there computes them here.
        let columns: Vec<TableColumn> = table.columns.iter().filter(|column| !column.generated).cloned().collect();
        if let Some(column) = columns.iter().find(|column| column.ty.as_text) {
            return Err(Failure::permanent(format!(
                "the column `{}` of {label} has the type {}, which has no portable binary form",
                column.name, column.ty.name
            ))
            .help("follow the table by a cursor instead"));
        }
        let schema = columns_of(&columns);
        let logged: Vec<(String, Oid)> =
            sqlx::query_as("select attname::text, atttypid from pg_catalog.pg_attribute where attrelid = $1 and attnum > 0")
                .bind(Oid(table.oid))
                .fetch_all(session.raw())
                .await
                .map_err(failure)?;
        let type_of = |name: &String| logged.iter().find(|(other, _)| other == name).map_or(0, |(_, ty)| ty.0);
        let logged = schema.columns.iter().map(|column| type_of(&column.name)).collect();
        let key = relation.key.iter().filter_map(|name| schema.find(name).map(|(place, _)| place)).collect();
        Ok(Self {
            number,
            oid: table.oid,
            table: catalog::quoted(&[table.schema.clone(), table.name.clone()])?,
            types: columns.into_iter().map(|column| column.ty).collect(),
            key,
            key_names: relation.key.clone(),
            schema,
            label,
            logged,
            seen,
        })
    }

    /// Columns whose values may be kept out of line, from where an update that does not change them does not fetch them for the log. A table whose
    /// rows cannot grow so large has no such place.
    pub(super) async fn unsent(&self, session: &mut Session) -> Result<Vec<String>, Failure> {
        let names: Vec<String> = sqlx::query_scalar(
            "select a.attname::text from pg_catalog.pg_class c join pg_catalog.pg_attribute a on a.attrelid = c.oid
             where c.oid = $1 and c.reltoastrelid <> 0 and c.relreplident <> 'f'
               and a.attnum > 0 and not a.attisdropped and a.attgenerated = '' and a.attstorage <> 'p' order by a.attnum",
        )
        .bind(Oid(self.oid))
        .fetch_all(session.raw())
        .await
        .map_err(failure)?;
        Ok(names.into_iter().filter(|name| !self.key_names.contains(name)).collect())
    }

    /// The columns of a batch of changes: those of the table, which may all be NULL where a row is gone, and two more.
    pub(super) fn wire(&self) -> (Schema, Vec<PgType>) {
        let mut columns: Vec<Column> = self.schema.columns.iter().map(|column| Column { nullable: true, ..column.clone() }).collect();
        columns.extend([change::CHANGE, change::KEPT].map(|name| Column::new(name, Type::Text)));
        let own = self.types.iter().zip(&columns).map(|(ty, column)| if is_native(ty, column) { PgType::text() } else { ty.clone() });
        let types = own.chain([PgType::text(), PgType::text()]).collect();
        (Schema { columns }, types)
    }

    /// The same as the log has it, where nothing is in its text form.
    pub(super) fn logged_wire(&self) -> (Schema, Vec<PgType>) {
        let (mut schema, mut types) = self.wire();
        for ((column, wire), ty) in schema.columns.iter_mut().zip(&mut types).zip(&self.types) {
            column.ty = ty.logical();
            wire.clone_from(ty);
        }
        (schema, types)
    }

    /// The columns that the log has in the binary form of their type, and the plan reads in their text form.
    pub(super) fn natives(&self) -> Vec<(usize, Oid)> {
        let columns = self.types.iter().zip(&self.schema.columns).enumerate();
        columns.filter(|(_, (ty, column))| is_native(ty, column)).map(|(place, (ty, _))| (place, Oid(ty.oid))).collect()
    }

    /// The statement that copies the table in the form of changes.
    pub(super) fn copy(&self) -> Result<String, Failure> {
        let selected = |(column, ty): (&Column, &PgType)| {
            let name = ident(&column.name)?;
            Ok::<_, Failure>(if is_native(ty, column) { format!("{name}::text") } else { name })
        };
        let names = self.schema.columns.iter().zip(&self.types).map(selected).collect::<Result<Vec<_>, _>>()?.join(", ");
        Ok(format!("copy (select {names}, '{}'::text, null::text from {}) to stdout (format binary)", change::PUT, self.table))
    }
}

/// Whether a column is read in its text form, which its type does not have in the log.
fn is_native(ty: &PgType, column: &Column) -> bool {
    ty.kind == Kind::Opaque && column.ty == Type::Text
}

/// Only such a server writes down what logical decoding needs.
pub(super) async fn can_decode(session: &mut Session) -> Result<(), Failure> {
    let level: String = sqlx::query_scalar("show wal_level").fetch_one(session.raw()).await.map_err(failure)?;
    if level == "logical" {
        return Ok(());
    }
    Err(Failure::permanent(format!("the server's `wal_level` is `{level}`, and changes can only be followed with `logical`"))
        .help("set `wal_level = logical` in postgresql.conf and restart the server, or follow the table by a cursor"))
}

//! The texts of values that only PostgreSQL understands. The log has all values in binary form or none; the server itself says what such bytes
//! are as text.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StringArray};
use arrow::record_batch::RecordBatch;
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{PgArgumentBuffer, PgTypeInfo};
use sqlx::{Encode, Postgres};

use super::followed::Followed;
use crate::connectors::sql::postgres::error::failure;
use crate::connectors::sql::postgres::session::{Pool, Session, Use};
use crate::data::Chunk;
use crate::failure::Failure;

/// Values that one statement asks for.
const ASKED: usize = 1000;

/// A value in the binary form of a type.
struct Wire<'a> {
    bytes: &'a [u8],
    ty: Oid,
}

impl sqlx::Type<Postgres> for Wire<'_> {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_name("unknown")
    }
}

impl<'q> Encode<'q, Postgres> for Wire<'_> {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        buffer.extend_from_slice(self.bytes);
        Ok(IsNull::No)
    }

    fn produces(&self) -> Option<PgTypeInfo> {
        Some(PgTypeInfo::with_oid(self.ty))
    }
}

/// Rows from the log with the columns that the plan reads in their text form.
pub(super) async fn as_text(pool: &Arc<Pool>, table: &Followed, chunk: Chunk) -> Result<Chunk, Failure> {
    let natives = table.natives();
    if natives.is_empty() {
        return Ok(chunk);
    }
    let mut columns = chunk.batch.columns().to_vec();
    let mut session = None;
    for (place, ty) in natives {
        columns[place] = Arc::new(if columns[place].null_count() == columns[place].len() {
            StringArray::new_null(columns[place].len())
        } else {
            let session = match &mut session {
                Some(session) => session,
                None => session.insert(pool.session(Use::Read).await?),
            };
            texts(session, &columns[place], ty).await?
        });
    }
    if let Some(session) = session {
        session.release();
    }
    let batch = RecordBatch::try_new(table.wire().0.to_arrow(), columns);
    let batch = batch.map_err(|error| Failure::permanent(format!("changes of {} do not fit their columns", table.label)).cause(error))?;
    Ok(Chunk { batch, ..chunk })
}

async fn texts(session: &mut Session, values: &ArrayRef, ty: Oid) -> Result<StringArray, Failure> {
    let values = values.as_binary::<i32>();
    let rows: Vec<usize> = (0..values.len()).filter(|row| values.is_valid(*row)).collect();
    let mut texts: Vec<Option<String>> = vec![None; values.len()];
    for rows in rows.chunks(ASKED) {
        let holes: Vec<String> = (1..=rows.len()).map(|number| format!("${number}::text")).collect();
        let statement = format!("select array[{}]", holes.join(", "));
        let mut query = sqlx::query_scalar(&statement).persistent(false);
        for row in rows {
            query = query.bind(Wire { bytes: values.value(*row), ty });
        }
        let found: Vec<Option<String>> = query.fetch_one(session.raw()).await.map_err(failure)?;
        for (row, text) in rows.iter().zip(found) {
            texts[*row] = text;
        }
    }
    Ok(texts.into())
}

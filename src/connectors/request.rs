//! What a source gives once it is asked for only a part.

use super::ReadRequest;
use crate::data::{Column, Schema, Type};
use crate::failure::Failure;

/// Applies a read request's projection and text reads to a schema, for connectors.
pub fn requested(schema: &Schema, request: &ReadRequest) -> Result<Schema, Failure> {
    let mut columns: Vec<Column> = match &request.columns {
        None => schema.columns.clone(),
        Some(names) => names
            .iter()
            .map(|name| {
                let found = schema.find(name).map(|(_, column)| column.clone());
                found.ok_or_else(|| Failure::permanent(format!("the source has no column `{name}`")))
            })
            .collect::<Result<_, _>>()?,
    };
    for column in &mut columns {
        if request.as_text.contains(&column.name) {
            column.ty = Type::Text;
        }
    }
    Ok(Schema { columns })
}

//! What keys hold of rows, for changes that leave values as they are.

use redis::Value;

use super::{Encoder, Values, Written};
use crate::connectors::redis::Command;
use crate::connectors::redis::reply::{bytes, items};
use crate::data::text::json::members;
use crate::define::pipeline::{KeyTtl, RowShape};
use crate::failure::Failure;

impl Encoder {
    /// The columns that are stored, by their places in a row.
    pub(in crate::connectors::redis::rows) fn fields(&self) -> &[usize] {
        &self.fields
    }

    /// Whether keys are written to expire.
    pub(in crate::connectors::redis::rows) fn expires_keys(&self) -> bool {
        self.spec.ttl != KeyTtl::Unsaid
    }

    /// The command that asks for what a key stores.
    pub(in crate::connectors::redis::rows) fn ask(&self, key: &[u8]) -> Command {
        let names = self.fields.iter().map(|place| self.schema.columns[*place].name.as_str());
        match self.spec.shape {
            RowShape::Hash => names.fold(Command::new("HMGET").key(key), Command::arg),
            _ => Command::new("GET").key(key),
        }
    }

    /// What a key stores, by the answer to [`Encoder::ask`]; `None` when it is not there.
    pub(in crate::connectors::redis::rows) fn answered(&self, reply: Value) -> Result<Option<Values>, Failure> {
        if self.spec.shape == RowShape::Hash {
            let values: Values = items(reply)?.into_iter().map(bytes).collect::<Result<_, _>>()?;
            return Ok(values.iter().any(Option::is_some).then_some(values));
        }
        let Some(text) = bytes(reply)? else { return Ok(None) };
        if self.spec.shape != RowShape::Json {
            return Ok(Some(vec![Some(text)]));
        }
        let mut values = vec![None; self.fields.len()];
        let text = String::from_utf8_lossy(&text);
        members(&text, |name, value| {
            if let Some(at) = self.fields.iter().position(|place| self.schema.columns[*place].name == name) {
                values[at] = Some(value.raw().as_bytes().to_vec());
            }
            Ok(())
        })
        .map_err(|why| Failure::permanent(format!("a key that was written as JSON holds something else: {why}")))?;
        Ok(Some(values))
    }

    /// A row whose values are known, as what its key must hold.
    pub(in crate::connectors::redis::rows) fn whole(&self, key: &[u8], values: Values, expires_ms: Option<i64>) -> Written {
        let mut written = Written { commands: Vec::new(), expected: None, expires_ms, appended: 0 };
        self.put(key, values, false, &mut written);
        self.expire(key, &mut written);
        written
    }
}

//! Keys as a source of rows: which columns, which keys.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::OnceCell;

use super::layout::{self, Layout};
use super::reading::RowReading;
use super::sample;
use crate::connectors::redis::Server;
use crate::connectors::{Description, ReadRequest, Reading, Source, requested};
use crate::data::Schema;
use crate::define::pipeline::{RedisRows, RowShape};
use crate::failure::Failure;

/// The rows of some keys. Columns are looked for once.
pub(super) struct RowSource {
    server: Arc<Server>,
    spec: Arc<RedisRows>,
    found: OnceCell<(Schema, Vec<bool>)>,
}

impl RowSource {
    /// Touches nothing yet.
    pub(super) fn new(server: Arc<Server>, spec: RedisRows) -> Self {
        Self { server, spec: Arc::new(spec), found: OnceCell::new() }
    }

    async fn columns(&self) -> Result<&(Schema, Vec<bool>), Failure> {
        self.found.get_or_try_init(|| sample::columns(&self.server, &self.spec)).await
    }
}

#[async_trait]
impl Source for RowSource {
    async fn describe(&self) -> Result<Description, Failure> {
        let masters = self.server.topology().await?.masters.len();
        let (schema, _) = self.columns().await?;
        let pieces = if self.spec.shape.one_row() { "each key at one moment" } else { "large keys in pieces" };
        let nodes = if masters == 1 { String::new() } else { format!("{masters} masters; ") };
        let live = if self.spec.key.constant().is_some() { "one key" } else { "keys that stay during the read are read once" };
        Ok(Description {
            schema: schema.clone(),
            key: layout::key(&self.spec),
            rows: None,
            bytes: None,
            wire: None,
            consistency: format!("{nodes}{live}, {}", if self.spec.shape == RowShape::Stream { "entries in their order" } else { pieces }),
        })
    }

    async fn open(&self, request: ReadRequest) -> Result<Arc<dyn Reading>, Failure> {
        if request.filter.is_some() {
            return Err(Failure::permanent("Redis cannot filter rows while they are read"));
        }
        let (schema, guessed) = self.columns().await?;
        let wanted = requested(schema, &request)?;
        let guessed = wanted.columns.iter().map(|column| {
            let (place, own) = schema.find(&column.name)?;
            // A column that is asked for as text is read as it is kept.
            Some(guessed[place] && own.ty == column.ty)
        });
        let guessed = guessed.map(|guessed| guessed.unwrap_or(false)).collect();
        let layout = Layout::of(&self.spec, &wanted, guessed)?;
        Ok(Arc::new(RowReading::new(Arc::clone(&self.server), Arc::clone(&self.spec), layout, request.limit)))
    }
}

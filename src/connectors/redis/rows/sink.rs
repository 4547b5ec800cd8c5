//! Keys as a sink of rows: which worker may write, and what is read back.

use std::sync::Arc;

use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt, stream};

use super::layout::Layout;
use super::reading::RowReading;
use super::target::{self, Route};
use super::writer::{Place, RowWriter};
use crate::connectors::redis::{Marks, Server, Told};
use crate::connectors::{Claim, Load, LoadKey, Mark, Reading, Sink, SplitGoal, Target, TargetProblem, Writer};
use crate::data::{BatchLimit, BatchStream, Schema};
use crate::define::pipeline::{KeyTtl, OtherTypes, RedisRows, RedisRowsSink};
use crate::failure::Failure;

/// Rows written into keys.
pub(super) struct RowSink {
    server: Arc<Server>,
    spec: Arc<RedisRowsSink>,
    told: Told,
}

impl RowSink {
    /// Touches nothing yet.
    pub(super) fn new(server: Arc<Server>, spec: RedisRowsSink) -> Self {
        Self { server, spec: Arc::new(spec), told: Told::default() }
    }

    async fn route(&self) -> Result<Route, Failure> {
        Ok(target::route(&self.spec, self.server.facts().await?.cluster))
    }

    /// What is written, as an input would name it.
    fn written(&self, schema: &Schema) -> RedisRows {
        let ttl = match &self.spec.ttl {
            KeyTtl::Column(name) => Some(name.clone()),
            KeyTtl::After(_) | KeyTtl::Unsaid => None,
        };
        RedisRows {
            connection: self.spec.connection.clone(),
            shape: self.spec.shape,
            key: self.spec.key.clone(),
            columns: schema.columns.iter().map(|column| (column.name.clone(), column.ty.clone())).collect(),
            sample: 0,
            ttl,
            other_types: OtherTypes::Skip,
        }
    }

    async fn marks(&self, key: &LoadKey) -> Result<Marks, Failure> {
        let with = match self.route().await? {
            Route::Transactions(slot) => slot,
            Route::Spread => None,
        };
        Ok(Marks::new(Arc::clone(&self.server), key, with, Arc::clone(&self.told)))
    }
}

#[async_trait]
impl Sink for RowSink {
    async fn plan(&self, incoming: &Schema) -> Result<Result<Target, Vec<TargetProblem>>, Failure> {
        Ok(target::plan(&self.spec, self.server.facts().await?, self.server.most_lent(), incoming))
    }

    async fn claim(&self, key: &LoadKey) -> Result<Claim, Failure> {
        self.marks(key).await?.claim(key).await
    }

    async fn prepare(&self, load: &Load, note: &str) -> Result<(), Failure> {
        self.marks(&load.key).await?.begin(&load.key, load.epoch, note).await
    }

    async fn writer(&self, load: &Load, split: &str, from: Option<&Mark>) -> Result<Box<dyn Writer>, Failure> {
        let to = Place { server: Arc::clone(&self.server), route: self.route().await?, marks: self.marks(&load.key).await? };
        Ok(Box::new(RowWriter::new(to, &self.spec, self.written(&load.schema), load, split, from.cloned())?))
    }

    async fn publish(&self, load: &Load) -> Result<(), Failure> {
        self.marks(&load.key).await?.publish(load.epoch).await
    }

    async fn read_back(&self, load: &Load, limit: BatchLimit) -> Result<BatchStream, Failure> {
        let spec = self.written(&load.schema);
        let layout = Layout::of(&spec, &load.schema, vec![false; load.schema.columns.len()])?;
        let reading = Arc::new(RowReading::of_own(Arc::clone(&self.server), Arc::new(spec), layout, limit));
        let splits = reading.splits(SplitGoal { most: 1, bytes: u64::MAX }).await?.splits;
        let rows = stream::iter(splits).then(move |split| {
            let reading = Arc::clone(&reading);
            async move { reading.read(&split, None).await }
        });
        Ok(Box::pin(rows.try_flatten().map(|chunk| {
            let chunk = chunk?;
            match chunk.rejects.first() {
                None => Ok(chunk),
                Some(reject) => {
                    Err(Failure::permanent(format!("the key `{}` holds another value than was written: {}", reject.origin, reject.reason)))
                }
            }
        })))
    }

    fn staged(&self) -> bool {
        false
    }

    async fn abandon(&self, key: &LoadKey) -> Result<(), Failure> {
        self.marks(key).await?.forget().await
    }
}

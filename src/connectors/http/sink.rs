//! An API as a sink: what rows become, and what can be promised.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;

use super::api::Api;
use super::record::Record;
use super::writer::RequestWriter;
use crate::connectors::files::{can_be_json, json_columns};
use crate::connectors::text::own_members;
use crate::connectors::{Claim, Load, LoadKey, Mark, Sink, Target, TargetProblem, Writer};
use crate::data::{BatchLimit, BatchStream, Schema};
use crate::define::pipeline::{HttpPayload, HttpSink};
use crate::failure::Failure;

impl Api {
    /// What a stage writes, in the project in `base`.
    pub fn sink(self: &Arc<Self>, spec: &HttpSink, base: &Path) -> Arc<dyn Sink> {
        Arc::new(RequestSink { api: Arc::clone(self), spec: Arc::new(spec.clone()), base: base.to_owned() })
    }
}

/// Requests that carry rows.
struct RequestSink {
    api: Arc<Api>,
    spec: Arc<HttpSink>,
    base: PathBuf,
}

impl RequestSink {
    fn record(&self, key: &LoadKey) -> Record {
        Record::new(&self.base, key)
    }
}

#[async_trait]
impl Sink for RequestSink {
    async fn plan(&self, incoming: &Schema) -> Result<Result<Target, Vec<TargetProblem>>, Failure> {
        let mut problems = Vec::new();
        let template = match &self.spec.payload {
            HttpPayload::Template(template) => Some(("template", template)),
            HttpPayload::Ndjson | HttpPayload::Array | HttpPayload::Object => None,
        };
        for (field, template) in template.into_iter().chain([("path", &self.spec.path)]) {
            for name in template.columns().filter(|name| incoming.find(name).is_none()) {
                let names: Vec<&str> = incoming.columns.iter().map(|column| column.name.as_str()).collect();
                problems.push(TargetProblem {
                    code: "target-columns",
                    field,
                    message: format!("there is no column `{name}`, which stands in `{field}`"),
                    help: format!("the columns are {}", names.join(", ")),
                });
            }
        }
        for column in incoming.columns.iter().filter(|column| !can_be_json(&column.ty)) {
            problems.push(TargetProblem {
                code: "target-type",
                field: "",
                message: format!("`{}` is {}, which only its own engine can read", column.name, column.ty),
                help: format!("cast it: `cast: {{ {}: text }}`", column.name),
            });
        }
        if self.spec.changes && !self.spec.by_place() {
            problems.extend(own_members(incoming));
        }
        if !problems.is_empty() {
            return Ok(Err(problems));
        }
        Ok(Ok(Target {
            columns: json_columns(incoming),
            ddl: Vec::new(),
            exists: true,
            wire: None,
            writers: self.api.most_requests(),
            whole: false,
            checkpoints: true,
            guarantee: "at least once: what is sent again bears the same Idempotency-Key, and counts once where the server heeds it"
                .to_owned(),
            reads_as: incoming.clone(),
            tables: Vec::new(),
        }))
    }

    async fn claim(&self, key: &LoadKey) -> Result<Claim, Failure> {
        self.record(key).claim(key).await
    }

    async fn prepare(&self, load: &Load, note: &str) -> Result<(), Failure> {
        self.record(&load.key).begin(load, note).await
    }

    async fn writer(&self, load: &Load, split: &str, from: Option<&Mark>) -> Result<Box<dyn Writer>, Failure> {
        let record = self.record(&load.key);
        let standing = record.standing(load, split).await?;
        Ok(Box::new(RequestWriter::new(Arc::clone(&self.api), Arc::clone(&self.spec), load, split, from, record, standing)))
    }

    async fn publish(&self, load: &Load) -> Result<(), Failure> {
        self.record(&load.key).publish(load).await
    }

    async fn read_back(&self, _: &Load, _: BatchLimit) -> Result<BatchStream, Failure> {
        Err(Failure::permanent("what was sent to an HTTP API cannot be read back").help("write `verify: none`"))
    }

    fn staged(&self) -> bool {
        false
    }

    async fn abandon(&self, key: &LoadKey) -> Result<(), Failure> {
        self.record(key).forget().await
    }
}

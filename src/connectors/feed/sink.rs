//! A feed as a sink: what rows become, whose feed it is, and which worker may go on.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use rusqlite::Transaction;

use super::file::{self, Settings, database};
use super::writer::FeedWriter;
use crate::connectors::files::{can_be_json, json_columns};
use crate::connectors::sql::sqlite::{blocking, check_epoch, in_transaction, marks};
use crate::connectors::text::own_members;
use crate::connectors::{Claim, Load, LoadKey, Mark, Sink, Target, TargetProblem, Writer};
use crate::data::{BatchLimit, BatchStream, Schema, Type};
use crate::define::pipeline::FeedSink;
use crate::failure::Failure;
use crate::tasks;

/// A feed of the project in `base`.
pub fn sink(spec: &FeedSink, base: &Path) -> Arc<dyn Sink> {
    Arc::new(Feed { spec: Arc::new(spec.clone()), base: base.to_owned() })
}

struct Feed {
    spec: Arc<FeedSink>,
    base: PathBuf,
}

impl Feed {
    /// Runs work in one transaction on the feed's file, which is made when it is missing.
    async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let database = database(&self.base, &self.spec.feed)?;
        let opening = Arc::clone(&database);
        let connection = tasks::blocking(move || opening.open_writer()).await?;
        let (_, result) = blocking(connection, move |connection, _| in_transaction(&database, connection, work)).await?;
        Ok(result)
    }
}

#[async_trait]
impl Sink for Feed {
    async fn plan(&self, incoming: &Schema) -> Result<Result<Target, Vec<TargetProblem>>, Failure> {
        let problems = problems(&self.spec, incoming);
        if !problems.is_empty() {
            return Ok(Err(problems));
        }
        Ok(Ok(Target {
            columns: json_columns(incoming),
            ddl: Vec::new(),
            exists: file::path(&self.base, &self.spec.feed).exists(),
            wire: None,
            writers: 1,
            whole: false,
            checkpoints: true,
            guarantee: "effectively once: events and mark in one transaction; each event has a number, and clients go on behind the last one they got"
                .to_owned(),
            reads_as: incoming.clone(),
            tables: Vec::new(),
        }))
    }

    async fn claim(&self, key: &LoadKey) -> Result<Claim, Failure> {
        let (spec, key) = (Arc::clone(&self.spec), key.clone());
        let database = database(&self.base, &self.spec.feed)?;
        self.write(move |transaction| {
            let failed = |error| database.failure(error);
            file::create(transaction).map_err(failed)?;
            marks::create(transaction).map_err(failed)?;
            let (owner, own) = (file::owner(transaction).map_err(failed)?, file::owner_of(&key));
            if !owner.is_empty() && owner != own {
                return Err(Failure::permanent(format!("the feed `{}` is written by {owner}", spec.feed))
                    .help("give this one another name; or stop the other, and take the feed over with `--fresh`: its numbers go on"));
            }
            file::set_owner(transaction, &own).map_err(failed)?;
            file::set_settings(transaction, &Settings::of(&spec)).map_err(failed)?;
            marks::claim(transaction, &key, false).map_err(failed)
        })
        .await
    }

    async fn prepare(&self, load: &Load, note: &str) -> Result<(), Failure> {
        let (load, note) = (load.clone(), note.to_owned());
        let database = database(&self.base, &self.spec.feed)?;
        self.write(move |transaction| {
            check_epoch(&database, transaction, &load)?;
            marks::begin(transaction, &load.key, &note).map_err(|error| database.failure(error))
        })
        .await
    }

    async fn writer(&self, load: &Load, split: &str, from: Option<&Mark>) -> Result<Box<dyn Writer>, Failure> {
        Ok(Box::new(FeedWriter::new(&self.base, Arc::clone(&self.spec), load, split, from)?))
    }

    async fn publish(&self, load: &Load) -> Result<(), Failure> {
        let load = load.clone();
        let database = database(&self.base, &self.spec.feed)?;
        self.write(move |transaction| {
            check_epoch(&database, transaction, &load)?;
            marks::set_state(transaction, &load.key, marks::State::Published).map_err(|error| database.failure(error))
        })
        .await
    }

    async fn read_back(&self, _: &Load, _: BatchLimit) -> Result<BatchStream, Failure> {
        Err(Failure::permanent("the events of a feed are not read back").help("write `verify: none`"))
    }

    fn staged(&self) -> bool {
        false
    }

    async fn abandon(&self, key: &LoadKey) -> Result<(), Failure> {
        if !file::path(&self.base, &self.spec.feed).exists() {
            return Ok(());
        }
        let key = key.clone();
        let database = database(&self.base, &self.spec.feed)?;
        self.write(move |transaction| {
            let abandon = || {
                file::create(transaction)?;
                file::set_owner(transaction, "")?;
                marks::create(transaction)?;
                marks::forget(transaction, &key)
            };
            abandon().map_err(|error| database.failure(error))
        })
        .await
    }
}

fn problems(spec: &FeedSink, incoming: &Schema) -> Vec<TargetProblem> {
    let names = || incoming.columns.iter().map(|column| column.name.as_str()).collect::<Vec<_>>().join(", ");
    let missing = spec.key.iter().filter(|name| incoming.find(name).is_none()).map(|name| TargetProblem {
        code: "target-columns",
        field: "key",
        message: format!("there is no column `{name}`, which names the rows of the feed"),
        help: format!("the columns are {}", names()),
    });
    let json =
        spec.key.iter().filter(|name| incoming.find(name).is_some_and(|(_, column)| column.ty == Type::Json)).map(|name| TargetProblem {
            code: "target-type",
            field: "key",
            message: format!("`{name}` is json, whose values have many forms, and cannot name a row"),
            help: format!("cast it: `cast: {{ {name}: text }}`, or name another column"),
        });
    let own = own_members(incoming);
    let native = incoming.columns.iter().filter(|column| !can_be_json(&column.ty)).map(|column| TargetProblem {
        code: "target-type",
        field: "",
        message: format!("`{}` is {}, which only its own engine can read", column.name, column.ty),
        help: format!("cast it: `cast: {{ {}: text }}`", column.name),
    });
    missing.chain(json).chain(own).chain(native).collect()
}

//! Rows in Redis. An append to a stream takes rows of every shape; a hash and a JSON document take rows with a key. None of them stages.

use std::sync::Arc;

use haul::connectors::redis::Server;
use haul::data::Type;
use haul::define::pipeline::{KeyTtl, OtherTypes, RedisRows, RedisRowsSink, RowMode, RowShape, WriteMode};
use haul::load::template::{Holes, KeyTemplate};

use super::loading::{
    a_newer_worker, a_read_that_is_stopped, a_writer_that_goes_away, committing_twice, resuming_after_a_part, runs_after_each_other,
};
use super::values::{a_cell_of_100_mib, a_thousand_columns, awkward_values, names_of_every_kind, no_rows, one_column};
use super::{System, connection, every_connector};
use crate::support::redis::{cluster, redis};

mod keyless {
    use super::*;

    every_connector!(of [stream, stream_in_a_cluster]: awkward_values, no_rows, one_column, names_of_every_kind, resuming_after_a_part,
        committing_twice, a_newer_worker, a_writer_that_goes_away, a_read_that_is_stopped, runs_after_each_other);
    every_connector!(of [stream]: a_thousand_columns, a_cell_of_100_mib);
}

mod keyed {
    use super::*;

    every_connector!(of [hash, json, hash_over_a_cluster]: awkward_values, no_rows, resuming_after_a_part, committing_twice, a_newer_worker,
        a_writer_that_goes_away, a_read_that_is_stopped, runs_after_each_other);
}

fn key(text: &str) -> KeyTemplate {
    let holes = Holes::cut(text).expect("a key");
    holes.fill(&holes.text).expect("a key")
}

fn stream() -> System {
    system(&redis().fresh_database(), RowShape::Stream, "rows", Box::new(()))
}

fn stream_in_a_cluster() -> System {
    let cluster = cluster();
    system(&cluster.nodes[0].url(), RowShape::Stream, "rows", Box::new(cluster))
}

fn hash() -> System {
    system(&redis().fresh_database(), RowShape::Hash, "row:{{ id }}", Box::new(()))
}

fn json() -> System {
    system(&redis().fresh_database(), RowShape::Json, "row:{{ id }}:document", Box::new(()))
}

fn hash_over_a_cluster() -> System {
    let cluster = cluster();
    system(&cluster.nodes[0].url(), RowShape::Hash, "row:{{ id }}", Box::new(cluster))
}

fn system(url: &str, shape: RowShape, template: &'static str, place: Box<dyn std::any::Any>) -> System {
    let server = Server::new(&connection(url), std::path::Path::new(".")).expect("a server's URL");
    let reading = Arc::clone(&server);
    let (mode, modes) = match shape {
        RowShape::Stream => (RowMode::Append, vec![WriteMode::Append]),
        _ => (RowMode::Replace, vec![WriteMode::Upsert { key: vec!["id".to_owned()] }]),
    };
    System {
        sink: Box::new(move |_| {
            let ttl = KeyTtl::Unsaid;
            server.rows_sink(&RedisRowsSink {
                connection: "c".to_owned(),
                shape,
                key: key(template),
                mode,
                ttl,
                maxlen: None,
                changes: false,
            })
        }),
        source: Box::new(move |schema| {
            let columns = schema.columns.iter().map(|column| (column.name.clone(), column.ty.clone())).collect();
            let (connection, other_types) = ("c".to_owned(), OtherTypes::Reject);
            let rows = reading.rows(&RedisRows { connection, shape, key: key(template), columns, sample: 0, ttl: None, other_types });
            Arc::new(Only { rows, schema: schema.clone() })
        }),
        modes,
        // A source takes JSON's null as NULL, as in NDJSON.
        lacks: if shape == RowShape::Json { |ty| *ty == Type::Json || *ty == Type::Array(Box::new(Type::Json)) } else { |_| false },
        reads_back: true,
        _place: place,
    }
}

/// A source through the columns that were written: a stream has one more, the entry's id.
struct Only {
    rows: Arc<dyn haul::connectors::Source>,
    schema: haul::data::Schema,
}

#[async_trait::async_trait]
impl haul::connectors::Source for Only {
    async fn describe(&self) -> Result<haul::connectors::Description, haul::failure::Failure> {
        self.rows.describe().await
    }

    async fn open(&self, request: haul::connectors::ReadRequest) -> Result<Arc<dyn haul::connectors::Reading>, haul::failure::Failure> {
        let names = self.schema.columns.iter().map(|column| column.name.clone()).collect();
        self.rows.open(haul::connectors::ReadRequest { columns: Some(names), ..request }).await
    }
}

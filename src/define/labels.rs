//! What sources and sinks are called in plans, progress and reports.

use super::pipeline::{Cache, Kind, PollSource, RedisFollow, SinkSpec, SourceSpec, SqlRead};

impl SourceSpec {
    /// `shop.public.orders`, `shop (query)`, `data/orders-*.csv`, `1000 generated rows`, `stage orders`.
    pub fn label(&self) -> String {
        match self {
            Self::Sql(source) | Self::Poll(PollSource { sql: source, .. }) => match &source.read {
                SqlRead::Table { name, .. } => format!("{}.{}", source.connection, name.join(".")),
                SqlRead::Query(_) => format!("{} (query)", source.connection),
            },
            Self::Changes(source) => tables(&source.connection, source.tables.iter()),
            Self::Files(source) => format!("{}/{}", source.connection, source.path),
            Self::RedisKeys(keys) => format!("{} {}", keys.connection, keys.patterns.join(" ")),
            Self::Redis(rows) | Self::RedisChannel(rows) | Self::RedisFollow(RedisFollow { rows, .. }) => {
                format!("{} {}", rows.connection, rows.key)
            }
            Self::Http(source) => format!("{}{}", source.connection, source.path),
            Self::Generate(source) => format!("{} generated rows", source.rows),
            Self::Stage(name) => format!("stage {name}"),
        }
    }
}

impl SinkSpec {
    /// `warehouse.public.orders`, `warehouse: orders, customers`, `out/orders.parquet`, `discard`, `cache customers`.
    pub fn label(&self) -> String {
        match self {
            Self::Sql(sink) => format!("{}.{}", sink.connection, sink.table.join(".")),
            Self::Tables(sinks) => tables(sinks.first().map_or("", |sink| &sink.connection), sinks.iter().map(|sink| &sink.table)),
            Self::Files(sink) => format!("{}/{}", sink.connection, sink.path),
            Self::RedisKeys(sink) => format!("{} keys", sink.connection),
            Self::Redis(sink) => format!("{} {}", sink.connection, sink.key),
            Self::Http(sink) => format!("{}{}", sink.connection, sink.path),
            Self::Feed(sink) => format!("feed {}", sink.feed),
            Self::Discard => "discard".to_owned(),
            Self::Cache(sink) => format!("cache {}", sink.cache),
        }
    }
}

/// `shop.public.orders`, and of several `shop: public.orders, public.customers`.
fn tables<'a>(connection: &str, names: impl Iterator<Item = &'a Vec<String>>) -> String {
    let names: Vec<String> = names.map(|name| name.join(".")).collect();
    match names.as_slice() {
        [one] => format!("{connection}.{one}"),
        several => format!("{connection}: {}", several.join(", ")),
    }
}

impl Kind {
    /// The word of `kind:`.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Batch => "batch",
            Self::Stream { .. } => "stream",
            Self::Cache(_) => "cache",
        }
    }
}

impl Cache {
    /// What it does with rows, one line each, for the plan.
    pub fn describe(&self) -> Vec<String> {
        let key: Vec<&str> = self.key.iter().map(|(name, _)| name.as_str()).collect();
        let at = self.home.as_ref().map_or_else(|| "in memory".to_owned(), |home| format!("in {}", home.connection));
        let memory = self.memory_ttl.map_or_else(String::new, |ttl| format!(", and in memory for up to {ttl:?}"));
        let mut lines = vec![format!("rows by {} {at}{memory}", key.join(", "))];
        if let Some(ttl) = self.ttl {
            let jitter = if self.jitter > 0.0 { format!(", up to {:.0} % less", self.jitter * 100.0) } else { String::new() };
            lines.push(format!("them for {ttl:?}{jitter}"));
        }
        match &self.load {
            Some(load) => lines.push(format!("what is missing, loaded from {} by up to {} keys a query", load.connection, load.batch)),
            None => lines.push("everything: what is missing is nowhere".to_owned()),
        }
        if let Some(every) = self.refresh {
            lines.push(format!("them fresh: read again {every:?} after each filling, while other stages are at work"));
        }
        if let Some((version, _)) = &self.version {
            lines.push(format!("the newest row of a key, by {version}"));
        }
        lines
    }
}

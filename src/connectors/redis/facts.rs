//! What a server says of itself.

use std::collections::BTreeMap;
use std::fmt;

/// A version, of which three parts decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32, pub u32);

impl Version {
    fn read(text: &str) -> Option<Self> {
        let mut parts = text.split('.').map(|part| part.parse().ok());
        Some(Self(parts.next()??, parts.next()??, parts.next().flatten().unwrap_or(0)))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// What the node that the URL names says of itself.
#[derive(Clone, Debug)]
pub struct Facts {
    /// `Redis`, `Valkey` or what else the server calls itself.
    pub product: String,
    /// The Redis version whose commands it understands; RESP3 came with 6.0.
    pub version: Version,
    /// Whether it is a node of a cluster.
    pub cluster: bool,
    /// Whether it copies another server and refuses writes.
    pub replica: bool,
    /// Names of the modules it has loaded; empty when it may not tell.
    pub modules: Vec<String>,
}

/// The sections and fields of `INFO`, as one mapping.
pub(super) fn fields(info: &str) -> BTreeMap<&str, &str> {
    info.lines().filter_map(|line| line.trim_end().split_once(':')).collect()
}

impl Facts {
    /// Reads `INFO`; `None` when it names no version.
    pub(super) fn read(info: &str, modules: Vec<String>) -> Option<Self> {
        let fields = fields(info);
        let product = match fields.get("server_name") {
            Some(&"valkey") => "Valkey".to_owned(),
            Some(name) => (*name).to_owned(),
            None if fields.contains_key("dragonfly_version") => "Dragonfly".to_owned(),
            None => "Redis".to_owned(),
        };
        Some(Self {
            product,
            version: Version::read(fields.get("redis_version")?)?,
            cluster: fields.get("redis_mode") == Some(&"cluster") || fields.get("cluster_enabled") == Some(&"1"),
            replica: fields.get("role") == Some(&"slave"),
            modules,
        })
    }
}

/// `Redis 7.0.15`, `Redis 7.0.15 cluster`.
impl fmt::Display for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}{}", self.product, self.version, if self.cluster { " cluster" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn info_is_read() {
        let facts = Facts::read("# Server\r\nredis_version:7.0.15\r\nredis_mode:cluster\r\nrole:slave\r\n", Vec::new()).expect("facts");
        assert_eq!((facts.version, facts.cluster, facts.replica), (Version(7, 0, 15), true, true));
        assert_eq!(facts.to_string(), "Redis 7.0.15 cluster");
        let facts = Facts::read("server_name:valkey\r\nredis_version:7.2.4\r\nredis_mode:standalone\r\n", Vec::new()).expect("facts");
        assert_eq!(facts.to_string(), "Valkey 7.2.4");
        assert!(Version(6, 2, 0) < facts.version && Version(7, 10, 0) > facts.version);
        assert!(Facts::read("", Vec::new()).is_none());
    }
}

//! Where a server is and how it is spoken to: everything its URL says.

use std::fmt;
use std::path::Path;

use redis::io::tcp::TcpSettings;
use redis::{Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo, TlsCertificates};
use url::Url;

use super::error::failure;
use crate::define::pipeline::Connection;
use crate::failure::Failure;

/// The parameters a URL may hold.
const PARAMETERS: &[&str] = &["ca", "cert", "key", "verify"];

/// One node's host and port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// A name or an address; an IPv6 address without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
}

/// `host:port`, with brackets around an IPv6 address.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') { write!(f, "[{}]:{}", self.host, self.port) } else { write!(f, "{}:{}", self.host, self.port) }
    }
}

/// How connections are encrypted.
struct Tls {
    certificates: TlsCertificates,
    verified: bool,
}

/// What a connection's URL says, read and checked.
pub(super) struct Settings {
    /// The node that the URL names: the only one, or any one of a cluster.
    pub seed: Address,
    login: RedisConnectionInfo,
    tls: Option<Tls>,
}

impl Settings {
    /// Reads the URL, and the certificates it names, below `base` where their paths are relative.
    pub(super) fn read(connection: &Connection, base: &Path) -> Result<Self, Failure> {
        let wrong = |why: String| Failure::permanent(format!("the URL of connection `{}` {why}", connection.name));
        let mut url: Url = connection.url.reveal().parse().map_err(|error| wrong(format!("is no URL: {error}")))?;
        let parameters: Vec<(String, String)> = url.query_pairs().map(|(key, value)| (key.into_owned(), value.into_owned())).collect();
        let encrypted = url.scheme() == "rediss";
        for (key, _) in &parameters {
            if !PARAMETERS.contains(&key.as_str()) {
                return Err(wrong(format!("has an unknown parameter `{key}`")).help(format!("known parameters: {}", PARAMETERS.join(", "))));
            }
            if !encrypted {
                return Err(wrong(format!("has the parameter `{key}`, which is for TLS, and its scheme is `redis`"))
                    .help("write `rediss://` for a server that speaks TLS"));
            }
        }
        if url.fragment().is_some() {
            let help = "write `?verify=none` to give up the check of the certificate; a `#` in a password is written `%23`";
            return Err(wrong("has a `#`".to_owned()).help(help));
        }
        url.set_query(None);
        // The driver's own reading: it undoes percent-encoding in user and password, and reads the database's number.
        let info = url.as_str().into_connection_info().map_err(|error| wrong("is wrong".to_owned()).cause(error))?;
        let (ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. }) = info.addr() else {
            return Err(wrong("names no host".to_owned()));
        };
        let seed = Address { host: host.trim_matches(['[', ']']).to_owned(), port: *port };
        let login = info.redis_settings().clone().set_lib_name("haul", env!("CARGO_PKG_VERSION"));
        let tls = if encrypted { Some(tls(&parameters, base).map_err(|failure| wrong(failure.message))?) } else { None };
        Ok(Self { seed, login, tls })
    }

    /// The number of the database.
    pub(super) fn database(&self) -> u32 {
        u32::try_from(self.login.db()).unwrap_or(0)
    }

    /// The user that logs in; `default` when the URL names none.
    pub(super) fn user(&self) -> &str {
        self.login.username().unwrap_or("default")
    }

    /// What is weaker than it could be about the way to the server, because the URL asks for it.
    pub(super) fn weakness(&self) -> Option<&'static str> {
        self.tls.as_ref().is_some_and(|tls| !tls.verified).then_some("TLS without a check of the certificate (verify=none)")
    }

    /// What the driver needs to connect to a node.
    pub(super) fn client(&self, node: &Address) -> Result<Client, Failure> {
        let (host, port) = (node.host.clone(), node.port);
        let address = match &self.tls {
            None => ConnectionAddr::Tcp(host, port),
            Some(tls) => ConnectionAddr::TcpTls { host, port, insecure: !tls.verified, tls_params: None },
        };
        let info: ConnectionInfo = address.into_connection_info().map_err(failure)?;
        let info = info.set_redis_settings(self.login.clone()).set_tcp_settings(TcpSettings::default().set_nodelay(true));
        match &self.tls {
            None => Client::open(info).map_err(failure),
            Some(tls) => Client::build_with_tls(info, tls.certificates.clone()).map_err(failure),
        }
    }
}

fn tls(parameters: &[(String, String)], base: &Path) -> Result<Tls, Failure> {
    let value = |name: &str| parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    let file = |name: &str| -> Result<Option<Vec<u8>>, Failure> {
        let Some(path) = value(name) else { return Ok(None) };
        match std::fs::read(base.join(path)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) => Err(Failure::permanent(format!("names `{name}={path}`, which cannot be read: {error}"))),
        }
    };
    let verified = match value("verify") {
        None | Some("full") => true,
        Some("none") => false,
        Some(other) => return Err(Failure::permanent(format!("has `verify={other}`; it is `full` or `none`"))),
    };
    let client_tls = match (file("cert")?, file("key")?) {
        (Some(client_cert), Some(client_key)) => Some(ClientTlsConfig { client_cert, client_key }),
        (None, None) => None,
        _ => return Err(Failure::permanent("names one of `cert` and `key`, and they only work together")),
    };
    Ok(Tls { certificates: TlsCertificates { client_tls, root_cert: file("ca")? }, verified })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    fn read(url: &str) -> Result<Settings, String> {
        let connection = Connection {
            name: "r".to_owned(),
            engine: None,
            url: Secret::new(url.to_owned()),
            max_connections: 4,
            http: Default::default(),
            at: String::new(),
        };
        Settings::read(&connection, Path::new("/nowhere")).map_err(|failure| failure.to_string())
    }

    #[test]
    fn the_url_says_everything() {
        let settings = read("redis://an%40na:p%23%2Fw@[::1]:7000/3").expect("settings");
        assert_eq!(settings.seed.to_string(), "[::1]:7000");
        assert_eq!((settings.user(), settings.login.password(), settings.database()), ("an@na", Some("p#/w"), 3));
        let settings = read("rediss://host").expect("settings");
        assert_eq!((settings.seed.to_string().as_str(), settings.weakness()), ("host:6379", None));
        assert!(read("rediss://host?verify=none").expect("settings").weakness().is_some());
    }

    #[test]
    fn tls_is_never_weakened_by_accident() {
        for (url, part) in [
            ("redis://u:hunter2@h?ca=x.pem", "is for TLS"),
            ("rediss://u:hunter2@h?insecure=1", "unknown parameter `insecure`"),
            ("rediss://u:hunter2@h#insecure", "has a `#`"),
            ("rediss://u:hunter2@h?verify=no", "it is `full` or `none`"),
            ("rediss://u:hunter2@h?ca=missing.pem", "cannot be read"),
            ("rediss://u:hunter2@h/x", "is wrong"),
        ] {
            let said = read(url).err().expect(url);
            assert!(said.contains(part) && !said.contains("hunter2"), "{url}: {said}");
        }
    }
}

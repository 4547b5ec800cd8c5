//! What a connection needs to be let in, for the connections that the driver does not make: the driver keeps it to itself.

use std::path::{Path, PathBuf};

use sqlx::postgres::PgConnectOptions;
use url::Url;

use crate::define::pipeline::Connection;
use crate::secret::Secret;

/// From the URL, else from the environment, as for `psql`.
pub(super) struct Login {
    /// Empty when there is none.
    pub password: Secret<String>,
    /// A file with the certificates of the authorities that are trusted.
    pub authority: Option<PathBuf>,
    /// A file with the client's own certificate.
    pub certificate: Option<PathBuf>,
    /// A file with its key.
    pub key: Option<PathBuf>,
}

impl Login {
    /// `options` are what the driver has read from the same URL.
    pub(super) fn of(connection: &Connection, options: &PgConnectOptions) -> Self {
        let url: Option<Url> = connection.url.reveal().parse().ok();
        let parameter = |name: &str| {
            let pairs = url.iter().flat_map(|url| url.query_pairs());
            pairs.filter(|(key, _)| key == name).last().map(|(_, value)| value.into_owned())
        };
        let file = |name: &str, variable: &str| parameter(name).or_else(|| std::env::var(variable).ok()).map(PathBuf::from);
        let in_front = || url.as_ref().and_then(Url::password).map(unescaped);
        let password = parameter("password").or_else(in_front).or_else(|| std::env::var("PGPASSWORD").ok()).or_else(|| from_file(options));
        Self {
            password: Secret::new(password.unwrap_or_default()),
            authority: file("sslrootcert", "PGSSLROOTCERT"),
            certificate: file("sslcert", "PGSSLCERT"),
            key: file("sslkey", "PGSSLKEY"),
        }
    }
}

/// A part of a URL without its `%` escapes.
fn unescaped(text: &str) -> String {
    // Read as the name of a form's only field, with what would end it escaped.
    let form = text.replace('+', "%2B").replace('&', "%26").replace('=', "%3D");
    url::form_urlencoded::parse(form.as_bytes()).map(|(name, _)| name.into_owned()).collect()
}

/// The password that `.pgpass` has for a server; see "The Password File" in PostgreSQL's manual.
fn from_file(options: &PgConnectOptions) -> Option<String> {
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".pgpass"));
    let path = std::env::var_os("PGPASSFILE").map(PathBuf::from).or_else(home)?;
    let text = std::fs::read_to_string(path).ok()?;
    let host = options.get_socket().map_or(options.get_host(), |_| "localhost");
    let database = options.get_database().unwrap_or_else(|| options.get_username());
    let port = options.get_port().to_string();
    find(&text, [host, &port, database, options.get_username()])
}

fn find(text: &str, wanted: [&str; 4]) -> Option<String> {
    text.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let mut fields = fields(line).into_iter();
        let fits = wanted.iter().all(|wanted| fields.next().is_some_and(|field| field == "*" || field == *wanted));
        if fits { fields.next() } else { None }
    })
}

/// The fields of a line, between colons; a backslash takes the meaning of what follows it.
fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut letters = line.chars();
    while let Some(letter) = letters.next() {
        match letter {
            ':' => fields.push(String::new()),
            letter => {
                let letter = if letter == '\\' { letters.next() } else { Some(letter) };
                if let Some(field) = fields.last_mut() {
                    field.extend(letter);
                }
            }
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(url: &str) -> String {
        let connection = Connection {
            name: "pg".to_owned(),
            engine: None,
            url: Secret::new(url.to_owned()),
            max_connections: 8,
            http: Default::default(),
            at: String::new(),
        };
        Login::of(&connection, &PgConnectOptions::new_without_pgpass()).password.reveal().to_owned()
    }

    #[test]
    fn a_password_is_read_as_the_driver_reads_it() {
        for (url, expected) in [
            ("postgres://u:plain@localhost/x", "plain"),
            ("postgres://u:a%40b%2Fc%25@localhost/x", "a@b/c%"),
            ("postgres://u:a+b=c&d@localhost/x", "a+b=c&d"),
            ("postgres://u@localhost/x?password=a%20b", "a b"),
        ] {
            assert_eq!(password(url), expected, "{url}");
        }
    }

    #[test]
    fn the_password_file_names_servers_and_escapes_colons() {
        let text = "# a comment\nother:5432:x:u:no\nlocalhost:*:x:u:a\\:b\\\\c\n*:*:*:*:last";
        assert_eq!(find(text, ["localhost", "5433", "x", "u"]).as_deref(), Some("a:b\\c"));
        assert_eq!(find(text, ["elsewhere", "5432", "y", "v"]).as_deref(), Some("last"));
        assert_eq!(find("localhost:1:x:u:p", ["localhost", "2", "x", "u"]), None);
    }
}

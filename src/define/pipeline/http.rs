//! What is read over HTTP, and what its connections need.

use std::time::Duration;

use super::CsvDialect;
use crate::data::Type;
use crate::secret::Secret;

/// What a connection of HTTP needs besides its URL.
#[derive(Clone, Debug)]
pub struct HttpSettings {
    /// How requests prove who asks.
    pub auth: Option<HttpAuth>,
    /// Headers of every request to the URL's own host.
    pub headers: Vec<(String, Secret<String>)>,
    /// Whether addresses that are not public may be asked.
    pub allow_private: bool,
    /// The longest that a connection may take to come about.
    pub connect_timeout: Duration,
    /// The longest that an answer may send nothing.
    pub idle_timeout: Duration,
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self {
            auth: None,
            headers: Vec::new(),
            allow_private: false,
            connect_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(30),
        }
    }
}

/// How requests prove who asks.
#[derive(Clone, Debug)]
pub enum HttpAuth {
    /// A token.
    Bearer(Secret<String>),
    /// A user and a password.
    Basic(String, Secret<String>),
}

/// Answers to read.
#[derive(Clone, Debug)]
pub struct HttpSource {
    /// Connection name.
    pub connection: String,
    /// Below the connection's URL; begins with `/`.
    pub path: String,
    /// Parameters, not escaped. They may hold secrets, and are never shown.
    pub query: Vec<(String, String)>,
    /// What answers hold.
    pub body: HttpBody,
    /// How the next page is asked for; `None` when there is only one.
    pub paginate: Option<Paginate>,
    /// Declared columns, in file order.
    pub columns: Vec<(String, Type)>,
    /// Rows looked at to find the columns that are not declared; 0 reads the declared ones only.
    pub sample: usize,
    /// Bytes of the largest JSON answer that is taken.
    pub max_body: u64,
}

/// What an answer holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HttpBody {
    /// A JSON array of objects below a JSON pointer.
    Json(String),
    /// One JSON object a line.
    Ndjson,
    /// Comma separated values and its dialects.
    Csv(CsvDialect),
}

/// How the next page is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paginate {
    /// What tells it.
    pub by: PaginateBy,
    /// The parameter that asks for so many rows a page.
    pub size: Option<(String, u64)>,
}

/// What tells the next page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PaginateBy {
    /// The header `Link`.
    LinkHeader,
    /// A URL in the answer, by its JSON pointer.
    Link(String),
    /// A value for a parameter.
    Cursor {
        /// The parameter.
        param: String,
        /// Where the value is.
        from: CursorFrom,
    },
    /// A parameter that counts the rows before.
    Offset(String),
    /// A parameter that counts pages from a first number.
    Page(String, u64),
}

/// Where the value is that asks for the next page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CursorFrom {
    /// In the answer, by its JSON pointer.
    Answer(String),
    /// A member of the page's last row.
    LastRow(String),
}

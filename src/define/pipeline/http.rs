//! What is read over HTTP, and what its connections need.

use std::time::Duration;

use super::CsvDialect;
use crate::data::Type;
use crate::load::template::KeyTemplate;
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
    /// Whether rows are read out of answers that say neither their length nor their end.
    pub allow_unmeasured: bool,
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
            allow_unmeasured: false,
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
    /// In a stream: how what is new is learnt of.
    pub follow: Option<HttpFollow>,
}

/// How what is new is learnt of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HttpFollow {
    /// By asking for the pages behind the last cursor, after this wait.
    Poll(Duration),
    /// From an answer of NDJSON that never ends.
    Ndjson,
    /// From server-sent events.
    Events,
    /// From the messages of a WebSocket.
    WebSocket,
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

/// Requests that carry rows.
#[derive(Clone, Debug)]
pub struct HttpSink {
    /// Connection name.
    pub connection: String,
    /// Below the connection's URL; begins with `/`. Columns stand in it only when a request holds one row.
    pub path: KeyTemplate,
    /// Parameters, not escaped. They may hold secrets, and are never shown.
    pub query: Vec<(String, String)>,
    /// The method.
    pub method: HttpMethod,
    /// What a request holds.
    pub payload: HttpPayload,
    /// Most rows of a request.
    pub rows: u64,
    /// Bytes of rows after which a request is full.
    pub bytes: u64,
    /// Whether changes of rows come, and not rows.
    pub changes: bool,
}

/// The method of a request that carries rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpMethod {
    /// POST
    Post,
    /// PUT
    Put,
    /// PATCH
    Patch,
}

/// What a request holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HttpPayload {
    /// One JSON object a line.
    Ndjson,
    /// A JSON array of objects.
    Array,
    /// One row, as a JSON object.
    Object,
    /// One row, as a text with columns in it.
    Template(KeyTemplate),
}

impl HttpSink {
    /// Whether each change is a request to the place of its row. Otherwise changes are sent as events.
    pub fn by_place(&self) -> bool {
        self.changes && self.method == HttpMethod::Put
    }

    /// `POST ndjson`, for plans.
    pub fn words(&self) -> String {
        let method = match self.method {
            HttpMethod::Post => "POST",
            HttpMethod::Put => "PUT",
            HttpMethod::Patch => "PATCH",
        };
        match self.payload {
            HttpPayload::Ndjson => format!("{method} ndjson, up to {} rows a request", self.rows),
            HttpPayload::Array => format!("{method} array, up to {} rows a request", self.rows),
            HttpPayload::Object if self.by_place() => "PUT, PATCH or DELETE, one row a request".to_owned(),
            HttpPayload::Object => format!("{method} object, one row a request"),
            HttpPayload::Template(_) => format!("{method} template, one row a request"),
        }
    }
}

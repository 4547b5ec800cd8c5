//! What inputs over HTTP say, and the connections they go over.

use schemars::JsonSchema;
use serde::Deserialize;

use super::CsvInput;
use crate::load::shape::{Duration, Entries, Scalar, Size};

/// How requests prove who asks: a token, or a user and a password.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Auth {
    /// A token, sent as `Authorization: Bearer …`.
    #[schemars(extend("minLength" = 1, "examples" = ["{{ env.API_TOKEN }}"]))]
    pub bearer: Option<String>,
    /// A user, sent with its password as `Authorization: Basic …`.
    #[schemars(extend("minLength" = 1, "examples" = ["reports"]))]
    pub user: Option<String>,
    /// The user's password.
    #[schemars(extend("examples" = ["{{ env.API_PASSWORD }}"]))]
    pub password: Option<String>,
}

/// Reads the answers of an HTTP API.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HttpInput {
    /// The connection to read from.
    #[schemars(required)]
    pub http: Option<String>,
    /// What is asked for, below the connection's URL: `/orders`.
    #[schemars(required, extend("minLength" = 1, "examples" = ["/orders"]))]
    pub path: Option<String>,
    /// Parameters of the request, escaped as a URL needs it.
    #[schemars(extend("examples" = [{"status": "open", "since": "{{ params.since }}"}]))]
    pub query: Option<Entries<Scalar>>,
    /// What the answers hold. By default the path's ending tells, else it is `json`.
    pub format: Option<HttpFormat>,
    /// Where the array of rows is in a JSON answer, as a JSON pointer. By default the answer is the array.
    #[schemars(extend("examples" = ["/items", "/data/orders"]))]
    pub records: Option<String>,
    /// How the CSV is written.
    pub csv: Option<CsvInput>,
    /// How the answer's other pages are asked for. By default there is one page.
    pub paginate: Option<Paginate>,
    /// In a stream: how long to wait before asking for what is behind the last cursor again.
    #[schemars(extend("examples" = ["5s"]))]
    pub every: Option<Duration>,
    /// In a stream: the kind of feed, instead of `every`.
    pub follow: Option<HttpFollow>,
    /// Declared columns. When there are any, other members of the rows are passed over, unless `sample` says to look for them.
    pub columns: Option<Entries<String>>,
    /// How many rows are looked at to find columns. By default 1000, or 0 when `columns` are declared.
    #[schemars(range(min = 0, max = 10000000), extend("examples" = [1000]))]
    pub sample: Option<usize>,
    /// The largest JSON answer that is taken. NDJSON and CSV have no bound: they are read piece by piece.
    #[schemars(extend("default" = "64MiB"))]
    pub max_body: Option<Size>,
    /// The name that `sql` steps use for these rows. By default the last part of the path, where that is a plain word, else `input`.
    #[serde(rename = "as")]
    #[schemars(extend("pattern" = "^[A-Za-z_][A-Za-z0-9_]*$"))]
    pub name: Option<String>,
}

/// The kinds of feeds, whose answers never end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HttpFollow {
    /// One JSON object a line.
    Ndjson,
    /// Server-sent events whose data are JSON objects; a connection goes on behind the last event's id.
    Sse,
    /// The messages of a WebSocket, each a JSON object.
    Websocket,
}

/// What an answer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HttpFormat {
    /// A JSON array of objects, by itself or inside of an object.
    Json,
    /// One JSON object a line.
    Ndjson,
    /// Comma separated values and its dialects.
    Csv,
}

/// How the next page is asked for.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Paginate {
    /// What tells the next page.
    #[schemars(required)]
    pub by: Option<PaginateBy>,
    /// Of a link or cursor: where it is in a JSON answer, as a JSON pointer. A link without it is the one of the header `Link` with `rel="next"`.
    /// There is no next page when it is missing, null, false or empty.
    #[schemars(extend("minLength" = 1, "examples" = ["/next_cursor", "/links/next"]))]
    pub next: Option<String>,
    /// Of a cursor: the member of a page's last row that is the cursor, instead of `next`. There is no next page behind an empty one.
    #[schemars(extend("minLength" = 1, "examples" = ["id"]))]
    pub column: Option<String>,
    /// The parameter that asks for a page. By default `cursor`, `offset` or `page`, as in `by`.
    #[schemars(extend("minLength" = 1, "examples" = ["after"]))]
    pub param: Option<String>,
    /// Of a page: the number of the first one.
    #[schemars(extend("default" = 1))]
    pub first: Option<u64>,
    /// The parameter that asks for so many rows a page, together with `size`.
    #[schemars(extend("minLength" = 1, "default" = "limit", "examples" = ["per_page"]))]
    pub size_param: Option<String>,
    /// How many rows a page should have. Without it the server decides.
    #[schemars(range(min = 1, max = 1000000), extend("examples" = [100]))]
    pub size: Option<u64>,
}

/// What tells the next page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PaginateBy {
    /// The answer holds its URL.
    Link,
    /// The answer holds a value that asks for it.
    Cursor,
    /// The number of rows before it.
    Offset,
    /// Its number.
    Page,
}

/// Sends rows to an HTTP API.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HttpOutput {
    /// The connection to send to.
    #[schemars(required)]
    pub http: Option<String>,
    /// Where rows are sent, below the connection's URL. With one row a request, columns may stand in it: `/orders/{{ id }}`.
    #[schemars(required, extend("minLength" = 1, "examples" = ["/orders", "/orders/{{ id }}"]))]
    pub path: Option<String>,
    /// Parameters of the request, escaped as a URL needs it.
    pub query: Option<Entries<Scalar>>,
    /// The method of the request. Changes of a table are sent as events by `post`; by `put` each goes to the place of its row, and removals are DELETE.
    #[schemars(extend("default" = "post"))]
    pub method: Option<HttpMethod>,
    /// What a request holds. By default `ndjson`.
    pub body: Option<HttpPayload>,
    /// The body of a request that holds one row, instead of `body`: a text in which `{{ column }}` stands for the column's value as JSON, a text
    /// with its quotes.
    #[schemars(extend("minLength" = 1, "examples" = ["{\"order\": {{ id }}, \"sum\": {{ total }}}"]))]
    pub template: Option<String>,
    /// How many rows a request holds.
    pub batch: Option<RequestBatch>,
    /// Columns whose values may lose something on the way, because you say so.
    pub allow_lossy: Option<Vec<String>>,
}

/// How many rows a request holds. Whichever comes first ends it.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RequestBatch {
    /// At most so many rows.
    #[schemars(range(min = 1, max = 1000000), extend("default" = 500))]
    pub rows: Option<u64>,
    /// At most about so many bytes.
    #[schemars(extend("default" = "1MiB"))]
    pub bytes: Option<Size>,
}

/// The method of a request that carries rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HttpMethod {
    /// POST
    Post,
    /// PUT
    Put,
    /// PATCH
    Patch,
}

/// What a request holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HttpPayload {
    /// One JSON object a line.
    Ndjson,
    /// A JSON array of objects.
    Array,
    /// One row, as a JSON object.
    Object,
}

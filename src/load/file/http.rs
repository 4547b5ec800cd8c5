//! What inputs over HTTP say, and the connections they go over.

use schemars::JsonSchema;
use serde::Deserialize;

use super::CsvInput;
use crate::load::shape::{Entries, Scalar, Size};

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

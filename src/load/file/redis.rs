//! What `redis` inputs and outputs say.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::load::shape::{Duration, Entries, Size};

/// Reads rows out of the keys of a Redis server. One of `hash`, `json`, `string`, `list`, `set`, `sorted_set` and `stream` says which keys and how
/// they hold rows; `channel` listens to messages instead.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RedisInput {
    /// The connection to read from.
    #[schemars(required)]
    pub redis: Option<String>,
    /// The keys of hashes, a row each: its fields are the columns, and so is what stands in the key at each `{{ column }}`.
    #[schemars(extend("minLength" = 1, "examples" = ["user:{{ id }}"]))]
    pub hash: Option<String>,
    /// The keys of strings that hold a JSON object, a row each: its members are the columns, and so is what stands in the key.
    #[schemars(extend("minLength" = 1, "examples" = ["order:{{ id }}"]))]
    pub json: Option<String>,
    /// The keys of strings, a row each: what stands in the key, and the column `value`.
    #[schemars(extend("minLength" = 1, "examples" = ["price:{{ sku }}"]))]
    pub string: Option<String>,
    /// The keys of lists, a row for each item: what stands in the key, the column `index` that counts from 0, and the column `value`.
    /// In a stage of kind `stream`: one list, whose items are taken out as they come.
    #[schemars(extend("minLength" = 1, "examples" = ["queue:{{ name }}"]))]
    pub list: Option<String>,
    /// The keys of sets, a row for each member: what stands in the key, and the column `member`.
    #[schemars(extend("minLength" = 1, "examples" = ["tags:{{ article }}"]))]
    pub set: Option<String>,
    /// The keys of sorted sets, a row for each member: what stands in the key, and the columns `member` and `score`.
    #[schemars(extend("minLength" = 1, "examples" = ["ranking:{{ game }}"]))]
    pub sorted_set: Option<String>,
    /// The keys of streams, a row for each entry: what stands in the key, the column `entry_id`, and the entry's fields.
    /// In a stage of kind `stream`: one stream, whose entries are read as they come.
    #[schemars(extend("minLength" = 1, "examples" = ["orders"]))]
    pub stream: Option<String>,
    /// The channel whose messages are listened to, in a stage of kind `stream`: each is a row with the column `value`, or the members of a JSON
    /// object where `columns` declares some. With `{{ column }}` in it, all channels of that form. At most once: the server keeps no message.
    #[schemars(extend("minLength" = 1, "examples" = ["orders", "orders:{{ shop }}"]))]
    pub channel: Option<String>,
    /// Keys of every type, copied as they are with their expiry: patterns of Redis, of which one must match; those that begin with `!` must not.
    #[schemars(extend("minItems" = 1, "examples" = [["*"], ["user:*", "!user:tmp:*"]]))]
    pub keys: Option<Vec<String>>,
    /// Of `keys`, those of these types only.
    #[schemars(extend("minItems" = 1))]
    pub types: Option<Vec<KeyType>>,
    /// Of `keys`, those that live about so long.
    pub lifetime: Option<Lifetime>,
    /// Of `keys`, those that take about so much memory in the source.
    pub size: Option<SizeRange>,
    /// The columns and their types: `int64`, `decimal(12,2)`, `text`, … Only these are read. By default the columns of hashes, JSON and streams
    /// are taken from a sample, and what else is read is text.
    #[schemars(extend("minProperties" = 1))]
    pub columns: Option<Entries<String>>,
    /// How many rows are looked at to find columns and their types, beside the declared ones. By default 1000 when no columns are declared.
    #[schemars(range(min = 1, max = 10000000), extend("default" = 1000))]
    pub sample: Option<usize>,
    /// A column that tells when the key expires, as `timestamptz`; NULL when it never does.
    pub ttl: Option<TtlColumn>,
    /// What becomes of keys that match and hold another type.
    #[schemars(extend("default" = "reject"))]
    pub other_types: Option<OtherTypes>,
    /// The name that `sql` steps use for these rows. By default `input`.
    #[serde(rename = "as")]
    #[schemars(extend("pattern" = "^[A-Za-z_][A-Za-z0-9_]*$"))]
    pub name: Option<String>,
}

/// The types of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum KeyType {
    /// A string, bitmaps and counters included.
    String,
    /// A list.
    List,
    /// A set.
    Set,
    /// A sorted set, geographic indexes included.
    SortedSet,
    /// A hash.
    Hash,
    /// A stream with its groups.
    Stream,
}

/// How long keys live on from when they are read.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Lifetime {
    /// At least this long.
    pub min: Option<Duration>,
    /// At most this long.
    pub max: Option<Duration>,
    /// Whether keys that never expire are taken.
    #[schemars(extend("default" = true))]
    pub unlimited: Option<bool>,
}

/// A range of sizes.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SizeRange {
    /// At least this much.
    pub min: Option<Size>,
    /// At most this much.
    pub max: Option<Size>,
}

/// What becomes of keys that match a pattern and hold another type than is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OtherTypes {
    /// They are bad rows.
    Reject,
    /// They are passed over.
    Skip,
}

/// The column of a key's expiry.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TtlColumn {
    /// Its name.
    #[schemars(required, extend("minLength" = 1, "examples" = ["expires_at"]))]
    pub column: Option<String>,
}

/// How long written keys live: a length of time, or a column that tells when.
#[derive(Debug)]
pub enum KeyTtl {
    /// So long after they are written.
    After(Duration),
    /// Until the time in this column.
    Column(String),
    /// Something else, which the schema has reported.
    Unclear,
}

/// Writes rows into keys of a Redis server. One of `hash`, `json`, `string`, `list`, `set`, `sorted_set` and `stream` says which keys and how they
/// hold rows.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RedisOutput {
    /// The connection to write to.
    #[schemars(required)]
    pub redis: Option<String>,
    /// The key of a hash for each row, which holds every column as a field; a NULL is a field that is not there.
    #[schemars(extend("minLength" = 1, "examples" = ["user:{{ id }}"]))]
    pub hash: Option<String>,
    /// The key of a string for each row, which holds every column as a member of a JSON object.
    #[schemars(extend("minLength" = 1, "examples" = ["order:{{ id }}"]))]
    pub json: Option<String>,
    /// The key of a string for each row, which holds the column `value`.
    #[schemars(extend("minLength" = 1, "examples" = ["price:{{ sku }}"]))]
    pub string: Option<String>,
    /// The key of the list to whose end each row's column `value` is added.
    #[schemars(extend("minLength" = 1, "examples" = ["queue:{{ name }}"]))]
    pub list: Option<String>,
    /// The key of the set to which each row's column `member` is added.
    #[schemars(extend("minLength" = 1, "examples" = ["tags:{{ article }}"]))]
    pub set: Option<String>,
    /// The key of the sorted set in which each row's column `member` gets the column `score`.
    #[schemars(extend("minLength" = 1, "examples" = ["ranking:{{ game }}"]))]
    pub sorted_set: Option<String>,
    /// The key of the stream to which each row is added as an entry; the server numbers it.
    #[schemars(extend("minLength" = 1, "examples" = ["orders"]))]
    pub stream: Option<String>,
    /// How rows meet what the key holds. By default `replace` for hashes, JSON and strings, `merge` for sets and sorted sets, `append` for lists
    /// and streams.
    pub mode: Option<RedisMode>,
    /// How long keys live: a length of time from when they are written, or `{ column: expires_at }` for a column of times, which is not stored
    /// then; NULL there is a key that never expires. By default replaced keys never expire, and others keep the expiry they have.
    pub ttl: Option<KeyTtl>,
    /// About how many entries a stream keeps: older ones are dropped when new ones are added.
    #[schemars(range(min = 1, max = 1000000000000u64), extend("examples" = [100000]))]
    pub maxlen: Option<u64>,
    /// Of copied keys, their new names: a template in which `key` is the old one. By default keys keep their names.
    #[schemars(extend("minLength" = 1, "examples" = ["{{ key | replace('user:', 'u:') }}"]))]
    pub key: Option<String>,
    /// Of copied keys, what happens when the target has a key of that name already.
    #[schemars(extend("default" = "error"))]
    pub conflict: Option<Conflict>,
    /// Of copied keys, how their values are carried.
    #[schemars(extend("default" = "auto"))]
    pub copy: Option<CopyBy>,
    /// Of copied keys, whether the target is to hold these keys only: verification then reports others, and leaves them where they are.
    #[schemars(extend("default" = false))]
    pub only: Option<bool>,
    /// Columns whose values may lose something on the way, because you say so.
    pub allow_lossy: Option<Vec<String>>,
}

/// What happens when the target has a key of that name already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Conflict {
    /// The run fails, unless the key holds the same value already.
    Error,
    /// The target's key stays.
    Skip,
    /// The source's key takes its place.
    Replace,
}

/// How values are carried from one server to the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CopyBy {
    /// As payloads of DUMP where the target understands those of the source, else by commands.
    Auto,
    /// As payloads of DUMP.
    Dump,
    /// By the commands of each type, which every server understands.
    Commands,
}

/// How rows meet what a key holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RedisMode {
    /// The key holds the row, and nothing else.
    Replace,
    /// The row's fields or members join those that are there; a NULL takes its field away.
    Merge,
    /// Rows are added to the end.
    Append,
}

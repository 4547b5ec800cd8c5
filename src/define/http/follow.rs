//! How a stream learns of what is new.

use crate::data::Type;
use crate::define::pipeline::{CursorFrom, HttpFollow, Paginate, PaginateBy};
use crate::define::reader::Reader;
use crate::define::stages::positive;
use crate::load::file;

/// How a stream learns of what is new, when the input says so.
pub(super) fn follow(
    reader: &mut Reader<'_>,
    at: &str,
    said: &file::HttpInput,
    paginate: Option<&Paginate>,
    columns: &[(String, Type)],
) -> Option<HttpFollow> {
    if let Some(every) = &said.every {
        let every_at = format!("{at}/every");
        if said.follow.is_some() {
            let message = "`every` asks again and again, and a feed of `follow` never ends";
            reader.error_at_key("http-follow", &every_at, message, "remove one of them");
        } else if !matches!(paginate.map(|paginate| &paginate.by), Some(PaginateBy::Cursor { .. })) {
            let message = "nothing here says what is new since the last time";
            reader.error("http-follow", &every_at, message, "add `paginate: { by: cursor, … }`: the stream goes on behind the last cursor");
        }
        positive(reader, &every_at, Some(every));
        return every.read().map(HttpFollow::Poll);
    }
    let feed = match said.follow? {
        file::HttpFollow::Ndjson => HttpFollow::Ndjson,
        file::HttpFollow::Sse => HttpFollow::Events,
        file::HttpFollow::Websocket => HttpFollow::WebSocket,
    };
    let by_row = matches!(
        paginate.map(|paginate| (&paginate.by, &paginate.size)),
        Some((PaginateBy::Cursor { from: CursorFrom::LastRow(_), .. }, None))
    );
    if paginate.is_some() && (feed != HttpFollow::Ndjson || !by_row) {
        let message = "a feed has no pages";
        let help = "remove `paginate`; of NDJSON it may be `{ by: cursor, column: id }`, which says where a new connection goes on";
        reader.error_at_key("http-follow", &format!("{at}/paginate"), message, help);
    }
    let unused = [
        ("format", said.format.is_some()),
        ("records", said.records.is_some()),
        ("csv", said.csv.is_some()),
        ("sample", said.sample.is_some()),
        ("max_body", said.max_body.is_some()),
    ];
    for (key, _) in unused.into_iter().filter(|(_, there)| *there) {
        let message = format!("`{key}` means nothing of a feed, whose rows are JSON objects");
        reader.error_at_key("http-follow", &format!("{at}/{key}"), message, format!("remove `{key}`"));
    }
    if columns.is_empty() && !reader.broken(&format!("{at}/columns")) {
        let message = "the rows of a feed cannot be looked at beforehand";
        reader.error_at_key("http-columns", &format!("{at}/follow"), message, "declare them: `columns: { id: int64, … }`");
    }
    Some(feed)
}

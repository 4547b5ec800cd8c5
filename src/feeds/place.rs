//! Where a client goes on, and where it really began.

use crate::connectors::feed::Edges;

/// A place in a feed. Its text is what clients hand back: the number of the last event they got, or `UPTO/ID` amid the newest rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Behind the event of this number.
    Behind(u64),
    /// Amid the newest rows as they are after event `up_to`: behind the one of number `id`.
    Newest { up_to: u64, id: u64 },
}

impl Place {
    /// The text that names it.
    pub(super) fn text(self) -> String {
        match self {
            Self::Behind(id) => id.to_string(),
            Self::Newest { up_to, id } => format!("{up_to}/{id}"),
        }
    }
}

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// Only what is new from now on.
    Now,
    /// Everything that is kept.
    Start,
    /// The newest row of each key, and what is new then.
    Snapshot,
    /// What follows on a place.
    At(Place),
}

impl Asked {
    /// Reads it; `None` when it is none of these.
    pub(super) fn read(text: &str) -> Option<Self> {
        match text {
            "now" => return Some(Self::Now),
            "start" => return Some(Self::Start),
            "snapshot" => return Some(Self::Snapshot),
            _ => {}
        }
        let number = |text: &str| text.parse::<u64>().ok();
        Some(Self::At(match text.split_once('/') {
            Some((up_to, id)) => Place::Newest { up_to: number(up_to)?, id: number(id)? },
            None => Place::Behind(number(text)?),
        }))
    }
}

/// Where a client begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Begun {
    /// The place.
    pub place: Place,
    /// How many events it asked for that are not kept any more; `None` when nobody knows, because the feed never had the one it names.
    pub lost: Option<u64>,
}

impl Begun {
    /// Where a client begins that asks so; what is not kept any more is skipped.
    pub(super) fn of(asked: Asked, edges: &Edges) -> Self {
        let (start, whole) = (Place::Behind(edges.oldest - 1), Place::Newest { up_to: edges.head, id: 0 });
        let (place, lost) = match asked {
            Asked::Now => (Place::Behind(edges.head), Some(0)),
            Asked::Start => (start, Some(0)),
            Asked::Snapshot => (whole, Some(0)),
            Asked::At(Place::Behind(id)) if id > edges.head => (start, None),
            Asked::At(Place::Newest { up_to, .. }) if up_to > edges.head => (whole, None),
            Asked::At(Place::Behind(id)) if id + 1 < edges.oldest => (start, Some(edges.oldest - 1 - id)),
            Asked::At(Place::Newest { up_to, .. }) if up_to + 1 < edges.oldest => (whole, Some(edges.oldest - 1 - up_to)),
            Asked::At(place) => (place, Some(0)),
        };
        Self { place, lost }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connectors::feed::Settings;
    use crate::define::pipeline::SlowClient;

    #[test]
    fn what_is_lost_is_counted_and_said() {
        let settings = Settings { slow: SlowClient::Disconnect, slow_after_ms: 1, keyed: true };
        let edges = Edges { identity: "x".to_owned(), oldest: 11, head: 20, settings };
        let check = |text: &str, place: &str, lost: Option<u64>| {
            let begun = Begun::of(Asked::read(text).expect(text), &edges);
            assert_eq!((begun.place.text().as_str(), begun.lost), (place, lost), "{text}");
        };
        check("now", "20", Some(0));
        check("start", "10", Some(0));
        check("snapshot", "20/0", Some(0));
        check("10", "10", Some(0));
        check("9", "10", Some(1));
        check("0", "10", Some(10));
        check("20", "20", Some(0));
        check("21", "10", None);
        check("15/7", "15/7", Some(0));
        check("9/7", "20/0", Some(1));
        check("21/7", "20/0", None);
        for wrong in ["", "-1", "later", "1/", "/1", "1/2/3", "1.5", "99999999999999999999"] {
            assert_eq!(Asked::read(wrong), None, "{wrong}");
        }
    }
}

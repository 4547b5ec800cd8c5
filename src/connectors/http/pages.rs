//! Which page comes next. A place says all that is needed to ask for a page, so that a read goes on after a crash without the pages before it.

use std::collections::HashSet;

use reqwest::header::{HeaderMap, LINK};
use serde::{Deserialize, Serialize};
use url::Url;
use xxhash_rust::xxh3::xxh3_64;

use super::api::Api;
use super::page::Page;
use crate::data::Position;
use crate::define::pipeline::{HttpSource, PaginateBy};
use crate::failure::Failure;

/// Version of positions.
const VERSION: u32 = 1;
/// Pages of one read whose places are remembered, to see one that comes again. More pages than this are no mistake, but may be without end.
const MOST_REMEMBERED: usize = 1 << 20;
/// A cursor that is longer says nothing to people.
const LONGEST_LABEL: usize = 40;

/// A page, as it is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Place {
    /// The first one.
    First,
    /// A URL that an answer named, without the parameters of the input in it: they may hold secrets.
    Link {
        /// The URL.
        url: String,
        /// The parameters that were taken out.
        with: Vec<String>,
    },
    /// A value that an answer named.
    Cursor(String),
    /// Rows before it, or its number.
    Number(u64),
}

#[derive(Serialize, Deserialize)]
struct Written {
    v: u32,
    next: Place,
}

/// The way through the pages of one read.
pub(super) struct Pages<'a> {
    api: &'a Api,
    spec: &'a HttpSource,
    /// The page to ask for.
    pub place: Place,
    seen: HashSet<u64>,
    last: Option<u64>,
}

impl<'a> Pages<'a> {
    /// From the first page, or from a position.
    pub(super) fn new(api: &'a Api, spec: &'a HttpSource, from: Option<&Position>) -> Result<Self, Failure> {
        let place = match from {
            None => Place::First,
            Some(position) => {
                let written: Written = serde_json::from_str(&position.0)
                    .map_err(|error| Failure::permanent("the position of the read is none of pages over HTTP").cause(error))?;
                if written.v != VERSION {
                    return Err(Failure::permanent(format!("the position of the read is of another version of haul ({})", written.v)));
                }
                written.next
            }
        };
        Ok(Self { api, spec, place, seen: HashSet::new(), last: None })
    }

    /// Which page it is, for people; `None` when there is only one, or nothing to show.
    pub(super) fn label(&self) -> Option<String> {
        match (&self.place, &self.spec.paginate.as_ref()?.by) {
            (Place::Number(number), PaginateBy::Offset(param) | PaginateBy::Page(param, _)) => Some(format!("{param} {number}")),
            (Place::First, PaginateBy::Offset(param)) => Some(format!("{param} 0")),
            (Place::First, PaginateBy::Page(param, first)) => Some(format!("{param} {first}")),
            (Place::Cursor(value), _) if value.len() <= LONGEST_LABEL => Some(format!("after {value}")),
            _ => None,
        }
    }

    /// Where the page is.
    pub(super) fn url(&self) -> Result<Url, Failure> {
        let mut query: Vec<(&str, String)> = self.spec.query.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
        let mut set = |name: &'a str, value: String| {
            query.retain(|(other, _)| *other != name);
            query.push((name, value));
        };
        let paginate = self.spec.paginate.as_ref();
        if let Some((param, size)) = paginate.and_then(|paginate| paginate.size.as_ref()) {
            set(param, size.to_string());
        }
        match (&self.place, paginate.map(|paginate| &paginate.by)) {
            (Place::Link { url, with }, _) => {
                let own = self.api.url(&self.spec.path, std::iter::empty());
                let mut url = self.api.follow(&own, url)?;
                if !with.is_empty() {
                    let own = self.spec.query.iter().filter(|(name, _)| with.contains(name));
                    url.query_pairs_mut().extend_pairs(own);
                }
                return Ok(url);
            }
            (Place::Cursor(value), Some(PaginateBy::Cursor { param, .. })) => set(param, value.clone()),
            (Place::Number(number), Some(PaginateBy::Offset(param) | PaginateBy::Page(param, _))) => set(param, number.to_string()),
            (Place::First, Some(PaginateBy::Offset(param))) => set(param, "0".to_owned()),
            (Place::First, Some(PaginateBy::Page(param, first))) => set(param, first.to_string()),
            // The id of an event is no parameter: it goes into a header.
            (Place::First, _) | (Place::Cursor(_), None) => {}
            (Place::Cursor(_) | Place::Number(_), _) => {
                return Err(Failure::permanent("the position of the read is of another kind of pages").help("`--fresh` begins it anew"));
            }
        }
        Ok(self.api.url(&self.spec.path, query.iter().map(|(name, value)| (*name, value.as_str()))))
    }

    /// Goes to the page behind one that was read. False when there is none.
    pub(super) fn go_on(&mut self, from: &Url, headers: &HeaderMap, page: &Page) -> Result<bool, Failure> {
        let Some(next) = self.next(from, headers, page)? else { return Ok(false) };
        let repeated = self.last.replace(page.hash) == Some(page.hash) && matches!(next, Place::Number(_));
        if self.seen.len() < MOST_REMEMBERED {
            self.seen.insert(hash(&self.place));
        }
        if repeated || self.seen.contains(&hash(&next)) {
            let message = format!("{} gives the same page again and again, and never says that it is the last one", self.spec.path);
            return Err(
                Failure::permanent(message).help("check `paginate`: the server does not heed its parameter, or means another one by it")
            );
        }
        self.place = next;
        Ok(true)
    }

    fn next(&self, from: &Url, headers: &HeaderMap, page: &Page) -> Result<Option<Place>, Failure> {
        let Some(paginate) = &self.spec.paginate else { return Ok(None) };
        let empty = page.rows == 0;
        Ok(match &paginate.by {
            PaginateBy::LinkHeader => next_link(headers).map(|link| self.link(from, &link)).transpose()?,
            PaginateBy::Link(_) => page.next.as_ref().map(|link| self.link(from, link)).transpose()?,
            PaginateBy::Cursor { .. } => page.next.clone().map(Place::Cursor),
            PaginateBy::Offset(_) | PaginateBy::Page(..) if empty => None,
            PaginateBy::Offset(_) => Some(Place::Number(self.number(0)? + page.rows)),
            PaginateBy::Page(_, first) => Some(Place::Number(self.number(*first)? + 1)),
        })
    }

    fn number(&self, first: u64) -> Result<u64, Failure> {
        match self.place {
            Place::First => Ok(first),
            Place::Number(number) => Ok(number),
            _ => Err(Failure::permanent("the position of the read is of another kind of pages").help("`--fresh` begins it anew")),
        }
    }

    fn link(&self, from: &Url, link: &str) -> Result<Place, Failure> {
        let mut url = self.api.follow(from, link)?;
        let own = |name: &str, value: &str| self.spec.query.iter().any(|(known, said)| known == name && said == value);
        let pairs: Vec<(String, String)> = url.query_pairs().into_owned().collect();
        let (with, rest): (Vec<_>, Vec<_>) = pairs.into_iter().partition(|(name, value)| own(name, value));
        if !with.is_empty() {
            url.set_query(None);
            if !rest.is_empty() {
                url.query_pairs_mut().extend_pairs(rest);
            }
        }
        Ok(Place::Link { url: url.into(), with: with.into_iter().map(|(name, _)| name).collect() })
    }

    /// The page to ask for, to be committed with what was read before it.
    pub(super) fn position(&self) -> Result<Position, Failure> {
        let written = serde_json::to_string(&Written { v: VERSION, next: self.place.clone() });
        written.map(Position).map_err(|error| Failure::permanent("a position cannot be written down").cause(error))
    }
}

fn hash(place: &Place) -> u64 {
    xxh3_64(format!("{place:?}").as_bytes())
}

/// The URL of `rel="next"` in the headers `Link`, which RFC 8288 describes.
fn next_link(headers: &HeaderMap) -> Option<String> {
    headers.get_all(LINK).iter().filter_map(|value| value.to_str().ok()).find_map(next_of)
}

fn next_of(value: &str) -> Option<String> {
    let mut rest = value;
    loop {
        let (url, after) = rest.split_once('<')?.1.split_once('>')?;
        // The parameters go up to the next comma that is not quoted.
        let mut quoted = false;
        let end = after.find(|letter| {
            quoted ^= letter == '"';
            letter == ',' && !quoted
        });
        let (params, next) = after.split_at(end.unwrap_or(after.len()));
        let is_next = params.split(';').filter_map(|param| param.split_once('=')).any(|(name, value)| {
            name.trim().eq_ignore_ascii_case("rel")
                && value.trim().trim_matches('"').split_ascii_whitespace().any(|rel| rel.eq_ignore_ascii_case("next"))
        });
        if is_next {
            return Some(url.trim().to_owned());
        }
        rest = next;
    }
}

#[cfg(test)]
mod tests {
    use super::next_of;

    #[test]
    fn the_next_link_is_found_among_others() {
        let check = |value: &str, expected: Option<&str>| assert_eq!(next_of(value).as_deref(), expected, "{value}");
        check(r#"<https://a/x?page=2>; rel="next", <https://a/x?page=9>; rel="last""#, Some("https://a/x?page=2"));
        check(r#"<https://a/1>; rel="prev"; title="a, b", </x?p=3>; rel=next"#, Some("/x?p=3"));
        check(r#"<?after=a,b>; title="<no>"; rel="last Next""#, Some("?after=a,b"));
        check(r#"<https://a/1>; rel="prev""#, None);
        check("nonsense", None);
        check("", None);
    }
}

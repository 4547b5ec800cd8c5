//! What a feed that haul serves says of itself, amid its rows: an object whose first member is `@feed`. Pure.

use serde_json::Value;

use crate::failure::Failure;

/// Whether a text is such a note, and no row.
pub(super) fn is_note(text: &str) -> bool {
    text.starts_with("{\"@feed\":")
}

/// Fails when the note tells of events that are lost: a target that lacks them would not show it.
pub(super) fn heed(text: &str) -> Result<(), Failure> {
    let note: Value = serde_json::from_str(text).map_err(|error| Failure::transient("a note of the feed cannot be read").cause(error))?;
    let count = match note.get("lost") {
        Some(Value::Number(lost)) if lost.as_u64() == Some(0) => return Ok(()),
        Some(Value::Number(lost)) => format!("{lost} events"),
        Some(_) => "events".to_owned(),
        None => return Ok(()),
    };
    Err(Failure::permanent(format!("the feed lost {count} that this stream did not get: it does not keep them any more"))
        .help("`--fresh` begins anew with what the feed has; let it keep more with `keep:`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_losses_are_failures() {
        assert!(is_note("{\"@feed\":\"start\"}") && !is_note("{\"feed\":\"start\"}") && !is_note("{\"@id\":1,\"@feed\":2}"));
        let check = |text: &str, part: Option<&str>| match (heed(text), part) {
            (Ok(()), None) => {}
            (Err(failure), Some(part)) => assert!(failure.message.contains(part), "{failure}"),
            (found, _) => panic!("{text}: {found:?}"),
        };
        check("{\"@feed\":\"start\",\"lost\":0}", None);
        check("{\"@feed\":\"snapshot_end\",\"place\":\"7\"}", None);
        check("{\"@feed\":\"gap\",\"lost\":3}", Some("lost 3 events"));
        check("{\"@feed\":\"start\",\"lost\":null}", Some("lost events"));
    }
}

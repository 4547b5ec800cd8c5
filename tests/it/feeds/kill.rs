//! kill -9 of the writer again and again, while clients come back: no event twice, none lost, none in part.

use super::client::try_get;
use super::*;
use crate::support::{dice, kills};

/// Kills that a test deals.
const KILLS: usize = 12;

#[test]
fn a_killed_writer_leaves_whole_commits() {
    let project = project(", key: id", "");
    let (mut dice, seed) = dice();
    let (mut rows, mut seen) = (0, 0);
    for _ in 0..kills(KILLS) {
        let haul = Haul::start(&project, &["run", "p"]);
        let before = head(&project);
        haul.until("a start", || {
            rows += 1;
            add(&project, rows..=rows);
            haul.said().contains("feeds are served") && head(&project) > before
        });
        let address = haul.address();
        let mut client = get(&address, &format!("/feeds/a?from={seen}"), &[]);
        let note = client.object();
        assert_eq!((&note["lost"], &note["place"]), (&0.into(), &Value::from(seen.to_string())), "seed {seed}: a number was given twice");
        let (wait, end) = (Duration::from_millis(dice.u64(1..=150)), Instant::now());
        while end.elapsed() < wait {
            add(&project, rows + 1..=rows + 20);
            rows += 20;
        }
        haul.kill();
        // What came before the end is what the next client goes on from; half a line is no event.
        while let Ok(Some(line)) = client.try_line() {
            if let Some(id) = serde_json::from_str::<Value>(&line).ok().and_then(|event| event["@id"].as_u64()) {
                seen += 1;
                assert_eq!(id, seen, "seed {seed}");
            }
        }
    }
    let haul = Haul::start(&project, &["run", "p"]);
    haul.until_head(&project, rows);
    let address = haul.address();
    let mut client = try_get(&address, "/feeds/a?from=start", &[]).expect("an answer");
    follow_on(|| client.object(), 0, rows);
    assert_eq!(head(&project), rows, "seed {seed}: events were doubled");
    println!("{rows} events, seed {seed}");
}

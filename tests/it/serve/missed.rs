//! Ticks that went by while nobody served.

use haul::journal::{DEFAULT_URL, Decided, TickState};

use super::{ask, rows, serve, ticks, wait};
use crate::support::Project;

const HOUR: i64 = 3_600_000;

/// Of six hourly ticks: the schedule's catch-up, and how many are started.
const MADE_UP: [(&str, &str, usize); 5] = [
    ("none", "", 0),
    ("newest", ", catch_up: latest", 1),
    ("three", ", catch_up: { mode: all, most: 3 }", 3),
    ("recent", ", catch_up: { mode: all, window: 2h }", 2),
    ("paused", ", catch_up: all", 0),
];

#[test]
fn ticks_that_went_by_are_shown_and_made_up_for_as_far_as_wanted() {
    let project = Project::new();
    // The latest tick was five minutes ago, which is too late to be on time, and the next one is far.
    let now = jiff::Timestamp::now();
    let minute = (now.as_second() / 60 - 5) % 60;
    for (name, catch_up, _) in MADE_UP {
        project.file(&format!("pipelines/{name}.yaml"), rows(name, &format!("{{ cron: \"{minute} * * * *\"{catch_up} }}")));
    }
    assert!(project.haul(&["schedule"]).expect(0).stdout.starts_with("nothing runs by itself: nobody serves this project"));
    let served = serve(&project, "log", &[]);
    wait("the daemon", &project, "log", || project.read("log").contains("definitions read"));
    let shown = project.haul(&["schedule"]).expect(0).stdout;
    assert!(!shown.contains("nobody serves") && !shown.contains("went by"), "{shown}");
    assert_eq!(served.stop(), Some(143));
    project.haul(&["pause", "paused"]).expect(0);
    // As if it had been away for six hours.
    ask(&project, DEFAULT_URL, async |journal| {
        let decided: Vec<Decided> = journal.decided().await.expect("what is decided");
        let back = |decided: Decided| Decided { until_ms: now.as_millisecond() - 6 * HOUR, ..decided };
        let back: Vec<Decided> = decided.into_iter().filter(|decided| !decided.pipeline.starts_with('/')).map(back).collect();
        assert_eq!(back.len(), MADE_UP.len());
        journal.decide(&[], &back).await.expect("set back");
    });
    let shown = project.haul(&["schedule"]).expect(0).stdout;
    for (name, _, made_up) in MADE_UP {
        let of = shown.split("\n\n").find(|of| of.starts_with(name)).expect("it is shown");
        let most = if made_up == 0 { "none of them".to_owned() } else { format!("{made_up} at most") };
        let wanted = format!("; `haul serve` will make up for {most}");
        assert!(of.contains("went by: 6 ticks since ") && of.contains(&wanted), "{of}");
    }
    let served = serve(&project, "log", &[]);
    let settled = |name: &str| ticks(&project, name).iter().all(|tick| tick.state != TickState::Open) && !ticks(&project, name).is_empty();
    wait("all to be decided", &project, "log", || MADE_UP.iter().all(|(name, ..)| settled(name)));
    for (name, _, made_up) in MADE_UP {
        let ticks = ticks(&project, name);
        let count = |state: TickState| ticks.iter().filter(|tick| tick.state == state).map(|tick| tick.count.unwrap_or(1)).sum::<u64>();
        let left = if name == "paused" { TickState::Skipped } else { TickState::Missed };
        assert_eq!((count(TickState::Done), count(left)), (made_up as u64, 6 - made_up as u64), "{name}: {ticks:?}");
        assert!(ticks.windows(2).all(|pair| pair[0].at_ms < pair[1].at_ms), "{ticks:?}");
    }
    assert_eq!(served.stop(), Some(143));
    let shown = project.haul(&["schedule", "none"]).expect(0).stdout;
    assert!(shown.contains(" and 5 before it  missed: nobody was there to start it"), "{shown}");
}

//! Keys copied from one Redis to another: every type, every topology, and proof.

mod copy;
mod faults;
mod large;
mod moments;
mod verify;
mod versions;
mod world;

use crate::support::{Project, Said};

/// A project whose only pipeline copies keys. `from` and `to` are what stands beside `redis:`.
fn project(source: &str, target: &str, from: &str, to: &str, more: &str) -> Project {
    let project = Project::new();
    project.file(
        "pipelines/copy.yaml",
        format!(
            "connections:
  old: {{ url: \"{source}\" }}
  new: {{ url: \"{target}\" }}
stages:
  keys:
    kind: batch
    from: {{ redis: old, {from} }}
    to: {{ redis: new{to} }}
{more}"
        ),
    );
    project
}

/// Copies everything.
#[track_caller]
fn copy(source: &str, target: &str, to: &str) -> Said {
    project(source, target, "keys: [\"*\"]", to, "").haul(&["run", "copy"]).expect(0)
}

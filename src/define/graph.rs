//! The edges between stages: unknown names, cycles, and stages that nobody needs.

use std::collections::{BTreeMap, BTreeSet};

use super::reader::Reader;
use super::suggest::known_names;
use crate::diagnostic::Diagnostic;
use crate::load::document::child;
use crate::load::file::{self, BatchStage, Input, Stage};
use crate::load::shape::OneOrMany;

/// One edge: a stage that waits for another, and where that is said.
struct Edge<'a> {
    from: &'a str,
    to: &'a str,
    at: String,
    data: bool,
}

/// Checks the graph. True when it has no cycle, so that what follows may walk it.
pub fn check(reader: &mut Reader<'_>, said: &file::Pipeline) -> bool {
    let stages = said.stages.as_ref().map(|entries| entries.0.as_slice()).unwrap_or_default();
    let mut edges = Vec::new();
    for (name, stage) in stages {
        if let Stage::Batch(stage) = stage {
            collect(reader, name, stage, &mut edges);
        }
    }
    let names: BTreeSet<&str> = stages.iter().map(|(name, _)| name.as_str()).collect();
    edges.retain(|edge| {
        let known = names.contains(edge.from);
        if !known && !reader.broken(&child("/stages", edge.from)) {
            let help = known_names(edge.from, "other stages", names.iter().copied().filter(|name| *name != edge.to));
            reader.error("unknown-stage", &edge.at, format!("there is no stage `{}`", edge.from), help);
        }
        known
    });
    unread(reader, stages, &edges);
    cycles(reader, edges)
}

fn collect<'a>(reader: &mut Reader<'_>, name: &'a str, stage: &'a BatchStage, edges: &mut Vec<Edge<'a>>) {
    let at = child("/stages", name);
    for (index, from) in stage.after.iter().flatten().enumerate() {
        let at = format!("{at}/after/{index}");
        if stage.after.iter().flatten().take(index).any(|earlier| earlier == from) {
            let message = format!("`{from}` is named twice in `after`");
            reader.warn_at_key("duplicate-name", &at, message, "remove one of the two");
            continue;
        }
        edges.push(Edge { from, to: name, at, data: false });
    }
    for (pointer, input) in items(stage.from.as_ref(), &format!("{at}/from")) {
        if let Input::Stage(input) = input
            && let Some(from) = &input.stage
        {
            edges.push(Edge { from, to: name, at: format!("{pointer}/stage"), data: true });
        }
    }
}

/// The items of a value that is one thing or a list of them, with their pointers.
pub fn items<'a, T>(said: Option<&'a OneOrMany<T>>, pointer: &str) -> Vec<(String, &'a T)> {
    match said {
        None => Vec::new(),
        Some(OneOrMany::One(one)) => vec![(pointer.to_owned(), one)],
        Some(OneOrMany::Many(many)) => many.iter().enumerate().map(|(index, item)| (format!("{pointer}/{index}"), item)).collect(),
    }
}

fn unread(reader: &mut Reader<'_>, stages: &[(String, Stage)], edges: &[Edge<'_>]) {
    for (name, stage) in stages {
        let at = child("/stages", name);
        let Stage::Batch(stage) = stage else { continue };
        if stage.to.is_some() || reader.broken(&format!("{at}/to")) || edges.iter().any(|edge| edge.data && edge.from == name) {
            continue;
        }
        let message = format!("the stage `{name}` has no `to`, and no stage reads it");
        reader.error_at_key("unread-stage", &at, message, "add `to:`, or read it with `from: { stage: … }` in another stage");
    }
}

/// Reports each cycle once, with the place of every edge in it.
fn cycles(reader: &mut Reader<'_>, mut edges: Vec<Edge<'_>>) -> bool {
    let mut clean = true;
    loop {
        prune(&mut edges);
        // Every edge left leads on to another one: following them must come back to a stage.
        let Some(first) = edges.first() else { return clean };
        clean = false;
        let mut path: Vec<usize> = Vec::new();
        let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
        let mut stage = first.from;
        while !seen.contains_key(stage) {
            seen.insert(stage, path.len());
            let Some(next) = edges.iter().position(|edge| edge.from == stage) else { break };
            path.push(next);
            stage = edges[next].to;
        }
        let mut circle: Vec<usize> = path.split_off(seen.get(stage).copied().unwrap_or(0));
        report(reader, &edges, &circle);
        circle.sort_unstable();
        for index in circle.into_iter().rev() {
            edges.remove(index);
        }
    }
}

/// Removes edges that are in no cycle, until none is left or all might be.
fn prune(edges: &mut Vec<Edge<'_>>) {
    loop {
        let before = edges.len();
        let sources: BTreeSet<String> = edges.iter().map(|edge| edge.from.to_owned()).collect();
        edges.retain(|edge| sources.contains(edge.to));
        if edges.len() == before {
            return;
        }
    }
}

fn report(reader: &mut Reader<'_>, edges: &[Edge<'_>], circle: &[usize]) {
    let mut in_file: Vec<&Edge<'_>> = circle.iter().map(|index| &edges[*index]).collect();
    in_file.sort_by_key(|edge| reader.document.value_span(&edge.at).start);
    let message = match in_file.as_slice() {
        [only] => format!("the stage `{}` waits for itself", only.to),
        _ => {
            let names: Vec<String> = circle.iter().map(|index| format!("`{}`", edges[*index].to)).collect();
            format!("stages wait for each other in a circle: {} → {}", names.join(" → "), names.first().map_or("", String::as_str))
        }
    };
    let mut problem = Diagnostic::error("stage-cycle", message);
    for edge in in_file {
        let verb = if edge.data { "reads" } else { "waits for" };
        problem = reader.document.at_value(problem, &edge.at, format!("`{}` {verb} `{}`", edge.to, edge.from));
    }
    reader.problems.push(problem.help("remove one of these"));
}

//! The edges between stages: unknown names, cycles, and stages that nobody needs.

use std::collections::{BTreeMap, BTreeSet};

use super::reader::Reader;
use crate::diagnostic::Diagnostic;
use crate::diagnostic::suggest::known_names;
use crate::load::document::child;
use crate::load::file::{self, Input, Output, Rows, Stage};
use crate::load::shape::OneOrMany;

/// One edge: a stage that waits for another, and where that is said.
struct Edge<'a> {
    from: &'a str,
    to: &'a str,
    at: String,
    kind: EdgeKind,
}

/// Why a stage waits.
#[derive(Clone, Copy, PartialEq, Eq)]
enum EdgeKind {
    /// `after:` names the other.
    Order,
    /// It reads the other's rows.
    Data,
    /// It looks into the other, a cache.
    Lookup,
    /// It changes the other, a cache.
    Change,
}

impl EdgeKind {
    fn verb(self) -> &'static str {
        match self {
            Self::Order => "waits for",
            Self::Data => "reads",
            Self::Lookup => "looks into",
            Self::Change => "changes",
        }
    }
}

/// Checks the graph. True when it has no cycle, so that what follows may walk it.
pub fn check(reader: &mut Reader<'_>, said: &file::Pipeline) -> bool {
    let stages = said.stages.as_ref().map(|entries| entries.0.as_slice()).unwrap_or_default();
    let mut edges = Vec::new();
    for (name, stage) in stages {
        collect(reader, name, stage.rows(), &mut edges);
    }
    edges.retain(|edge| known(reader, stages, edge));
    unread(reader, stages, &edges);
    unused_caches(reader, stages, &edges);
    endless(reader, stages, &edges);
    cycles(reader, edges)
}

/// Whether the stage that an edge comes from is there, and is what the edge needs.
fn known(reader: &mut Reader<'_>, stages: &[(String, Stage)], edge: &Edge<'_>) -> bool {
    let others = |cache: bool| {
        let wanted = move |stage: &Stage| !cache || matches!(stage, Stage::Cache(_));
        stages.iter().filter(move |(name, stage)| name != edge.to && wanted(stage)).map(|(name, _)| name.as_str())
    };
    match (stages.iter().find(|(name, _)| name == edge.from), edge.kind) {
        (None, EdgeKind::Lookup | EdgeKind::Change) if !reader.broken(&child("/stages", edge.from)) => {
            let help = known_names(edge.from, "caches", others(true));
            reader.error("unknown-cache", &edge.at, format!("there is no cache `{}`", edge.from), help);
        }
        (None, _) if !reader.broken(&child("/stages", edge.from)) => {
            let help = known_names(edge.from, "other stages", others(false));
            reader.error("unknown-stage", &edge.at, format!("there is no stage `{}`", edge.from), help);
        }
        (Some((_, Stage::Batch(_) | Stage::Stream(_))), EdgeKind::Lookup | EdgeKind::Change) => {
            let help = known_names(edge.from, "caches", others(true));
            reader.error("unknown-cache", &edge.at, format!("the stage `{}` is no cache", edge.from), help);
        }
        (Some((_, Stage::Cache(_))), EdgeKind::Data) => {
            let message = format!("the stage `{}` is a cache, which has no rows to read from end to end", edge.from);
            reader.error("unknown-stage", &edge.at, message, "look its rows up in `transform`, or read what the cache reads");
        }
        (found, _) => return found.is_some(),
    }
    false
}

/// A cache in memory that nobody looks into is filled for nothing.
fn unused_caches(reader: &mut Reader<'_>, stages: &[(String, Stage)], edges: &[Edge<'_>]) {
    if !reader.reports_unused("unknown-cache") {
        return;
    }
    for (name, stage) in stages {
        // Other programs may read a cache in Redis.
        if matches!(stage, Stage::Cache(stage) if stage.home.is_none())
            && !edges.iter().any(|edge| edge.kind == EdgeKind::Lookup && edge.from == name)
        {
            let message = format!("no stage looks into the cache `{name}`");
            reader.warn_at_key("unused-cache", &child("/stages", name), message, "add a `lookup` step to a stage, or remove the cache");
        }
    }
}

fn collect<'a>(reader: &mut Reader<'_>, name: &'a str, stage: Rows<'a>, edges: &mut Vec<Edge<'a>>) {
    let at = child("/stages", name);
    for (index, from) in stage.after.iter().enumerate() {
        let at = format!("{at}/after/{index}");
        if stage.after[..index].contains(from) {
            let message = format!("`{from}` is named twice in `after`");
            reader.warn_at_key("duplicate-name", &at, message, "remove one of the two");
            continue;
        }
        edges.push(Edge { from, to: name, at, kind: EdgeKind::Order });
    }
    for (pointer, input) in items(stage.from, &format!("{at}/from")) {
        if let Input::Stage(input) = input
            && let Some(from) = &input.stage
        {
            edges.push(Edge { from, to: name, at: format!("{pointer}/stage"), kind: EdgeKind::Data });
        }
    }
    for (pointer, output) in items(stage.to, &format!("{at}/to")) {
        if let Output::Cache(output) = output
            && let Some(from) = &output.cache
        {
            edges.push(Edge { from, to: name, at: format!("{pointer}/cache"), kind: EdgeKind::Change });
        }
    }
    for (index, step) in stage.transform.iter().copied().flatten().enumerate() {
        if let Some(from) = step.lookup.as_ref().and_then(|lookup| lookup.cache.as_deref()) {
            edges.push(Edge { from, to: name, at: format!("{at}/transform/{index}/lookup/cache"), kind: EdgeKind::Lookup });
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
        if stage.to.is_some()
            || reader.broken(&format!("{at}/to"))
            || edges.iter().any(|edge| edge.kind == EdgeKind::Data && edge.from == name)
        {
            continue;
        }
        let message = format!("the stage `{name}` has no `to`, and no stage reads it");
        reader.error_at_key("unread-stage", &at, message, "add `to:`, or read it with `from: { stage: … }` in another stage");
    }
}

/// A stream never ends by itself: nothing can wait for its end, or read it to its end.
fn endless(reader: &mut Reader<'_>, stages: &[(String, Stage)], edges: &[Edge<'_>]) {
    for edge in edges {
        if stages.iter().any(|(name, stage)| name == edge.from && matches!(stage, Stage::Stream(_))) {
            let message = format!("`{}` {} the stream `{}`, which never ends", edge.to, edge.kind.verb(), edge.from);
            reader.error("after-stream", &edge.at, message, "let it read a table that the stream writes, or let the stream wait for it");
        }
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
        problem = reader.document.at_value(problem, &edge.at, format!("`{}` {} `{}`", edge.to, edge.kind.verb(), edge.from));
    }
    reader.problems.push(problem.help("remove one of these"));
}

//! A pipeline's graph as Mermaid, DOT or JSON: stages, and the places they read and write. Data edges are solid, order edges dashed.

use serde::Serialize;

use crate::define::pipeline::{FilesSource, Flow, Output, Pipeline, PollSource, SinkSpec, SourceSpec, SqlRead, Stage, Step};

/// The graph of a checked pipeline.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Graph {
    /// The pipeline's name.
    pub pipeline: String,
    /// Stages in file order, and places in the order they are met.
    pub nodes: Vec<Node>,
    /// Between nodes, by their ids.
    pub edges: Vec<Edge>,
}

/// One node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Node {
    /// Unique in the graph, and an identifier in both languages.
    pub id: String,
    /// For people.
    pub label: String,
    /// What it is.
    pub kind: NodeKind,
}

/// What a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeKind {
    /// A stage of the pipeline.
    Stage,
    /// A table, a query, files: where rows come from or go to.
    Place,
}

/// One edge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Edge {
    /// The node it leaves.
    pub from: String,
    /// The node it enters.
    pub to: String,
    /// What it means.
    pub kind: EdgeKind,
}

/// What an edge means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EdgeKind {
    /// Rows flow along it.
    Data,
    /// Refused rows flow along it.
    Rejects,
    /// The one starts when the other is done.
    Order,
}

/// The graph of a pipeline.
pub fn graph(pipeline: &Pipeline) -> Graph {
    let mut graph = Graph { pipeline: pipeline.name.clone(), ..Graph::default() };
    for (number, stage) in pipeline.stages.iter().enumerate() {
        graph.nodes.push(Node { id: format!("s{number}"), label: stage.name.clone(), kind: NodeKind::Stage });
    }
    for (number, stage) in pipeline.stages.iter().enumerate() {
        graph.add(number, stage, &pipeline.stages);
    }
    graph
}

impl Graph {
    fn add(&mut self, number: usize, stage: &Stage, stages: &[Stage]) {
        let id = format!("s{number}");
        let known = |name: &str| stages.iter().position(|stage| stage.name == name).map(|number| format!("s{number}"));
        for input in &stage.flow.from {
            let from = match &input.source {
                SourceSpec::Stage(name) => known(name),
                source => Some(self.place(source_label(source), is_shared_source(source))),
            };
            self.edge(from, Some(id.clone()), EdgeKind::Data);
        }
        for (name, _) in &stage.after {
            self.edge(known(name), Some(id.clone()), EdgeKind::Order);
        }
        for step in &stage.flow.transform {
            if let Step::Lookup(lookup) = step {
                self.edge(known(&lookup.cache), Some(id.clone()), EdgeKind::Data);
            }
        }
        for output in &stage.flow.to {
            if let SinkSpec::Cache(sink) = &output.sink {
                self.edge(Some(id.clone()), known(&sink.cache).filter(|cache| *cache != id), EdgeKind::Data);
            }
        }
        self.outputs(&id, &stage.flow);
    }

    fn outputs(&mut self, id: &str, flow: &Flow) {
        for output in flow.to.iter().filter(|output| !matches!(output.sink, SinkSpec::Cache(_))) {
            let to = self.place(sink_label(output), !matches!(output.sink, SinkSpec::Discard));
            self.edge(Some(id.to_owned()), Some(to), EdgeKind::Data);
        }
        if let Some(rejects) = &flow.rejects {
            let to = self.place(format!("{}/{}", rejects.connection, rejects.path), true);
            self.edge(Some(id.to_owned()), Some(to), EdgeKind::Rejects);
        }
    }

    /// The node of a place: the one it has already when it is `shared`, as a table that one stage writes and another one reads.
    fn place(&mut self, label: String, shared: bool) -> String {
        let found = self.nodes.iter().find(|node| shared && node.kind == NodeKind::Place && node.label == label);
        if let Some(node) = found {
            return node.id.clone();
        }
        let id = format!("p{}", self.nodes.iter().filter(|node| node.kind == NodeKind::Place).count());
        self.nodes.push(Node { id: id.clone(), label, kind: NodeKind::Place });
        id
    }

    fn edge(&mut self, from: Option<String>, to: Option<String>, kind: EdgeKind) {
        if let (Some(from), Some(to)) = (from, to) {
            let edge = Edge { from, to, kind };
            if !self.edges.contains(&edge) {
                self.edges.push(edge);
            }
        }
    }

    /// A flowchart for Markdown pages.
    pub fn mermaid(&self) -> String {
        let mut lines = vec!["flowchart LR".to_owned()];
        for Node { id, label, kind } in &self.nodes {
            let label = mermaid_text(label);
            lines.push(match kind {
                NodeKind::Stage => format!("  {id}[\"{label}\"]"),
                NodeKind::Place => format!("  {id}[(\"{label}\")]"),
            });
        }
        lines.extend(self.edges.iter().map(|Edge { from, to, kind }| match kind {
            EdgeKind::Data => format!("  {from} --> {to}"),
            EdgeKind::Rejects => format!("  {from} -- rejects --> {to}"),
            EdgeKind::Order => format!("  {from} -.-> {to}"),
        }));
        lines.join("\n")
    }

    /// A digraph for Graphviz.
    pub fn dot(&self) -> String {
        let mut lines = vec![format!("digraph {} {{", dot_text(&self.pipeline)), "  rankdir=LR;".to_owned()];
        for Node { id, label, kind } in &self.nodes {
            let shape = match kind {
                NodeKind::Stage => "box",
                NodeKind::Place => "cylinder",
            };
            lines.push(format!("  {id} [shape={shape}, label={}];", dot_text(label)));
        }
        lines.extend(self.edges.iter().map(|Edge { from, to, kind }| match kind {
            EdgeKind::Data => format!("  {from} -> {to};"),
            EdgeKind::Rejects => format!("  {from} -> {to} [label=\"rejects\"];"),
            EdgeKind::Order => format!("  {from} -> {to} [style=dashed];"),
        }));
        lines.push("}".to_owned());
        lines.join("\n")
    }
}

/// Two queries or two generators are two places even when they read the same.
fn is_shared_source(source: &SourceSpec) -> bool {
    match source {
        SourceSpec::Sql(sql) | SourceSpec::Poll(PollSource { sql, .. }) => matches!(sql.read, SqlRead::Table { .. }),
        SourceSpec::Changes(_)
        | SourceSpec::Files(_)
        | SourceSpec::Redis(_)
        | SourceSpec::RedisFollow(_)
        | SourceSpec::RedisChannel(_)
        | SourceSpec::RedisKeys(_)
        | SourceSpec::Http(_) => true,
        SourceSpec::Generate(_) | SourceSpec::Stage(_) => false,
    }
}

fn source_label(source: &SourceSpec) -> String {
    match source {
        SourceSpec::Sql(sql) | SourceSpec::Poll(PollSource { sql, .. }) => match &sql.read {
            SqlRead::Table { name, .. } => format!("{}.{}", sql.connection, name.join(".")),
            SqlRead::Query(_) => format!("{}: query", sql.connection),
        },
        SourceSpec::Files(FilesSource { connection, path, .. }) => format!("{connection}/{path}"),
        SourceSpec::Changes(_)
        | SourceSpec::RedisKeys(_)
        | SourceSpec::Redis(_)
        | SourceSpec::RedisFollow(_)
        | SourceSpec::RedisChannel(_)
        | SourceSpec::Http(_) => source.label(),
        SourceSpec::Generate(generate) => format!("generate {}", super::words::counted(generate.rows, "row")),
        SourceSpec::Stage(name) => name.clone(),
    }
}

fn sink_label(output: &Output) -> String {
    match &output.sink {
        SinkSpec::Sql(sink) => format!("{}.{}", sink.connection, sink.table.join(".")),
        SinkSpec::Files(sink) => format!("{}/{}", sink.connection, sink.path),
        SinkSpec::Tables(_) | SinkSpec::RedisKeys(_) | SinkSpec::Http(_) => output.sink.label(),
        SinkSpec::Redis(sink) => format!("{} {}", sink.connection, sink.key),
        SinkSpec::Feed(_) | SinkSpec::Discard | SinkSpec::Cache(_) => output.sink.label(),
    }
}

/// Text between Mermaid's quotes, where a label is HTML with `#…;` for entities.
fn mermaid_text(text: &str) -> String {
    let escaped = |c: char| match c {
        '"' => "#quot;".to_owned(),
        '#' => "#35;".to_owned(),
        '&' => "#amp;".to_owned(),
        '<' => "#lt;".to_owned(),
        '>' => "#gt;".to_owned(),
        '`' => "#96;".to_owned(),
        c if c.is_control() => " ".to_owned(),
        c => c.to_string(),
    };
    text.chars().map(escaped).collect()
}

fn dot_text(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', " "))
}

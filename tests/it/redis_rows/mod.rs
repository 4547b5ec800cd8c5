//! Rows in Redis, through the built program on real servers, looked at with another client.

mod marks;
mod read;
mod write;

use redis::Connection;

use crate::support::redis::{ask, connect};
use crate::support::{Project, Said};

/// A project with one pipeline over one server.
struct Bench {
    project: Project,
    url: String,
}

impl Bench {
    fn new(url: String) -> Self {
        Self { project: Project::new(), url }
    }

    fn redis(&self) -> Connection {
        connect(&self.url)
    }

    fn ask<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        ask(&mut self.redis(), words)
    }

    /// Runs one stage; `fields` are the lines of the stage, without their indent.
    fn run(&self, fields: &str) -> Said {
        self.pipeline(fields);
        self.project.haul(&["run", "p", "--fresh"])
    }

    fn pipeline(&self, fields: &str) {
        let fields: String = fields.trim().lines().map(|line| format!("    {}\n", line.trim_start())).collect();
        let connections = format!("connections: {{ r: {{ url: \"{}\" }}, here: {{ url: \"file:.\" }} }}", self.url);
        self.project.file("pipelines/p.yaml", format!("{connections}\nstages:\n  s:\n    kind: batch\n{fields}"));
    }

    /// Reads rows out of keys into a CSV file, whose lines come back sorted, the header first.
    fn read(&self, from: &str) -> Vec<String> {
        self.run(&format!("from: {{ redis: r, {from} }}\nto: {{ files: here, path: out.csv, csv: {{ null: \"NULL\" }} }}")).expect(0);
        self.lines("out.csv")
    }

    fn lines(&self, path: &str) -> Vec<String> {
        let text = self.project.read(path);
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines[1..].sort();
        lines
    }

    /// Writes the rows of a CSV text into keys.
    fn write(&self, csv: &str, to: &str) -> Said {
        self.project.file("in.csv", csv);
        self.run(&format!("from: {{ files: here, path: in.csv, csv: {{ null: [\"NULL\"] }} }}\nto: {{ redis: r, {to} }}"))
    }
}

//! Names of tables: how they are written, and what each table of a stream of changes is called where it goes.

use super::pipeline::{Engine, Flow, Input, SinkSpec, SourceSpec, SqlSink, Step, WriteMode};
use super::reader::Reader;
use crate::load::file;
use crate::load::template::{Part, is_template};

/// What stands for the name of a table that changes come from.
const TABLE: &str = "table";

/// What comes to the outputs of a stage.
pub enum Comes {
    /// Rows, or the changes of rows where nothing has to be known of their tables.
    Rows,
    /// Keys of a Redis server, as they are.
    Keys,
    /// The changes of these tables; none when their names are wrong.
    Changes(Vec<Vec<String>>),
}

impl Comes {
    /// What these inputs give. Of one that cannot be understood, which has been reported, what it says is enough.
    pub fn of(said: &[(String, &file::Input)], from: &[Input]) -> Self {
        let says = |what: fn(&file::Input) -> bool| said.iter().any(|(_, input)| what(input));
        match from {
            _ if says(|input| matches!(input, file::Input::Redis(said) if said.keys.is_some())) => Self::Keys,
            [Input { source: SourceSpec::Changes(changes), .. }] => Self::Changes(changes.tables.clone()),
            _ if says(|input| matches!(input, file::Input::Sql(said) if said.changes.is_some())) => Self::Changes(Vec::new()),
            _ => Self::Rows,
        }
    }
}

/// A name that is being put together: an optional schema and a name, between them a dot.
#[derive(Default)]
struct Name {
    parts: Vec<String>,
    last: String,
    quoted: bool,
}

impl Name {
    /// Takes text as it is written: double quotes stand around what may hold dots, unless `whole`.
    fn written(&mut self, text: &str, whole: bool) {
        for letter in text.chars() {
            match letter {
                '"' => self.quoted = !self.quoted,
                '.' if !self.quoted && !whole => self.parts.push(std::mem::take(&mut self.last)),
                letter => self.last.push(letter),
            }
        }
    }

    fn finish(mut self) -> Option<Vec<String>> {
        self.parts.push(self.last);
        let fine = |part: &String| !part.trim().is_empty() && part.trim() == part;
        (!self.quoted && self.parts.len() <= 2 && self.parts.iter().all(fine)).then_some(self.parts)
    }
}

/// The name of a table in full, the same for every spelling that means it. PostgreSQL's tables without a schema are taken for those of `public`;
/// SQLite has one schema, and does not tell upper from lower case. While the engine is not known, every spelling is a table of its own.
pub fn full_name(engine: Option<Engine>, name: &[String]) -> Vec<String> {
    match (engine, name) {
        (Some(Engine::Postgres), [table]) => vec!["public".to_owned(), table.clone()],
        (Some(Engine::Sqlite), [table]) => vec!["main".to_owned(), table.to_ascii_lowercase()],
        (Some(Engine::Sqlite), _) => name.iter().map(|part| part.to_ascii_lowercase()).collect(),
        _ => name.to_vec(),
    }
}

/// `public.orders` as parts; a part in double quotes may hold dots.
pub fn table_name(reader: &mut Reader<'_>, at: &str, said: &str) -> Option<Vec<String>> {
    let text = reader.text(at, said)?;
    let mut name = Name::default();
    name.written(&text, is_template(&text));
    let name = name.finish();
    if name.is_none() {
        wrong_name(reader, at, &text);
    }
    name
}

fn wrong_name(reader: &mut Reader<'_>, at: &str, text: &str) {
    let help = "write `table` or `schema.table`; a name that holds a dot stands in double quotes";
    reader.error("table-name", at, format!("`{text}` is not the name of a table"), help);
}

/// What the tables of a stream are called in the output at `at`: what its `table` says of each, else their own names. A file of SQLite has no
/// schemas, and takes their last parts.
pub fn targets(
    reader: &mut Reader<'_>,
    at: &str,
    said: Option<&str>,
    tables: &[Vec<String>],
    engine: Option<Engine>,
) -> Option<Vec<Vec<String>>> {
    let Some(said) = said else {
        if engine != Some(Engine::Sqlite) {
            return Some(tables.to_vec());
        }
        let names: Vec<Vec<String>> = tables.iter().map(|table| table.last().cloned().into_iter().collect()).collect();
        return distinct(reader, at, names, engine);
    };
    let at = format!("{at}/table");
    let template = reader.over_rows(&at, said, "table name")?;
    if let Some(other) = template.columns().find(|name| *name != TABLE) {
        let message = format!("`{other}` is not known here: where a change goes is decided by its table alone");
        reader.error("table-name", &at, message, "write `{{ table }}` for the name of the table");
        return None;
    }
    if tables.len() > 1 && template.columns().next().is_none() {
        let message = format!("the rows of {} tables would all go to `{said}`", tables.len());
        let help = "leave `table` out to keep the tables' names, or write `{{ table }}` in it: `copies.{{ table }}`";
        reader.error("stream-target", &at, message, help);
        return None;
    }
    let mut names: Vec<Vec<String>> = Vec::with_capacity(tables.len());
    for table in tables {
        let own = table.last().map(String::as_str).unwrap_or_default();
        let mut name = Name::default();
        for part in template.parts() {
            match part {
                Part::Text(text) => name.written(text, is_template(text)),
                Part::Column(_) => name.last.push_str(own),
            }
        }
        let Some(name) = name.finish() else {
            wrong_name(reader, &at, said);
            return None;
        };
        names.push(name);
    }
    distinct(reader, &at, names, engine)
}

/// Names of which the engine takes no two for one.
fn distinct(reader: &mut Reader<'_>, at: &str, names: Vec<Vec<String>>, engine: Option<Engine>) -> Option<Vec<Vec<String>>> {
    let full = |name: &[String]| full_name(engine, name);
    let twice = names.iter().enumerate().find(|(place, name)| names[..*place].iter().any(|other| full(other) == full(name)));
    let Some((_, name)) = twice else { return Some(names) };
    let help = if engine == Some(Engine::Sqlite) {
        "a file of SQLite has no schemas: follow one of the two in a stream of its own, and give it another name with `table`"
    } else {
        "leave `table` out, so that each goes to the schema that it comes from"
    };
    reader.error("stream-target", at, format!("two of the tables would go to `{}`", name.join(".")), help);
    None
}

/// Refuses what an output says of one table where several come.
pub fn one_table_only(reader: &mut Reader<'_>, at: &str, said: &file::SqlOutput) {
    for (key, there) in [("key", said.key.is_some()), ("primary_key", said.primary_key.is_some())] {
        if there {
            let message = format!("`{key}` would be that of every table, and each of them has its own");
            reader.error_at_key("stream-target", &format!("{at}/{key}"), message, format!("remove `{key}`"));
        }
    }
}

/// Checks a stage that follows several tables: they keep their columns and go to one database, whose transactions are those of the source.
pub fn several(reader: &mut Reader<'_>, at: &str, flow: &Flow) {
    let steps: Vec<&Step> = flow.transform.iter().collect();
    if !steps.is_empty() {
        let message = "the tables of this stream have different columns, and a step is written for those of one";
        reader.error("stream-transform", &format!("{at}/transform/0"), message, "follow the table that needs steps in a stream of its own");
    }
    let several_outputs = flow.to.len() > 1;
    for (place, output) in flow.to.iter().enumerate() {
        match &output.sink {
            SinkSpec::Tables(tables) if !tables.iter().all(|table| matches!(table.mode, WriteMode::Upsert { .. })) => {
                let pointer = format!("{}/mode", output.at);
                let pointer = if reader.document.get(&pointer).is_some() { pointer } else { output.at.clone() };
                reader.error("stream-target", &pointer, "changes are applied by their key", "write `mode: upsert`");
            }
            SinkSpec::Tables(_) if several_outputs && place > 0 => {
                let message = "the transactions of several tables are kept whole in one database";
                reader.error("stream-target", &output.at, message, "write one stream for each database");
            }
            SinkSpec::Tables(_) => {}
            _ => {
                let message = "this takes the changes of one table, and the stream follows several";
                let help = "write them to tables: `{ sql: …, mode: upsert }`, or write one stream for each table";
                reader.error("stream-target", &output.at, message, help);
            }
        }
    }
}

/// The same table of the same connection under other names, one for each.
pub fn under(sink: &SqlSink, names: Vec<Vec<String>>) -> Vec<SqlSink> {
    names.into_iter().map(|table| SqlSink { table, ..sink.clone() }).collect()
}

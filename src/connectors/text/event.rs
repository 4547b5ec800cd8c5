//! Events: JSON objects that say first what happened to a row, and then the row's columns.

use crate::connectors::TargetProblem;
use crate::data::Schema;

/// Members of events that are haul's own; columns cannot have their names.
const OWN: [&str; 3] = ["@id", "@op", "@feed"];

/// What is wrong with columns that have names of haul's own members.
pub(in crate::connectors) fn own_members(schema: &Schema) -> impl Iterator<Item = TargetProblem> {
    schema.columns.iter().filter(|column| OWN.contains(&column.name.as_str())).map(|column| TargetProblem {
        code: "target-column",
        field: "",
        message: format!("`{}` is a member that events have by themselves", column.name),
        help: format!("rename it: `rename: {{ \"{}\": another }}`", column.name),
    })
}

/// Writes an event. `object` writes the members of the row as an object of their own.
pub(in crate::connectors) fn print_event<E>(
    op: &str,
    out: &mut Vec<u8>,
    object: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
) -> Result<(), E> {
    out.extend_from_slice(b"{\"@op\":\"");
    out.extend_from_slice(op.as_bytes());
    out.push(b'"');
    let members = out.len();
    object(out)?;
    if out[members..] == *b"{}" {
        out.remove(members);
    } else {
        out[members] = b',';
    }
    Ok(())
}

//! What sources and targets must agree on once both are known: the form of values, and room for them.

use super::explain::size;
use super::problems::Problems;
use super::{InputPlan, Origin, OutputPlan};
use crate::data::Schema;
use crate::diagnostic::Diagnostic;

/// Asks the sources for the form of their own types that every target understands, and the targets for room. `None` when a target cannot be
/// asked, which is then among the problems.
pub(super) async fn fit(problems: &mut Problems<'_>, inputs: &mut [InputPlan], outputs: &[OutputPlan], schema: &Schema) -> Option<()> {
    let bytes = inputs.iter().map(|input| match &input.origin {
        Origin::Source(from) => from.description.bytes,
        Origin::Stage(_) => None,
    });
    let bytes: Option<u64> = bytes.sum();
    for output in outputs {
        let asked = async { Ok((output.sink.portable(schema).await?, output.sink.room().await?)) };
        let (portable, room) = match asked.await {
            Ok(answers) => answers,
            Err(failure) => {
                problems.failure(&output.output.at, "target-unusable", &failure);
                return None;
            }
        };
        for input in inputs.iter_mut() {
            if let Origin::Source(from) = &mut input.origin {
                from.request.portable |= portable;
            }
        }
        if let (Some(bytes), Some(room)) = (bytes, room)
            && bytes > room
        {
            let message = format!("about {} are to be written, and {} has room for {}", size(bytes), output.label, size(room));
            let help = "raise the target's memory limit, make room, or copy less";
            problems.definition(&output.output.at, Diagnostic::error("target-room", message).help(help));
        }
    }
    Some(())
}

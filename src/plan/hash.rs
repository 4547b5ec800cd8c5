//! What tells one definition of a stage from another.

use sha2::{Digest, Sha256};
use xxhash_rust::xxh3::Xxh3;

use super::build::Builder;
use super::routes::followed;
use super::{InputPlan, Origin};
use crate::data::Schema;
use crate::define::pipeline::{Input, Kind, Mask, SourceSpec, Stage, Step};

/// A hash over texts, each told from the next.
pub(super) fn hash<'a>(parts: impl Iterator<Item = &'a str>) -> String {
    let mut hasher = Xxh3::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    format!("{:016x}", hasher.digest())
}

/// Stands for a salt, which shows in no text, so that another salt is another definition.
fn salted(mask: &Mask) -> Option<String> {
    match mask {
        Mask::Hash { salt } => Some(format!("{:?}", Sha256::digest(salt.reveal()).as_slice())),
        Mask::Redact(_) | Mask::Null => None,
    }
}

impl Builder<'_> {
    /// Everything that decides which rows are written where: the definition, the columns, and the same of the stages it reads.
    pub(super) fn hash(&self, stage: &Stage, inputs: &[InputPlan], schema: &Schema) -> String {
        let flow = &stage.flow;
        if let (Kind::Stream { .. }, [input]) = (&stage.kind, flow.from.as_slice())
            && let Some(followed) = followed(&input.source)
        {
            let sinks: Vec<String> = flow.to.iter().map(|output| output.sink.label()).collect();
            return hash([&stage.name, &followed, &format!("{sinks:?}")].map(String::as_str).into_iter());
        }
        if let [Input { source: SourceSpec::RedisFollow(follow), .. }] = flow.from.as_slice() {
            let sinks: Vec<String> = flow.to.iter().map(|output| output.sink.label()).collect();
            let followed = format!("{} {} {:?} {}", follow.rows.connection, follow.rows.key, follow.rows.shape, follow.name);
            return hash([&stage.name, &followed, &format!("{sinks:?}")].map(String::as_str).into_iter());
        }
        let mut parts = vec![stage.name.clone(), format!("{:?}", flow.from), format!("{:?}", flow.transform), format!("{:?}", flow.to)];
        parts.push(format!("{schema:?}"));
        for input in inputs {
            if let Origin::Stage(from) = &input.origin
                && let Some(producer) = &self.planned[*from]
            {
                parts.push(producer.hash.clone());
            }
        }
        for step in &flow.transform {
            match step {
                Step::Lookup(lookup) => {
                    let cache = self.numbers.get(lookup.cache.as_str()).and_then(|number| self.planned[*number].as_ref());
                    parts.extend(cache.map(|cache| cache.hash.clone()));
                }
                Step::Mask(masks) => parts.extend(masks.iter().filter_map(|(_, mask, _)| salted(mask))),
                _ => {}
            }
        }
        hash(parts.iter().map(String::as_str))
    }
}

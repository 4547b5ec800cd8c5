//! Plans the caches of stages, and what lookups see of them.

use std::sync::Arc;

use super::build::Builder;
use crate::cache::Cache;
use crate::data::Schema;
use crate::define::pipeline::{self as define, Step};
use crate::diagnostic::Diagnostic;
use crate::transform;

impl Builder<'_> {
    /// The cache of a cache stage. Planned again, it stays the same one: lookups hold it.
    pub(super) fn cache(&mut self, number: usize, spec: &define::Cache, schema: &Schema) -> Option<Arc<Cache>> {
        let stage = &self.pipeline.stages[number];
        let mut key = Vec::with_capacity(spec.key.len());
        for (name, at) in &spec.key {
            match schema.find(name) {
                Some((place, _)) => key.push(place),
                None => {
                    let names: Vec<&str> = schema.columns.iter().map(|column| column.name.as_str()).collect();
                    let problem = Diagnostic::error("unknown-column", format!("the rows of `{}` have no column `{name}`", stage.name));
                    self.problems.definition(at, problem.help(format!("the columns are {}", names.join(", "))));
                }
            }
        }
        if key.len() < spec.key.len() {
            return None;
        }
        if let Some(known) = self.planned[number].as_ref().and_then(|planned| planned.cache.clone()) {
            if known.takes(schema) {
                return Some(known);
            }
            let message = format!("what `{}` reads has other columns now than when the run was planned", stage.name);
            self.problems.definition(&stage.at, Diagnostic::error("source-unreadable", message).help("run it again"));
            return None;
        }
        match Cache::new(&stage.name, spec, schema, key) {
            Ok(cache) => Some(cache),
            Err(failure) => {
                self.problems.failure(&stage.at, "target-type", &failure);
                None
            }
        }
    }

    /// What the lookups of a transform look into; `None` when one of them could not be planned, which has been reported.
    pub(super) fn tables(&self, steps: &[Step]) -> Option<transform::Tables> {
        let table = |lookup: &define::Lookup| {
            let cache = self.planned[*self.numbers.get(lookup.cache.as_str())?].as_ref()?.cache.as_ref()?;
            Some((lookup.cache.clone(), cache.table()))
        };
        let lookups = steps.iter().filter_map(|step| if let Step::Lookup(lookup) = step { Some(lookup) } else { None });
        lookups.map(table).collect()
    }
}

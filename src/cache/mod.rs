//! Keyed rows that stages look up.
//!
//! A [`Cache`] belongs to one stage of kind `cache`. It is filled by a sink ([`fill`]), so that a filling has the splits, retries and
//! bad rows of any load, and becomes visible as a whole: lookups see the old rows until the last new one is there. [`find`] joins the keys of
//! a batch against it. Rows are kept in Arrow's row form ([`rows`]), which is compact, compares by bytes and turns back into columns without
//! touching a value by itself. No lookup sees a row half written.

mod fill;
mod find;
mod rows;
mod shelf;

use std::sync::{Arc, Mutex, PoisonError, RwLock};

use self::rows::RowForm;
use self::shelf::Shelf;
use crate::connectors::Sink;
use crate::data::Schema;
use crate::define::pipeline::Cache as Spec;
use crate::failure::Failure;
use crate::transform::Table;

/// The cache of one stage.
pub struct Cache {
    name: String,
    spec: Spec,
    schema: Schema,
    /// Numbers of the columns that name a row.
    key: Vec<usize>,
    key_form: RowForm,
    row_form: RowForm,
    /// What lookups see; nothing before the first filling is complete.
    current: RwLock<Option<Arc<Shelf>>>,
    /// The filling under way, by its epoch.
    filling: Mutex<Filling>,
}

#[derive(Default)]
struct Filling {
    epoch: u64,
    shelf: Option<Arc<Shelf>>,
}

impl Cache {
    /// An empty cache of rows with these columns. Fails when a column's type cannot be kept by row.
    pub fn new(name: &str, spec: &Spec, schema: &Schema, key: Vec<usize>) -> Result<Arc<Self>, Failure> {
        let columns = |places: &mut dyn Iterator<Item = usize>| places.map(|place| schema.columns[place].ty.to_arrow()).collect();
        Ok(Arc::new(Self {
            name: name.to_owned(),
            spec: spec.clone(),
            schema: schema.clone(),
            key_form: RowForm::new(columns(&mut key.iter().copied()))?,
            row_form: RowForm::new(columns(&mut (0..schema.columns.len())))?,
            key,
            current: RwLock::default(),
            filling: Mutex::default(),
        }))
    }

    /// Whether rows with these columns fit it.
    pub fn takes(&self, schema: &Schema) -> bool {
        let same = |(a, b): (&crate::data::Column, &crate::data::Column)| a.name == b.name && a.ty == b.ty;
        self.schema.columns.len() == schema.columns.len() && self.schema.columns.iter().zip(&schema.columns).all(same)
    }

    /// What `lookup` steps see of it.
    pub fn table(self: &Arc<Self>) -> Table {
        let key = self.key.iter().map(|place| self.schema.columns[*place].clone()).collect();
        Table { key, schema: self.schema.clone(), rows: Arc::clone(self) as _ }
    }

    /// Fills it.
    pub fn sink(self: &Arc<Self>) -> Arc<dyn Sink> {
        Arc::new(fill::Fill(Arc::clone(self)))
    }

    /// Whether lookups can be answered.
    pub fn is_warm(&self) -> bool {
        self.shelf().is_some()
    }

    fn shelf(&self) -> Option<Arc<Shelf>> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The filling under way.
    fn filling(&self) -> std::sync::MutexGuard<'_, Filling> {
        self.filling.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

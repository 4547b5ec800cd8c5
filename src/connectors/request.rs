//! What a source gives once it is asked for only a part, and what is read through one view of it.

use std::any::Any;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::ReadRequest;
use crate::data::{Column, Schema, Type};
use crate::failure::Failure;

/// Applies a read request's projection and text reads to a schema, for connectors.
pub fn requested(schema: &Schema, request: &ReadRequest) -> Result<Schema, Failure> {
    let mut columns: Vec<Column> = match &request.columns {
        None => schema.columns.clone(),
        Some(names) => names
            .iter()
            .map(|name| {
                let found = schema.find(name).map(|(_, column)| column.clone());
                found.ok_or_else(|| Failure::permanent(format!("the source has no column `{name}`")))
            })
            .collect::<Result<_, _>>()?,
    };
    for column in &mut columns {
        if request.as_text.contains(&column.name) {
            column.ty = Type::Text;
        }
    }
    Ok(Schema { columns })
}

impl ReadRequest {
    /// The same, through the views of those that read beside it.
    pub fn within(&self, views: &Views) -> Self {
        Self { views: views.clone(), ..self.clone() }
    }
}

/// The views of readings that are held at the same time, such as those of a join: several of one system share one, so that their rows are of one
/// state, and none waits for another. By default a reading shares with nobody.
#[derive(Clone, Debug, Default)]
pub struct Views(Option<Arc<Mutex<Vec<Held>>>>);

/// A view of some system, for as long as a reading has it.
type Held = Weak<dyn Any + Send + Sync>;

impl Views {
    /// For readings that are about to be opened one after the other.
    pub fn shared() -> Self {
        Self(Some(Arc::default()))
    }

    /// A view of this kind that a reading still has.
    pub(super) fn find<V: Any + Send + Sync>(&self, fits: impl Fn(&V) -> bool) -> Option<Arc<V>> {
        let views = self.0.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner);
        views.iter().filter_map(Weak::upgrade).filter_map(|view| view.downcast::<V>().ok()).find(|view| fits(view))
    }

    /// Whether this is where all views are that its readings have, and they have none yet.
    pub(super) fn is_empty(&self) -> bool {
        let views = self.0.as_ref().map(|views| views.lock().unwrap_or_else(PoisonError::into_inner));
        views.is_some_and(|views| views.iter().all(|view| view.strong_count() == 0))
    }

    /// Lets others find a view, for as long as a reading has it.
    pub(super) fn offer<V: Any + Send + Sync>(&self, view: &Arc<V>) {
        if let Some(views) = &self.0 {
            let view: Arc<dyn Any + Send + Sync> = view.clone();
            views.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&view));
        }
    }
}

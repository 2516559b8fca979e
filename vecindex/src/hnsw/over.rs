//! A graph over rows that are there already: a storage that was opened, or filled beforehand.

use super::{Graph, Hnsw};
use crate::error::{CreateError, PushError};
use crate::storage::VectorStorage;

impl<S: VectorStorage> Hnsw<S> {
    /// Joins a storage that has rows with a new graph, of which nothing is linked. All rows are pending then;
    /// [`Hnsw::link_pending`] links them. `label` gives the label of each row.
    ///
    /// # Errors
    /// A graph that is not new, cannot be written, or has no room for the rows.
    pub fn over(storage: S, graph: Graph, label: impl Fn(u32) -> [u64; 2]) -> Result<Hnsw<S>, CreateError> {
        if graph.writer().is_none() {
            return Err(CreateError::ReadOnly);
        }
        if graph.linked() > 0 || graph.upper_used() > 0 || graph.entry().is_some() {
            return Err(CreateError::NotEmpty);
        }
        let hnsw = Hnsw::join(storage, graph)?;
        for id in 0..hnsw.len() {
            let upper_used = hnsw.graph.prepare(id, label(id)).map_err(|error| match error {
                PushError::Memory(e) => CreateError::Memory(e),
                other => CreateError::Mismatch(other.to_string()),
            })?;
            hnsw.graph.confirm(upper_used);
        }
        Ok(hnsw)
    }
}

//! What an index is made with.

use std::marker::PhantomData;
use std::sync::{Arc, OnceLock};

use kriya_region::Region;

use super::{Index, rows};
use crate::error::CreateError;
use crate::hnsw::{Graph, Hnsw, HnswParams};
use crate::metric::Metric;
use crate::storage::{Encoding, F32};

/// Room that an index starts with if it is not told otherwise.
const CAPACITY: u32 = 1024;

/// Makes an [`Index`]; everything has a default.
#[derive(Debug, Clone)]
pub struct IndexBuilder<E: Encoding = F32> {
    dim: usize,
    metric: Metric,
    params: HnswParams,
    capacity: u32,
    exact: bool,
    encoding: PhantomData<E>,
}

impl<E: Encoding> IndexBuilder<E> {
    pub(super) fn new(dim: usize, metric: Metric) -> IndexBuilder<E> {
        // Beside rows that are exact themselves there is nothing to keep.
        let exact = !E::EXACT;
        let (params, capacity, encoding) = (HnswParams::default(), CAPACITY, PhantomData);
        IndexBuilder { dim, metric, params, capacity, exact, encoding }
    }

    /// Links of a row: 2 to 100, 16 if not said. More find more among rows of many dimensions, take more memory and time.
    #[must_use]
    pub fn m(mut self, m: usize) -> Self {
        self.params.m = m;
        self
    }

    /// Rows kept in view while one is added: 4 to 1000, at least 2 `m`, 200 if not said.
    #[must_use]
    pub fn ef_construction(mut self, ef_construction: usize) -> Self {
        self.params.ef_construction = ef_construction;
        self
    }

    /// What chance is drawn from: the same rows with the same seed make the same index.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.params.seed = seed;
        self
    }

    /// Rows there is to be room for from the start: saves copying, and takes no memory before they come.
    #[must_use]
    pub fn capacity(mut self, rows: u32) -> Self {
        self.capacity = rows.max(1);
        self
    }

    /// Whether rows are also kept as they were given, 4 bytes a component, so that what a search finds by the encoded
    /// ones is compared exactly before it is returned. So it is if not said, except for [`F32`] and
    /// [`SplitF32`](crate::SplitF32), for which it means nothing.
    #[must_use]
    pub fn keep_exact(mut self, keep: bool) -> Self {
        self.exact = keep && !E::EXACT;
        self
    }

    /// Makes the index, empty.
    ///
    /// # Errors
    /// A parameter out of its range, no memory.
    pub fn build(self) -> Result<Index<E>, CreateError> {
        let IndexBuilder { dim, metric, params, capacity, exact, .. } = self;
        let graph = Region::heap(Graph::bytes_needed(capacity, params.m)?).map_err(CreateError::Memory)?;
        let graph = Graph::create(Arc::new(graph), params, capacity)?;
        let exact = if exact { Some(rows(metric, dim, capacity)?) } else { None };
        Ok(Index::of(Hnsw::new(rows(metric, dim, capacity)?, graph)?, exact, OnceLock::new()))
    }
}

//! Rows that are equal: one node stands in the graph for all of them.
//!
//! Equal rows would be each other's nearest neighbours and fill each other's links and every search's pool, so that
//! nothing leads away from them. So the first of them is linked, and the others, its *twins*, hang off it as a list: a marked
//! slot of a node's links names its twin, a marked slot of that one the next. A search walks the list when it returns
//! the first. Rows are compared with the one that has the same digest, which does not depend on what a search finds.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Mutex, PoisonError};

use crate::storage::VectorStorage;

/// The first row of each digest. Another row that happens to have the same digest is a node like any other, and rows equal
/// to it are not noticed.
#[derive(Debug, Default)]
pub(crate) struct Twins {
    first: Mutex<HashMap<u64, u32>>,
}

impl Twins {
    /// Bytes on the heap, about: a byte beside each entry, and one of eight left free.
    pub(crate) fn bytes(&self) -> usize {
        let entries = self.first.lock().unwrap_or_else(PoisonError::into_inner).capacity();
        entries * (size_of::<(u64, u32)>() + 1) * 8 / 7
    }

    /// The first row that is equal to this one, which may be itself. `id` below the number of rows.
    pub(crate) fn first<S: VectorStorage>(&self, storage: &S, id: u32) -> u32 {
        self.first_of(storage, id, storage.digest(id))
    }

    /// As [`Twins::first`], of a row whose digest is known.
    pub(crate) fn first_of<S: VectorStorage>(&self, storage: &S, id: u32, digest: u64) -> u32 {
        let first = match self.first.lock().unwrap_or_else(PoisonError::into_inner).entry(digest) {
            Entry::Vacant(entry) => *entry.insert(id),
            Entry::Occupied(entry) => *entry.get(),
        };
        if storage.same(first, id) { first } else { id }
    }
}

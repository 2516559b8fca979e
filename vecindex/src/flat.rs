//! Exact search: every row is compared. The reference for tests and recall, and the right answer for a few rows.

use crate::error::SearchError;
use crate::hnsw::{Key, Pool};
use crate::metric::Neighbour;
use crate::storage::VectorStorage;

/// Rows compared in one call of the storage.
const BATCH: u32 = 256;

/// The `k` rows nearest to `query`, nearest first, ties by id.
///
/// # Errors
/// A query that the storage refuses.
pub fn exact<S: VectorStorage>(storage: &S, query: &[f32], k: usize) -> Result<Vec<Neighbour>, SearchError> {
    let mut prepared = S::Query::default();
    storage.prepare(query, &mut prepared)?;
    let mut keys = Vec::new();
    compare_range(storage, &prepared, 0..storage.len(), &mut keys);
    keys.sort_unstable();
    keys.truncate(k);
    Ok(keys.into_iter().map(|key| key.neighbour(storage.metric())).collect())
}

/// The `k` nearest of some rows, all below the storage's length and none twice; the pool lends its memory.
pub(crate) fn nearest_among<S: VectorStorage>(
    storage: &S,
    query: &S::Query,
    ids: &[u32],
    k: usize,
    pool: &mut Pool,
) -> Vec<Neighbour> {
    let mut distances = [0.0; BATCH as usize];
    pool.reset(k);
    for ids in ids.chunks(BATCH as usize) {
        let distances = &mut distances[..ids.len()];
        storage.distances(query, ids, distances);
        for (id, distance) in ids.iter().zip(distances) {
            pool.insert(Key::new(*distance, *id));
        }
    }
    pool.keys().iter().take(k).map(|key| key.neighbour(storage.metric())).collect()
}

/// Appends the keys of all rows of a range, all below the storage's length.
pub(crate) fn compare_range<S: VectorStorage>(
    storage: &S,
    query: &S::Query,
    range: std::ops::Range<u32>,
    keys: &mut Vec<Key>,
) {
    let ids: Vec<u32> = range.collect();
    compare(storage, query, &ids, keys);
}

/// Makes the distances of keys exact, all of whose ids are below the storage's length. The order stays as it is.
pub(crate) fn refine<S: VectorStorage>(storage: &S, query: &S::Query, keys: &mut [Key]) {
    let (mut ids, mut distances) = ([0; BATCH as usize], [0.0; BATCH as usize]);
    for keys in keys.chunks_mut(BATCH as usize) {
        let (ids, distances) = (&mut ids[..keys.len()], &mut distances[..keys.len()]);
        ids.iter_mut().zip(&*keys).for_each(|(id, key)| *id = key.id());
        storage.exact_distances(query, ids, distances);
        keys.iter_mut().zip(distances).for_each(|(key, d)| *key = key.at(*d));
    }
}

/// Appends the keys of some rows, all below the storage's length.
pub(crate) fn compare<S: VectorStorage>(storage: &S, query: &S::Query, ids: &[u32], keys: &mut Vec<Key>) {
    let mut distances = [0.0; BATCH as usize];
    keys.reserve(ids.len());
    for ids in ids.chunks(BATCH as usize) {
        let distances = &mut distances[..ids.len()];
        storage.exact_distances(query, ids, distances);
        keys.extend(ids.iter().zip(distances).map(|(id, d)| Key::new(*d, *id)));
    }
}

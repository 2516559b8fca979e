//! Exact search: every row is compared. The reference for tests and recall, and the right answer for a few rows.

use crate::error::SearchError;
use std::collections::HashSet;

use rayon::prelude::*;

use crate::hnsw::{Key, Pool};
use crate::ids::{Filter, IdSet, Without};
use crate::metric::Neighbour;
use crate::storage::VectorStorage;

/// Rows compared in one call of the storage.
const BATCH: u32 = 256;
/// Up to so many nearest rows are kept sorted while all are compared; more are picked out at the end.
const SORTED: usize = 1024;

/// The `k` rows nearest to `query`, nearest first, ties by id.
///
/// # Errors
/// A query that the storage refuses.
pub fn exact<S: VectorStorage>(storage: &S, query: &[f32], k: usize) -> Result<Vec<Neighbour>, SearchError> {
    exact_among(storage, query, k, &Without(&IdSet::new()))
}

/// As [`exact`], of the rows that a filter allows.
///
/// # Errors
/// A query that the storage refuses.
pub fn exact_among<S: VectorStorage>(
    storage: &S,
    query: &[f32],
    k: usize,
    filter: &(impl Filter + ?Sized),
) -> Result<Vec<Neighbour>, SearchError> {
    let mut prepared = S::Query::default();
    storage.prepare(query, &mut prepared)?;
    let mut ids = Vec::new();
    filter.ids(storage.len(), &mut ids);
    Ok(nearest_among(storage, &prepared, &ids, k, &mut Pool::default()))
}

/// [`exact`] for many queries, on all threads of the current rayon pool; the answers are in the order of the queries.
///
/// ```
/// # use std::sync::Arc;
/// use vecindex::{AppendVectors, F32Rows, Metric, Region, exact_many};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let rows = F32Rows::create(Arc::new(Region::heap(F32Rows::bytes_needed(2, 10)?)?), Metric::L2, 2, 10)?;
/// for x in 0..10 {
///     rows.push(&[x as f32, 0.0])?;
/// }
/// let nearest = exact_many(&rows, &[[2.2, 0.0], [8.9, 0.0]], 1)?;
/// assert_eq!((nearest[0][0].id, nearest[1][0].id), (2, 9));
/// # Ok(()) }
/// ```
///
/// # Errors
/// A query that the storage refuses.
pub fn exact_many<S: VectorStorage>(
    storage: &S,
    queries: &[impl AsRef<[f32]> + Sync],
    k: usize,
) -> Result<Vec<Vec<Neighbour>>, SearchError> {
    queries.par_iter().map(|query| exact(storage, query.as_ref(), k)).collect()
}

/// The share of `truth`, the nearest rows, that `found` has: how many of its first `truth.len()` rows are different ones no
/// farther than the last of `truth`, of as many.
///
/// So a row that is as near as the last true one counts as true, for which of several equally near ones is in `truth` is chance.
/// Distances may differ by what two ways of computing them do (a ten-thousandth). No truth is found wholly: 1.
///
/// ```
/// use vecindex::{Neighbour, recall};
///
/// let row = |id, distance| Neighbour { id, distance };
/// let truth = [row(7, 0.1), row(3, 0.5)];
/// assert_eq!(recall(&[row(7, 0.1), row(9, 0.5)], &truth), 1.0);
/// assert_eq!(recall(&[row(7, 0.1), row(9, 0.6)], &truth), 0.5);
/// ```
pub fn recall(found: &[Neighbour], truth: &[Neighbour]) -> f64 {
    let Some(last) = truth.iter().map(|n| n.distance).max_by(f32::total_cmp) else { return 1.0 };
    let bound = last + 1e-4 * last.abs() + f32::MIN_POSITIVE;
    let near = found.iter().take(truth.len()).filter(|n| n.distance <= bound);
    near.map(|n| n.id).collect::<HashSet<u32>>().len() as f64 / truth.len() as f64
}

/// The `k` nearest of some rows, all below the storage's length and none twice; the pool lends its memory.
pub(crate) fn nearest_among<S: VectorStorage>(
    storage: &S,
    query: &S::Query,
    ids: &[u32],
    k: usize,
    pool: &mut Pool,
) -> Vec<Neighbour> {
    let k = k.min(ids.len());
    if k > SORTED {
        let mut keys = Vec::new();
        compare(storage, query, ids, &mut keys);
        keys.select_nth_unstable(k - 1);
        keys.truncate(k);
        keys.sort_unstable();
        return keys.iter().map(|key| key.neighbour(storage.metric())).collect();
    }
    let mut distances = [0.0; BATCH as usize];
    pool.reset(k);
    for ids in ids.chunks(BATCH as usize) {
        let distances = &mut distances[..ids.len()];
        storage.exact_distances(query, ids, distances);
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

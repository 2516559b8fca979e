//! Choosing neighbours: the relative-neighbourhood rule of the HNSW paper (its algorithm 4), as hnswlib applies it.
//!
//! A candidate is kept if it is nearer to the node than to every neighbour kept so far: one link then serves a direction, and
//! links go to all sides. Candidates are taken nearest first.

use super::queue::Key;
use crate::storage::VectorStorage;

/// Up to `max` of the candidates (sorted, nearest first, distances to the node) into `kept`.
pub(crate) fn select<S: VectorStorage>(storage: &S, candidates: &[Key], max: usize, kept: &mut Vec<Key>) {
    kept.clear();
    if candidates.len() <= max {
        kept.extend_from_slice(candidates);
        return;
    }
    for candidate in candidates {
        if kept.len() == max {
            return;
        }
        let (id, distance) = (candidate.id(), candidate.distance());
        if kept.iter().all(|k| storage.distance_between(id, k.id()) >= distance) {
            kept.push(*candidate);
        }
    }
}

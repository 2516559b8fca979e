//! Choosing neighbours: the relative-neighbourhood rule of the HNSW paper (its algorithm 4), as hnswlib applies it.
//!
//! A candidate is kept if it is nearer to the node than to every neighbour kept so far: one link then serves a direction, and
//! links go to all sides. Candidates are taken nearest first. Some are certain to be kept, and count as neighbours as the
//! others do.

use super::queue::Key;
use crate::storage::VectorStorage;

/// Up to `max` of the candidates (sorted, nearest first, distances to the node) into `kept`; at most `max` are `certain`.
pub(crate) fn select<S: VectorStorage>(
    storage: &S,
    candidates: &[Key],
    max: usize,
    certain: impl Fn(u32) -> bool,
    kept: &mut Vec<Key>,
) {
    kept.clear();
    if candidates.len() <= max {
        kept.extend_from_slice(candidates);
        return;
    }
    let mut reserved = candidates.iter().filter(|candidate| certain(candidate.id())).count();
    for candidate in candidates {
        if kept.len() == max {
            return;
        }
        let (id, distance) = (candidate.id(), candidate.distance());
        if reserved > 0 && certain(id) {
            reserved -= 1;
            kept.push(*candidate);
        } else if kept.len() + reserved < max && kept.iter().all(|k| storage.distance_between(id, k.id()) >= distance) {
            kept.push(*candidate);
        }
    }
}

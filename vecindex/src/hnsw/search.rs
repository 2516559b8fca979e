//! Walking the graph: greedily down the upper levels, then best first on one level.
//!
//! The number of rows is acquired once per expanded node and ids not below it are skipped: that bounds every access and
//! makes the rows visible, for a row is released before anything links to it.

use std::sync::atomic::Ordering;

use super::queue::{Key, Pool};
use super::visited::Visited;
use super::{EMPTY, Hnsw};
use crate::storage::VectorStorage;

/// Buffers of one expansion.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    ids: Vec<u32>,
    distances: Vec<f32>,
    keys: Vec<Key>,
}

impl Batch {
    /// Compares the collected ids with the query; the keys are in the order of the ids.
    pub(crate) fn compare<S: VectorStorage>(&mut self, storage: &S, query: &S::Query) -> &[Key] {
        self.distances.resize(self.ids.len(), 0.0);
        storage.distances(query, &self.ids, &mut self.distances);
        self.keys.clear();
        self.keys.extend(self.ids.iter().zip(&self.distances).map(|(id, d)| Key::new(*d, *id)));
        &self.keys
    }

    /// Collects a node's neighbours below `len`, whether met before or not.
    pub(crate) fn collect<S: VectorStorage>(&mut self, hnsw: &Hnsw<S>, id: u32, level: u32, len: u32) {
        self.ids.clear();
        let links = hnsw.graph.links(id, level).iter().map(|slot| slot.load(Ordering::Relaxed));
        self.ids.extend(links.filter(|id| *id < len));
        debug_assert!(!self.ids.contains(&EMPTY));
    }

    /// Makes the batch of some ids.
    pub(crate) fn those(&mut self, ids: &[u32]) {
        self.ids.clear();
        self.ids.extend_from_slice(ids);
    }

    /// Makes the batch of one id.
    pub(crate) fn only(&mut self, id: u32) {
        self.ids.clear();
        self.ids.push(id);
    }
}

/// From an entry down to the node of level `to` that looks nearest: on each level above it, step to the nearest neighbour
/// while that is nearer. Every step is strictly nearer, so it ends. `None` if the entry is not a row.
pub(crate) fn descend<S: VectorStorage>(
    hnsw: &Hnsw<S>,
    query: &S::Query,
    entry: (u32, u32),
    to: u32,
    batch: &mut Batch,
) -> Option<Key> {
    let (top, id) = entry;
    if id >= hnsw.len() {
        return None;
    }
    batch.only(id);
    let mut best = batch.compare(&hnsw.storage, query).first().copied()?;
    for level in (to + 1..=top).rev() {
        loop {
            batch.collect(hnsw, best.id(), level, hnsw.len());
            let nearest = batch.compare(&hnsw.storage, query).iter().min();
            match nearest {
                Some(nearest) if *nearest < best => best = *nearest,
                _ => break,
            }
        }
    }
    Some(best)
}

/// Expands the pool's nearest unexpanded node until there is none. Every row met enters the pool or goes, with what it
/// pushed out, to `discard`: nothing is lost.
pub(crate) fn search_level<S: VectorStorage>(
    hnsw: &Hnsw<S>,
    query: &S::Query,
    level: u32,
    visited: &mut Visited,
    pool: &mut Pool,
    batch: &mut Batch,
    mut discard: impl FnMut(Key),
) {
    walk(hnsw, query, level, visited, pool, batch, |keys, pool| {
        keys.iter().filter_map(|key| pool.insert(*key)).for_each(&mut discard);
    });
}

/// Expands the pool's nearest unexpanded node until there is none. `take` puts what each meets into the pool.
#[inline]
pub(crate) fn walk<S: VectorStorage>(
    hnsw: &Hnsw<S>,
    query: &S::Query,
    level: u32,
    visited: &mut Visited,
    pool: &mut Pool,
    batch: &mut Batch,
    mut take: impl FnMut(&[Key], &mut Pool),
) {
    while let Some(node) = pool.expand() {
        let len = hnsw.len();
        visited.grow(len);
        batch.ids.clear();
        visited.insert_links(hnsw.graph.links(node.id(), level), len, &mut batch.ids);
        let next = pool.upcoming().filter(|_| level == 0);
        next.inspect(|next| hnsw.graph.prefetch(next.id()));
        let keys = batch.compare(&hnsw.storage, query);
        // Which of the two comes next is known before the pool is in order.
        if level == 0
            && let Some(nearest) = keys.iter().min()
            && next.is_none_or(|next| *nearest < next)
        {
            hnsw.graph.prefetch(nearest.id());
        }
        take(keys, pool);
    }
}

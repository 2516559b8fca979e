//! What a row finds: nodes of the graph, and rows of its own batch.

use std::sync::atomic::Ordering;

use rayon::prelude::*;

use super::choose::Choice;
use super::{Build, Item};
use crate::hnsw::queue::{Key, Pool};
use crate::hnsw::visited::Visited;
use crate::storage::VectorStorage;

/// Rows of a batch are compared if both have the same node among so many nearest.
const SHARED: usize = 32;
/// Rows of a batch that a node brings together: those that are nearest to it. Under the inner product nearly all rows find the
/// longest ones, and would be compared each with each otherwise.
const GUESTS: usize = 64;

/// A thread's memory.
pub(super) struct Context<D: VectorStorage> {
    query: D::Query,
    visited: Visited,
    pool: Pool,
    ids: Vec<u32>,
    distances: Vec<f32>,
    keys: Vec<Key>,
    pub(super) choice: Choice,
}

impl<D: VectorStorage> Default for Context<D> {
    fn default() -> Self {
        Context {
            query: D::Query::default(),
            visited: Visited::default(),
            pool: Pool::default(),
            ids: Vec::new(),
            distances: Vec::new(),
            keys: Vec::new(),
            choice: Choice::default(),
        }
    }
}

impl<D: VectorStorage> Context<D> {
    /// Compares the collected ids with the query.
    fn compare<'a>(&'a mut self, storage: &D) -> impl Iterator<Item = Key> + use<'a, D> {
        self.distances.clear();
        self.distances.resize(self.ids.len(), 0.0);
        storage.distances(&self.query, &self.ids, &mut self.distances);
        self.ids.iter().zip(&self.distances).map(|(id, d)| Key::new(*d, *id))
    }
}

/// Which items have found a node near.
pub(super) struct Mates {
    /// Node, and item with its distance to it, sorted.
    found: Vec<(u32, Key)>,
}

impl Mates {
    pub(super) fn of(items: &[Item], level: u32) -> Mates {
        let near = |item: &Item| -> Vec<(u32, Key)> {
            let near = item.near.get(level as usize).filter(|_| level <= item.low);
            near.into_iter().flatten().take(SHARED).map(|key| (key.id(), Key::new(key.distance(), item.id))).collect()
        };
        let mut found: Vec<(u32, Key)> = items.par_iter().flat_map_iter(near).collect();
        found.par_sort_unstable();
        Mates { found }
    }

    /// The first of them, nearest first.
    fn with(&self, node: u32) -> impl Iterator<Item = u32> {
        let first = self.found.partition_point(|(there, _)| *there < node);
        let items = self.found[first..].iter().take_while(move |(there, _)| *there == node);
        items.take(GUESTS).map(|(_, key)| key.id())
    }
}

impl<S: VectorStorage, D: VectorStorage> Build<'_, S, D> {
    /// From the entry down to the node nearest to the item on the level above the highest that it is linked on.
    pub(super) fn descend(&self, item: &mut Item, cx: &mut Context<D>) {
        let graph = &self.hnsw.graph;
        let Some((top, entry)) = graph.entry() else { return };
        item.low = graph.level(item.id).min(top);
        item.path = [entry; 3];
        self.storage.prepare_row(item.id, &mut cx.query);
        cx.ids.clear();
        cx.ids.push(entry);
        let Some(mut best) = cx.compare(self.storage).next() else { return };
        for level in (item.low + 1..=top).rev() {
            loop {
                cx.ids.clear();
                let links = graph.links(best.id(), level).iter().map(|slot| slot.load(Ordering::Relaxed));
                cx.ids.extend(links.filter(|id| *id < self.end));
                match cx.compare(self.storage).min() {
                    Some(nearest) if nearest < best => best = nearest,
                    _ => break,
                }
            }
            if level <= 3 {
                item.path[3 - level as usize..].fill(best.id());
            }
        }
        item.start = Some(best);
    }

    /// Searches each level from where the item came down to.
    pub(super) fn find(&self, item: &mut Item, cx: &mut Context<D>) {
        let Some(mut nearest) = item.start else { return };
        self.storage.prepare_row(item.id, &mut cx.query);
        item.near.resize_with(item.near.len().max(item.low as usize + 1), Vec::new);
        for level in (0..=item.low).rev() {
            cx.visited.reset(self.end);
            cx.visited.insert(item.id);
            cx.visited.insert(nearest.id());
            cx.pool.reset(self.hnsw.params().ef_construction);
            cx.pool.insert(nearest);
            self.walk(level, cx);
            nearest = cx.pool.keys().first().map_or(nearest, |key| key.fresh());
            let near = &mut item.near[level as usize];
            near.clear();
            near.extend(cx.pool.keys().iter().map(|key| key.fresh()));
        }
    }

    /// Expands the pool's nearest nodes until all are. Two at a time, so that more rows are asked for ahead.
    fn walk(&self, level: u32, cx: &mut Context<D>) {
        let graph = &self.hnsw.graph;
        while let Some(node) = cx.pool.expand() {
            cx.ids.clear();
            cx.visited.insert_links(graph.links(node.id(), level), self.end, &mut cx.ids);
            if let Some(node) = cx.pool.expand() {
                cx.visited.insert_links(graph.links(node.id(), level), self.end, &mut cx.ids);
            }
            if level == 0
                && let Some(next) = cx.pool.upcoming()
            {
                graph.prefetch(next.id());
            }
            cx.distances.clear();
            cx.distances.resize(cx.ids.len(), 0.0);
            self.storage.distances(&cx.query, &cx.ids, &mut cx.distances);
            cx.keys.clear();
            cx.keys.extend(cx.ids.iter().zip(&cx.distances).map(|(id, d)| Key::new(*d, *id)));
            cx.pool.insert_all(&cx.keys);
        }
    }

    /// Adds to what an item has found the rows of its batch that have found the same: as many as it keeps in view, at most.
    pub(super) fn meet(&self, item: &mut Item, level: u32, mates: &Mates, cx: &mut Context<D>) {
        let (near, most) = (&mut item.near[level as usize], self.hnsw.params().ef_construction);
        cx.visited.reset(self.end);
        cx.visited.insert(item.id);
        cx.ids.clear();
        let met = near.iter().take(SHARED).flat_map(|key| mates.with(key.id()));
        cx.ids.extend(met.filter(|id| cx.visited.insert(*id)).take(most));
        if cx.ids.is_empty() {
            return;
        }
        self.storage.prepare_row(item.id, &mut cx.query);
        near.extend(cx.compare(self.storage));
        near.sort_unstable();
        near.truncate(most);
    }

    /// The first rows of a graph: each has found all others.
    pub(super) fn all_pairs(&self, batch: &[u32], items: &mut [Item]) {
        let graph = &self.hnsw.graph;
        // Nobody else is on the levels above the second one's.
        let top = batch.get(1).map_or(0, |id| graph.level(*id));
        items.iter_mut().zip(batch).for_each(|(item, id)| item.id = *id);
        self.each(items, |item, cx| {
            item.low = graph.level(item.id).min(top);
            self.storage.prepare_row(item.id, &mut cx.query);
            cx.ids.clear();
            cx.ids.extend(batch.iter().filter(|id| **id != item.id));
            let mut keys: Vec<Key> = cx.compare(self.storage).collect();
            keys.sort_unstable();
            item.near.clear();
            for level in 0..=item.low {
                let there = keys.iter().filter(|key| graph.level(key.id()) >= level);
                item.near.push(there.take(self.hnsw.params().ef_construction).copied().collect());
            }
        });
    }
}

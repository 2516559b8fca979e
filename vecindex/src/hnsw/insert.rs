//! Linking a row: find its neighbours on each level, write its links, then theirs to it.
//!
//! Searches run without locks; only changing a node's links takes that node's lock, one at a time, so there is no order of
//! locks to keep. A node becomes reachable on a level when the first of its neighbours links back, and another thread may
//! then add links to it before it has written its own on a lower level: writing merges with what is there.

use std::sync::atomic::{AtomicU32, Ordering};

use super::graph::Writer;
use super::prune::select;
use super::queue::{Key, Pool};
use super::search::{Batch, descend, search_level};
use super::visited::Visited;
use super::{EMPTY, Hnsw};
use crate::storage::{F32Rows, VectorStorage};

/// Memory of one linking thread, reused from row to row.
#[derive(Debug)]
pub struct BuildContext<S: VectorStorage = F32Rows> {
    query: S::Query,
    other: S::Query,
    visited: Visited,
    pool: Pool,
    batch: Batch,
    candidates: Vec<Key>,
    chosen: Vec<Key>,
    kept: Vec<Key>,
}

impl<S: VectorStorage> Default for BuildContext<S> {
    fn default() -> Self {
        BuildContext {
            query: S::Query::default(),
            other: S::Query::default(),
            visited: Visited::default(),
            pool: Pool::default(),
            batch: Batch::default(),
            candidates: Vec::new(),
            chosen: Vec::new(),
            kept: Vec::new(),
        }
    }
}

/// Links a row that this thread has claimed. `id` is below the number of rows.
pub(super) fn insert<S: VectorStorage>(hnsw: &Hnsw<S>, writer: &Writer, id: u32, cx: &mut BuildContext<S>) {
    let level = hnsw.graph.level(id);
    let Some(entry) = entry_or_become_it(hnsw, writer, level, id) else { return };
    hnsw.storage.prepare_row(id, &mut cx.query);
    let low = level.min(entry.0);
    let Some(mut nearest) = descend(hnsw, &cx.query, entry, low, &mut cx.batch) else { return };
    for level in (0..=low).rev() {
        cx.visited.reset(hnsw.len());
        cx.visited.insert(id);
        cx.visited.insert(nearest.id());
        cx.pool.reset(hnsw.params().ef_construction);
        cx.pool.insert(nearest);
        search_level(hnsw, &cx.query, level, &mut cx.visited, &mut cx.pool, &mut cx.batch, |_| {});
        nearest = cx.pool.keys().first().map_or(nearest, |key| key.fresh());
        select(&hnsw.storage, cx.pool.keys(), hnsw.params().m, &mut cx.chosen);
        write_own(hnsw, writer, id, level, cx);
        for i in 0..cx.chosen.len() {
            link_back(hnsw, writer, cx.chosen[i], id, level, cx);
        }
    }
    if level > entry.0 {
        let _one = writer.lock_entry();
        if hnsw.graph.entry().is_none_or(|(top, _)| level > top) {
            hnsw.graph.set_entry(level, id);
        }
    }
}

/// Where to start; the very first node becomes the entry itself and has nobody to link to.
fn entry_or_become_it<S: VectorStorage>(hnsw: &Hnsw<S>, writer: &Writer, level: u32, id: u32) -> Option<(u32, u32)> {
    if let Some(entry) = hnsw.graph.entry() {
        return Some(entry);
    }
    let _one = writer.lock_entry();
    let entry = hnsw.graph.entry();
    if entry.is_none() {
        hnsw.graph.set_entry(level, id);
    }
    entry
}

/// Writes the chosen neighbours into the node's own slots, keeping links that others have made to it meanwhile as far
/// as there is room.
fn write_own<S: VectorStorage>(hnsw: &Hnsw<S>, writer: &Writer, id: u32, level: u32, cx: &mut BuildContext<S>) {
    let _one = writer.lock(id);
    let slots = hnsw.graph.links(id, level);
    cx.kept.clear();
    cx.kept.extend_from_slice(&cx.chosen);
    for slot in slots {
        let there = slot.load(Ordering::Relaxed);
        if there != EMPTY && !cx.kept.iter().any(|k| k.id() == there) {
            // Only the id counts from here on.
            cx.kept.push(Key::new(0.0, there));
        }
    }
    write(slots, &cx.kept);
}

fn write(slots: &[AtomicU32], kept: &[Key]) {
    let ids = kept.iter().map(|k| k.id()).chain(std::iter::repeat(EMPTY));
    for (slot, id) in slots.iter().zip(ids) {
        slot.store(id, Ordering::Relaxed);
    }
}

/// Adds `id` to a neighbour's links; if they are full, the rule chooses among them and it.
fn link_back<S: VectorStorage>(
    hnsw: &Hnsw<S>,
    writer: &Writer,
    neighbour: Key,
    id: u32,
    level: u32,
    cx: &mut BuildContext<S>,
) {
    let _one = writer.lock(neighbour.id());
    let slots = hnsw.graph.links(neighbour.id(), level);
    let mut free = None;
    for slot in slots {
        match slot.load(Ordering::Relaxed) {
            EMPTY => free = free.or(Some(slot)),
            there if there == id => return,
            _ => {}
        }
    }
    if let Some(slot) = free {
        slot.store(id, Ordering::Relaxed);
        return;
    }
    hnsw.storage.prepare_row(neighbour.id(), &mut cx.other);
    cx.batch.collect(hnsw, neighbour.id(), level, hnsw.len());
    cx.candidates.clear();
    cx.candidates.extend(cx.batch.compare(&hnsw.storage, &cx.other));
    cx.candidates.push(Key::new(neighbour.distance(), id));
    cx.candidates.sort_unstable();
    select(&hnsw.storage, &cx.candidates, slots.len(), &mut cx.kept);
    write(slots, &cx.kept);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metric::Metric;
    use crate::{Graph, HnswParams};
    use kriya_region::Region;
    use std::sync::Arc;

    #[test]
    fn nodes_of_upper_levels_have_as_many_links_below_as_others() {
        const N: u32 = 3000;
        let params = HnswParams { m: 8, ef_construction: 64, ..HnswParams::default() };
        let rows = Arc::new(Region::heap(F32Rows::bytes_needed(4, N).unwrap()).unwrap());
        let graph = Arc::new(Region::heap(Graph::bytes_needed(N, 8).unwrap()).unwrap());
        let rows = F32Rows::create(rows, Metric::L2, 4, N).unwrap();
        let hnsw = Hnsw::new(rows, Graph::create(graph, params, N).unwrap()).unwrap();
        for i in 0..N {
            // Irrational steps fill the cube evenly without a random number.
            let x = |step: f64| (f64::from(i) * step).fract() as f32;
            hnsw.append(&[x(2f64.sqrt()), x(3f64.sqrt()), x(5f64.sqrt()), x(7f64.sqrt())], [0, 0]).unwrap();
        }
        hnsw.link_pending().unwrap();
        let links = |id| hnsw.graph.links(id, 0).iter().filter(|s| s.load(Ordering::Relaxed) != EMPTY).count();
        let mean = |upper: bool| {
            let counts: Vec<usize> = (0..N).filter(|id| (hnsw.graph.level(*id) > 0) == upper).map(links).collect();
            assert!(counts.len() > 100);
            counts.iter().sum::<usize>() as f64 / counts.len() as f64
        };
        let (upper, others) = (mean(true), mean(false));
        assert!(upper > 0.9 * others, "{upper} links on average, others {others}");
    }
}

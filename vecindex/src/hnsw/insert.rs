//! Linking a row: find its neighbours on each level, write its links, then theirs to it.
//!
//! Searches run without locks; only changing a node's links takes that node's lock, one at a time, so there is no order of
//! locks to keep. Levels are searched from the top and linked from the bottom, so that whoever meets a node on some
//! level can go on from it on the next. On level 0 the node is attached to the spanning tree (`tree`), whose edges stay.

use std::sync::atomic::Ordering;

use super::graph::{TWIN, twin_in};
use super::prune::select;
use super::queue::{Key, Pool};
use super::search::{Batch, descend, search_level};
use super::visited::Visited;
use super::writer::Writer;
use super::{EMPTY, Hnsw};
use crate::storage::{F32Rows, VectorStorage};

/// Memory of one linking thread, reused from row to row.
#[derive(Debug)]
pub struct BuildContext<S: VectorStorage = F32Rows> {
    query: S::Query,
    visited: Visited,
    pool: Pool,
    batch: Batch,
    /// Neighbours chosen on each level.
    chosen: Vec<Vec<Key>>,
    pruning: Pruning<S>,
}

/// Memory of choosing anew among a node's links.
#[derive(Debug)]
struct Pruning<S: VectorStorage> {
    query: S::Query,
    batch: Batch,
    candidates: Vec<Key>,
    kept: Vec<Key>,
}

impl<S: VectorStorage> Default for BuildContext<S> {
    fn default() -> Self {
        BuildContext {
            query: S::Query::default(),
            visited: Visited::default(),
            pool: Pool::default(),
            batch: Batch::default(),
            chosen: Vec::new(),
            pruning: Pruning {
                query: S::Query::default(),
                batch: Batch::default(),
                candidates: Vec::new(),
                kept: Vec::new(),
            },
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
    cx.chosen.resize_with(cx.chosen.len().max(low as usize + 1), Vec::new);
    for level in (0..=low).rev() {
        cx.visited.reset(hnsw.len());
        cx.visited.insert(id);
        cx.visited.insert(nearest.id());
        cx.pool.reset(hnsw.params().ef_construction);
        cx.pool.insert(nearest);
        search_level(hnsw, &cx.query, level, &mut cx.visited, &mut cx.pool, &mut cx.batch, |_| {});
        nearest = cx.pool.keys().first().map_or(nearest, |key| key.fresh());
        select(&hnsw.storage, cx.pool.keys(), hnsw.params().m, |_| false, &mut cx.chosen[level as usize]);
    }
    for level in 0..=low {
        let chosen = std::mem::take(&mut cx.chosen[level as usize]);
        write_own(hnsw, writer, id, level, &chosen);
        if level == 0 {
            attach(hnsw, writer, id, &chosen, cx);
        }
        for neighbour in &chosen {
            add(hnsw, writer, *neighbour, id, Adding::Link(level), &mut cx.pruning);
        }
        cx.chosen[level as usize] = chosen;
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
        writer.tree.plant(id);
        hnsw.graph.set_entry(level, id);
    }
    entry
}

/// Puts the chosen neighbours into the node's own slots. Nobody knows the node on this level yet, but twins may have come.
fn write_own<S: VectorStorage>(hnsw: &Hnsw<S>, writer: &Writer, id: u32, level: u32, chosen: &[Key]) {
    let _one = writer.lock(id);
    let free = hnsw.graph.links(id, level).iter().filter(|slot| slot.load(Ordering::Relaxed) == EMPTY);
    for (slot, neighbour) in free.zip(chosen) {
        slot.store(neighbour.id(), Ordering::Relaxed);
    }
}

/// Gives the node a parent: the nearest that has room for a child.
fn attach<S: VectorStorage>(hnsw: &Hnsw<S>, writer: &Writer, id: u32, chosen: &[Key], cx: &mut BuildContext<S>) {
    let BuildContext { pool, pruning, .. } = cx;
    let near = chosen.iter().chain(pool.keys()).copied();
    let mut taken = near.clone().find(|node| add(hnsw, writer, *node, id, Adding::Child, pruning));
    let mut above = near.map(|node| node.id()).find(|node| writer.tree.parent(*node).is_some());
    let mut turns = id;
    while taken.is_none() {
        // All near ones have their children, or are not attached yet: down from one that is, another way for each node.
        turns = turns.wrapping_mul(0x9e37_79b1).rotate_left(15) ^ 0x55;
        let Some(node) = above.and_then(|node| a_child(hnsw, writer, node, turns)).or(writer.tree.root()) else {
            return;
        };
        let key = Key::new(hnsw.storage.distance_between(node, id), node);
        taken = add(hnsw, writer, key, id, Adding::Child, pruning).then_some(key);
        above = Some(node);
    }
    if let Some(parent) = taken {
        add(hnsw, writer, Key::new(parent.distance(), id), parent.id(), Adding::Link(0), pruning);
    }
}

/// One of the children of a node, if it has any.
fn a_child<S: VectorStorage>(hnsw: &Hnsw<S>, writer: &Writer, node: u32, turn: u32) -> Option<u32> {
    let links = hnsw.graph.links(node, 0).iter().map(|slot| slot.load(Ordering::Relaxed));
    let children: Vec<u32> = links.filter(|there| *there < TWIN && writer.tree.is_child(*there, node)).collect();
    children.get((turn as usize).checked_rem(children.len())?).copied()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Adding {
    /// A link on a level, if the rule wants it.
    Link(u32),
    /// A child on level 0, if there is room for one.
    Child,
}

/// Adds `id` to the links of `node`, whose key holds the distance between the two. If the slots are full, the rule chooses
/// among them and it; edges of the tree stay. False if a child was not taken.
fn add<S: VectorStorage>(
    hnsw: &Hnsw<S>,
    writer: &Writer,
    node: Key,
    id: u32,
    adding: Adding,
    pruning: &mut Pruning<S>,
) -> bool {
    let child = adding == Adding::Child;
    if child && !writer.tree.takes(node.id()) {
        return false;
    }
    let level = if let Adding::Link(level) = adding { level } else { 0 };
    let _one = writer.lock(node.id());
    if child && !writer.tree.takes(node.id()) {
        return false;
    }
    let slots = hnsw.graph.links(node.id(), level);
    let mut free = None;
    let mut there = false;
    for slot in slots {
        match slot.load(Ordering::Relaxed) {
            EMPTY => free = free.or(Some(slot)),
            link => there |= link == id,
        }
    }
    if !there {
        match free {
            Some(slot) => slot.store(id, Ordering::Relaxed),
            None => prune(hnsw, writer, node.id(), level, Some((Key::new(node.distance(), id), child)), pruning),
        }
    }
    if child {
        writer.tree.attach(id, node.id());
    }
    true
}

/// Chooses anew among a node's links and one to be added, which may be certain to stay; without one, so that a slot is
/// free afterwards. What stays keeps its slot, so that no search misses it meanwhile. The caller holds the node's lock.
fn prune<S: VectorStorage>(
    hnsw: &Hnsw<S>,
    writer: &Writer,
    node: u32,
    level: u32,
    added: Option<(Key, bool)>,
    pruning: &mut Pruning<S>,
) {
    let slots = hnsw.graph.links(node, level);
    let Pruning { query, batch, candidates, kept } = pruning;
    hnsw.storage.prepare_row(node, query);
    batch.collect(hnsw, node, level, hnsw.len());
    candidates.clear();
    candidates.extend_from_slice(batch.compare(&hnsw.storage, query));
    // A twin's slot is not a link's.
    let room = candidates.len().saturating_sub(usize::from(added.is_none()));
    candidates.extend(added.map(|(key, _)| key));
    candidates.sort_unstable();
    let edge = writer.tree.edges_of(node);
    let stays = |id| (level == 0 && edge(id)) || added.is_some_and(|(key, certain)| certain && key.id() == id);
    select(&hnsw.storage, candidates, room, stays, kept);
    let is_kept = |id| kept.iter().any(|key| key.id() == id);
    let mut new = added.map(|(key, _)| key.id()).filter(|id| is_kept(*id));
    for slot in slots {
        let there = slot.load(Ordering::Relaxed);
        if there < TWIN && !is_kept(there) {
            slot.store(new.take().unwrap_or(EMPTY), Ordering::Relaxed);
        }
    }
}

/// Hangs a row that this thread has claimed off the node of an equal row.
pub(super) fn join<S: VectorStorage>(hnsw: &Hnsw<S>, writer: &Writer, id: u32, first: u32, cx: &mut BuildContext<S>) {
    let _one = writer.lock(first);
    let slots = hnsw.graph.links(first, 0);
    let find = |wanted: fn(u32) -> bool| slots.iter().find(|slot| wanted(slot.load(Ordering::Relaxed)));
    let mut slot = find(|there| twin_in(there).is_some()).or_else(|| find(|there| there == EMPTY));
    if slot.is_none() {
        prune(hnsw, writer, first, 0, None, &mut cx.pruning);
        slot = find(|there| there == EMPTY);
    }
    if let (Some(slot), [own, ..]) = (slot, hnsw.graph.links(id, 0)) {
        // The rest of the list first: who sees the new twin sees what hangs off it.
        own.store(slot.load(Ordering::Relaxed), Ordering::Relaxed);
        slot.store(TWIN | id, Ordering::Release);
    }
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

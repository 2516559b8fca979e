//! What only the writing process has of a graph: locks, who is linked by whom, how far linking has come.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::graph::Graph;
use super::tree::Tree;
use super::twins::Twins;
use crate::storage::VectorStorage;

const STRIPES: usize = 4096;

#[derive(Debug)]
pub(crate) struct Writer {
    stripes: Box<[Mutex<()>]>,
    entry: Mutex<()>,
    /// One bit per node: somebody links it or has.
    claimed: Box<[AtomicU64]>,
    progress: Mutex<Progress>,
    pub(crate) tree: Tree,
    pub(crate) twins: Twins,
}

#[derive(Debug, Default)]
struct Progress {
    /// Nodes that are linked although a lower one is not yet.
    ahead: BTreeSet<u32>,
    /// Nodes that are found through another one, which is not linked yet.
    waiting: BTreeMap<u32, Vec<u32>>,
}

impl Writer {
    pub(crate) fn new(capacity: u32, m: usize) -> Writer {
        let words = (capacity as usize).div_ceil(64);
        Writer {
            stripes: (0..STRIPES).map(|_| Mutex::new(())).collect(),
            entry: Mutex::new(()),
            claimed: (0..words).map(|_| AtomicU64::new(0)).collect(),
            progress: Mutex::default(),
            tree: Tree::new(capacity, m),
            twins: Twins::default(),
        }
    }

    /// What a writer of a graph would have that has linked the first `linked` rows and nothing else: for graphs whose writer is
    /// gone, or that came about in another way. Adds links where the graph hangs together loosely ([`Tree::span`]).
    pub(crate) fn resume<S: VectorStorage>(graph: &Graph, storage: &S, linked: u32) -> Writer {
        let linked = linked.min(graph.capacity()).min(storage.len());
        let (capacity, m) = (graph.capacity(), graph.params().m);
        let writer = Writer { tree: Tree::span(graph, linked), ..Writer::new(capacity, m) };
        for id in 0..linked {
            writer.claim(id);
            writer.twins.first(storage, id);
        }
        writer
    }

    /// The lock of a node's links on all levels. Never take a second one while holding it.
    pub(crate) fn lock(&self, id: u32) -> MutexGuard<'_, ()> {
        self.stripes[id as usize % STRIPES].lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn lock_entry(&self) -> MutexGuard<'_, ()> {
        self.entry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True for the first caller only.
    pub(crate) fn claim(&self, id: u32) -> bool {
        let bit = 1 << (id % 64);
        self.claimed[id as usize / 64].fetch_or(bit, Ordering::AcqRel) & bit == 0
    }

    /// Raises `linked` over everything that is linked without a gap, now that `id` is, or will be as soon as `through` is.
    pub(crate) fn finish(&self, graph: &Graph, id: u32, through: u32) {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        let mut linked = graph.linked();
        if through != id && through >= linked && !progress.ahead.contains(&through) {
            progress.waiting.entry(through).or_default().push(id);
            return;
        }
        progress.ahead.insert(id);
        let waited = progress.waiting.remove(&id).unwrap_or_default();
        progress.ahead.extend(waited);
        while progress.ahead.remove(&linked) {
            linked += 1;
        }
        graph.set_linked(linked);
    }
}

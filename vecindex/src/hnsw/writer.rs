//! What only the writing process has of a graph: locks, who is linked by whom, how far linking has come.
//!
//! Rows are linked one by one, by any number of threads ([`Writer::enter`]), or in batches by one caller alone
//! ([`Writer::enter_alone`]). Nobody waits for that one: what it waits for may be the very thread. Rows are left to it
//! ([`Writer::leave`]) instead.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError};

use super::graph::Graph;
use super::tree::Tree;
use super::twins::Twins;
use crate::storage::VectorStorage;

const STRIPES: usize = 4096;

#[derive(Debug)]
pub(crate) struct Writer {
    stripes: Box<[Mutex<()>]>,
    entry: Mutex<()>,
    gate: RwLock<()>,
    /// Rows that were claimed while somebody linked alone.
    left: Mutex<Vec<u32>>,
    /// Rows that were linked, in whatever order.
    done: AtomicU32,
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
            gate: RwLock::new(()),
            left: Mutex::default(),
            done: AtomicU32::new(0),
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
        writer.advance(linked);
        for id in 0..linked {
            writer.claim(id);
            writer.twins.first(storage, id);
        }
        writer
    }

    /// Bytes on the heap, about.
    pub(crate) fn bytes(&self) -> usize {
        let locks = self.stripes.len() * size_of::<Mutex<()>>();
        locks + self.claimed.len() * 8 + self.tree.bytes() + self.twins.bytes()
    }

    /// The lock of a node's links on all levels. Never take a second one while holding it.
    pub(crate) fn lock(&self, id: u32) -> MutexGuard<'_, ()> {
        self.stripes[id as usize % STRIPES].lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn lock_entry(&self) -> MutexGuard<'_, ()> {
        self.entry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be held while a row is linked. `None` if somebody links alone.
    pub(crate) fn enter(&self) -> Option<RwLockReadGuard<'_, ()>> {
        match self.gate.try_read() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(guard)) => Some(guard.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// To be held by who links rows while nobody else does. `None` if somebody does.
    pub(crate) fn enter_alone(&self) -> Option<RwLockWriteGuard<'_, ()>> {
        match self.gate.try_write() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(guard)) => Some(guard.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Leaves a claimed row to who links alone. That one may have let go meanwhile: see `hnsw::left`.
    pub(crate) fn leave(&self, id: u32) {
        self.left.lock().unwrap_or_else(PoisonError::into_inner).push(id);
    }

    /// One of the rows that were left.
    pub(crate) fn take_left(&self) -> Option<u32> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    /// How many rows were left.
    pub(crate) fn count_left(&self) -> usize {
        self.left.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// True for the first caller only.
    pub(crate) fn claim(&self, id: u32) -> bool {
        let bit = 1 << (id % 64);
        self.claimed[id as usize / 64].fetch_or(bit, Ordering::AcqRel) & bit == 0
    }

    /// Gives back a claim of a row that was not linked.
    pub(crate) fn give_back(&self, id: u32) {
        self.claimed[id as usize / 64].fetch_and(!(1 << (id % 64)), Ordering::AcqRel);
    }

    /// How many rows were linked, in whatever order.
    pub(crate) fn progress(&self) -> u32 {
        self.done.load(Ordering::Relaxed)
    }

    /// Counts rows that are linked already, but are finished later.
    pub(crate) fn advance(&self, rows: u32) {
        self.done.fetch_add(rows, Ordering::Relaxed);
    }

    /// Raises `linked` over everything that is linked without a gap, now that `id` is, or will be as soon as `through` is.
    pub(crate) fn finish(&self, graph: &Graph, id: u32, through: u32) {
        self.advance(1);
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        if through != id && through >= graph.linked() && !progress.ahead.contains(&through) {
            progress.waiting.entry(through).or_default().push(id);
            return;
        }
        progress.finish(graph, id);
    }

    /// Finishes nodes that were linked, and counted, already.
    pub(crate) fn finish_together(&self, graph: &Graph, mut nodes: Vec<u32>) {
        nodes.sort_unstable();
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        nodes.into_iter().for_each(|id| progress.finish(graph, id));
    }
}

impl Progress {
    fn finish(&mut self, graph: &Graph, id: u32) {
        self.ahead.insert(id);
        let waited = self.waiting.remove(&id).unwrap_or_default();
        self.ahead.extend(waited);
        let mut linked = graph.linked();
        while self.ahead.remove(&linked) {
            linked += 1;
        }
        graph.set_linked(linked);
    }
}

//! A search that can be asked for more.
//!
//! The first round is an ordinary HNSW search with a pool of `ef` rows. What falls out of the pool is kept (one push each, next
//! to a distance that costs ten times as much); when the pool has been handed out, the nearest of the kept rows become the
//! next pool and the search goes on from them. From then on it looks ahead: a round finds twice as many rows as it hands out,
//! and the other half waits for what the next round finds. Once few rows are left beside those that were compared,
//! the rest is compared as well, one by one, and from there on the order is exact. So every row comes out once, and a LIMIT
//! behind a filter never starves. An index that is small beside `ef` is compared from the start.
//!
//! # Invariants
//! * What a search returns is fixed when it starts: rows below `linked` by the graph, rows from there to the number of rows
//!   exactly. Later rows are walked through, not returned.
//! * A row is marked as met exactly when it enters the pool or the kept rows, or as a twin when it is handed out; it leaves
//!   them only by being returned or moved.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;

use super::Hnsw;
use super::queue::{Key, Pool};
use super::search::{Batch, descend, search_level, walk};
use super::visited::Visited;
use crate::error::SearchError;
use crate::flat::{compare, compare_range, refine};
use crate::metric::Neighbour;
use crate::storage::{F32Rows, VectorStorage};

/// An index of up to so many rows for each one of `ef` is compared row by row: a walk costs hardly less.
const SMALL: usize = 8;
/// Once no more than so many rows are left for each one met, they are compared row by row: what that costs is bounded by
/// what was done already, and less than to walk on to the end.
const REST: usize = 2;
/// And no more than so many, for the caller can stop a search between two rows only.
const MOST_REST: usize = 1 << 20;
/// Rows that are made exact together, where it is not known how many are wanted.
const REFINING: usize = 32;
/// Rows handed out by a round, if `ef` is not larger: the pool is twice as large, and is kept sorted.
const LARGEST_STEP: usize = 1024;

/// A running search and its memory; reusable, and borrowing nothing between calls.
pub struct SearchCursor<S: VectorStorage = F32Rows> {
    instance: u64,
    query: S::Query,
    ef: usize,
    /// The graph answers for ids below this.
    linked: u32,
    stage: Stage,
    visited: Visited,
    pool: Pool,
    /// Of the pool: the next to hand out, and where the part that waits for the next round begins.
    position: usize,
    ready: usize,
    /// Where distances are coarse: before this they are exact and in order. And how many are made so at a time.
    refined: usize,
    refining: usize,
    /// Rows equal to the one that was handed out last: the first of them that was not yet, and their distance.
    twin: Option<(u32, f32)>,
    /// The next row of the graph.
    upcoming: Option<Key>,
    /// Rows of the pool that were handed out.
    returned: usize,
    /// What the first round met, in no order, the pool included.
    met: Vec<Key>,
    /// Met, but neither returned nor in the pool: the newest in no order, the others as a heap.
    kept: Vec<Reverse<Key>>,
    heap: BinaryHeap<Reverse<Key>>,
    /// The rows that were pending, sorted, and the next of them to hand out.
    pending: Vec<Key>,
    pending_position: usize,
    batch: Batch,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Idle,
    First,
    Resuming,
    /// Everything was compared: the heap has all that is left.
    Exact,
    Done,
}

impl<S: VectorStorage> fmt::Debug for SearchCursor<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SearchCursor").field("ef", &self.ef).field("stage", &self.stage).finish_non_exhaustive()
    }
}

impl<S: VectorStorage> Default for SearchCursor<S> {
    fn default() -> Self {
        SearchCursor {
            instance: 0,
            query: S::Query::default(),
            ef: 1,
            linked: 0,
            stage: Stage::Idle,
            visited: Visited::default(),
            pool: Pool::default(),
            position: 0,
            ready: 0,
            refined: 0,
            refining: REFINING,
            twin: None,
            upcoming: None,
            returned: 0,
            met: Vec::new(),
            kept: Vec::new(),
            heap: BinaryHeap::new(),
            pending: Vec::new(),
            pending_position: 0,
            batch: Batch::default(),
        }
    }
}

impl<S: VectorStorage> SearchCursor<S> {
    /// Starts a search: `query` has the index's dimension, `ef` is the number of rows kept in view (1 at least). Compares
    /// the pending rows; the graph is first walked by [`SearchCursor::next`].
    ///
    /// # Errors
    /// A query that the storage refuses (wrong dimension, not finite, too long); the cursor is then idle.
    pub fn start(&mut self, hnsw: &Hnsw<S>, query: &[f32], ef: usize) -> Result<(), SearchError> {
        self.stage = Stage::Idle;
        self.pool.reset(0);
        (self.position, self.ready, self.returned) = (0, 0, 0);
        (self.refined, self.refining) = (0, REFINING);
        (self.twin, self.upcoming) = (None, None);
        self.met.clear();
        self.kept.clear();
        self.heap.clear();
        self.pending.clear();
        self.pending_position = 0;
        hnsw.storage.prepare(query, &mut self.query)?;
        self.instance = hnsw.instance;
        self.ef = ef.clamp(1, crate::format::MAX_ROWS as usize);
        // Linked first: the number of rows is never below it.
        self.linked = hnsw.linked();
        let len = hnsw.len();
        self.linked = self.linked.min(len);
        self.visited.reset(len);
        if self.linked < len {
            compare_range(&hnsw.storage, &self.query, self.linked..len, &mut self.pending);
            self.pending.sort_unstable();
        }
        self.stage = Stage::First;
        Ok(())
    }

    /// The next nearest row, or `None` when every row was returned. Ascending as far as the search can tell: a row that it
    /// meets late, nearer than one already returned, comes at once. A cursor that was started on another index returns
    /// nothing.
    pub fn next(&mut self, hnsw: &Hnsw<S>) -> Option<Neighbour> {
        if self.instance != hnsw.instance {
            return None;
        }
        while self.upcoming.is_none() && self.advance(hnsw) {}
        let pending = self.pending.get(self.pending_position).copied();
        let key = match (self.upcoming, pending) {
            (Some(r), Some(p)) if p < r => self.take_pending(p),
            (None, Some(p)) => self.take_pending(p),
            (Some(r), _) => {
                self.upcoming = None;
                r
            }
            (None, None) => return None,
        };
        Some(key.neighbour(hnsw.metric()))
    }

    fn take_pending(&mut self, key: Key) -> Key {
        self.pending_position += 1;
        key
    }

    /// One step towards the next row of the graph; false if there is no other.
    fn advance(&mut self, hnsw: &Hnsw<S>) -> bool {
        if let Some((id, distance)) = self.twin.take() {
            let len = hnsw.len();
            self.visited.grow(len);
            // A list that leads anywhere else is a damaged file's.
            if id < len && self.visited.insert(id) {
                self.twin = hnsw.graph.twin(id).map(|twin| (twin, distance));
                self.offer(Key::new(distance, id));
            }
        } else if self.position < self.ready {
            self.refine(hnsw);
            let key = self.pool.keys()[self.position];
            self.position += 1;
            self.twin = hnsw.graph.twin(key.id()).map(|twin| (twin, key.distance()));
            self.offer(key);
        } else {
            match self.stage {
                Stage::Idle | Stage::Done => return false,
                Stage::First => self.first_round(hnsw),
                Stage::Resuming => self.resume(hnsw),
                Stage::Exact => match self.heap.pop() {
                    Some(Reverse(key)) => self.offer(key),
                    None => self.stage = Stage::Done,
                },
            }
        }
        true
    }

    fn offer(&mut self, key: Key) {
        self.upcoming = Some(key).filter(|key| key.id() < self.linked);
    }

    fn first_round(&mut self, hnsw: &Hnsw<S>) {
        self.stage = Stage::Resuming;
        if (self.linked as usize) <= SMALL * self.ef {
            return self.compare_rest(hnsw);
        }
        self.pool.reset(self.ef);
        let Some(entry) = hnsw.graph.entry() else { return };
        let Some(nearest) = descend(hnsw, &self.query, entry, 0, &mut self.batch) else { return };
        self.visited.grow(hnsw.len());
        self.visited.insert(nearest.id());
        self.pool.insert(nearest);
        self.met.push(nearest);
        let SearchCursor { query, visited, pool, batch, met, .. } = self;
        walk(hnsw, query, 0, visited, pool, batch, |keys, pool| {
            met.extend_from_slice(keys);
            pool.insert_all(keys);
        });
        self.ready = self.pool.keys().len();
    }

    /// Sees to it that the next row of the pool stands at its exact distance, in order with some that follow.
    fn refine(&mut self, hnsw: &Hnsw<S>) {
        if self.position < self.refined || !hnsw.storage.is_coarse() {
            return;
        }
        self.refined = self.ready.min(self.position + self.refining);
        let keys = &mut self.pool.keys_mut()[self.position..self.refined];
        refine(&hnsw.storage, &self.query, keys);
        keys.sort_unstable_by_key(|key| key.fresh());
    }

    /// As many rows as the caller is going to ask for, if he knows.
    pub(super) fn expect(&mut self, k: usize) {
        self.refining = (2 * k).max(k + 10);
    }

    /// What the first round met and did not keep in the pool.
    fn recall(&mut self) {
        let mut inside: Vec<u32> = self.pool.keys().iter().map(|key| key.id()).collect();
        inside.sort_unstable();
        let outside = self.met.drain(..).filter(|key| inside.binary_search(&key.id()).is_err());
        self.kept.extend(outside.map(Reverse));
    }

    fn resume(&mut self, hnsw: &Hnsw<S>) {
        self.recall();
        self.returned += self.position;
        self.kept.extend(self.pool.keys().iter().skip(self.position).map(|key| Reverse(*key)));
        (self.position, self.refined) = (0, 0);
        if self.heap.is_empty() {
            // Heapified in one go: an ordinary search never gets here.
            self.heap = BinaryHeap::from(std::mem::take(&mut self.kept));
        } else {
            self.heap.extend(self.kept.drain(..));
        }
        let met = self.visited.count();
        let rest = (self.linked as usize).saturating_sub(met);
        if self.heap.is_empty() || rest <= MOST_REST.min(REST * met) {
            return self.compare_rest(hnsw);
        }
        let step = self.returned.clamp(self.ef, self.ef.max(LARGEST_STEP));
        self.pool.reset(2 * step);
        for _ in 0..2 * step {
            let Some(Reverse(key)) = self.heap.pop() else { break };
            self.pool.insert(key);
        }
        self.run(hnsw);
        // A pool that is not full is all that there is.
        let found = self.pool.keys().len();
        self.ready = if found < 2 * step { found } else { step };
    }

    fn run(&mut self, hnsw: &Hnsw<S>) {
        let kept = &mut self.kept;
        let discard = |key| kept.push(Reverse(key));
        search_level(hnsw, &self.query, 0, &mut self.visited, &mut self.pool, &mut self.batch, discard);
    }

    /// Compares every row that was not met, and hands out the nearest of all from then on.
    fn compare_rest(&mut self, hnsw: &Hnsw<S>) {
        self.stage = Stage::Exact;
        (self.position, self.ready) = (0, 0);
        self.pool.reset(0);
        let mut keys = Vec::new();
        compare(&hnsw.storage, &self.query, &self.visited.missing(self.linked), &mut keys);
        let met = keys.len();
        keys.extend(std::mem::take(&mut self.heap).into_iter().map(|Reverse(key)| key));
        if hnsw.storage.is_coarse() {
            refine(&hnsw.storage, &self.query, &mut keys[met..]);
        }
        let rest: Vec<Reverse<Key>> = keys.into_iter().map(Reverse).collect();
        self.heap = BinaryHeap::from(rest);
    }
}

//! A search that can be asked for more.
//!
//! A round is an ordinary HNSW search with a pool of `ef` rows. What falls out of the pool is kept (one push each, next to
//! a distance that costs ten times as much); when the pool has been handed out, the `ef` nearest of the kept rows become
//! the next pool and the search goes on from them. When nothing reachable is left, the rows that were never met are
//! compared exactly. So every row comes out once, and a LIMIT behind a filter never starves.
//!
//! # Invariants
//! * What a search returns is fixed when it starts: rows below `linked` by the graph, rows from there to the number of rows
//!   exactly. Later rows are walked through, not returned.
//! * A row is marked as met exactly when it enters the pool or the kept rows; it leaves them only by being returned or moved.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;

use super::Hnsw;
use super::queue::{Key, Pool};
use super::search::{Batch, descend, search_level};
use super::visited::Visited;
use crate::error::SearchError;
use crate::flat::{compare, compare_range};
use crate::metric::Neighbour;
use crate::storage::{F32Rows, VectorStorage};

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
    /// Of the pool: the next to hand out.
    position: usize,
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
    Unreachable,
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
        self.position = 0;
        self.kept.clear();
        self.heap.clear();
        self.pending.clear();
        self.pending_position = 0;
        hnsw.storage.prepare(query, &mut self.query)?;
        self.instance = hnsw.instance;
        self.ef = ef.max(1);
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

    /// The next nearest row, or `None` when every row was returned. Ascending as far as HNSW can: a row that the graph
    /// showed late comes late. A cursor that was started on another index returns nothing.
    pub fn next(&mut self, hnsw: &Hnsw<S>) -> Option<Neighbour> {
        if self.instance != hnsw.instance {
            return None;
        }
        let reachable = self.peek(hnsw);
        let pending = self.pending.get(self.pending_position).copied();
        let key = match (reachable, pending) {
            (Some(r), Some(p)) if p < r => self.take_pending(p),
            (None, Some(p)) => self.take_pending(p),
            (Some(r), _) => {
                self.position += 1;
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

    /// The next row of the graph, running rounds until there is one.
    fn peek(&mut self, hnsw: &Hnsw<S>) -> Option<Key> {
        loop {
            while let Some(key) = self.pool.keys().get(self.position) {
                if key.id() < self.linked {
                    return Some(*key);
                }
                self.position += 1;
            }
            self.position = 0;
            match self.stage {
                Stage::Idle | Stage::Done => {
                    self.pool.reset(0);
                    return None;
                }
                Stage::First => self.first_round(hnsw),
                Stage::Resuming => self.resume(hnsw),
                Stage::Unreachable => self.sweep(hnsw),
            }
        }
    }

    fn first_round(&mut self, hnsw: &Hnsw<S>) {
        self.pool.reset(self.ef);
        self.stage = Stage::Resuming;
        let Some(entry) = hnsw.graph.entry() else { return };
        let Some(nearest) = descend(hnsw, &self.query, entry, 0, &mut self.batch) else { return };
        self.visited.grow(hnsw.len());
        self.visited.insert(nearest.id());
        self.pool.insert(nearest);
        self.run(hnsw);
    }

    fn resume(&mut self, hnsw: &Hnsw<S>) {
        self.pool.reset(self.ef);
        if self.heap.is_empty() {
            // Heapified in one go: an ordinary search never gets here.
            self.heap = BinaryHeap::from(std::mem::take(&mut self.kept));
        } else {
            self.heap.extend(self.kept.drain(..));
        }
        for _ in 0..self.ef {
            let Some(Reverse(key)) = self.heap.pop() else { break };
            self.pool.insert(key);
        }
        if self.pool.keys().is_empty() {
            self.stage = Stage::Unreachable;
            return;
        }
        self.run(hnsw);
    }

    fn run(&mut self, hnsw: &Hnsw<S>) {
        let kept = &mut self.kept;
        let discard = |key| kept.push(Reverse(key));
        search_level(hnsw, &self.query, 0, &mut self.visited, &mut self.pool, &mut self.batch, discard);
    }

    fn sweep(&mut self, hnsw: &Hnsw<S>) {
        self.stage = Stage::Done;
        let missing = self.visited.missing(self.linked);
        let mut keys = Vec::new();
        compare(&hnsw.storage, &self.query, &missing, &mut keys);
        keys.sort_unstable();
        self.pool.finish_with(keys);
    }
}

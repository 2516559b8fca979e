//! Searching among some of the rows only.
//!
//! How depends on how many are allowed. *Few* are compared one by one. *Many* are met by an ordinary search, which goes on
//! until enough of what it hands out is allowed. In between, a search for which only allowed rows count would often come to
//! an end early, since their links lead to others: it expands the neighbours that are not allowed as well, without
//! comparing them, until it has as many allowed ones as a node has links (ACORN; qdrant and Lucene do alike), and from the
//! nodes that would be returned it goes on through those behind them. It starts from where the upper levels lead and from some
//! allowed rows out of all parts of the index, for what is allowed may lie far from the query; then the nearest of it are
//! strays among rows that are not, and it takes long ways through these everywhere. Whatever a walk costs, it is given up for comparing once that is cheaper; and if it found less
//! than was asked for, the rest is compared as well. So `k` rows come if `k` are allowed.
//!
//! # Invariants
//! * What a search returns is below the number of rows when it started, and allowed.
//! * A node is in the pool if it, or a row equal to it, is allowed; a pending row if it is.

use std::fmt;
use std::sync::atomic::Ordering;

use super::queue::{Key, Pool};
use super::search::{Batch, descend};
use super::visited::Visited;
use super::{Hnsw, SearchCursor};
use crate::error::SearchError;
use crate::flat::{nearest_among, refine};
use crate::ids::{Filter, estimate, spread};
use crate::metric::Neighbour;
use crate::storage::{F32Rows, VectorStorage};

/// So many allowed rows for each one of `ef`, if that is not small, are compared one by one: a walk costs hardly less and
/// finds less.
const FEW: usize = 32;
const SMALL_EF: usize = 32;
/// An ordinary search serves if one row in so many is allowed.
const MANY: usize = 2;
/// It hands out so many times what it should need before it is given up: what is near the query is not allowed, then.
const PATIENCE: usize = 2;
/// Allowed rows that a walk starts from, besides where the upper levels lead, and how many rows are tried for each.
const SEEDS: usize = 8;
const TRIES: usize = 64;
/// What is allowed is far from the query if its share there is so many times smaller than among all rows.
const FAR: usize = 3;

/// How far the expansion of a node goes.
#[derive(Debug, Clone, Copy)]
struct Reach {
    /// Until there are so many allowed rows for each link that a node has.
    enough: usize,
    /// Rows behind the neighbours that are not allowed which are passed through as well.
    further: usize,
}

const SHORT: Reach = Reach { enough: 1, further: 0 };
const LONG: Reach = Reach { enough: 1, further: 64 };
const LONGEST: Reach = Reach { enough: 2, further: 1024 };

/// Memory of filtered searches, reused from one to the next.
pub struct FilteredSearch<S: VectorStorage = F32Rows> {
    query: S::Query,
    cursor: SearchCursor<S>,
    /// Rows that are in the pool or were refused by it.
    visited: Visited,
    /// Nodes whose neighbours were all looked at, without their being allowed.
    passed: Visited,
    pool: Pool,
    batch: Batch,
    ids: Vec<u32>,
    distances: Vec<f32>,
    refused: Vec<u32>,
    /// Of the rows compared last.
    nearest: Option<Key>,
}

impl<S: VectorStorage> Default for FilteredSearch<S> {
    fn default() -> Self {
        FilteredSearch {
            query: S::Query::default(),
            cursor: SearchCursor::default(),
            visited: Visited::default(),
            passed: Visited::default(),
            pool: Pool::default(),
            batch: Batch::default(),
            ids: Vec::new(),
            distances: Vec::new(),
            refused: Vec::new(),
            nearest: None,
        }
    }
}

impl<S: VectorStorage> fmt::Debug for FilteredSearch<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FilteredSearch").finish_non_exhaustive()
    }
}

/// One filtered search: how many of which rows.
struct Ask<'a, S: VectorStorage, F: ?Sized> {
    hnsw: &'a Hnsw<S>,
    filter: &'a F,
    k: usize,
    ef: usize,
    /// Rows there were when it started, and how many of them may be returned, about.
    len: u32,
    allowed: usize,
}

/// How a filtered search is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Regime {
    Compare,
    Walk,
    Gate,
}

impl<S: VectorStorage, F: Filter + ?Sized> Ask<'_, S, F> {
    fn regime(&self) -> Regime {
        if self.allowed <= (FEW * self.ef.max(SMALL_EF)).max(self.k) {
            Regime::Compare
        } else if self.allowed.saturating_mul(MANY) >= self.len as usize {
            Regime::Gate
        } else {
            Regime::Walk
        }
    }

    /// Whether a node or one of its twins is allowed.
    fn counts(&self, node: u32) -> bool {
        self.filter.allows(node) || twins(self.hnsw, node, self.len).any(|twin| self.filter.allows(twin))
    }
}

impl<S: VectorStorage> Hnsw<S> {
    /// The `k` nearest of the rows that a filter allows, by a search that keeps `max(ef, k)` of them in view: fewer only
    /// if fewer are allowed. Rows appended meanwhile are not returned.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use vecindex::{F32Rows, FilteredSearch, Graph, Hnsw, HnswParams, IdSet, Metric, Passing, Region};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let params = HnswParams::default();
    /// # let rows = Arc::new(Region::heap(F32Rows::bytes_needed(1, 100)?)?);
    /// # let graph = Arc::new(Region::heap(Graph::bytes_needed(100, params.m)?)?);
    /// # let index = Hnsw::new(F32Rows::create(rows, Metric::L2, 1, 100)?, Graph::create(graph, params, 100)?)?;
    /// # for x in 0..100 {
    /// #     index.append(&[x as f32], [x, 0])?;
    /// # }
    /// let mut search = FilteredSearch::default();
    /// let even = index.search_filtered(&[7.1], 2, 64, &Passing::new(|id| id % 2 == 0), &mut search)?;
    /// assert_eq!(even.iter().map(|n| n.id).collect::<Vec<_>>(), [8, 6]);
    /// let few: IdSet = [3, 99].into_iter().collect();
    /// assert_eq!(index.search_filtered(&[7.1], 10, 64, &few, &mut search)?.len(), 2);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// A query that the storage refuses.
    pub fn search_filtered<F: Filter + ?Sized>(
        &self,
        query: &[f32],
        k: usize,
        ef: usize,
        filter: &F,
        search: &mut FilteredSearch<S>,
    ) -> Result<Vec<Neighbour>, SearchError> {
        self.storage.prepare(query, &mut search.query)?;
        let len = self.len();
        let k = k.min(len as usize);
        let ef = ef.clamp(k.max(1), (len as usize).max(1));
        let mut ask = Ask { hnsw: self, filter, k, ef, len, allowed: filter.count(len).min(len as usize) };
        let (mut found, mut regime) = (Vec::with_capacity(k), ask.regime());
        if regime == Regime::Gate && search.gate(&ask, query, &mut found)? {
            // A cursor that goes on meets some rows late.
            found.sort_unstable();
        } else if regime == Regime::Gate {
            found.clear();
            // So few came that the number may be wrong.
            ask.allowed = ask.allowed.min(estimate(filter, len));
            regime = if ask.regime() == Regime::Compare { Regime::Compare } else { Regime::Walk };
        }
        if regime == Regime::Walk && !search.walk(&ask, &mut found) {
            regime = Regime::Compare;
        }
        if regime == Regime::Compare {
            search.ids.clear();
            filter.ids(len, &mut search.ids);
            let FilteredSearch { query, ids, pool, .. } = search;
            found = nearest_among(&self.storage, query, ids, k, pool);
        }
        Ok(found)
    }
}

impl<S: VectorStorage> FilteredSearch<S> {
    /// An ordinary search, of which what is not allowed is left out; false if it is not worth going on.
    fn gate<F: Filter + ?Sized>(
        &mut self,
        ask: &Ask<'_, S, F>,
        query: &[f32],
        found: &mut Vec<Neighbour>,
    ) -> Result<bool, SearchError> {
        let Ask { hnsw, filter, k, ef, len, allowed } = *ask;
        // As many allowed rows in view as `ef` says.
        let ef = (ef * len as usize).div_ceil(allowed.max(1));
        self.cursor.start(hnsw, query, ef)?;
        for _ in 0..(PATIENCE * ef).max(k) {
            if found.len() == k {
                break;
            }
            let Some(next) = self.cursor.next(hnsw) else { return Ok(true) };
            if next.id < len && filter.allows(next.id) {
                found.push(next);
            }
        }
        Ok(found.len() == k)
    }

    /// A walk for which only allowed rows count; false if it found too few or comparing all is cheaper.
    fn walk<F: Filter + ?Sized>(&mut self, ask: &Ask<'_, S, F>, found: &mut Vec<Neighbour>) -> bool {
        self.visited.reset(ask.len);
        self.passed.reset(ask.len);
        self.pool.reset(ask.ef);
        self.ids.clear();
        let far = self.seed(ask);
        let mut compared = self.compare(ask.hnsw);
        if far {
            compared += self.climb(ask);
        }
        while let Some(node) = self.pool.expand() {
            let returned = || self.pool.keys().get(ask.k).is_none_or(|next| node < next.fresh());
            let reach = if far {
                LONGEST
            } else if returned() {
                LONG
            } else {
                SHORT
            };
            self.gather(ask, node.id(), reach);
            compared += self.compare(ask.hnsw);
            if compared > ask.allowed {
                return false;
            }
        }
        self.hand_out(ask, found);
        found.len() == ask.k
    }

    /// Where a walk starts: pending rows, some of all, and what is near where the upper levels lead. Whether there is little
    /// there that is allowed.
    fn seed<F: Filter + ?Sized>(&mut self, ask: &Ask<'_, S, F>) -> bool {
        let Ask { hnsw, filter, len, .. } = *ask;
        for id in hnsw.linked().min(len)..len {
            if filter.allows(id) && self.visited.insert(id) {
                self.ids.push(id);
            }
        }
        let some = spread(len).take(SEEDS * TRIES).filter(|id| filter.allows(*id)).take(SEEDS);
        for id in some {
            if self.visited.insert(id) {
                self.ids.push(id);
            }
        }
        let nearest = hnsw.graph.entry().and_then(|entry| descend(hnsw, &self.query, entry, 0, &mut self.batch));
        let Some(nearest) = nearest.filter(|nearest| nearest.id() < len) else { return false };
        self.add(ask, nearest.id());
        let before = self.ids.len();
        let looked = self.gather(ask, nearest.id(), SHORT);
        (self.ids.len() - before).saturating_mul(FAR).saturating_mul(len as usize) < looked.saturating_mul(ask.allowed)
    }

    /// Goes from each row that a walk starts from to the nearest around: what is far away may be in several places, and rows
    /// of the first one to be found would push the others out of the pool.
    fn climb<F: Filter + ?Sized>(&mut self, ask: &Ask<'_, S, F>) -> usize {
        let starts: Vec<Key> = self.pool.keys().iter().take(2 * SEEDS).copied().collect();
        let mut compared = 0;
        for mut node in starts {
            loop {
                self.gather(ask, node.id(), LONG);
                compared += self.compare(ask.hnsw);
                match self.nearest {
                    Some(nearest) if nearest < node => node = nearest,
                    _ => break,
                }
            }
        }
        compared
    }

    /// Compares what was gathered and empties it; says how much it was.
    fn compare(&mut self, hnsw: &Hnsw<S>) -> usize {
        self.distances.clear();
        self.distances.resize(self.ids.len(), 0.0);
        hnsw.storage.distances(&self.query, &self.ids, &mut self.distances);
        self.nearest = None;
        for (id, distance) in self.ids.iter().zip(&self.distances) {
            let key = Key::new(*distance, *id);
            self.nearest = self.nearest.map_or(Some(key), |nearest| Some(nearest.min(key)));
            self.pool.insert(key);
        }
        let compared = self.ids.len();
        self.ids.clear();
        compared
    }

    /// Gathers the allowed neighbours of a node and, if they are few, those of the others, as far as `reach` says. How many
    /// links it looked at.
    fn gather<F: Filter + ?Sized>(&mut self, ask: &Ask<'_, S, F>, node: u32, reach: Reach) -> usize {
        let enough = self.ids.len() + reach.enough * ask.hnsw.graph.degree(0);
        self.refused.clear();
        let mut looked = self.gather_links(ask, node, true);
        let neighbours = self.refused.len();
        let mut at = 0;
        while self.ids.len() < enough && at < neighbours + reach.further {
            let Some(refused) = self.refused.get(at).copied() else { break };
            if self.passed.insert(refused) {
                looked += self.gather_links(ask, refused, at < neighbours && reach.further > 0);
                self.add(ask, refused);
            }
            at += 1;
        }
        looked
    }

    /// Gathers the allowed ones of a node's links, and the others for passing through if they are wanted.
    fn gather_links<F: Filter + ?Sized>(&mut self, ask: &Ask<'_, S, F>, node: u32, others: bool) -> usize {
        let Ask { hnsw, len, .. } = *ask;
        let mut looked = 0;
        for slot in hnsw.graph.links(node, 0) {
            let id = slot.load(Ordering::Relaxed);
            if id >= len {
                continue;
            }
            looked += 1;
            if ask.counts(id) {
                if self.visited.insert(id) {
                    self.ids.push(id);
                }
            } else if others {
                hnsw.graph.prefetch(id);
                self.refused.push(id);
            }
        }
        looked
    }

    /// Gathers a node if it counts.
    fn add<F: Filter + ?Sized>(&mut self, ask: &Ask<'_, S, F>, node: u32) {
        if ask.counts(node) && self.visited.insert(node) {
            self.ids.push(node);
        }
    }

    /// The nearest of the pool, each followed by the rows that are equal to it.
    fn hand_out<F: Filter + ?Sized>(&mut self, ask: &Ask<'_, S, F>, found: &mut Vec<Neighbour>) {
        let Ask { hnsw, filter, k, len, .. } = *ask;
        let metric = hnsw.metric();
        if hnsw.storage.is_coarse() {
            let keys = self.pool.keys_mut();
            let head = keys.len().min((2 * k).max(k + 10));
            refine(&hnsw.storage, &self.query, &mut keys[..head]);
            keys[..head].sort_unstable_by_key(|key| key.fresh());
        }
        for key in self.pool.keys() {
            if found.len() == k {
                return;
            }
            let distance = key.neighbour(metric).distance;
            if filter.allows(key.id()) {
                found.push(Neighbour { id: key.id(), distance });
            }
            for id in twins(hnsw, key.id(), len) {
                // A pending row may have become a twin just now, and is in the pool then.
                if found.len() < k && filter.allows(id) && self.visited.insert(id) {
                    found.push(Neighbour { id, distance });
                }
            }
        }
    }
}

/// The rows equal to a node. At most as many as there are rows, whatever a damaged file says.
fn twins<S: VectorStorage>(hnsw: &Hnsw<S>, node: u32, len: u32) -> impl Iterator<Item = u32> + '_ {
    let next = move |id: u32| hnsw.graph.twin(id).filter(|twin| *twin < len);
    std::iter::successors(next(node), move |id| next(*id)).take(len as usize)
}

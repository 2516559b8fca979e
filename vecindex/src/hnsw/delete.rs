//! Deleting rows: a set of those that are gone, which searches leave out, and now and then a copy without them.
//!
//! A deleted row stays where it is and searches walk through it ([`Without`](crate::Without)), so nothing changes for anybody
//! who reads beside. [`Hnsw::without`] consolidates: it copies the index onto the heap without the deleted rows. A node that
//! loses neighbours gets, in their place, neighbours of these, by the rule that chooses neighbours always (FreshDiskANN,
//! Singh et al. 2021); where these are gone too, those behind them. What it links to still it keeps: to choose among all
//! anew costs links, and recall. All of it is read from the old graph and
//! written to the new one, each node by itself, so the copy is the same whatever the number of threads.
//!
//! Slots are used again by leaving them out of the copy, never in place: rows are written once, so a reader of
//! a region never meets one that changes, and there is no function that could do it.

use std::sync::atomic::Ordering;

use rayon::prelude::*;

use super::graph::{EMPTY, TWIN};
use super::order::{NONE, OrderError, Plan};
use super::prune::select;
use super::queue::Key;
use super::search::Batch;
use super::{Graph, Hnsw};
use crate::ids::IdSet;
use crate::storage::{Encoding, Rows, VectorStorage};

/// Nodes that are gone and looked behind for one node, at most, and rows to choose from.
const MOST_BEHIND: usize = 64;
const MOST_CANDIDATES: usize = 512;

impl<E: Encoding> Hnsw<Rows<E>> {
    /// A copy on the heap, with room for `capacity` rows, of all rows that are not in `gone`, in their order, with their labels; it
    /// can be written to. What linked to the others is repaired, and nothing of them is left. Rows that are appended meanwhile
    /// are not in the copy.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use vecindex::{F32Rows, Graph, Hnsw, HnswParams, IdSet, Metric, Region, SearchCursor};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let params = HnswParams::default();
    /// # let rows = Arc::new(Region::heap(F32Rows::bytes_needed(1, 100)?)?);
    /// # let graph = Arc::new(Region::heap(Graph::bytes_needed(100, params.m)?)?);
    /// # let index = Hnsw::new(F32Rows::create(rows, Metric::L2, 1, 100)?, Graph::create(graph, params, 100)?)?;
    /// # for x in 0..100 {
    /// #     index.append(&[x as f32], [x, 0])?;
    /// # }
    /// # index.link_pending()?;
    /// let odd: IdSet = (0..100).filter(|id| id % 2 == 1).collect();
    /// let even = index.without(&odd, 100)?;
    /// assert_eq!(even.len(), 50);
    /// let nearest = even.search(&[7.1], 1, 64, &mut SearchCursor::default())?;
    /// assert_eq!(even.label(nearest[0].id), [8, 0]);
    /// even.append(&[7.0], [7, 0])?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// Rows that are not linked, no room, no memory.
    pub fn without(&self, gone: &IdSet, capacity: u32) -> Result<Hnsw<Rows<E>>, OrderError> {
        let order: Vec<u32> = (0..self.len()).filter(|id| !gone.contains(*id)).collect();
        self.in_order(&order, capacity)
    }

    /// Gives the nodes of a copy other links for those that led to rows that are not in it.
    pub(super) fn repair(&self, copy: &Hnsw<Rows<E>>, plan: &Plan) {
        let nodes = (0..copy.len()).into_par_iter();
        nodes.for_each_init(Repair::default, |repair, id| repair.node(self, copy, plan, id));
    }
}

/// Memory of repairing one node after the other.
struct Repair<E: Encoding> {
    query: E::Query,
    batch: Batch,
    /// Neighbours to choose from, in the copy: those that it has still, so many, and what is behind the others.
    found: Vec<u32>,
    still: usize,
    /// Nodes that are gone, in the old graph: those that were its neighbours, so many, and others behind them.
    behind: Vec<u32>,
    lost: usize,
    candidates: Vec<Key>,
    kept: Vec<Key>,
}

impl<E: Encoding> Default for Repair<E> {
    fn default() -> Self {
        let (found, still, behind, lost, candidates, kept) = Default::default();
        Repair { query: E::Query::default(), batch: Batch::default(), found, still, behind, lost, candidates, kept }
    }
}

impl<E: Encoding> Repair<E> {
    fn node(&mut self, old: &Hnsw<Rows<E>>, copy: &Hnsw<Rows<E>>, plan: &Plan, id: u32) {
        let source = plan.source[id as usize];
        if source == NONE {
            return;
        }
        for level in 0..=copy.graph.level(id) {
            if self.collect(&old.graph, &copy.graph, plan, (id, source), level) {
                self.choose(copy, id, level);
            }
        }
    }

    /// Finds what the node still links to on a level and what else it may; false if it has lost nothing there.
    fn collect(&mut self, old: &Graph, new: &Graph, plan: &Plan, (id, source): (u32, u32), level: u32) -> bool {
        self.found.clear();
        self.behind.clear();
        let (mut at, mut node) = (0, source);
        loop {
            for slot in old.links(node, level) {
                let there = slot.load(Ordering::Relaxed);
                if there >= TWIN {
                    continue;
                }
                match plan.link(there) {
                    EMPTY if !self.behind.contains(&there) => self.behind.push(there),
                    EMPTY => {}
                    link if link != id && new.level(link) >= level && !self.found.contains(&link) => {
                        self.found.push(link)
                    }
                    _ => {}
                }
            }
            if at == 0 {
                (self.still, self.lost) = (self.found.len(), self.behind.len());
            }
            if at == self.behind.len().min(MOST_BEHIND) || self.found.len() >= MOST_CANDIDATES {
                return !self.behind.is_empty();
            }
            node = self.behind[at];
            at += 1;
        }
    }

    /// Writes the links of a node: those that it has still, and as many as it lost: such as the rule wants, then the nearest.
    fn choose(&mut self, copy: &Hnsw<Rows<E>>, id: u32, level: u32) {
        let slots = copy.graph.links(id, level);
        let twin =
            slots.iter().map(|slot| slot.load(Ordering::Relaxed)).find(|there| *there >= TWIN && *there != EMPTY);
        copy.storage.prepare_row(id, &mut self.query);
        self.batch.those(&self.found);
        self.candidates.clear();
        self.candidates.extend(self.batch.compare(&copy.storage, &self.query));
        self.candidates.sort_unstable();
        let still = &self.found[..self.still];
        let most = (self.still + self.lost).min(slots.len() - usize::from(twin.is_some()));
        select(&copy.storage, &self.candidates, most, |id| still.contains(&id), &mut self.kept);
        let chosen = self.kept.len();
        for candidate in &self.candidates {
            if self.kept.len() == most {
                break;
            }
            if !self.kept[..chosen].contains(candidate) {
                self.kept.push(*candidate);
            }
        }
        self.kept.sort_unstable();
        let links = self.kept.iter().map(|key| key.id()).chain(twin);
        for (slot, link) in slots.iter().zip(links.chain(std::iter::repeat(EMPTY))) {
            slot.store(link, Ordering::Relaxed);
        }
    }
}

//! Linking many rows at once: the same graph whatever the number of threads.
//!
//! Rows are linked batch by batch (ParlayANN, Manohar et al., 2023): while a batch looks for its neighbours, all threads only
//! read the graph; then each row's links are chosen, and the links back to them are grouped by the node that they lead from,
//! and each such node is dealt with by one thread, once. Nothing depends on who is first, so there is nothing to lock, and a
//! full row chooses among its links once a batch and not once a link.
//!
//! * **Order.** Nodes of higher levels come first, otherwise chance decides (a hash of seed and id). So sorted input does no
//!   harm, the node to start from is known from the beginning, and upper levels are complete early. A batch is
//!   no larger than what is linked, and a few percent of all rows at most.
//! * **Locality.** Within a batch searches are sorted by the nodes that their ways down lead through: what one has compared,
//!   the next finds in the cache.
//! * **Rows of one batch** do not meet in the graph. They are compared if both have found the same node near (`Mates`), but
//!   with no more than a search keeps in view: nodes that everybody finds cost no more than others. The very first batch is
//!   compared each with each.
//! * **Distances** of links are kept beside them (`rows`), and whoever survived a choice together is not compared again.
//! * **The spanning tree** (`tree`) grows row by row between looking and writing. Twins are hung up at the end.
//!
//! Searches of other threads and processes go on meanwhile and find the rows exactly, as pending ones.
//!
//! Rows of floats, and such as are compared by a part of what they say, are compared by codes that are made for the time of a build (`codes`).
//!
//! Memory beside the index while this runs: the codes, a byte a component; 8 `m` + 1 bytes for distances for each row of the
//! index, however few of them are to be linked, 12 for the order for each that is; and 8 `ef_construction` bytes for each row
//! of a batch, of which there are 16,384 at most.

mod choose;
mod codes;
mod rows;
mod search;

use std::cmp::Reverse;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use self::rows::Rows;
use self::search::Context;
use super::queue::Key;
use super::tree::Tree;
use super::writer::Writer;
use super::{BuildContext, Hnsw, insert};
use crate::storage::VectorStorage;

/// Rows that are compared each with each to begin with.
const FIRST: usize = 512;
/// A batch has this share of all rows, but at least and at most so many. It is never larger than what is linked.
const SHARE: usize = 50;
const SMALLEST: usize = 1024;
const LARGEST: usize = 16_384;

/// What is compared while many rows are linked at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum BuildOn {
    /// Codes of one byte a component, which are made for that time, if the rows take more, or are compared by
    /// less than they say, and codes order them alike: some thousands are tried. The graph is as good, in a fraction of the time.
    #[default]
    Codes,
    /// The rows themselves.
    Rows,
}

/// A row on its way into the graph.
#[derive(Debug, Default)]
struct Item {
    id: u32,
    /// The highest level that it is linked on.
    low: u32,
    /// Nodes on its way down, highest first.
    path: [u32; 3],
    start: Option<Key>,
    /// Per level: what was found, nearest first.
    near: Vec<Vec<Key>>,
    /// Per level: what is chosen of it.
    chosen: Vec<Chosen>,
}

#[derive(Debug, Default)]
struct Chosen {
    /// Nearest first, but for the parent in the tree, which may come last.
    keys: Vec<Key>,
    /// The first so many are each nearer to the row than to each other. 0 if that was not asked.
    survivors: usize,
}

/// Links rows that the caller has claimed, while nobody else links. Once `go_on` says no, the rest is given back.
pub(super) fn link<S: VectorStorage>(
    hnsw: &Hnsw<S>,
    writer: &Writer,
    claimed: &[u32],
    on: BuildOn,
    go_on: &(impl Fn() -> bool + Sync),
) {
    let (storage, end) = (&hnsw.storage, hnsw.len());
    let digests: Vec<u64> = claimed.par_iter().map(|id| storage.digest(*id)).collect();
    let (mut order, mut twins) = (Vec::with_capacity(claimed.len()), Vec::new());
    for (id, digest) in claimed.iter().zip(digests) {
        match writer.twins.first_of(storage, *id, digest) {
            first if first == *id => order.push(*id),
            first => twins.push((*id, first)),
        }
    }
    order.par_sort_unstable_by_key(|id| (Reverse(hnsw.graph.level(*id)), hnsw.params().draw(*id), *id));
    // Codes of rows that are linked already are made for those to come: not for a few.
    let many = order.len() >= end as usize / 4;
    let codes = if on == BuildOn::Codes && many { codes::instead_of(storage, end, &order, go_on) } else { None };
    let linked = match codes {
        Some(codes) => Build::new(hnsw, writer, &codes, end).run(writer, &order, go_on),
        None => Build::new(hnsw, writer, storage, end).run(writer, &order, go_on),
    };
    order[linked..].iter().for_each(|id| writer.give_back(*id));
    order.truncate(linked);
    writer.finish_together(&hnsw.graph, order);
    let mut context = BuildContext::default();
    for (id, first) in twins {
        if go_on() {
            insert::join(hnsw, writer, id, first, &mut context);
            writer.finish(&hnsw.graph, id, first);
        } else {
            writer.give_back(id);
        }
    }
}

/// A graph and the rows that it is built over: those of the index or others that stand for them.
struct Build<'a, S: VectorStorage, D: VectorStorage> {
    hnsw: &'a Hnsw<S>,
    storage: &'a D,
    rows: Rows<'a>,
    /// All ids are below this.
    end: u32,
    tree: &'a Tree,
    contexts: Mutex<Vec<Context<D>>>,
}

impl<'a, S: VectorStorage, D: VectorStorage> Build<'a, S, D> {
    fn new(hnsw: &'a Hnsw<S>, writer: &'a Writer, storage: &'a D, end: u32) -> Self {
        Build { hnsw, storage, rows: Rows::new(&hnsw.graph, end), end, tree: &writer.tree, contexts: Mutex::default() }
    }

    /// Runs `work` on each item, on all threads, with a thread's own memory.
    fn each<T: Send>(&self, items: &mut [T], work: impl Fn(&mut T, &mut Context<D>) + Sync) {
        items.par_iter_mut().for_each_init(|| Lent::new(&self.contexts), |lent, item| work(item, &mut lent.context));
    }

    /// Links nodes in this order; returns how many were linked.
    fn run(&self, writer: &Writer, order: &[u32], go_on: &(impl Fn() -> bool + Sync)) -> usize {
        let mut linked = 0;
        let before = writer.progress() as usize;
        let mut items: Vec<Item> = Vec::new();
        let mut room = 0;
        let most = ((before + order.len()) / SHARE).clamp(SMALLEST, LARGEST);
        while linked < order.len() && go_on() {
            let empty = self.hnsw.graph.entry().is_none();
            let size = if empty { FIRST } else { (before + linked).clamp(1, most) };
            let batch = &order[linked..order.len().min(linked + size)];
            items.resize_with(batch.len(), Item::default);
            if empty {
                self.all_pairs(batch, &mut items);
            } else if !self.look(batch, &mut items, go_on) {
                break;
            }
            self.write(&mut items, &mut room);
            // The first of a batch is on the highest level of it.
            let level = self.hnsw.graph.level(batch[0]);
            if self.hnsw.graph.entry().is_none_or(|(top, _)| level > top) {
                self.hnsw.graph.set_entry(level, batch[0]);
            }
            linked += batch.len();
            writer.advance(batch.len() as u32);
        }
        linked
    }

    /// Chooses the neighbours of each item in the graph as it is. False if that was given up.
    fn look(&self, batch: &[u32], items: &mut [Item], go_on: &(impl Fn() -> bool + Sync)) -> bool {
        let goes_on = AtomicBool::new(true);
        let asked = || {
            if goes_on.load(Ordering::Relaxed) && !go_on() {
                goes_on.store(false, Ordering::Relaxed);
            }
            goes_on.load(Ordering::Relaxed)
        };
        items.iter_mut().zip(batch).for_each(|(item, id)| item.id = *id);
        self.each(items, |item, cx| self.descend(item, cx));
        items.par_sort_unstable_by_key(|item| (item.path, item.id));
        self.each(items, |item, cx| {
            if asked() {
                self.find(item, cx);
            }
        });
        if !goes_on.into_inner() {
            return false;
        }
        let top = items.iter().map(|item| item.low).max().unwrap_or(0);
        for level in 0..=top {
            let mates = search::Mates::of(items, level);
            self.each(items, |item, cx| {
                if level <= item.low {
                    self.meet(item, level, &mates, cx);
                }
            });
        }
        true
    }

    /// Chooses among what the items have found, and writes their links and those back to them.
    fn write(&self, items: &mut [Item], room: &mut u32) {
        let m = self.hnsw.params().m;
        self.each(items, |item, cx| {
            item.chosen.resize_with(item.chosen.len().max(item.low as usize + 1), Chosen::default);
            for (level, (near, chosen)) in
                item.near.iter().zip(&mut item.chosen).enumerate().take(item.low as usize + 1)
            {
                let own = |key: &Key| choose::Candidate { key: *key, survivor: false, certain: false };
                cx.choice.candidates.clear();
                cx.choice.candidates.extend(near.iter().map(own));
                let compared = self.choose(level as u32, m, &mut cx.choice);
                chosen.keys.clear();
                chosen.keys.extend_from_slice(&cx.choice.kept);
                chosen.survivors = if compared { chosen.keys.len() } else { 0 };
            }
        });
        items.iter_mut().for_each(|item| self.attach(item, room));
        let top = items.iter().map(|item| item.low).max().unwrap_or(0);
        for level in 0..=top {
            items.par_iter().filter(|item| level <= item.low).for_each(|item| {
                let chosen = &item.chosen[level as usize];
                let links = chosen.keys.iter().map(|key| (key.id(), key.distance()));
                self.rows.write(item.id, level, links, chosen.survivors);
            });
        }
        for level in 0..=top {
            self.link_back(items, level);
        }
    }

    /// Gives an item a parent: the nearest that has room for a child. `room` is where to look for one if no near one has.
    fn attach(&self, item: &mut Item, room: &mut u32) {
        let chosen = &mut item.chosen[0].keys;
        let near = chosen.iter().chain(&item.near[0]);
        let parent = near.copied().find(|key| self.tree.takes(key.id())).or_else(|| {
            let turn = (0..self.end).map(|step| (*room + step) % self.end).find(|id| self.tree.takes(*id))?;
            *room = turn;
            Some(Key::new(self.storage.distance_between(turn, item.id), turn))
        });
        match parent {
            Some(parent) => {
                self.tree.attach(item.id, parent.id());
                if !chosen.contains(&parent) {
                    chosen.push(parent);
                }
            }
            None => self.tree.plant(item.id),
        }
    }
}

/// A thread's memory, given back when it has done its part.
struct Lent<'a, D: VectorStorage> {
    context: Context<D>,
    all: &'a Mutex<Vec<Context<D>>>,
}

impl<'a, D: VectorStorage> Lent<'a, D> {
    fn new(all: &'a Mutex<Vec<Context<D>>>) -> Self {
        let context = all.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        Lent { context, all }
    }
}

impl<D: VectorStorage> Drop for Lent<'_, D> {
    fn drop(&mut self) {
        let context = std::mem::take(&mut self.context);
        self.all.lock().unwrap_or_else(PoisonError::into_inner).push(context);
    }
}

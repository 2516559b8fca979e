//! The tables of a bucket, with what was fetched of them, within a budget of memory.
//!
//! Blocks that were not read for a while are given up, by a clock: a hand goes round over tables and blocks, passes over what
//! was read since it last came by, and takes the rest. What is given up goes with the table that held it, which is replaced
//! in all views by one without; views that somebody reads keep theirs. Filters and indexes go last.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::follow::contents::Contents;
use crate::object::Names;
use crate::sstable::lazy::{Charge, Lazy};
use crate::sstable::read::Table;
use crate::sstable::{TableId, TableRef};

/// How often the hand may go round for one place: over what is cold, was read, has only just come, and anything.
const ROUNDS: usize = 3;

pub(super) struct Shelf {
    names: Names,
    limit: u64,
    /// Bytes in memory, those included that only older views hold.
    used: Arc<AtomicU64>,
    /// Bytes that the newest views hold; more than that when two put in the same.
    resident: AtomicU64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The table that stands in the newest views for each name.
    tables: BTreeMap<TableId, Arc<Table>>,
    /// The contents that somebody holds.
    live: Vec<Weak<Contents>>,
    hand: Option<TableId>,
}

/// Bytes that are counted until this is dropped.
struct Charged {
    used: Arc<AtomicU64>,
    bytes: u64,
}

impl Drop for Charged {
    fn drop(&mut self) {
        self.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Shelf {
    pub(super) fn new(names: Names, limit: u64) -> Shelf {
        Shelf { names, limit, used: Arc::default(), resident: AtomicU64::new(0), state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing is left half-way by a panic: each change is an insertion or a removal.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes in memory.
    pub(super) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Counts bytes until what is returned is dropped.
    pub(super) fn charge(&self, bytes: u64) -> Charge {
        self.used.fetch_add(bytes, Ordering::Relaxed);
        Box::new(Charged { used: Arc::clone(&self.used), bytes })
    }

    /// Makes contents of the tables that are here, and of new ones; those that nobody names any more go.
    pub(super) fn contents(
        &self,
        make: impl FnOnce(&mut dyn FnMut(&TableRef) -> Arc<Table>) -> Contents,
    ) -> Arc<Contents> {
        let mut state = self.state();
        let tables = &mut state.tables;
        let contents = Arc::new(make(&mut |info| {
            let known = tables.get(&info.id).filter(|table| table.is(info));
            let table = known.map(Arc::clone).unwrap_or_else(|| {
                let name = self.names.table(info.id).to_string();
                Arc::new(Table::of_object(info.clone(), name, Lazy::default()))
            });
            tables.insert(info.id, Arc::clone(&table));
            table
        }));
        state.live.push(Arc::downgrade(&contents));
        let live = state.held();
        state.tables.retain(|id, _| live.iter().any(|contents| contents.names(*id)));
        contents
    }

    /// The table that stands for a name in the newest views.
    pub(super) fn current(&self, id: TableId) -> Option<Arc<Table>> {
        self.state().tables.get(&id).map(Arc::clone)
    }

    /// So many bytes were put into one of the current tables.
    pub(super) fn grown(&self, bytes: u64) {
        let resident = self.resident.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if resident > self.limit {
            self.shrink(self.limit - self.limit / 8);
        }
    }

    /// Gives up blocks, and at last whole tables, until no more than `target` bytes are left.
    fn shrink(&self, target: u64) {
        let mut state = self.state();
        let live = state.held();
        state.tables.retain(|id, _| live.iter().any(|contents| contents.names(*id)));
        let lazy = |table: &Arc<Table>| {
            table
                .lazy()
                .map_or(0, |lazy| lazy.meta_bytes() + lazy.blocks().map(|(_, block)| block.len() as u64).sum::<u64>())
        };
        let resident: u64 = state.tables.values().map(lazy).sum();
        let mut left = resident.saturating_sub(target);
        let dropped = if resident > self.limit { state.choose(&mut left) } else { HashMap::new() };
        let mut fresh = BTreeMap::new();
        for (id, blocks) in &dropped {
            let Some((table, lazy)) = state.tables.get(id).and_then(|table| Some((table, table.lazy()?))) else {
                continue;
            };
            let lighter = Table::of_object(table.info.clone(), table.name().to_owned(), lazy.without(blocks));
            fresh.insert(*id, Arc::new(lighter));
        }
        if left > 0 && resident > self.limit {
            // All blocks are gone, and still: filters and indexes, from the hand on.
            for (id, table) in state.in_order() {
                if left == 0 {
                    break;
                }
                left = left.saturating_sub(table.lazy().map_or(0, Lazy::meta_bytes));
                let empty = Table::of_object(table.info.clone(), table.name().to_owned(), Lazy::default());
                fresh.insert(id, Arc::new(empty));
            }
        }
        self.resident.store(resident.min(target + left), Ordering::Relaxed);
        for (id, table) in &fresh {
            state.tables.insert(*id, Arc::clone(table));
        }
        for contents in live {
            contents.replace(&fresh);
        }
    }
}

impl State {
    /// The contents that somebody holds.
    fn held(&mut self) -> Vec<Arc<Contents>> {
        let held: Vec<Arc<Contents>> = self.live.iter().filter_map(Weak::upgrade).collect();
        self.live = held.iter().map(Arc::downgrade).collect();
        held
    }

    /// The tables in the order in which the hand comes by.
    fn in_order(&self) -> Vec<(TableId, Arc<Table>)> {
        let hand = self.hand.unwrap_or(TableId { epoch: 0, counter: 0 });
        let behind = self.tables.range((Bound::Excluded(hand), Bound::Unbounded));
        let all = behind.chain(self.tables.range(..=hand));
        all.map(|(id, table)| (*id, Arc::clone(table))).collect()
    }

    /// The blocks to give up, for `left` bytes, which is what could not be found when this returns.
    fn choose(&mut self, left: &mut u64) -> HashMap<TableId, Vec<usize>> {
        let mut chosen: HashMap<TableId, Vec<usize>> = HashMap::new();
        for round in 0..=ROUNDS {
            for (id, table) in self.in_order() {
                let Some(lazy) = table.lazy() else { continue };
                let given_up = chosen.entry(id).or_default();
                let before = given_up.len();
                for (n, block) in lazy.blocks() {
                    if *left == 0 {
                        break;
                    }
                    if given_up[..before].binary_search(&n).is_ok() || !(lazy.cool(n) || round == ROUNDS) {
                        continue;
                    }
                    *left = left.saturating_sub(block.len() as u64);
                    given_up.push(n);
                }
                given_up.sort_unstable();
                self.hand = Some(id);
                if *left == 0 {
                    chosen.retain(|_, blocks| !blocks.is_empty());
                    return chosen;
                }
            }
        }
        chosen.retain(|_, blocks| !blocks.is_empty());
        chosen
    }
}

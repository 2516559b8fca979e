//! What one manifest shows: its tables, of each what was fetched so far.
//!
//! The tables are in a [`View`], so that everything reads them as it reads mapped ones. When blocks are given up the view is
//! replaced by one whose tables hold less; whoever reads goes on with the one he has, and takes the newest when he next has
//! to wait for something.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock};

use crate::manifest::{Manifest, ManifestInfo};
use crate::memtable::Memtable;
use crate::metrics::counters::Reads;
use crate::sstable::cursor::Run;
use crate::sstable::read::Table;
use crate::sstable::{TableId, TableRef};
use crate::view::View;

pub(super) struct Contents {
    pub(super) info: ManifestInfo,
    /// Where in the view each table is: which run, and which of its tables.
    places: HashMap<TableId, (usize, usize)>,
    view: RwLock<Arc<View>>,
}

impl Contents {
    /// What manifest `number` shows; `find` gives the tables.
    pub(super) fn new(
        number: u64,
        manifest: &Manifest,
        reads: &Arc<Reads>,
        find: impl FnMut(&TableRef) -> Arc<Table>,
    ) -> Contents {
        let mut find = find;
        let (first, lower) = manifest.levels.split_first().map_or((&[][..], &[][..]), |(first, rest)| (first, rest));
        let l0: Vec<Run> = first.iter().map(|info| Run::from([find(info)])).collect();
        let levels: Vec<Run> = lower.iter().map(|level| level.iter().map(&mut find).collect()).collect();
        let sequences = manifest.levels.iter().flatten().map(|table| table.max_sequence);
        let view = View {
            number,
            memtables: Vec::new(),
            l0,
            levels,
            table_sequence: sequences.fold(manifest.last_sequence, u64::max),
            floor: manifest.floor,
            reads: Arc::clone(reads),
        };
        let mut places = HashMap::new();
        for (number, run) in runs(&view).enumerate() {
            places.extend(run.iter().enumerate().map(|(at, table)| (table.info.id, (number, at))));
        }
        Contents { info: ManifestInfo::of(number, manifest), places, view: RwLock::new(Arc::new(view)) }
    }

    /// The newest view of it.
    pub(super) fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Writes up to this number are in it. While a log is being replayed tables may have some, but not all, above it.
    pub(super) fn sequence(&self) -> u64 {
        self.view().memtables.iter().map(|memtable| memtable.published()).fold(self.info.last_sequence, u64::max)
    }

    pub(super) fn names(&self, table: TableId) -> bool {
        self.places.contains_key(&table)
    }

    /// Where a table is in its views: which run, and which of its tables.
    pub(super) fn place(&self, id: TableId) -> Option<(usize, usize)> {
        self.places.get(&id).copied()
    }

    /// A table of a view of it.
    pub(super) fn table<'a>(&self, view: &'a View, id: TableId) -> Option<&'a Arc<Table>> {
        let (run, at) = *self.places.get(&id)?;
        runs(view).nth(run)?.get(at)
    }

    /// Has other memtables, newest first, beside the tables from now on.
    pub(super) fn set_memtables(&self, memtables: &[Arc<Memtable>]) {
        let mut view = self.view.write().unwrap_or_else(PoisonError::into_inner);
        let next = View { memtables: memtables.to_vec(), ..with_runs(&view, Arc::clone) };
        *view = Arc::new(next);
    }

    /// Puts other tables in the places of those of their names.
    pub(super) fn replace(&self, fresh: &BTreeMap<TableId, Arc<Table>>) {
        let mut view = self.view.write().unwrap_or_else(PoisonError::into_inner);
        let renewed = |run: &Run| -> Run {
            let changed = run.iter().any(|table| fresh.contains_key(&table.info.id));
            let newest = |table: &Arc<Table>| Arc::clone(fresh.get(&table.info.id).unwrap_or(table));
            if changed { run.iter().map(newest).collect() } else { Arc::clone(run) }
        };
        let next = with_runs(&view, renewed);
        *view = Arc::new(next);
    }
}

/// The runs of a view, newest first.
pub(super) fn runs(view: &View) -> impl Iterator<Item = &Run> {
    view.l0.iter().chain(&view.levels)
}

fn with_runs(view: &View, change: impl Fn(&Run) -> Run) -> View {
    View {
        number: view.number,
        memtables: view.memtables.clone(),
        l0: view.l0.iter().map(&change).collect(),
        levels: view.levels.iter().map(&change).collect(),
        table_sequence: view.table_sequence,
        floor: view.floor,
        reads: Arc::clone(&view.reads),
    }
}

/// The same view without the tables that hold nothing between two keys; runs keep their numbers.
pub(super) fn within(view: &Arc<View>, from: &Bound<Vec<u8>>, to: &Bound<Vec<u8>>) -> Arc<View> {
    if matches!((from, to), (Bound::Unbounded, Bound::Unbounded)) {
        return Arc::clone(view);
    }
    let ends_before = |table: &Arc<Table>| match from {
        Bound::Included(key) => table.info.max_key < *key,
        Bound::Excluded(key) => table.info.max_key <= *key,
        Bound::Unbounded => false,
    };
    let begins_within = |table: &Arc<Table>| match to {
        Bound::Included(key) => table.info.min_key <= *key,
        Bound::Excluded(key) => table.info.min_key < *key,
        Bound::Unbounded => true,
    };
    Arc::new(with_runs(view, |run| {
        let first = run.partition_point(ends_before);
        let last = run.partition_point(begins_within).max(first);
        if (first, last) == (0, run.len()) { Arc::clone(run) } else { run[first..last].into() }
    }))
}

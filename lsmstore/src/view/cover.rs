//! The range deletions of a view, as a walk needs them: asked for each key that it comes by.

use std::sync::Arc;

use crate::memtable::Memtable;
use crate::sstable::cursor::Run;
use crate::sstable::fault::Fault;
use crate::sstable::read::Table;
use crate::view::View;

/// Where the range deletions are; nothing mostly.
pub(super) struct Covers {
    memtables: Vec<Arc<Memtable>>,
    /// The tables of each run that have any, in key order.
    runs: Vec<Vec<Arc<Table>>>,
}

impl Covers {
    /// Those that a reader at `sequence` has to look at.
    pub(super) fn of(view: &View, sequence: u64) -> Covers {
        // Only the first is still written to, and what comes later is too new, unless the reader asks for it ahead.
        let some = |(at, memtable): &(usize, &Arc<Memtable>)| {
            memtable.has_ranges() || (*at == 0 && memtable.published() < sequence)
        };
        let ranged = |run: &Run| -> Vec<Arc<Table>> {
            let any = |table: &&Arc<Table>| table.info.ranges > 0 && table.info.min_sequence <= sequence;
            run.iter().filter(any).map(Arc::clone).collect()
        };
        let runs = view.l0.iter().chain(&view.levels).map(ranged);
        Covers {
            memtables: view
                .memtables
                .iter()
                .enumerate()
                .filter(some)
                .map(|(_, memtable)| Arc::clone(memtable))
                .collect(),
            runs: runs.filter(|tables| !tables.is_empty()).collect(),
        }
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.memtables.is_empty() && self.runs.is_empty()
    }

    /// Whether a version of `key` is deleted with a range, for a reader at `sequence`.
    pub(super) fn hide(&self, key: &[u8], version: u64, sequence: u64) -> Result<bool, Fault> {
        for memtable in &self.memtables {
            if memtable.newest_range(key, sequence)? > version {
                return Ok(true);
            }
        }
        for tables in &self.runs {
            let at = tables.partition_point(|table| table.info.max_key[..] < *key);
            if let Some(table) = tables.get(at)
                && table.info.min_key[..] <= *key
                && table.info.max_sequence > version
                && table.known_ranges()?.newest(key, sequence) > version
            {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

//! A view: memtables and tables at one moment, read by key or in order, in any process.
//!
//! A view never changes, but its newest memtable still takes writes: whoever holds a view takes a sequence number
//! ([`View::read_sequence`]) and sees exactly the writes up to it, however often it reads. Nothing here is async and
//! nothing is copied: values are slices of the memory that the view keeps.
//!
//! # Invariants
//! * Adopt a view first, take the sequence number after: a merge keeps, for each key, the newest version at or below
//!   the view's floor and everything above it, so a number below the floor cannot be answered and is refused.
//! * Sources may overlap in sequence numbers (a replayed log applies batches slightly out of order), so a version is
//!   believed to be the newest only when no other source can hold a newer one.

mod cover;
mod describe;
mod iter;

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use kriya_region::Region;

pub use describe::{MemtableRef, ViewDescription};
pub use iter::{Iter, KeyValue, Scan};

use crate::error::{ReadError, ViewError};
use crate::key::{self, DELETE, PUT, kind_of, sequence_of};
use crate::memtable::{Memtable, Version};
use crate::metrics::counters::Reads;
use crate::sstable::cursor::Run;
use crate::sstable::read::Table;
use crate::sstable::{TableId, TableRef};

/// Levels below L0 whose tables are looked up before the first of them is read.
const LEVELS: usize = 6;

/// The only table of a run that may hold a key.
fn table_of<'a>(run: &'a Run, key: &[u8]) -> Option<&'a Arc<Table>> {
    run.get(run.partition_point(|table| table.info.max_key[..] < *key))
}

/// Everything readable at one moment; see the module's documentation.
#[derive(Debug)]
pub struct View {
    pub(crate) number: u64,
    /// Newest first.
    pub(crate) memtables: Vec<Arc<Memtable>>,
    /// Newest first, one table each.
    pub(crate) l0: Vec<Run>,
    /// L1 and below.
    pub(crate) levels: Vec<Run>,
    /// Newest sequence number that the tables hold.
    pub(crate) table_sequence: u64,
    /// Lowest sequence number that can be read.
    pub(crate) floor: u64,
    pub(crate) reads: Arc<Reads>,
}

impl View {
    /// Grows with each view of a store; never used twice within the life of its handle.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The newest sequence number that can be read now: what was applied before this call is visible at it.
    pub fn read_sequence(&self) -> u64 {
        self.memtables.iter().map(|memtable| memtable.published()).fold(self.table_sequence, u64::max)
    }

    /// The lowest sequence number that this view answers.
    pub fn floor(&self) -> u64 {
        self.floor
    }

    fn check(&self, sequence: u64) -> Result<(), ReadError> {
        if sequence < self.floor {
            return Err(ReadError::SequenceTooOld { asked: sequence, floor: self.floor });
        }
        Ok(())
    }

    /// The value of `key` at `sequence`, valid as long as the view is held.
    ///
    /// # Errors
    /// [`ReadError`] for damaged memory or files, or a sequence below the floor.
    pub fn get(&self, key: &[u8], sequence: u64) -> Result<Option<&[u8]>, ReadError> {
        Ok(self.get_version(key, sequence)?.and_then(|version| version.value))
    }

    /// As [`View::get`], telling a deleted key from one never written, with the number of the version found.
    ///
    /// # Errors
    /// As [`View::get`].
    pub fn get_version(&self, key: &[u8], sequence: u64) -> Result<Option<KeyVersion<'_>>, ReadError> {
        self.check(sequence)?;
        let (mut best, mut looked_into): (Option<Version<'_>>, _) = (None, 0);
        let newest = |best: &Option<Version<'_>>| best.as_ref().map(|version| sequence_of(version.tag));
        for memtable in &self.memtables {
            if newest(&best).is_some_and(|found| found >= memtable.published()) {
                break;
            }
            keep_newer(&mut best, memtable.get(key, sequence)?);
            keep_newer(&mut best, deleted_at(memtable.newest_range(key, sequence)?));
        }
        if best.is_none() || newest(&best) < Some(self.table_sequence) {
            let hash = key::hash(key);
            let mut deeper = [None; LEVELS];
            deeper.iter_mut().zip(&self.levels).for_each(|(table, run)| *table = table_of(run, key));
            let deepest = self.levels.iter().skip(LEVELS).filter_map(|run| table_of(run, key));
            let tables = self.l0.iter().flat_map(|run| run.first()).chain(deeper.into_iter().flatten()).chain(deepest);
            // One table's filter says nothing of another's: all are asked for before the first is read.
            tables.clone().for_each(|table| table.prefetch_filter(hash));
            for table in tables {
                let info = &table.info;
                if newest(&best).is_some_and(|found| found >= info.max_sequence)
                    || info.min_sequence > sequence
                    || (info.ranges == 0 && table.rules_out(hash))
                    || *key < info.min_key[..]
                    || *key > info.max_key[..]
                {
                    continue;
                }
                if info.ranges > 0 {
                    keep_newer(&mut best, deleted_at(table.known_ranges()?.newest(key, sequence)));
                }
                if table.may_hold(hash)? {
                    looked_into += 1;
                    keep_newer(&mut best, table.get(key, sequence)?);
                }
            }
        }
        self.reads.got(best.is_some(), looked_into);
        Ok(best.map(|version| KeyVersion {
            sequence: sequence_of(version.tag),
            value: (kind_of(version.tag) == PUT).then_some(version.value),
        }))
    }

    /// A cursor over the keys as they were at `sequence`. It keeps what it reads alive on its own.
    ///
    /// # Errors
    /// [`ReadError::SequenceTooOld`] below the floor.
    pub fn iter(&self, sequence: u64) -> Result<Iter, ReadError> {
        self.check(sequence)?;
        self.reads.scans.add(1);
        Ok(Iter::new(self, sequence))
    }

    /// The keys that begin with `prefix`, in order, as they were at `sequence`.
    ///
    /// # Errors
    /// As [`View::iter`].
    pub fn scan_prefix(&self, prefix: &[u8], sequence: u64) -> Result<Scan, ReadError> {
        Ok(Scan::new(self.iter(sequence)?, prefix))
    }

    /// What another process needs to open this view.
    pub fn describe(&self) -> ViewDescription {
        let refs = |run: &Run| run.iter().map(|table| table.info.clone()).collect::<Vec<_>>();
        ViewDescription {
            number: self.number,
            memtables: self
                .memtables
                .iter()
                .map(|memtable| MemtableRef { id: memtable.id(), capacity: memtable.capacity() as u64 })
                .collect(),
            l0: self.l0.iter().flat_map(refs).collect(),
            levels: self.levels.iter().map(refs).collect(),
            table_sequence: self.table_sequence,
            floor: self.floor,
        }
    }

    /// Opens a view that another process described. `region` maps a memtable by id and capacity, `table` a mirror file;
    /// both may answer from what they mapped before.
    ///
    /// # Errors
    /// [`ViewError`] if something cannot be mapped or is not what the description says.
    pub fn open(
        description: &ViewDescription,
        region: impl FnMut(u64, usize) -> io::Result<Arc<Region>>,
        table: impl FnMut(&TableRef) -> io::Result<Arc<Region>>,
    ) -> Result<View, ViewError> {
        View::open_with(description, &mut MappedTables::default(), region, table)
    }

    /// As [`View::open`], by a process that opens one view after the other: `table` maps only what is not in `known`,
    /// which is left with the tables of this view.
    ///
    /// # Errors
    /// As [`View::open`]; `known` is as it was then.
    pub fn open_with(
        description: &ViewDescription,
        known: &mut MappedTables,
        mut region: impl FnMut(u64, usize) -> io::Result<Arc<Region>>,
        mut table: impl FnMut(&TableRef) -> io::Result<Arc<Region>>,
    ) -> Result<View, ViewError> {
        let mut memtables = Vec::new();
        for MemtableRef { id, capacity } in &description.memtables {
            let map = |source| ViewError::Map { what: format!("memtable {id}"), source };
            let capacity = usize::try_from(*capacity).map_err(|_| map(io::ErrorKind::InvalidData.into()))?;
            let mapped = region(*id, capacity).map_err(map)?;
            memtables.push(Arc::new(Memtable::open(*id, mapped)?));
        }
        let mut named = HashMap::new();
        let mut open = |info: &TableRef| -> Result<Arc<Table>, ViewError> {
            if let Some(table) = known.0.get(&info.id).filter(|table| table.is(info)) {
                named.insert(info.id, Arc::clone(table));
                return Ok(Arc::clone(table));
            }
            let mapped = table(info).map_err(|source| ViewError::Map { what: format!("table {}", info.id), source })?;
            let table = Arc::new(Table::open(info.clone(), mapped, None)?);
            named.insert(info.id, Arc::clone(&table));
            Ok(table)
        };
        let mut l0 = Vec::new();
        for info in &description.l0 {
            l0.push(Run::from([open(info)?]));
        }
        let mut levels = Vec::new();
        for level in &description.levels {
            levels.push(level.iter().map(&mut open).collect::<Result<Vec<_>, _>>()?.into());
        }
        known.0 = named;
        Ok(View {
            number: description.number,
            memtables,
            l0,
            levels,
            table_sequence: description.table_sequence,
            floor: description.floor,
            reads: Arc::default(),
        })
    }

    /// The memtables' regions by id, so that their descriptors can be handed to another process. Newest first.
    pub fn shared_regions(&self) -> Vec<(u64, Arc<Region>)> {
        self.memtables.iter().map(|memtable| (memtable.id(), Arc::clone(memtable.region()))).collect()
    }

    /// Every table, L0 first.
    pub fn tables(&self) -> impl Iterator<Item = &TableRef> {
        self.l0.iter().chain(&self.levels).flat_map(|run| run.iter()).map(|table| &table.info)
    }
}

/// The tables of the view that a process has opened last: what it verified of them it need not verify again for the next
/// view. See [`View::open_with`].
#[derive(Debug, Default)]
pub struct MappedTables(HashMap<TableId, Arc<Table>>);

/// A version of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyVersion<'a> {
    /// When it was written.
    pub sequence: u64,
    /// The value, none if this is a deletion.
    pub value: Option<&'a [u8]>,
}

/// The deletion of a key by a range deletion of this number; none for 0.
fn deleted_at(sequence: u64) -> Option<Version<'static>> {
    (sequence > 0).then(|| Version { tag: key::tag(sequence, DELETE), value: &[] })
}

fn keep_newer<'a>(best: &mut Option<Version<'a>>, found: Option<Version<'a>>) {
    if let Some(found) = found
        && best.as_ref().is_none_or(|best| best.tag < found.tag)
    {
        *best = Some(found);
    }
}

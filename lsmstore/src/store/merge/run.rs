//! Reads the versions of a merge's inputs in order and writes its outputs.
//!
//! A merge keeps, for each key, the newest version at or below its floor and everything above it. The floor is the S of
//! the newest local manifest: what a replay over that one may bring back lies above it. Deletions at or below the floor go
//! where no level below the output can hold the key, and no table above an older version of it. So do deletions of ranges
//! ([`Deleted`]).
//!
//! # Invariants
//! * A group of the policy's (a row and its marks) is never split, neither between parts nor between outputs.
//! * Memory, for each part, is bounded by a group, a block, the buffer of a file, and filter and index of one table, of
//!   which the filter takes 8 bytes a key while it is built; and by the range deletions of the inputs.

use std::sync::Arc;

use crate::error::{Corruption, StorageError};
use crate::key::{self, DELETE, PUT, kind_of, sequence_of, tag};
use crate::mirror::damaged;
use crate::ranges::{RangeDeletion, Ranges, settled};
use crate::sstable::cursor::{Run, RunCursor};
use crate::sstable::read::Table;
use crate::sstable::write::{TableWriteError, TableWriter};
use crate::store::Inner;
use crate::store::merge::deleted::Deleted;
use crate::store::merge::pick::{Choice, covers};
use crate::store::merge::{MergeEntry, MergePolicy};

/// Parts of a merge that are run side by side, if each gets several tables.
const PARTS: usize = 2;
const TABLES_A_PART: u64 = 2;
/// An output ends early once it overlaps so many tables' bytes of the level below its own: merging it further would be dear.
const OVERLAP: u64 = 10;

/// Bytes that are read and written between two looks at the limit of the rate.
const CHARGE: u64 = 64 << 10;

/// One part of a merge: the keys from `from` on and below `until`.
pub(super) struct Job {
    runs: Vec<Run>,
    from: Option<Vec<u8>>,
    until: Option<Vec<u8>>,
    floor: u64,
    below: Below,
    older: Vec<Arc<Table>>,
    deleted: Deleted,
    policy: Arc<dyn MergePolicy>,
    store: Arc<Inner>,
    /// Bytes read and written that the limit of the rate has not been asked for yet.
    uncharged: u64,
}

/// A version held back until its group is complete.
struct Held {
    key: Vec<u8>,
    tag: u64,
    value: Vec<u8>,
}

impl Job {
    /// The parts of a merge, cut where tables of the lower level begin.
    pub(super) fn parts(inner: &Arc<Inner>, choice: &Choice, floor: u64, policy: Arc<dyn MergePolicy>) -> Vec<Job> {
        let table_bytes = inner.config.table_bytes as u64;
        let deletions: Vec<RangeDeletion> = choice.tables().flat_map(|table| table.ranges().iter().cloned()).collect();
        let deletions = settled(deletions, floor);
        let within = |cut: &[u8]| deletions.iter().any(|one| &one.from[..] < cut && cut <= &one.to[..]);
        let mut cuts = vec![None];
        if let Some(met) = choice.runs.last().filter(|run| run.len() > 1) {
            let bytes: u64 = choice.tables().map(|table| table.info.mirror_len).sum();
            let parts = (bytes / (TABLES_A_PART * table_bytes)).min(PARTS as u64).min(met.len() as u64) as usize;
            for part in 1..parts {
                let first = &met[part * met.len() / parts].info.min_key;
                let cut = &first[..policy.group_len(first).min(first.len())];
                // The end of a range counts as a key of the table that has it, and must be none of the next one.
                if !within(cut) {
                    cuts.push(Some(cut.to_vec()));
                }
            }
        }
        cuts.push(None);
        let read = read(choice, floor);
        let all: Arc<Ranges> = Arc::new(Ranges::new(deletions));
        let job = |pair: &[Option<Vec<u8>>]| Job {
            runs: read.clone(),
            from: pair[0].clone(),
            until: pair[1].clone(),
            floor,
            below: Below::new(&choice.below),
            older: choice.older.clone(),
            deleted: Deleted::new(&all, choice, pair, floor),
            policy: Arc::clone(&policy),
            store: Arc::clone(inner),
            uncharged: 0,
        };
        cuts.windows(2).map(job).collect()
    }

    /// Writes the outputs' mirrors; they and the number of versions dropped, or nothing if it was not to go on.
    pub(super) fn run(mut self) -> Result<Option<(Vec<Table>, u64)>, StorageError> {
        let mut versions = Versions::new(&self.runs, self.from.as_deref(), self.until.take())?;
        let mut outputs = Vec::new();
        let mut dropped = 0;
        let mut group = Vec::new();
        let mut ended = false;
        let store = Arc::clone(&self.store);
        let table_bytes = store.config.table_bytes as u64;
        if let Some(root) = versions.root {
            // What lies before the first output is not passed by it.
            let first = self.group_of(versions.cursors[root].entry().0).to_vec();
            self.below.may_hold(&first);
        }
        while versions.root.is_some() || self.deleted.left() {
            let begin = self.below.passed;
            let built = store.mirror.build(store.next_table(), |writer| {
                while writer.bytes() < table_bytes
                    && self.below.passed - begin <= OVERLAP * table_bytes
                    && versions.root.is_some()
                {
                    ended = !self.goes_on();
                    if ended {
                        return Err(TableWriteError::Io(std::io::ErrorKind::Interrupted.into()));
                    }
                    let before = versions.read + writer.bytes();
                    dropped += self.take_group(&mut versions, &mut group).map_err(damaged)?;
                    self.write_group(writer, &mut group, &mut dropped)?;
                    self.charge(versions.read + writer.bytes() - before);
                }
                dropped += self.deleted.write(writer, versions.root.is_none());
                Ok(())
            });
            match built {
                Ok(table) => outputs.extend(table),
                Err(error) => {
                    outputs.iter().for_each(Table::retire);
                    return if ended { Ok(None) } else { Err(error) };
                }
            }
        }
        Ok(Some((outputs, dropped)))
    }

    fn goes_on(&self) -> bool {
        self.policy.goes_on() && self.store.merges_go_on()
    }

    /// Keeps to the rate of merges.
    fn charge(&mut self, bytes: u64) {
        self.uncharged += bytes;
        if self.uncharged >= CHARGE {
            let (store, bytes) = (&self.store, std::mem::take(&mut self.uncharged));
            store.limiter.take(store.env.reactor(), &store.jobs, bytes, || self.goes_on());
        }
    }

    fn group_of<'a>(&self, key: &'a [u8]) -> &'a [u8] {
        &key[..self.policy.group_len(key).min(key.len())]
    }

    /// Reads the versions of the next group that are not shadowed; returns how many were.
    fn take_group(&mut self, versions: &mut Versions, group: &mut Vec<Held>) -> Result<u64, Corruption> {
        group.clear();
        let mut dropped = 0;
        let mut prefix: Option<Vec<u8>> = None;
        let mut settled = false;
        while let Some(root) = versions.root {
            let cursor = &versions.cursors[root];
            let (key, tag) = cursor.entry();
            match &prefix {
                None => prefix = Some(self.group_of(key).to_vec()),
                Some(prefix) if self.group_of(key) == prefix => {}
                Some(_) => break,
            }
            let same_key = group.last().is_some_and(|held| held.key == key);
            if !same_key {
                settled = false;
            }
            if settled || self.deleted.deletes(key, sequence_of(tag)) {
                dropped += 1;
            } else {
                group.push(Held { key: key.to_vec(), tag, value: cursor.value_at(cursor.value()).to_vec() });
                settled = sequence_of(tag) <= self.floor;
            }
            self.deleted.pass(key);
            versions.advance()?;
        }
        Ok(dropped)
    }

    fn write_group(
        &mut self,
        writer: &mut TableWriter<'_>,
        group: &mut [Held],
        dropped: &mut u64,
    ) -> Result<(), TableWriteError> {
        let Some(first) = group.first() else { return Ok(()) };
        let prefix = &first.key[..self.policy.group_len(&first.key).min(first.key.len())];
        let newest = group.iter().map(|held| sequence_of(held.tag)).max().unwrap_or(0);
        let older = |table: &Arc<Table>| table.info.min_sequence < newest && reaches(table, prefix);
        let bottommost = !self.below.may_hold(prefix) && !self.older.iter().any(older);
        let mut keep = vec![true; group.len()];
        // A group with versions above the floor is still being written: it is not judged yet.
        if group.iter().all(|held| sequence_of(held.tag) <= self.floor) {
            let entries: Vec<_> = group
                .iter()
                .map(|held| MergeEntry {
                    key: &held.key,
                    sequence: sequence_of(held.tag),
                    value: (kind_of(held.tag) == PUT).then_some(&held.value[..]),
                })
                .collect();
            self.policy.judge(&entries, bottommost, &mut keep);
        }
        for (held, keep) in group.iter().zip(keep) {
            // A key's older versions come behind its newer ones, so a deletion at the floor is the last of its key.
            let gone = !keep || (kind_of(held.tag) == DELETE && sequence_of(held.tag) <= self.floor);
            if gone && bottommost {
                *dropped += 1;
            } else if !keep {
                writer.add(&held.key, tag(sequence_of(held.tag), DELETE), &[])?;
            } else {
                writer.add(&held.key, held.tag, &held.value)?;
            }
        }
        Ok(())
    }
}

/// The runs that a merge reads: its inputs without those that are deleted as a whole.
fn read(choice: &Choice, floor: u64) -> Vec<Run> {
    let ranged: Vec<_> = choice.tables().filter(|table| !table.ranges().is_empty()).collect();
    let stays = |table: &&Arc<Table>| !ranged.iter().any(|other| covers(other, table, floor));
    let read = |run: &Run| -> Run { run.iter().filter(stays).map(Arc::clone).collect() };
    choice.runs.iter().map(read).filter(|run| !run.is_empty()).collect()
}

/// Whether a table can hold keys with this prefix.
fn reaches(table: &Table, prefix: &[u8]) -> bool {
    let (min, max) = (&table.info.min_key[..], &table.info.max_key[..]);
    max >= prefix && (min <= prefix || min.starts_with(prefix))
}

/// The levels below the output, passed along with it.
struct Below {
    /// Each with its first table that is not behind us.
    runs: Vec<(Run, usize)>,
    /// Bytes of the tables of the first of them that are behind us.
    passed: u64,
}

impl Below {
    fn new(runs: &[Run]) -> Below {
        Below { runs: runs.iter().map(|run| (Arc::clone(run), 0)).collect(), passed: 0 }
    }

    /// Whether a table can hold a key with this prefix. Prefixes ascend from call to call.
    fn may_hold(&mut self, prefix: &[u8]) -> bool {
        let mut held = false;
        for (number, (run, at)) in self.runs.iter_mut().enumerate() {
            while let Some(table) = run.get(*at).filter(|table| table.info.max_key[..] < *prefix) {
                self.passed += if number == 0 { table.info.mirror_len } else { 0 };
                *at += 1;
            }
            held |= run.get(*at).is_some_and(|table| reaches(table, prefix));
        }
        held
    }
}

/// All versions of some runs, in order.
struct Versions {
    cursors: Vec<RunCursor>,
    until: Option<Vec<u8>>,
    /// The cursor that stands on the next version.
    root: Option<usize>,
    /// Bytes of keys and values passed.
    read: u64,
}

impl Versions {
    fn new(runs: &[Run], from: Option<&[u8]>, until: Option<Vec<u8>>) -> Result<Versions, Corruption> {
        let mut cursors: Vec<_> = runs.iter().map(|run| RunCursor::new(Arc::clone(run))).collect();
        cursors.iter_mut().try_for_each(|cursor| match from {
            Some(key) => cursor.seek(key, u64::MAX),
            None => cursor.first(),
        })?;
        let mut versions = Versions { cursors, until, root: None, read: 0 };
        versions.choose();
        Ok(versions)
    }

    /// A merge reads few runs, so looking at each of them is as good as a heap.
    fn choose(&mut self) {
        let standing = self.cursors.iter().enumerate().filter(|(_, cursor)| cursor.valid());
        let first = standing.min_by(|(_, a), (_, b)| key::compare(a.entry(), b.entry()));
        let within = |key: &[u8]| self.until.as_ref().is_none_or(|until| key < &until[..]);
        self.root = first.filter(|(_, cursor)| within(cursor.entry().0)).map(|(at, _)| at);
    }

    fn advance(&mut self) -> Result<(), Corruption> {
        if let Some(root) = self.root {
            self.read += self.cursors[root].bytes();
            self.cursors[root].next()?;
            self.choose();
        }
        Ok(())
    }
}

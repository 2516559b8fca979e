//! Merging L0 into L1: the tables of L0 and those of L1 that overlap them become new tables of L1.
//!
//! A merge keeps, for each key, the newest version at or below its floor and everything above it. The floor is the S of
//! the newest local manifest: what a replay over that one may bring back lies above it. Deletions at or below the floor go when nothing
//! below L1 can hold the key.
//!
//! # Invariants
//! * R and S stay. Inputs that were never uploaded need not be any more.
//! * A group of the policy's (a row and its marks) is never split: neither between inputs and tables left out, nor
//!   between outputs.

use std::sync::Arc;

use crate::env::{blocking, to_its_end};
use crate::error::{Corruption, FlushError, StorageError};
use crate::key::{self, DELETE, PUT, kind_of, sequence_of, tag};
use crate::mirror::damaged;
use crate::sstable::TableId;
use crate::sstable::cursor::{Run, RunCursor};
use crate::sstable::read::Table;
use crate::sstable::write::{TableWriteError, TableWriter};
use crate::store::flush::{New, retire};
use crate::store::{Inner, Store};

/// What the owner of a store wants of a merge: entries of his that nobody can need any more.
pub trait MergePolicy: Send + Sync {
    /// Length of the prefix of `key` that makes keys a group. A group is judged together. Default: each key alone.
    fn group_len(&self, key: &[u8]) -> usize {
        key.len()
    }

    /// Clears `keep[i]` for each entry of the group that may go. What may go is dropped with all its older versions if
    /// `bottommost` (no older version can be anywhere else), and becomes a deletion otherwise. Default: all is kept.
    fn judge(&self, group: &[MergeEntry<'_>], bottommost: bool, keep: &mut [bool]) {
        let _ = (group, bottommost, keep);
    }

    /// Whether the merge goes on: asked before each group. One that does not leaves everything as it was. Default: it does.
    fn goes_on(&self) -> bool {
        true
    }
}

/// A policy that keeps everything.
#[derive(Clone, Copy, Debug, Default)]
pub struct KeepAll;

impl MergePolicy for KeepAll {}

/// The newest version of a key as a merge sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MergeEntry<'a> {
    /// The key.
    pub key: &'a [u8],
    /// When this version was written.
    pub sequence: u64,
    /// Its value, none for a deletion.
    pub value: Option<&'a [u8]>,
}

/// What a merge did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Merged {
    /// Tables that went in; zero if there was nothing to merge, or if the policy had it end early.
    pub inputs: usize,
    /// Tables that came out.
    pub outputs: usize,
    /// Versions that were dropped.
    pub dropped: u64,
}

impl Store {
    /// Merges the tables of L0 into L1 and publishes. One at a time; writes and flushes go on meanwhile.
    ///
    /// # Errors
    /// [`FlushError`]; the inputs stay in use, unless only the publication failed.
    pub async fn merge(&self, policy: Arc<dyn MergePolicy>) -> Result<Merged, FlushError> {
        let merged = self.merge_local(policy).await?;
        if merged.inputs > 0 {
            self.publish().await?;
        }
        Ok(merged)
    }

    /// As [`Store::merge`], on the local disk only; [`Store::publish`] uploads. Once begun it is carried to its end, even
    /// if the caller gives up waiting.
    ///
    /// # Errors
    /// [`FlushError`]; the inputs stay in use.
    pub async fn merge_local(&self, policy: Arc<dyn MergePolicy>) -> Result<Merged, FlushError> {
        let merge = Arc::clone(&self.inner).merge(policy);
        to_its_end(&*self.inner.env, merge).await.map_err(StorageError::from)?
    }
}

impl Inner {
    async fn merge(self: Arc<Inner>, policy: Arc<dyn MergePolicy>) -> Result<Merged, FlushError> {
        let inner = &self;
        let _merging = inner.merging.lock().await;
        inner.usable()?;
        let floor = inner.local.lock().await.manifest.last_sequence;
        let view = inner.current();
        let Some(job) = Job::pick(inner, &view.l0, view.levels.first(), &view.levels, floor, policy) else {
            return Ok(Merged::default());
        };
        let inputs = job.inputs();
        let Some((built, dropped)) = blocking(&*inner.env, move || job.run()).await.map_err(StorageError::from)??
        else {
            return Ok(Merged::default());
        };
        let outputs: Vec<Arc<Table>> = built.into_iter().map(Arc::new).collect();
        let mut local = inner.local.lock().await;
        let began = async {
            inner.usable()?;
            let mut next = local.manifest.clone();
            for level in &mut next.levels {
                level.retain(|table| !inputs.contains(&table.id));
            }
            next.levels.resize(next.levels.len().max(2), Vec::new());
            next.levels[1].extend(outputs.iter().map(|table| table.info.clone()));
            next.levels[1].sort_by(|a, b| a.min_key.cmp(&b.min_key));
            next.floor = next.floor.max(floor);
            next.clean = false;
            let number = inner.next_number();
            inner.give_birth(number, &mut next).await?;
            Ok::<_, FlushError>((number, next))
        };
        let (number, next) = began.await.inspect_err(|_| retire(&outputs))?;
        let merged = Merged { inputs: inputs.len(), outputs: outputs.len(), dropped };
        let waiting =
            inputs.iter().filter_map(|id| local.pending.get(id)).filter(|input| input.table.object_len() == 0);
        let fresh = waiting.map(|input| input.fresh).sum();
        inner.adopt(&mut local, number, next, New { tables: outputs, fresh }, &[]).await?;
        inner.counters.merged();
        Ok(merged)
    }
}

struct Job {
    runs: Vec<Run>,
    floor: u64,
    bottommost: bool,
    policy: Arc<dyn MergePolicy>,
    mirror: crate::mirror::Mirror,
    table_bytes: u64,
    /// Gives out table ids.
    ids: Box<dyn Fn() -> TableId + Send>,
}

/// A version held back until its group is complete.
struct Held {
    key: Vec<u8>,
    tag: u64,
    value: Vec<u8>,
}

impl Job {
    fn pick(
        inner: &Arc<Inner>,
        l0: &[Run],
        l1: Option<&Run>,
        levels: &[Run],
        floor: u64,
        policy: Arc<dyn MergePolicy>,
    ) -> Option<Job> {
        let tables = || l0.iter().flat_map(|run| run.iter());
        let mut low = tables().map(|table| table.info.min_key.clone()).min()?;
        let mut high = tables().map(|table| table.info.max_key.clone()).max()?;
        let l1 = l1.map_or(&[][..], |run| run);
        // Groups at the edges may reach into further tables, whose other edge has groups too: until nothing is added.
        let mut chosen = 0..0;
        loop {
            let first = &low[..policy.group_len(&low).min(low.len())];
            let last = &high[..policy.group_len(&high).min(high.len())];
            let start = l1.partition_point(|table| table.info.max_key[..] < *first);
            let end = l1.partition_point(|table| table.info.min_key <= high || table.info.min_key.starts_with(last));
            let range = start..end.max(start);
            if range == chosen {
                break;
            }
            chosen = range;
            if let Some(table) = l1.get(chosen.start).filter(|_| !chosen.is_empty()) {
                low = low.min(table.info.min_key.clone());
                high = high.max(l1[chosen.end - 1].info.max_key.clone());
            }
        }
        let mut runs = l0.to_vec();
        if !chosen.is_empty() {
            runs.push(l1[chosen].into());
        }
        let ids = Arc::clone(inner);
        Some(Job {
            runs,
            floor,
            bottommost: levels.iter().skip(1).all(|run| run.is_empty()),
            policy,
            mirror: inner.mirror.clone(),
            table_bytes: inner.config.table_bytes as u64,
            ids: Box::new(move || ids.next_table()),
        })
    }

    fn inputs(&self) -> std::collections::HashSet<TableId> {
        self.runs.iter().flat_map(|run| run.iter()).map(|table| table.info.id).collect()
    }

    /// Writes the outputs' mirrors; they and the number of versions dropped, or nothing if it was not to go on.
    fn run(self) -> Result<Option<(Vec<Table>, u64)>, StorageError> {
        let mut versions = Versions::new(&self.runs)?;
        let mut outputs = Vec::new();
        let mut dropped = 0;
        let mut group = Vec::new();
        let mut ended = false;
        while versions.root.is_some() {
            let built = self.mirror.build((self.ids)(), |writer| {
                while writer.bytes() < self.table_bytes && versions.root.is_some() {
                    ended = !self.policy.goes_on();
                    if ended {
                        return Err(TableWriteError::Io(std::io::ErrorKind::Interrupted.into()));
                    }
                    dropped += self.take_group(&mut versions, &mut group).map_err(damaged)?;
                    self.write_group(writer, &mut group, &mut dropped)?;
                }
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

    /// Reads the versions of the next group that are not shadowed; returns how many were.
    fn take_group(&self, versions: &mut Versions, group: &mut Vec<Held>) -> Result<u64, Corruption> {
        group.clear();
        let mut dropped = 0;
        let mut prefix: Option<Vec<u8>> = None;
        let mut settled = false;
        while let Some(root) = versions.root {
            let cursor = &versions.cursors[root];
            let (key, tag) = cursor.entry();
            match &prefix {
                None => prefix = Some(key[..self.policy.group_len(key).min(key.len())].to_vec()),
                Some(prefix) => {
                    let same_length = self.policy.group_len(key).min(key.len()) == prefix.len();
                    if !(same_length && key.starts_with(prefix)) {
                        break;
                    }
                }
            }
            let same_key = group.last().is_some_and(|held| held.key == key);
            if !same_key {
                settled = false;
            }
            if settled {
                dropped += 1;
            } else {
                group.push(Held { key: key.to_vec(), tag, value: cursor.value_at(cursor.value()).to_vec() });
                settled = sequence_of(tag) <= self.floor;
            }
            versions.advance()?;
        }
        Ok(dropped)
    }

    fn write_group(
        &self,
        writer: &mut TableWriter<'_>,
        group: &mut [Held],
        dropped: &mut u64,
    ) -> Result<(), TableWriteError> {
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
            self.policy.judge(&entries, self.bottommost, &mut keep);
        }
        for at in 0..group.len() {
            let held = &group[at];
            // A key's older versions come behind its newer ones, so a deletion at the floor is the last of its key.
            let gone = !keep[at] || (kind_of(held.tag) == DELETE && sequence_of(held.tag) <= self.floor);
            if gone && self.bottommost {
                *dropped += 1;
            } else if !keep[at] {
                writer.add(&held.key, tag(sequence_of(held.tag), DELETE), &[])?;
            } else {
                writer.add(&held.key, held.tag, &held.value)?;
            }
        }
        Ok(())
    }
}

/// All versions of some runs, in order.
struct Versions {
    cursors: Vec<RunCursor>,
    /// The cursor that stands on the next version.
    root: Option<usize>,
}

impl Versions {
    fn new(runs: &[Run]) -> Result<Versions, Corruption> {
        let mut cursors: Vec<_> = runs.iter().map(|run| RunCursor::new(Arc::clone(run))).collect();
        cursors.iter_mut().try_for_each(RunCursor::first)?;
        let mut versions = Versions { cursors, root: None };
        versions.choose();
        Ok(versions)
    }

    /// A merge reads few runs, so looking at each of them is as good as a heap.
    fn choose(&mut self) {
        let standing = self.cursors.iter().enumerate().filter(|(_, cursor)| cursor.valid());
        self.root = standing.min_by(|(_, a), (_, b)| key::compare(a.entry(), b.entry())).map(|(at, _)| at);
    }

    fn advance(&mut self) -> Result<(), Corruption> {
        if let Some(root) = self.root {
            self.cursors[root].next()?;
            self.choose();
        }
        Ok(())
    }
}

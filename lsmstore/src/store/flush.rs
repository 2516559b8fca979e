//! Memtables to tables, durable on the local disk: the first half of a flush. The other half is in `publish`.
//!
//! The order is rule 8 of the log protocol: R is read, memtables are rotated, S is their last sequence number; the birth
//! record is made durable; tables go to the mirror; the *local manifest* names them; the view follows. Uploading comes
//! later and apart, so that an object store that is slow or down delays neither flushes nor merges.
//!
//! # Invariants
//! * One change of the local manifest at a time, under its lock; nothing remote is waited for under it.
//! * (R, S) of local manifests never go back, and those of the newest manifest in the object store are never ahead.
//! * What the local manifest names is complete in the mirror and synced; what was uploaded of it is known.
//! * A flush that failed is continued with the R and S of its rotation: memtables are not cut into ever more pieces.
//! * A flush or merge that has begun goes on to its end even if nobody waits for it any more: the lock is held as long as
//!   the file is written, so no two write it at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::env::{blocking, nonce, to_its_end};
use crate::error::{Corruption, FlushError, StorageError, Unusable, WriteError};
use crate::key::{self, DELETE, DELETE_RANGE, kind_of, sequence_of};
use crate::log::{Birth, LogChoice};
use crate::manifest::{Manifest, local};
use crate::memtable::ranges::end_of;
use crate::memtable::{Cursor, Memtable};
use crate::mirror::damaged;
use crate::ranges::RangeDeletion;
use crate::sstable::read::Table;
use crate::sstable::{TableId, TableRef};
use crate::store::jobs::{Ending, JobKind, Ticket, Work};
use crate::store::{Inner, Store, Tables, lock};

/// The newest manifest on the local disk.
pub(super) struct Local {
    /// Counts the changes since the store was opened.
    pub(super) version: u64,
    /// The number that `manifest` was born with.
    pub(super) number: u64,
    pub(super) manifest: Manifest,
    /// Tables of `manifest` that have no object yet.
    pub(super) pending: BTreeMap<TableId, Pending>,
    /// Memtables that were cut off by a flush that failed.
    rotation: Option<Rotation>,
    /// Tables of a manifest that failed while it replaced the file: whether that names them is known when the next one is
    /// written, which does not.
    doubtful: Vec<Arc<Table>>,
}

/// A table without an object.
#[derive(Clone)]
pub(super) struct Pending {
    pub(super) table: Arc<Table>,
    /// How many of its bytes no object has in any form.
    pub(super) fresh: u64,
}

impl Local {
    pub(super) fn new(number: u64, manifest: Manifest) -> Local {
        Local { version: 0, number, manifest, pending: BTreeMap::new(), rotation: None, doubtful: Vec::new() }
    }
}

/// How to flush.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlushOptions {
    /// Marks the manifest as the last one of an orderly stop.
    pub clean: bool,
    /// Makes a manifest (with a fresh R) even if nothing was written since the last.
    pub force: bool,
}

/// What a flush did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Flushed {
    /// The newest manifest in the object store.
    pub manifest_number: u64,
    /// Whether this flush published it; if not, nothing had changed.
    pub published: bool,
    /// Tables written.
    pub tables: usize,
}

impl Store {
    /// Makes everything applied before this call durable in the object store. Returns at once if that is so already.
    ///
    /// # Errors
    /// [`FlushError`]; nothing is lost, the next flush tries again. What could not be uploaded is durable on the local
    /// disk, unless that failed.
    pub async fn flush(&self) -> Result<Flushed, FlushError> {
        self.flush_with(FlushOptions::default()).await
    }

    /// As [`Store::flush`], with options.
    ///
    /// # Errors
    /// As [`Store::flush`].
    pub async fn flush_with(&self, options: FlushOptions) -> Result<Flushed, FlushError> {
        let tables = self.flush_local(options).await?;
        let published = self.publish().await?;
        Ok(Flushed { manifest_number: self.manifest().number, published, tables })
    }

    /// Makes everything applied before this call durable on the local disk, without touching the object store: tables go
    /// to the mirror and are named by the local manifest, from which the store is opened if it is the newer one. Returns
    /// the number of tables written. [`Store::publish`] uploads them. Once begun it is carried to its end, even if the
    /// caller gives up waiting.
    ///
    /// # Errors
    /// [`FlushError`]; nothing is lost, the next flush tries again.
    pub async fn flush_local(&self, options: FlushOptions) -> Result<usize, FlushError> {
        let inner = Arc::clone(&self.inner);
        let flush = async move {
            let mut job = inner.jobs.queue(JobKind::Flush, inner.env.reactor());
            let flushed = inner.flush_all(options, &mut job).await;
            job.end(flushed.as_ref().map(|&tables| if tables > 0 { Ending::Done(0) } else { Ending::Nothing }));
            flushed
        };
        to_its_end(&*self.inner.env, flush).await.map_err(StorageError::from)?
    }
}

/// Tables that no manifest will name: their mirrors go.
pub(super) fn retire(tables: &[Arc<Table>]) {
    tables.iter().for_each(|table| table.retire());
}

impl Inner {
    /// Flushes what an earlier flush left, and what is there now. Returns how many tables that made.
    async fn flush_all(self: &Arc<Inner>, options: FlushOptions, job: &mut Ticket<'_>) -> Result<usize, FlushError> {
        let mut local = self.local.lock().await;
        self.usable()?;
        job.begin(Some(Work::Flush), Some(0));
        let mut tables = 0;
        if local.rotation.is_some() {
            tables += self.flush_rotation(&mut local, FlushOptions::default(), job).await?;
        }
        Ok(tables + self.flush_rotation(&mut local, options, job).await?)
    }

    /// Flushes the memtables of the last rotation, or of a new one. Returns how many tables that made.
    async fn flush_rotation(
        self: &Arc<Inner>,
        local: &mut Local,
        options: FlushOptions,
        job: &Ticket<'_>,
    ) -> Result<usize, FlushError> {
        let began = self.env.reactor().monotonic();
        let rotation = match local.rotation.take() {
            Some(rotation) => rotation,
            None => self.rotation(local.manifest.position).await?,
        };
        let done = self.flush_memtables(local, &rotation, options).await;
        match &done {
            Err(_) => {
                self.counters.failed_flushes.add(1);
                local.rotation = Some(rotation);
            }
            Ok((tables, bytes)) if *tables > 0 => {
                job.add(*bytes);
                self.counters.flushed(self.env.reactor().monotonic().saturating_sub(began), *bytes);
            }
            Ok(_) => {}
        }
        done.map(|(tables, _)| tables)
    }

    /// The tables made, and their bytes.
    async fn flush_memtables(
        &self,
        local: &mut Local,
        rotation: &Rotation,
        options: FlushOptions,
    ) -> Result<(usize, u64), FlushError> {
        let mut next = local.manifest.clone();
        next.clean = options.clean;
        if !rotation.replaying {
            // During a replay batches may still come that lie before R or below S in the log: both stay as they were.
            (next.position, next.last_sequence) = (rotation.position, rotation.sequence);
            if let Some(slot) = rotation.slot {
                next.recover = vec![(self.epoch, slot)];
                next.remote = rotation.piece.map(|piece| (self.epoch, piece)).into_iter().collect();
            }
        }
        let unchanged = rotation.memtables.is_empty() && next.clean == local.manifest.clean;
        if unchanged && !options.force {
            return Ok((0, 0));
        }
        let number = self.next_number();
        self.give_birth(number, &mut next).await?;
        let mut tables = Vec::new();
        for memtable in &rotation.memtables {
            tables.push(self.table_of(Arc::clone(memtable)).await.inspect_err(|_| retire(&tables))?);
        }
        let l0 = tables.iter().rev().map(|table| table.info.clone());
        match next.levels.first_mut() {
            Some(level) => drop(level.splice(0..0, l0)),
            None => next.levels.push(l0.collect()),
        }
        let written = tables.len();
        let memtables: Vec<u64> = rotation.memtables.iter().map(|memtable| memtable.id()).collect();
        let fresh = tables.iter().map(|table| table.info.mirror_len).sum();
        self.adopt(local, number, next, New { tables, fresh }, &memtables).await?;
        Ok((written, fresh))
    }

    /// Reads R and freezes the active memtable.
    async fn rotation(self: &Arc<Inner>, position: u64) -> Result<Rotation, FlushError> {
        let position = match &self.log {
            LogChoice::External(log) => log.position().await.map_err(FlushError::Log)?,
            _ => position,
        };
        if self.group.is_none() {
            return self.freeze(position, None, None);
        }
        let inner = Arc::clone(self);
        let job = move || {
            let Some(group) = &inner.group else { return inner.freeze(position, None, None) };
            let mut log = lock(&group.log);
            // Whoever had the log may have met its end.
            inner.usable()?;
            let slot = log.rotate().map_err(|error| {
                let what = format!("syncing the log in {} failed: {error}", log.dir().display());
                inner.poison(Unusable::Poisoned { what })
            })?;
            let piece = inner.seal_shipping().map_err(FlushError::Memory)?;
            inner.freeze(position, Some(slot), piece)
        };
        blocking(&*self.env, job).await.map_err(StorageError::from)?
    }

    fn freeze(&self, position: u64, slot: Option<u64>, piece: Option<u64>) -> Result<Rotation, FlushError> {
        let mut writer = lock(&self.writer);
        if writer.active.table().entries() > 0 {
            self.rotate(&mut writer, 0).map_err(|error| match error {
                WriteError::Memory(error) => FlushError::Memory(error),
                other => FlushError::Unusable(Unusable::Poisoned { what: other.to_string() }),
            })?;
        }
        let sequence = self.last_sequence.load(Ordering::Acquire);
        let (memtables, replaying) = (writer.frozen.clone(), writer.replaying.is_some());
        Ok(Rotation { memtables, position, sequence, replaying, slot, piece })
    }

    /// The number that the next manifest would have in the object store.
    pub(super) fn next_number(&self) -> u64 {
        self.attempted.load(Ordering::Acquire) + 1
    }

    /// Gives the next manifest a nonce and logs its birth; its owner bytes are what the log returned.
    pub(super) async fn give_birth(&self, number: u64, next: &mut Manifest) -> Result<(), FlushError> {
        next.nonce = nonce(&*self.env).map_err(FlushError::Memory)?;
        if let LogChoice::External(log) = &self.log {
            let birth = birth_of(number, next);
            next.owner = log.birth(&birth).await.map_err(FlushError::Log)?;
        }
        Ok(())
    }

    /// Writes a memtable as a table of the mirror.
    async fn table_of(&self, memtable: Arc<Memtable>) -> Result<Arc<Table>, StorageError> {
        let (mirror, id) = (self.mirror.clone(), self.next_table());
        let built = blocking(&*self.env, move || {
            mirror.build(id, |writer| {
                let mut cursor = Cursor::new(memtable);
                cursor.first().map_err(damaged)?;
                while cursor.valid() {
                    let (key, tag) = cursor.entry().map_err(damaged)?;
                    let value = cursor.value_at(cursor.unit()).map_err(damaged)?;
                    if kind_of(tag) == DELETE_RANGE {
                        let sequence = sequence_of(tag);
                        writer.add(key, key::tag(sequence, DELETE), &[])?;
                        writer.add_range(RangeDeletion { from: key.to_vec(), to: end_of(value).to_vec(), sequence });
                    } else {
                        writer.add(key, tag, value)?;
                    }
                    cursor.next().map_err(damaged)?;
                }
                Ok(())
            })
        });
        let what = "a memtable that was to be flushed is empty";
        let table = built.await??.ok_or_else(|| StorageError::Corrupt(Corruption::new("memtable", 0, what)))?;
        Ok(Arc::new(table))
    }

    /// Makes `next` the local manifest and lets the view follow. `new` are the mirrors that it names for the first time,
    /// `memtables` those that it takes the place of.
    pub(super) async fn adopt(
        &self,
        local: &mut Local,
        number: u64,
        next: Manifest,
        new: New,
        memtables: &[u64],
    ) -> Result<(), FlushError> {
        let bytes = next.encode(number, self.config.zstd_level).map_err(|error| {
            retire(&new.tables);
            FlushError::Memory(error)
        })?;
        let (env, dir) = (Arc::clone(&self.env), self.config.local_dir.clone());
        let written = blocking(&*self.env, move || local::write(&*env, &dir, &bytes)).await;
        if let Err(error) = written.map_err(StorageError::from).and_then(|written| written) {
            // The file may be there all the same.
            local.doubtful.extend(new.tables);
            return Err(error.into());
        }
        retire(&std::mem::take(&mut local.doubtful));
        // Before the view: whoever is woken by that looks whether there is something to publish.
        local.version = self.local_version.fetch_add(1, Ordering::AcqRel) + 1;
        self.follow(&next, &new.tables, memtables);
        (local.number, local.manifest) = (number, next);
        self.settled.store(local.manifest.last_sequence, Ordering::Release);
        let mut left = new.fresh;
        for table in new.tables {
            let fresh = left.min(table.info.mirror_len);
            left -= fresh;
            local.pending.insert(table.info.id, Pending { table, fresh });
        }
        self.forget_uploaded(local);
        Ok(())
    }

    /// Keeps of the pending tables those that the local manifest names and that have no object yet.
    pub(super) fn forget_uploaded(&self, local: &mut Local) {
        for table in local.manifest.levels.iter_mut().flatten().filter(|table| table.object_len == 0) {
            table.object_len = local.pending.get(&table.id).map_or(0, |pending| pending.table.object_len());
        }
        let missing = local.manifest.levels.iter().flatten().filter(|table| table.object_len == 0);
        let (ids, bytes) = missing.fold((BTreeSet::new(), 0), |(mut ids, bytes), table| {
            ids.insert(table.id);
            (ids, bytes + table.mirror_len)
        });
        local.pending.retain(|id, _| ids.contains(id));
        self.pending_bytes.store(bytes, Ordering::Release);
        self.backlog_bytes.store(local.pending.values().map(|pending| pending.fresh).sum(), Ordering::Release);
    }

    /// Publishes the view of a manifest that is durable now.
    fn follow(&self, manifest: &Manifest, tables: &[Arc<Table>], memtables: &[u64]) {
        let mut writer = lock(&self.writer);
        writer.frozen.retain(|memtable| !memtables.contains(&memtable.id()));
        let old = self.current();
        let known: BTreeMap<TableId, Arc<Table>> = (old.l0.iter().chain(&old.levels))
            .flat_map(|run| run.iter())
            .chain(tables)
            .map(|table| (table.info.id, Arc::clone(table)))
            .collect();
        let Some(tables) = tables_of(manifest, |info| known.get(&info.id).map(Arc::clone)) else {
            // Rather no view than one that misses a table.
            let what = "the local manifest names a table that is not mapped".to_owned();
            self.poison(Unusable::Poisoned { what });
            return;
        };
        let named: BTreeSet<TableId> = manifest.levels.iter().flatten().map(|table| table.id).collect();
        known.iter().filter(|(id, _)| !named.contains(id)).for_each(|(_, table)| table.retire());
        self.install(&writer, Some(tables));
    }
}

/// Tables that a manifest is to name for the first time.
pub(super) struct New {
    pub(super) tables: Vec<Arc<Table>>,
    /// How many of their bytes no object has in any form.
    pub(super) fresh: u64,
}

/// The memtables to be flushed.
struct Rotation {
    /// Oldest first.
    memtables: Vec<Arc<Memtable>>,
    /// R.
    position: u64,
    /// S.
    sequence: u64,
    /// A log is being replayed.
    replaying: bool,
    /// The slot of our own log that goes on behind them.
    slot: Option<u64>,
    /// The object of the log in the object store that does.
    piece: Option<u64>,
}

pub(super) fn birth_of(number: u64, manifest: &Manifest) -> Birth {
    Birth {
        store_id: manifest.store_id,
        epoch: manifest.epoch,
        manifest_number: number,
        nonce: manifest.nonce,
        position: manifest.position,
        last_sequence: manifest.last_sequence,
        clean: manifest.clean,
    }
}

/// The tables of a manifest, as a view has them; none if `find` does not know one of them.
pub(super) fn tables_of(manifest: &Manifest, find: impl Fn(&TableRef) -> Option<Arc<Table>>) -> Option<Tables> {
    let levels = manifest.levels.get(1..).unwrap_or(&[]);
    let l0 = manifest.levels.first().into_iter().flatten();
    let l0 = l0.map(|info| Some(Arc::from([find(info)?]))).collect::<Option<_>>()?;
    let levels = levels.iter().map(|level| level.iter().map(&find).collect::<Option<_>>()).collect::<Option<_>>()?;
    let sequences = manifest.levels.iter().flatten().map(|table| table.max_sequence);
    Some(Tables { l0, levels, sequence: sequences.fold(manifest.last_sequence, u64::max), floor: manifest.floor })
}

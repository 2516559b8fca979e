//! Memtables to tables, and the publication of manifests.
//!
//! The order of a flush is rule 8 of the log protocol: R is read, memtables are rotated, S is their last sequence
//! number; the birth record is made durable; tables go to the mirror, then to the object store; the manifest is created;
//! the view follows; the log is told.
//!
//! # Invariants
//! * One publication at a time: a manifest's number follows the one before it, under the publisher's lock.
//! * An attempt to create a manifest whose outcome is unknown is repeated, byte by byte, until it is known; nothing
//!   else is published before. So a retry never takes our own manifest for another writer's.
//! * A failed flush leaves memtables where they were. Names of objects that it put are not used again.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use crate::env::{blocking, nonce};
use crate::error::{Corruption, FlushError, StorageError, Unusable, WriteError};
use crate::log::{Birth, LogChoice};
use crate::manifest::{Manifest, ManifestInfo, publish};
use crate::memtable::{Cursor, Memtable};
use crate::mirror::damaged;
use crate::object::{self, Created};
use crate::sstable::read::Table;
use crate::sstable::transcode::{TranscodeError, object_of};
use crate::sstable::{TableId, TableRef};
use crate::store::{Inner, Store, Tables, lock};

/// What the publisher's lock guards.
pub(super) struct Publisher {
    /// Number of `manifest`.
    pub(super) number: u64,
    /// The newest manifest known to be ours and durable.
    pub(super) manifest: Manifest,
    /// A creation whose outcome is unknown.
    pub(super) in_doubt: Option<Attempt>,
    /// The log has not been told of `manifest` yet.
    pub(super) announce: bool,
}

/// A manifest on its way, and what changes once it is durable.
pub(super) struct Attempt {
    number: u64,
    manifest: Manifest,
    bytes: Bytes,
    tables: Vec<Arc<Table>>,
    memtables: Vec<u64>,
}

/// How to flush.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlushOptions {
    /// Marks the manifest as the last one of an orderly stop.
    pub clean: bool,
    /// Publishes a manifest (with a fresh R) even if nothing was written since the last.
    pub force: bool,
}

/// What a flush did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Flushed {
    /// The newest manifest.
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
    /// [`FlushError`]; nothing is lost, the next flush tries again.
    pub async fn flush(&self) -> Result<Flushed, FlushError> {
        self.flush_with(FlushOptions::default()).await
    }

    /// As [`Store::flush`], with options.
    ///
    /// # Errors
    /// As [`Store::flush`].
    pub async fn flush_with(&self, options: FlushOptions) -> Result<Flushed, FlushError> {
        let inner = &self.inner;
        let began = inner.env.monotonic();
        let mut publisher = inner.publisher.lock().await;
        inner.usable()?;
        inner.settle(&mut publisher).await?;
        let position = match &inner.log {
            LogChoice::External(log) => log.position().await.map_err(FlushError::Log)?,
            _ => publisher.manifest.position,
        };
        let Frozen { memtables, sequence, replaying, slot } = inner.freeze().await?;
        let mut next = publisher.manifest.clone();
        next.clean = options.clean;
        if !replaying {
            // During a replay batches may still come that lie before R or below S in the log: both stay as they were.
            (next.position, next.last_sequence) = (position, sequence);
            if let Some(slot) = slot {
                next.recover = vec![(inner.epoch, slot)];
            }
        }
        let unchanged = memtables.is_empty() && next.clean == publisher.manifest.clean;
        if unchanged && !options.force {
            return Ok(Flushed { manifest_number: publisher.number, published: false, tables: 0 });
        }
        let birth = inner.give_birth(&publisher, &mut next).await?;
        let mut tables = Vec::new();
        for memtable in &memtables {
            tables.push(inner.table_of(Arc::clone(memtable)).await.inspect_err(|_| retire(&tables))?);
        }
        let written = tables.len();
        let l0 = tables.iter().rev().map(|table| table.info.clone());
        match next.levels.first_mut() {
            Some(level) => drop(level.splice(0..0, l0)),
            None => next.levels.push(l0.collect()),
        }
        let memtables = memtables.iter().map(|memtable| memtable.id()).collect();
        inner.publish(&mut publisher, birth, next, tables, memtables).await?;
        inner.counters.flushed(inner.env.monotonic().saturating_sub(began));
        Ok(Flushed { manifest_number: publisher.number, published: true, tables: written })
    }
}

/// Tables that no manifest will name: their mirrors go.
pub(super) fn retire(tables: &[Arc<Table>]) {
    tables.iter().for_each(|table| table.retire());
}

impl Inner {
    /// Freezes the active memtable, together with our own log if there is one.
    async fn freeze(self: &Arc<Inner>) -> Result<Frozen, FlushError> {
        if self.group.is_none() {
            return self.freeze_memtables(None);
        }
        let inner = Arc::clone(self);
        let job = move || {
            let Some(group) = &inner.group else { return inner.freeze_memtables(None) };
            let mut log = lock(&group.log);
            let slot = log.rotate().map_err(|error| {
                let what = format!("syncing the log in {} failed: {error}", log.dir().display());
                inner.poison(Unusable::Poisoned { what })
            })?;
            inner.freeze_memtables(Some(slot))
        };
        blocking(&*self.env, job).await.map_err(StorageError::from)?
    }

    fn freeze_memtables(&self, slot: Option<u64>) -> Result<Frozen, FlushError> {
        let mut writer = lock(&self.writer);
        if writer.active.table().entries() > 0 {
            self.rotate(&mut writer, 0).map_err(|error| match error {
                WriteError::Memory(error) => FlushError::Memory(error),
                other => FlushError::Unusable(Unusable::Poisoned { what: other.to_string() }),
            })?;
        }
        let sequence = self.last_sequence.load(Ordering::Acquire);
        Ok(Frozen { memtables: writer.frozen.clone(), sequence, replaying: writer.replaying.is_some(), slot })
    }

    /// Removes segments of our own log that the newest manifest does not need. What cannot be removed now is removed
    /// after the next flush.
    fn release_log(&self, manifest: &Manifest) {
        if let Some(group) = &self.group {
            let dir = lock(&group.log).dir().to_owned();
            let _ = crate::wal::release(&*self.env, &dir, &manifest.recover);
        }
    }

    /// Gives the next manifest a nonce and logs its birth; its owner bytes are what the log returned.
    pub(super) async fn give_birth(&self, publisher: &Publisher, next: &mut Manifest) -> Result<u64, FlushError> {
        let number = publisher.number + 1;
        next.nonce = nonce(&*self.env).map_err(FlushError::Memory)?;
        next.previous_nonce = publisher.manifest.nonce;
        if let LogChoice::External(log) = &self.log {
            let birth = birth_of(number, next);
            next.owner = log.birth(&birth).await.map_err(FlushError::Log)?;
        }
        Ok(number)
    }

    /// Writes a memtable as a table: the mirror first, then the object.
    async fn table_of(&self, memtable: Arc<Memtable>) -> Result<Arc<Table>, StorageError> {
        let (mirror, id) = (self.mirror.clone(), self.next_table());
        let built = blocking(&*self.env, move || {
            mirror.build(id, |writer| {
                let mut cursor = Cursor::new(memtable);
                cursor.first().map_err(damaged)?;
                while cursor.valid() {
                    let (key, tag) = cursor.entry().map_err(damaged)?;
                    writer.add(key, tag, cursor.value_at(cursor.unit()).map_err(damaged)?)?;
                    cursor.next().map_err(damaged)?;
                }
                Ok(())
            })
        });
        let what = "a memtable that was to be flushed is empty";
        let table = built.await??.ok_or_else(|| StorageError::Corrupt(Corruption::new("memtable", 0, what)))?;
        self.upload(table).await
    }

    /// Puts the object of a table that has its mirror.
    pub(super) async fn upload(&self, table: Table) -> Result<Arc<Table>, StorageError> {
        let level = self.config.zstd_level;
        let pack = move || {
            let packed = object_of(&table.info, table.bytes(), level);
            (table, packed)
        };
        let (mut table, packed) = blocking(&*self.env, pack).await?;
        let path = self.names.table(table.info.id);
        let put = async {
            let object = Bytes::from(packed.map_err(|error| match error {
                TranscodeError::Corrupt(corruption) => StorageError::Corrupt(corruption),
                TranscodeError::Io(source) => StorageError::Local { path: path.to_string().into(), source },
            })?);
            let ours = |found: &[u8]| Ok(found == object);
            match object::create(&*self.objects, &path, object.clone(), ours).await? {
                Created::Ours => Ok(object.len()),
                Created::Theirs => {
                    let what = "another object has the name that was reserved for this table";
                    Err(StorageError::Corrupt(Corruption::new(path.to_string(), 0, what)))
                }
            }
        };
        match put.await {
            Ok(bytes) => {
                self.counters.put(bytes);
                table.info.object_len = bytes as u64;
                Ok(Arc::new(table))
            }
            Err(error) => {
                table.retire();
                Err(error)
            }
        }
    }

    /// Creates manifest `number` and, once that is done, lets the view follow and tells the log.
    pub(super) async fn publish(
        &self,
        publisher: &mut Publisher,
        number: u64,
        manifest: Manifest,
        tables: Vec<Arc<Table>>,
        memtables: Vec<u64>,
    ) -> Result<(), FlushError> {
        let bytes = match manifest.encode(number, self.config.zstd_level.max(3)) {
            Ok(bytes) => Bytes::from(bytes),
            Err(error) => {
                retire(&tables);
                return Err(FlushError::Memory(error));
            }
        };
        publisher.in_doubt = Some(Attempt { number, manifest, bytes, tables, memtables });
        self.settle(publisher).await
    }

    /// Finishes what is in doubt, and tells the log of the newest manifest if it has not been told.
    pub(super) async fn settle(&self, publisher: &mut Publisher) -> Result<(), FlushError> {
        if let Some(attempt) = &publisher.in_doubt {
            let (number, nonce, bytes) = (attempt.number, attempt.manifest.nonce, attempt.bytes.clone());
            let length = bytes.len();
            match publish::create(&*self.objects, &self.names, number, nonce, bytes).await? {
                Created::Ours => {}
                Created::Theirs => {
                    return Err(self.poison(Unusable::Fenced { epoch: self.epoch, manifest: number }).into());
                }
            }
            self.counters.put(length);
        }
        if let Some(attempt) = publisher.in_doubt.take() {
            *lock(&self.manifest) = ManifestInfo::of(attempt.number, &attempt.manifest);
            self.follow(&attempt);
            publisher.number = attempt.number;
            publisher.manifest = attempt.manifest;
            publisher.announce = true;
        }
        if publisher.announce {
            if let LogChoice::External(log) = &self.log {
                let info = lock(&self.manifest).clone();
                log.published(&info).await.map_err(FlushError::NotAnnounced)?;
            }
            self.release_log(&publisher.manifest);
            publisher.announce = false;
        }
        Ok(())
    }

    /// Publishes the view of a manifest that is durable now.
    fn follow(&self, attempt: &Attempt) {
        let mut writer = lock(&self.writer);
        writer.frozen.retain(|memtable| !attempt.memtables.contains(&memtable.id()));
        let old = self.current();
        let known: HashMap<TableId, Arc<Table>> = (old.l0.iter().chain(&old.levels))
            .flat_map(|run| run.iter())
            .chain(&attempt.tables)
            .map(|table| (table.info.id, Arc::clone(table)))
            .collect();
        let Some(tables) = tables_of(&attempt.manifest, |info| known.get(&info.id).map(Arc::clone)) else {
            // Rather no view than one that misses a table.
            let what = format!("manifest {} names a table that is not mapped", attempt.number);
            self.poison(Unusable::Poisoned { what });
            return;
        };
        let named: std::collections::HashSet<TableId> =
            attempt.manifest.levels.iter().flatten().map(|table| table.id).collect();
        known.iter().filter(|(id, _)| !named.contains(id)).for_each(|(_, table)| table.retire());
        self.install(&writer, Some(tables));
    }
}

/// The memtables to be flushed.
struct Frozen {
    /// Oldest first.
    memtables: Vec<Arc<Memtable>>,
    /// S.
    sequence: u64,
    /// A log is being replayed.
    replaying: bool,
    /// The slot of our own log that goes on behind them.
    slot: Option<u64>,
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

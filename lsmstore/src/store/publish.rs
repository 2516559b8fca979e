//! From the local disk to the object store: tables are uploaded, then a manifest that names them is created. The second
//! half of a flush; the first is in `flush`.
//!
//! # Invariants
//! * One publication at a time: a manifest's number follows the one before it, under the uploader's lock.
//! * An attempt to create a manifest whose outcome is unknown is repeated, byte by byte, until it is known; nothing
//!   else is published before. So a retry never takes our own manifest for another writer's.
//! * A manifest in the object store names tables only whose objects are there.
//! * A creation that took effect is believed only when our epoch has no fence: its number may be one that was used before
//!   and collected since, see `gc`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use futures::StreamExt;
use object_store::ObjectStore;

use crate::env::{Env, blocking};
use crate::error::{Corruption, FlushError, StorageError, Unusable};
use crate::log::LogChoice;
use crate::manifest::{Manifest, ManifestInfo, publish};
use crate::object::{self, Created, Names};
use crate::sstable::read::Table;
use crate::sstable::transcode::{TranscodeError, mirror_of, object_of};
use crate::sstable::{TableId, TableRef};
use crate::store::flush::Pending;
use crate::store::jobs::{Ending, JobKind, Ticket, Work};
use crate::store::{Inner, Store, lock};

/// Tables that are uploaded at a time.
const PARALLEL: usize = 4;

/// What the uploader's lock guards.
pub(super) struct Uploader {
    /// Number of `manifest`.
    pub(super) number: u64,
    /// The newest manifest known to be ours and in the object store.
    pub(super) manifest: Manifest,
    /// Which version of the local manifest it is.
    pub(super) version: u64,
    /// A creation whose outcome is unknown.
    pub(super) in_doubt: Option<Attempt>,
    /// The log has not been told of `manifest` yet.
    pub(super) announce: bool,
}

/// A manifest on its way.
pub(super) struct Attempt {
    number: u64,
    version: u64,
    manifest: Manifest,
    bytes: Bytes,
}

impl Store {
    /// Uploads what the local manifest names and the object store does not have yet, and creates a manifest there. Says
    /// whether there was anything to publish. Flushes and merges on the local disk go on meanwhile.
    ///
    /// # Errors
    /// [`FlushError`]; the next call goes on where this one failed.
    pub async fn publish(&self) -> Result<bool, FlushError> {
        let inner = &self.inner;
        let mut job = inner.jobs.queue(JobKind::Publication, inner.env.reactor());
        let published = self.publish_all(&mut job).await;
        job.end(published.as_ref().map(|&published| if published { Ending::Done(0) } else { Ending::Nothing }));
        published
    }

    async fn publish_all(&self, job: &mut Ticket<'_>) -> Result<bool, FlushError> {
        let inner = &self.inner;
        let mut uploader = inner.uploader.lock().await;
        inner.usable()?;
        job.begin(Some(Work::Publication), None);
        let doubted = uploader.in_doubt.is_some();
        inner.settle(&mut uploader).await?;
        let (version, born, mut next, pending) = {
            let local = inner.local.lock().await;
            if local.version == uploader.version {
                return Ok(doubted);
            }
            // From here on what it names is not garbage, whatever becomes of it: merges may take its tables out of the local
            // manifest while they are uploaded.
            lock(&inner.known).note(uploader.number + 1, &local.manifest);
            (local.version, local.number, local.manifest.clone(), local.pending.clone())
        };
        inner.upload(&pending, job).await?;
        for table in next.levels.iter_mut().flatten().filter(|table| table.object_len == 0) {
            table.object_len = pending.get(&table.id).map_or(0, |pending| pending.table.object_len());
        }
        let number = uploader.number + 1;
        if born != number {
            // Another one has got the number that it was born with.
            let _one = inner.local.lock().await;
            inner.give_birth(number, &mut next).await?;
        }
        next.previous_nonce = uploader.manifest.nonce;
        let bytes = next.encode(number, inner.config.zstd_level.max(3)).map_err(FlushError::Memory)?.into();
        inner.attempted.store(number, Ordering::Release);
        uploader.in_doubt = Some(Attempt { number, version, manifest: next, bytes });
        inner.settle(&mut uploader).await?;
        Ok(true)
    }
}

impl Inner {
    async fn upload(&self, pending: &BTreeMap<TableId, Pending>, job: &Ticket<'_>) -> Result<(), StorageError> {
        let missing = pending.values().map(|pending| Arc::clone(&pending.table));
        let missing: Vec<Arc<Table>> = missing.filter(|table| table.object_len() == 0).collect();
        // After a failure none is begun, but those that are under way end: one that fails at once keeps no other from getting
        // through.
        let failed = AtomicBool::new(false);
        let begun = missing.into_iter().take_while(|_| !failed.load(Ordering::Relaxed));
        let mut uploads = futures::stream::iter(begun)
            .map(|table| async move {
                let id = table.info.id;
                let bytes = upload(&self.objects, &self.names, &*self.env, self.config.zstd_level, table).await?;
                Ok((id, bytes))
            })
            .buffer_unordered(PARALLEL);
        let mut outcome = Ok(());
        while let Some(uploaded) = uploads.next().await {
            match uploaded {
                Ok((id, bytes)) => {
                    self.counters.put(bytes);
                    job.add(bytes as u64);
                    lock(&self.known).note_uploaded(id);
                    // Writers that wait go on, and it needs no second time even if something else fails.
                    self.forget_uploaded(&mut *self.local.lock().await);
                }
                Err(error) => {
                    failed.store(true, Ordering::Relaxed);
                    outcome = Err(error);
                }
            }
        }
        outcome
    }

    /// Finishes what is in doubt, and tells the log of the newest manifest if it has not been told.
    pub(super) async fn settle(self: &Arc<Inner>, uploader: &mut Uploader) -> Result<(), FlushError> {
        if let Some(attempt) = &uploader.in_doubt {
            let (number, nonce, bytes) = (attempt.number, attempt.manifest.nonce, attempt.bytes.clone());
            let length = bytes.len();
            let created = publish::create(&*self.objects, &self.names, number, nonce, bytes).await?;
            if created == Created::Theirs || object::exists(&*self.objects, &self.names.fence(self.epoch)).await? {
                return Err(self.poison(Unusable::Fenced { epoch: self.epoch, manifest: number }).into());
            }
            self.counters.put(length);
        }
        if let Some(attempt) = uploader.in_doubt.take() {
            *lock(&self.manifest) = ManifestInfo::of(attempt.number, &attempt.manifest);
            (uploader.number, uploader.version) = (attempt.number, attempt.version);
            uploader.manifest = attempt.manifest;
            self.published_version.store(uploader.version, Ordering::Release);
            uploader.announce = true;
        }
        if uploader.announce {
            if let LogChoice::External(log) = &self.log {
                let info = lock(&self.manifest).clone();
                log.published(&info).await.map_err(FlushError::NotAnnounced)?;
            }
            self.release_log(&uploader.manifest);
            if let Some(&(_, from)) = uploader.manifest.remote.iter().find(|(epoch, _)| *epoch == self.epoch) {
                self.logged_from.store(from, Ordering::Release);
                self.release_shipped(from);
            }
            uploader.announce = false;
        }
        Ok(())
    }

    /// Removes segments of our own log that the newest manifest in the object store does not need. What cannot be
    /// removed now is removed after the next flush.
    fn release_log(&self, manifest: &Manifest) {
        if let Some(group) = &self.group {
            let dir = lock(&group.log).dir().to_owned();
            let _ = crate::wal::release(&*self.env, &dir, &manifest.recover);
        }
    }
}

/// Puts the object of a table that has its mirror, and notes its length. Returns the bytes put.
pub(super) async fn upload(
    objects: &Arc<dyn ObjectStore>,
    names: &Names,
    env: &dyn Env,
    level: i32,
    table: Arc<Table>,
) -> Result<usize, StorageError> {
    let path = names.table(table.info.id);
    let packing = Arc::clone(&table);
    let packed = blocking(env, move || object_of(&packing.info, packing.bytes(), level)).await?;
    let object = Bytes::from(packed.map_err(|error| match error {
        TranscodeError::Corrupt(corruption) => StorageError::Corrupt(corruption),
        TranscodeError::Io(error) => StorageError::local(path.to_string())(error),
    })?);
    let length = AtomicU64::new(object.len() as u64);
    let ours = |found: &[u8]| {
        length.store(found.len() as u64, Ordering::Relaxed);
        if found != object {
            same_content(path.as_ref(), &table, found)?;
        }
        Ok(true)
    };
    object::create(&**objects, &path, object.clone(), ours).await?;
    table.set_object_len(length.into_inner());
    Ok(object.len())
}

/// Checks that an object that is there already has the content of a table. Its bytes may be others: another version of
/// zstd, or another level, packed them when the table was uploaded before.
fn same_content(object: &str, table: &Table, found: &[u8]) -> Result<(), Corruption> {
    let mirror = table.bytes();
    let info = TableRef { object_len: found.len() as u64, ..table.info.clone() };
    let (mut at, mut differs) = (0, None);
    let decoded = mirror_of(object, &info, found, &mut |bytes| {
        let expected = mirror.get(at..at + bytes.len()).unwrap_or(&[]);
        if differs.is_none() && expected != bytes {
            let same = expected.iter().zip(bytes).take_while(|(one, two)| one == two).count();
            differs = Some(at + same);
        }
        at += bytes.len();
        Ok(())
    });
    let why = match (decoded, differs) {
        (Ok(()), None) => return Ok(()),
        (Ok(()), Some(byte)) => format!("it differs from byte {byte} of the mirror on"),
        (Err(TranscodeError::Corrupt(corruption)), _) => corruption.to_string(),
        (Err(TranscodeError::Io(source)), _) => source.to_string(),
    };
    let what = format!(
        "it is there already and is not the table of the mirror {}: {why}. One of the two was changed by somebody else",
        table.place()
    );
    Err(Corruption::new(object, 0, what))
}

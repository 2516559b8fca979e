//! What an opening finds in its local folder: a manifest of tables that may be nowhere else, mirrors, segments of a log.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use uuid::Uuid;

use crate::error::{OpenError, StorageError};
use crate::log::LogChoice;
use crate::manifest::{LogKind, Manifest, local};
use crate::object;
use crate::sstable::read::Table;
use crate::sstable::{TableId, TableRef};
use crate::store::folder::identity;
use crate::store::open::Opening;
use crate::store::publish::upload;
use crate::wal::recover::Segments;

/// Mirrors that are verified or fetched at a time.
const PARALLEL: usize = 4;

/// What the local folder has beside the bucket.
pub(super) struct Found {
    /// The local manifest, if it is of the same store.
    manifest: Option<(u64, Manifest)>,
    /// Its tables that the store goes on without.
    missed: Vec<TableRef>,
    /// Where tables were set aside.
    pub(super) left_behind: Option<PathBuf>,
}

fn tables_named(manifest: &Manifest) -> Vec<TableRef> {
    manifest.levels.iter().flatten().cloned().collect()
}

pub(super) fn kind(log: &LogChoice) -> LogKind {
    match log {
        LogChoice::Nobody => LogKind::Nobody,
        LogChoice::Own => LogKind::Own,
        LogChoice::External(_) => LogKind::External,
    }
}

impl Opening<'_> {
    /// Looks at the local folder before the store goes on with `next`, behind manifest `number`. What belongs to nothing is
    /// removed, unless there are tables to be set aside: see [`Opening::leave_behind`].
    pub(super) fn folder(
        &self,
        number: u64,
        newest: Option<&Manifest>,
        next: &Manifest,
    ) -> Result<Found, StorageError> {
        let (mut manifest, mut left_behind) = (None, None);
        match local::read(&**self.env, &self.config.local_dir) {
            Ok(found) => manifest = found,
            // Nobody knows which files it named that are nowhere else.
            Err(_) => left_behind = local::set_all_aside(&**self.env, self.mirror, &tables_named(next))?,
        }
        if let Some((number, other)) = manifest.take_if(|(_, local)| number > 0 && local.store_id != next.store_id) {
            // Its tables may have the names of this one's, so they go before any of those comes.
            let missed = local::missed(&other, newest, next);
            if !missed.is_empty() {
                left_behind = Some(local::set_aside(&**self.env, self.mirror, number, &other, &missed)?);
            }
            self.mirror.clean(&[])?;
        }
        let missed = manifest.iter().flat_map(|(_, local)| local::missed(local, newest, next)).cloned().collect();
        let found = Found { manifest, missed, left_behind };
        if found.missed.is_empty() {
            self.mirror.clean(&tables_named(next))?;
        }
        Ok(found)
    }

    /// Sets aside what the store goes on without, now that it does.
    pub(super) fn leave_behind(&self, found: &mut Found, next: &Manifest) -> Result<(), StorageError> {
        let Found { manifest, missed, left_behind } = found;
        if let (Some((number, local)), false) = (manifest, missed.is_empty()) {
            let missed: Vec<&TableRef> = missed.iter().collect();
            *left_behind = Some(local::set_aside(&**self.env, self.mirror, *number, local, &missed)?);
            self.mirror.clean(&tables_named(next))?;
        }
        Ok(())
    }

    /// The tables whose mirrors and objects are taken to be good: those of the newest manifest, if the store stopped in an
    /// orderly way behind it. None, though, if the local one is gone, or is ahead and the store does not go on with that:
    /// then the disk has not kept what it should.
    pub(super) fn trusted(
        &self,
        orderly: Option<(Uuid, u64)>,
        number: u64,
        newest: Option<&Manifest>,
        base: &Manifest,
        found: &Found,
    ) -> BTreeSet<TableId> {
        let Some(newest) = newest.filter(|newest| orderly == Some((newest.store_id, number))) else {
            return BTreeSet::new();
        };
        let passed_over = |(_, local): &(u64, Manifest)| local::is_ahead(local, newest) && local.nonce != base.nonce;
        match found.manifest.as_ref().is_none_or(passed_over) {
            true => BTreeSet::new(),
            false => newest.levels.iter().flatten().map(|table| table.id).collect(),
        }
    }

    /// Maps the mirror of every table, fetching what is missing or wrong, and uploads what has no object (any more). Those
    /// that are not trusted are verified, except those without an object, which were when the local manifest was found.
    pub(super) async fn complete(
        &self,
        manifest: &mut Manifest,
        trusted: &BTreeSet<TableId>,
    ) -> Result<HashMap<TableId, Arc<Table>>, OpenError> {
        let level = self.config.zstd_level;
        let tables = futures::stream::iter(tables_named(manifest))
            .map(|info| async move {
                let uploaded = info.object_len > 0;
                let check = !trusted.contains(&info.id);
                // A fetched one has its object.
                let looked = check && uploaded && self.mirror.has(&info);
                let table = self.mirror.complete(&**self.objects, self.names, &info, check && uploaded).await?;
                let gone = looked && !object::exists(&**self.objects, &self.names.table(info.id)).await?;
                if !uploaded || gone {
                    upload(self.objects, self.names, &**self.env, level, Arc::clone(&table)).await?;
                }
                Ok::<_, StorageError>((table.info.id, table))
            })
            .buffer_unordered(PARALLEL);
        let tables: HashMap<_, _> = tables.try_collect().await?;
        for table in manifest.levels.iter_mut().flatten() {
            table.object_len = tables.get(&table.id).map_or(table.object_len, |found| found.object_len());
        }
        Ok(tables)
    }

    pub(super) fn check_log(&self, manifest: &Manifest) -> Result<(), OpenError> {
        let expected = kind(self.log);
        if manifest.log == expected || manifest.log == LogKind::Nobody || manifest.clean {
            return Ok(());
        }
        Err(OpenError::WrongLog { found: manifest.log.name(), expected: expected.name() })
    }

    /// For a store with its own log: the segments in its folder, after it is clear that they go with the bucket. Puts the
    /// name of the folder into the manifest.
    pub(super) fn own_log(&self, next: &mut Manifest, exists: bool) -> Result<Option<Segments>, OpenError> {
        if !matches!(self.log, LogChoice::Own) {
            next.log_owner = Uuid::nil();
            return Ok(None);
        }
        let here = identity(&**self.env, self.config)?;
        let dir = self.config.wal_dir();
        let segments = Segments::read(&**self.env, &dir, exists.then_some(next.store_id))?;
        if next.log != LogKind::Own || next.log_owner != here {
            let accept = self.config.accept_log_loss;
            // What was acknowledged as being in the object store is there.
            let remote = |(epoch, _): &(u64, u64)| next.remote.iter().any(|(shipped, _)| shipped == epoch);
            let remote = !next.recover.is_empty() && next.recover.iter().all(remote);
            if exists && next.log == LogKind::Own && !next.clean && !accept && !remote {
                return Err(OpenError::LogElsewhere { epoch: next.epoch });
            }
            if segments.holds_records() && !accept {
                return Err(OpenError::OrphanedLog { path: dir, epoch: next.epoch });
            }
            segments.remove_all(&**self.env)?;
            next.recover.clear();
            next.log_owner = here;
            return Ok(Some(Segments::read(&**self.env, &dir, None)?));
        }
        Ok(Some(segments))
    }
}

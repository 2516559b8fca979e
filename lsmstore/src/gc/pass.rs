//! One pass of garbage collection; see the module above for its order and why.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore};

use crate::checkpoint::{Row, end, rows};
use crate::config::Retention;
use crate::env::Env;
use crate::error::{StorageError, Unusable};
use crate::fail;
use crate::gc::report::{Garbage, GcError, GcKind, GcReport, KeptBecause};
use crate::gc::{Known, Listed, Memory, lowest_retained};
use crate::manifest::{Manifest, publish};
use crate::object::{self, Names};
use crate::sstable::TableId;
use crate::wal::remote;

/// Manifests that are read at a time.
const PARALLEL: usize = 16;
/// What a fence and a boundary contain: their names say it all.
const FENCE: &[u8] = b"LSMFENC1";
const BOUNDARY: &[u8] = b"LSMBOUN1";

/// The writer of the bucket.
#[async_trait]
pub(crate) trait Owner: Send + Sync {
    fn epoch(&self) -> u64;
    /// The newest manifest of its own that it knows to be in the bucket.
    fn published(&self) -> u64;
    /// Of its own log in the object store, the first object that its newest manifest needs.
    fn logged_from(&self) -> u64;
    /// What its local manifest names.
    async fn local_tables(&self) -> HashSet<TableId>;
    /// Another epoch has made a manifest.
    fn fenced(&self, manifest: u64) -> Unusable;
}

/// What a pass needs.
pub(crate) struct Pass<'a> {
    pub(crate) objects: &'a dyn ObjectStore,
    pub(crate) names: &'a Names,
    pub(crate) env: &'a dyn Env,
    pub(crate) retention: Retention,
    pub(crate) known: &'a Mutex<Known>,
    /// None deletes nothing.
    pub(crate) owner: Option<&'a dyn Owner>,
    pub(crate) dry_run: bool,
}

/// What goes now.
#[derive(Default)]
struct Doomed {
    manifests: Vec<Path>,
    tables: Vec<Path>,
    rest: Vec<Path>,
}

/// The manifests that stay, as far as numbers go.
#[derive(Clone, Copy)]
struct Bounds {
    /// What lies below goes now.
    now: u64,
    /// What lies below goes now or later.
    later: u64,
}

fn modified(meta: &ObjectMeta) -> i64 {
    meta.last_modified.timestamp_millis()
}

impl Pass<'_> {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) async fn run(&self, memory: &mut Memory) -> Result<GcReport, GcError> {
        let mut report = GcReport { dry_run: self.dry_run, ..GcReport::default() };
        let published = self.owner.map_or(0, Owner::published);
        let manifests = self.manifests(&mut report).await?;
        // Whoever reads what is replaced now has begun before.
        let now = self.env.reactor().monotonic();
        let Some((&newest, _)) = manifests.last_key_value() else { return Ok(report) };
        let epoch = self.epoch(newest, published).await?;
        let boundaries = object::list(self.objects, &self.names.boundaries()).await?;
        let mut boundaries: BTreeSet<u64> =
            boundaries.iter().filter_map(|meta| Names::manifest_number(&meta.location)).collect();
        let reached = boundaries.last().copied().unwrap_or(0);

        let shown = manifests.values().map(|listed| listed.modified).max().unwrap_or(0);
        let server_now = memory.server_now(shown, now);
        let stays = lowest_retained(&manifests, &self.retention, server_now);
        let aged = |since: std::time::Duration| now.saturating_sub(since) >= self.retention.quarantine;
        let stood = memory.boundaries.iter().filter(|(since, _)| aged(*since)).map(|(_, stays)| *stays).max();
        memory.boundaries.retain(|(since, _)| !aged(*since));
        memory.boundaries.extend(stood.map(|stood| (now.saturating_sub(self.retention.quarantine), stood)));
        memory.boundaries.push((now, stays));
        let bounds = Bounds { now: reached.max(stood.unwrap_or(0).min(stays)), later: reached.max(stays) };
        report.boundary = bounds.now;
        self.read(manifests.range(bounds.now..).map(|(number, _)| *number)).await?;

        let below = manifests.range(..bounds.now).next().is_some();
        if !self.dry_run && below && !memory.fenced {
            self.fence(epoch).await?;
            memory.fenced = true;
        }
        if bounds.now > reached {
            boundaries.insert(bounds.now);
            if !self.dry_run {
                fail::point("before-boundary");
                self.mark(&self.names.boundary(bounds.now), BOUNDARY).await?;
            }
        }
        let checkpoints = self.checkpoints(memory, now, server_now, &mut report).await?;
        self.keep_tables(memory, &checkpoints, bounds).await?;

        let mut doomed = Doomed::default();
        let mut useless = HashMap::new();
        for (&number, listed) in &manifests {
            let object = self.names.manifest(number);
            if checkpoints.iter().any(|row| !row.ended() && row.last.manifest == number) {
                report.keep(KeptBecause::Checkpoint, listed.bytes);
            } else if number >= bounds.later {
                report.keep(KeptBecause::Retained, listed.bytes);
            } else {
                let garbage = garbage(GcKind::Manifest, &object, listed.bytes);
                if number < bounds.now {
                    report.deleted.push(garbage);
                    doomed.manifests.push(object);
                } else {
                    report.waiting.push(garbage);
                }
            }
        }
        let mut found = Found { report: &mut report, useless: &mut useless, memory, now, aged: &aged };
        self.tables(epoch, bounds, &mut found, &mut doomed.tables).await?;
        self.logs(epoch, newest, &mut found, &mut doomed.rest).await?;
        ended(&checkpoints, &mut found, &mut doomed.rest);
        for number in boundaries.into_iter().rev().skip(2) {
            let object = self.names.boundary(number);
            report.deleted.push(garbage(GcKind::Boundary, &object, BOUNDARY.len() as u64));
            doomed.rest.push(object);
        }
        memory.useless = useless;
        report.checkpoints = checkpoints.iter().filter(|row| !row.ended()).map(Row::describe).collect();
        report.settled = report.deleted.is_empty()
            && report.waiting.is_empty()
            && report.checkpoints.is_empty()
            && manifests.len() <= self.retention.manifests;
        if !self.dry_run {
            self.delete(newest, published, doomed).await?;
        }
        Ok(report)
    }

    async fn manifests(&self, report: &mut GcReport) -> Result<BTreeMap<u64, Listed>, GcError> {
        let mut manifests = BTreeMap::new();
        for meta in object::list(self.objects, &self.names.manifests()).await? {
            match Names::manifest_number(&meta.location) {
                Some(number) => {
                    manifests.insert(number, Listed { bytes: meta.size, modified: modified(&meta) });
                }
                None => report.keep(KeptBecause::Foreign, meta.size),
            }
        }
        Ok(manifests)
    }

    async fn manifest(&self, number: u64) -> Result<Option<Manifest>, StorageError> {
        let path = self.names.manifest(number);
        let Some(bytes) = object::get(self.objects, &path).await? else { return Ok(None) };
        Ok(Some(Manifest::decode(path.as_ref(), number, &bytes)?))
    }

    /// The epoch that the bucket is of: ours, as long as we are not fenced. `newest` was listed after `published` was the
    /// newest of ours.
    async fn epoch(&self, newest: u64, published: u64) -> Result<u64, GcError> {
        let missing = |number| StorageError::Missing { object: self.names.manifest(number).to_string() };
        let Some(owner) = self.owner else {
            return Ok(self.manifest(newest).await?.ok_or_else(|| missing(newest))?.epoch);
        };
        if newest < published {
            return Err(missing(published).into());
        }
        if newest > published {
            let theirs = self.manifest(newest).await?.ok_or_else(|| missing(newest))?;
            if theirs.epoch != owner.epoch() {
                return Err(owner.fenced(newest).into());
            }
        }
        Ok(owner.epoch())
    }

    /// Reads manifests that are not known yet.
    async fn read(&self, numbers: impl Iterator<Item = u64>) -> Result<(), GcError> {
        let unknown: Vec<u64> = {
            let known = self.known();
            numbers.filter(|number| !known.manifests.contains(number)).collect()
        };
        let mut read = futures::stream::iter(unknown)
            .map(|number| async move {
                let found = self.manifest(number).await?;
                let object = || StorageError::Missing { object: self.names.manifest(number).to_string() };
                Ok::<_, StorageError>((number, found.ok_or_else(object)?))
            })
            .buffer_unordered(PARALLEL);
        while let Some((number, manifest)) = read.try_next().await? {
            self.known().note(number, &manifest);
        }
        Ok(())
    }

    async fn mark(&self, path: &Path, content: &'static [u8]) -> Result<(), StorageError> {
        // Whose it is does not matter.
        object::create(self.objects, path, Bytes::from_static(content), |_| Ok(true)).await.map(drop)
    }

    /// Fences every epoch before `epoch`.
    async fn fence(&self, epoch: u64) -> Result<(), StorageError> {
        let there = object::list(self.objects, &self.names.fences()).await?;
        let there: HashSet<u64> = there.iter().filter_map(|meta| Names::fenced_epoch(&meta.location)).collect();
        for older in (1..epoch).filter(|older| !there.contains(older)) {
            self.mark(&self.names.fence(older), FENCE).await?;
        }
        Ok(())
    }

    /// Ends the checkpoints that nobody refreshed in time, and lists what there is then.
    async fn checkpoints(
        &self,
        memory: &mut Memory,
        now: std::time::Duration,
        server_now: i64,
        report: &mut GcReport,
    ) -> Result<Vec<Row>, GcError> {
        let listed = rows(self.objects, self.names).await?;
        let late = |row: &&Row| {
            let refreshed = row.beats.last_key_value().map_or(i64::MAX, |(_, meta)| modified(meta));
            let age = u64::try_from(server_now.saturating_sub(refreshed)).unwrap_or(0);
            !row.ended() && row.ttl_ms().is_some_and(|ttl| age >= ttl)
        };
        let mut over = Vec::new();
        let before = std::mem::take(&mut memory.late);
        for row in listed.iter().filter(late) {
            // By our clock, too: that of the object store may have been set.
            let path = self.names.checkpoint(row.id, row.newest);
            let since = before.get(&path).copied();
            if since.is_some_and(|since| now.saturating_sub(since) >= self.retention.quarantine) {
                over.push(row);
            }
            memory.late.insert(path, since.unwrap_or(now));
        }
        report.expired = over.iter().map(|row| row.describe()).collect();
        if over.is_empty() || self.dry_run {
            return Ok(listed);
        }
        for row in over {
            end(self.objects, self.names, self.env, row).await?;
        }
        Ok(rows(self.objects, self.names).await?)
    }

    /// Reads what checkpoints keep below the boundary.
    async fn keep_tables(&self, memory: &mut Memory, rows: &[Row], bounds: Bounds) -> Result<(), GcError> {
        let held: BTreeSet<u64> = rows.iter().filter(|row| !row.ended()).map(|row| row.last.manifest).collect();
        memory.kept.retain(|number, _| held.contains(number));
        for number in held.into_iter().filter(|number| *number < bounds.later) {
            if memory.kept.contains_key(&number) {
                continue;
            }
            // One that came too late names what is gone; its creator takes it back.
            if let Some(manifest) = self.manifest(number).await? {
                memory.kept.insert(number, manifest.levels.iter().flatten().map(|table| table.id).collect());
            }
        }
        Ok(())
    }

    async fn tables(
        &self,
        epoch: u64,
        bounds: Bounds,
        found: &mut Found<'_>,
        doomed: &mut Vec<Path>,
    ) -> Result<(), GcError> {
        let listed = object::list(self.objects, &self.names.tables()).await?;
        let local = match self.owner {
            Some(owner) => owner.local_tables().await,
            None => HashSet::new(),
        };
        let mut known = self.known();
        let mut there = HashSet::with_capacity(listed.len());
        for meta in listed {
            let Some(id) = Names::table_id(&meta.location) else {
                found.report.keep(KeptBecause::Foreign, meta.size);
                continue;
            };
            there.insert(id);
            let last = known.last.get(&id).copied();
            let kept = found.memory.kept.values().any(|tables| tables.contains(&id));
            let because = if id.epoch > epoch {
                KeptBecause::Newer
            } else if kept || local.contains(&id) || last.is_some_and(|last| last >= bounds.later) {
                KeptBecause::Named
            } else if id.epoch == epoch && last.is_none() {
                KeptBecause::OnItsWay
            } else {
                let now = last.is_none_or(|last| last < bounds.now);
                found.useless(GcKind::Table, meta.location.clone(), meta.location, meta.size, now, doomed);
                continue;
            };
            found.report.keep(because, meta.size);
        }
        known.last.retain(|id, last| *last >= bounds.now || there.contains(id));
        known.manifests = known.manifests.split_off(&bounds.now);
        Ok(())
    }

    /// Objects of logs that the newest manifest holds. Fences stay.
    async fn logs(
        &self,
        epoch: u64,
        newest: u64,
        found: &mut Found<'_>,
        doomed: &mut Vec<Path>,
    ) -> Result<(), GcError> {
        let listed = object::list(self.objects, &self.names.logs()).await?;
        if listed.is_empty() {
            return Ok(());
        }
        let needed = match self.owner {
            // Opening has seen to it that logs of others are not.
            Some(owner) => vec![(epoch, owner.logged_from())],
            None => self.manifest(newest).await?.map(|manifest| manifest.remote).unwrap_or_default(),
        };
        for meta in listed {
            let because = match Names::logged(&meta.location) {
                None => KeptBecause::Foreign,
                Some((of, _)) if of > epoch => KeptBecause::Newer,
                Some(_) if meta.size == remote::FENCE as u64 => KeptBecause::Fence,
                Some((of, number)) if needed.iter().any(|&(epoch, from)| epoch == of && from <= number) => {
                    KeptBecause::Named
                }
                Some(_) => {
                    found.useless(GcKind::Log, meta.location.clone(), meta.location, meta.size, true, doomed);
                    continue;
                }
            };
            found.report.keep(because, meta.size);
        }
        Ok(())
    }

    async fn delete(&self, newest: u64, published: u64, doomed: Doomed) -> Result<(), GcError> {
        let Doomed { manifests, tables, rest } = doomed;
        if manifests.is_empty() && tables.is_empty() && rest.is_empty() {
            return Ok(());
        }
        if let Some(later) = publish::newest_number(self.objects, self.names, Some(newest)).await? {
            self.epoch(later, published).await?;
        }
        for objects in [manifests, tables, rest] {
            fail::point("before-delete");
            if !objects.is_empty() {
                object::delete(self.objects, objects).await?;
            }
        }
        Ok(())
    }
}

/// Where a pass notes what it finds.
struct Found<'a> {
    report: &'a mut GcReport,
    useless: &'a mut HashMap<Path, std::time::Duration>,
    memory: &'a Memory,
    now: std::time::Duration,
    aged: &'a (dyn Fn(std::time::Duration) -> bool + Sync),
}

impl Found<'_> {
    /// Notes an object that goes, `now` if its time has come; since when it is useless is remembered under `key`.
    fn useless(&mut self, kind: GcKind, key: Path, object: Path, bytes: u64, now: bool, doomed: &mut Vec<Path>) {
        let before = self.memory.useless.get(&key).copied();
        self.useless.insert(key, before.unwrap_or(self.now));
        let garbage = garbage(kind, &object, bytes);
        if now && before.is_some_and(self.aged) {
            self.report.deleted.push(garbage);
            doomed.push(object);
        } else {
            self.report.waiting.push(garbage);
        }
    }
}

/// The beats of checkpoints that are over: all but the end first, the end in a later pass.
fn ended(rows: &[Row], found: &mut Found<'_>, doomed: &mut Vec<Path>) {
    for row in rows.iter().filter(|row| row.ended()) {
        let Some((_, tombstone)) = row.beats.last_key_value() else { continue };
        let others = row.beats.range(..row.newest).map(|(_, meta)| meta);
        let goes: Vec<&ObjectMeta> = if row.beats.len() > 1 { others.collect() } else { vec![tombstone] };
        for meta in goes {
            let (key, object) = (tombstone.location.clone(), meta.location.clone());
            found.useless(GcKind::Checkpoint, key, object, meta.size, true, doomed);
        }
    }
}

fn garbage(kind: GcKind, object: &Path, bytes: u64) -> Garbage {
    Garbage { kind, object: object.to_string(), bytes }
}

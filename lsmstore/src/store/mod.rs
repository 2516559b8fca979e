//! The writer's handle on a store.
//!
//! Writes go to the active memtable under one mutex; a flush turns full memtables into tables; merges move tables from
//! level to level. Each change of what can be read is a new [`View`], published before the change is used.
//!
//! # Invariants
//! * Lock order: garbage, claims of merges, uploader, local, own log, writer, shipping, view. Listeners run under the writer's lock.
//! * A view is published before the first write into a memtable that only it names.
//! * Tables leave a view only after the local manifest without them is durable; memtables only after the one with their
//!   tables is.
//! * Once fenced, poisoned or closed the handle refuses everything; views that somebody holds stay readable.

mod base;
mod flush;
mod folder;
mod found;
mod garbage;
mod group;
mod jobs;
mod merge;
mod open;
mod pressure;
mod publish;
mod remote_logs;
mod report;
mod scratch;
mod shipping;
mod single;
mod stats;
pub(crate) mod upkeep;
mod write;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use kriya_region::Region;
use object_store::ObjectStore;
use uuid::Uuid;

pub use flush::{FlushOptions, Flushed};
pub use group::Durability;
pub use jobs::{JobKind, JobRecord, JobState};
pub use merge::{KeepAll, MergeEntry, MergePolicy, Merged};
pub use stats::{LevelStats, LocalStats, RequestStats, Requests, Stats};
pub use write::{Applied, Replayed};

use crate::config::{Config, RegionKind};
use crate::env::{Env, blocking};
use crate::error::{StorageError, Unusable, WriteError};
use crate::gc;
use crate::log::LogChoice;
use crate::manifest::{ManifestInfo, local};
use crate::memtable::Memtable;
use crate::memtable::insert::{Heights, Inserter, capacity_for};
use crate::metrics::counters::Counters;
use crate::mirror::Mirror;
use crate::object::Names;
use crate::sstable::TableId;
use crate::sstable::cursor::Run;
use crate::view::View;
use flush::Local;
use group::Group;
use jobs::Jobs;
use merge::{Claims, Limiter};
use publish::Uploader;

/// An open store: one per bucket prefix in the world, shared within the process by cloning. See the crate's
/// documentation.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("id", &self.inner.store_id).field("epoch", &self.inner.epoch).finish()
    }
}

type Listener = Box<dyn Fn(u64) + Send + Sync>;

struct Inner {
    config: Config,
    objects: Arc<dyn ObjectStore>,
    env: Arc<dyn Env>,
    log: LogChoice,
    names: Names,
    mirror: Mirror,
    store_id: Uuid,
    epoch: u64,
    unusable: OnceLock<Unusable>,
    /// Tells background work of that.
    ended: tokio::sync::watch::Sender<bool>,
    writer: Mutex<Writer>,
    last_sequence: AtomicU64,
    view: RwLock<Arc<View>>,
    view_number: AtomicU64,
    listeners: Mutex<Vec<Listener>>,
    local: tokio::sync::Mutex<Local>,
    uploader: tokio::sync::Mutex<Uploader>,
    /// The highest number of a manifest that was tried to be created.
    attempted: AtomicU64,
    /// Bytes of tables without an object.
    pending_bytes: AtomicU64,
    /// Of those, what was never in any object: what merges rewrite is not written anew.
    backlog_bytes: AtomicU64,
    /// Versions of the local manifest: the newest, and the one that was published last.
    local_version: AtomicU64,
    published_version: AtomicU64,
    manifest: Mutex<ManifestInfo>,
    /// Held by a pass of garbage collection, which takes the local lock for a moment.
    garbage: tokio::sync::Mutex<gc::Memory>,
    known: Mutex<gc::Known>,
    claims: Claims,
    limiter: Limiter,
    jobs: Jobs,
    /// Merges are to end, for the store is being closed.
    closing: AtomicBool,
    /// S of the local manifest, which is the floor of merges that begin now.
    settled: AtomicU64,
    /// Of the log in the object store, the first object that the newest manifest there needs.
    logged_from: AtomicU64,
    tables: AtomicU64,
    counters: Counters,
    folder: Mutex<Option<Box<dyn Send + Sync>>>,
    left_behind: Option<PathBuf>,
    /// The store's own log, if it keeps one.
    group: Option<Group>,
}

/// What the writer's lock guards.
struct Writer {
    active: Inserter,
    /// Oldest first.
    frozen: Vec<Arc<Memtable>>,
    heights: Heights,
    next_memtable: u64,
    /// While a log is being replayed: the manifest's last sequence number when the store was opened.
    replaying: Option<u64>,
}

/// A guarded value; a panic of another holder does not change what it guards half-way (each change is one assignment or
/// is followed by poisoning the store), so its mark is ignored.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Store {
    /// The newest view.
    ///
    /// # Errors
    /// [`Unusable`] once the store is fenced, poisoned or closed.
    pub fn view(&self) -> Result<Arc<View>, Unusable> {
        self.inner.usable()?;
        Ok(self.inner.current())
    }

    /// Number of the newest view. It is raised before any write can happen that only that view shows.
    pub fn view_number(&self) -> u64 {
        self.inner.view_number.load(Ordering::Acquire)
    }

    /// Calls `listener` with the number of each view published from now on. It runs under the writer's lock: it must be
    /// quick and must not write to the store.
    pub fn on_view_change(&self, listener: Box<dyn Fn(u64) + Send + Sync>) {
        lock(&self.inner.listeners).push(listener);
    }

    /// The sequence number given out last, or set.
    pub fn last_sequence(&self) -> u64 {
        self.inner.last_sequence.load(Ordering::Acquire)
    }

    /// Names the store for ever.
    pub fn store_id(&self) -> Uuid {
        self.inner.store_id
    }

    /// This writer's epoch.
    pub fn epoch(&self) -> u64 {
        self.inner.epoch
    }

    /// The newest manifest that this writer put into the object store.
    pub fn manifest(&self) -> ManifestInfo {
        lock(&self.inner.manifest).clone()
    }

    /// Bytes of the memtables that are made from now on.
    pub fn set_memtable_bytes(&self, bytes: usize) {
        self.inner.config.memtable_bytes.store(bytes.max(4096), Ordering::Relaxed);
    }

    /// Whether full memtables wait for a flush.
    pub fn wants_flush(&self) -> bool {
        !lock(&self.inner.writer).frozen.is_empty()
    }

    /// The newest manifest on the local disk, which may be ahead of the one in the object store.
    pub async fn local_manifest(&self) -> ManifestInfo {
        let local = self.inner.local.lock().await;
        ManifestInfo::of(local.number, &local.manifest)
    }

    /// The folder to which tables were moved when the store was opened, because it goes on without them and they may be
    /// nowhere else.
    pub fn left_behind(&self) -> Option<&Path> {
        self.inner.left_behind.as_deref()
    }

    /// Whether the object store lacks something that the local manifest has.
    pub fn wants_publish(&self) -> bool {
        self.inner.local_version.load(Ordering::Acquire) > self.inner.published_version.load(Ordering::Acquire)
    }

    /// Whether a file in the folder of mirrors is being written, or belongs to a table of a view that somebody holds. One
    /// that was there and does not is of no use any more.
    pub fn uses_mirror(&self, file: &str) -> bool {
        self.inner.mirror.uses(file)
    }

    /// Ends the use of the store: waits for a flush that is running and has merges give up, then refuses everything. Nothing
    /// is flushed; flush before. Other clones of the handle become unusable too.
    ///
    /// # Errors
    /// [`StorageError`] if the mark of an orderly stop cannot be written; the next start then verifies all mirrors.
    pub async fn close(self) -> Result<(), StorageError> {
        self.close_and(false).await
    }

    /// As [`Store::close`], for a store that holds nothing which anybody would miss: if all of it is published, the folder
    /// is free for another one.
    ///
    /// # Errors
    /// As [`Store::close`].
    pub async fn close_empty(self) -> Result<(), StorageError> {
        self.close_and(true).await
    }

    async fn close_and(self, forget: bool) -> Result<(), StorageError> {
        let inner = &self.inner;
        inner.closing.store(true, Ordering::Release);
        let _alone = inner.claims.all().await;
        let uploader = inner.uploader.lock().await;
        let newest = inner.local.lock().await;
        let ended = inner.unusable.set(Unusable::Closed).is_ok();
        inner.ended.send_replace(true);
        // One that is ahead of the bucket stays: what it has beyond that is verified at the next start, mark or not.
        let published = ended && newest.version == uploader.version;
        let number = uploader.number;
        let written = match (published, forget) {
            (false, _) => Ok(()),
            (true, true) => local::remove(&*inner.env, &inner.config.local_dir),
            (true, false) => inner.write_local(&uploader).await,
        };
        drop((newest, uploader));
        inner.refuse_shipping(&Unusable::Closed);
        if inner.group.is_some() {
            let log = Arc::clone(inner);
            // A group that is being written is finished before the folder is given up.
            let finish = move || {
                if let Some(group) = &log.group {
                    drop(lock(&group.log));
                }
            };
            blocking(&*inner.env, finish).await?;
        }
        let result = if ended { written.and_then(|()| inner.mark_orderly(number)) } else { Ok(()) };
        lock(&inner.folder).take();
        result
    }
}

impl Inner {
    fn usable(&self) -> Result<(), Unusable> {
        match self.unusable.get() {
            None => Ok(()),
            Some(why) => Err(why.clone()),
        }
    }

    /// Refuses everything from now on; returns the reason that counts (the first).
    fn poison(&self, why: Unusable) -> Unusable {
        let why = self.unusable.get_or_init(|| why).clone();
        self.ended.send_replace(true);
        why
    }

    fn current(&self) -> Arc<View> {
        Arc::clone(&self.view.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn next_table(&self) -> TableId {
        TableId { epoch: self.epoch, counter: self.tables.fetch_add(1, Ordering::Relaxed) }
    }

    fn new_memtable(&self, id: u64, needed: usize, published: u64) -> std::io::Result<Arc<Memtable>> {
        new_memtable(&self.config, id, needed, published)
    }

    /// Publishes a view of the writer's memtables and of these tables (those of the last view if none are given).
    fn install(&self, writer: &Writer, tables: Option<Tables>) {
        let old = self.current();
        let number = old.number + 1;
        let tables = tables.unwrap_or_else(|| Tables {
            l0: old.l0.clone(),
            levels: old.levels.clone(),
            sequence: old.table_sequence,
            floor: old.floor,
        });
        let active = std::iter::once(writer.active.table());
        let view = Arc::new(View {
            number,
            memtables: active.chain(writer.frozen.iter().rev()).map(Arc::clone).collect(),
            l0: tables.l0,
            levels: tables.levels,
            table_sequence: tables.sequence,
            floor: tables.floor,
            reads: Arc::clone(&old.reads),
        });
        *self.view.write().unwrap_or_else(PoisonError::into_inner) = view;
        self.view_number.store(number, Ordering::Release);
        for listener in lock(&self.listeners).iter() {
            listener(number);
        }
    }

    /// Freezes the active memtable, if anything is in it, and goes on in one with room for `needed` bytes.
    fn rotate(&self, writer: &mut Writer, needed: usize) -> Result<(), WriteError> {
        let published = self.last_sequence.load(Ordering::Acquire);
        let fresh = self.new_memtable(writer.next_memtable, needed, published).map_err(WriteError::Memory)?;
        writer.next_memtable += 1;
        let full = std::mem::replace(&mut writer.active, Inserter::new(fresh));
        if full.table().entries() > 0 {
            writer.frozen.push(Arc::clone(full.table()));
        }
        self.install(writer, None);
        Ok(())
    }
}

fn new_memtable(config: &Config, id: u64, needed: usize, published: u64) -> std::io::Result<Arc<Memtable>> {
    let capacity = config
        .memtable_bytes
        .load(Ordering::Relaxed)
        .max(capacity_for(needed))
        .next_multiple_of(kriya_region::ALIGNMENT);
    let region = match config.memtable_region {
        RegionKind::Heap => Region::heap(capacity)?,
        RegionKind::Shared => Region::shared("lsmstore-memtable", capacity)?,
    };
    Ok(Arc::new(Memtable::create(id, Arc::new(region), published)?))
}

/// The tables of a view.
struct Tables {
    l0: Vec<Run>,
    levels: Vec<Run>,
    sequence: u64,
    floor: u64,
}

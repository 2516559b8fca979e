//! What a store tells of itself.
//!
//! [`Stats`] is a copy of the counters and a look at the newest view; the gauges that a recorder reads look at the same.
//! How it is printed, and what follows from it, is in `report`.

use std::sync::Arc;
use std::time::Duration;

use crate::metrics::counters::{LEVELS, with_labels};
use crate::metrics::local::Kind;
use crate::metrics::objects::{Class, RequestCounters};
use crate::metrics::{Counter, Gauge, Metric};
use crate::sstable::cursor::Run;
use crate::store::{Inner, Store, lock};
use crate::view::View;

/// Tables of a level, and the work by which they came there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LevelStats {
    /// Number of tables.
    pub tables: u64,
    /// Versions in them.
    pub entries: u64,
    /// Bytes of their mirror files.
    pub mirror_bytes: u64,
    /// Bytes of their objects.
    pub object_bytes: u64,
    /// Merges into it; of L0: flushes.
    pub jobs: u64,
    /// How long they took.
    pub time: Duration,
    /// Bytes of tables that came down to be merged; of L0: bytes flushed. Bytes of mirrors here and below.
    pub above_bytes: u64,
    /// Bytes of its own tables that were merged with them.
    pub same_bytes: u64,
    /// Bytes of the tables that came out.
    pub written_bytes: u64,
    /// Bytes of tables that came down unread.
    pub moved_bytes: u64,
}

/// Requests of one class to the object store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RequestStats {
    /// Requests made. A list of over 1,000 names counts as several.
    pub requests: u64,
    /// Those that the store failed. That something is there already, or is not, is an answer and no failure.
    pub failures: u64,
    /// Those for what the last one failed to do.
    pub retries: u64,
    /// Bytes sent or received.
    pub bytes: u64,
    /// How long the answers took.
    pub time: Duration,
}

impl RequestStats {
    fn of(class: &Class) -> RequestStats {
        RequestStats {
            requests: class.requests.get(),
            failures: class.failures.get(),
            retries: class.retries.get(),
            bytes: class.bytes.get(),
            time: class.time.sum(),
        }
    }
}

/// Requests to the object store, by class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Requests {
    /// Objects written.
    pub put: RequestStats,
    /// Objects or parts of them read.
    pub get: RequestStats,
    /// Objects looked for.
    pub head: RequestStats,
    /// Names listed.
    pub list: RequestStats,
    /// Objects deleted, of which a store may take many in one request.
    pub delete: RequestStats,
    /// Objects copied.
    pub copy: RequestStats,
}

impl Requests {
    pub(crate) fn of(counters: &RequestCounters) -> Requests {
        let [put, get, head, list, delete, copy] = counters.classes().map(|(_, class)| RequestStats::of(class));
        Requests { put, get, head, list, delete, copy }
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        [self.put, self.get, self.head, self.list, self.delete, self.copy].iter().map(|class| class.requests).sum()
    }
}

/// What was written to files of one kind on the local disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LocalStats {
    /// Bytes.
    pub bytes: u64,
    /// Times that a file was made durable.
    pub syncs: u64,
}

impl LocalStats {
    fn of(kind: &Kind) -> LocalStats {
        LocalStats { bytes: kind.bytes.get(), syncs: kind.syncs.get() }
    }
}

/// A moment's figures; counts are since the store was opened, opening it included.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Bytes in use in the active memtable.
    pub active_bytes: u64,
    /// Full memtables that wait for a flush.
    pub frozen: u64,
    /// Bytes in use in them.
    pub frozen_bytes: u64,
    /// L0 first.
    pub levels: Vec<LevelStats>,
    /// Number of the newest view.
    pub view_number: u64,
    /// Bytes of tables that are on the local disk and not in the object store yet.
    pub pending_bytes: u64,
    /// Of those, bytes that no object has in any form, which is what [`Config::max_pending_bytes`] bounds.
    ///
    /// [`Config::max_pending_bytes`]: crate::Config::max_pending_bytes
    pub backlog_bytes: u64,
    /// Number of the newest manifest in the object store.
    pub manifest_number: u64,
    /// The writer's epoch.
    pub epoch: u64,
    /// The sequence number given out last.
    pub last_sequence: u64,
    /// The last sequence number of the newest manifest in the object store.
    pub durable_sequence: u64,
    /// Batches applied.
    pub batches: u64,
    /// Writes in them, deletions included.
    pub writes: u64,
    /// Deletions in them.
    pub deletes: u64,
    /// Bytes of their keys and values.
    pub logical_bytes: u64,
    /// Encoded bytes of them.
    pub written_bytes: u64,
    /// Point reads of this process that found a value or a deletion.
    pub gets_found: u64,
    /// Point reads of this process that found nothing.
    pub gets_absent: u64,
    /// Tables that they looked into.
    pub get_tables: u64,
    /// Cursors made in this process.
    pub scans: u64,
    /// Objects put.
    pub objects_put: u64,
    /// Bytes of them.
    pub object_bytes_put: u64,
    /// Objects of the log put.
    pub log_objects_put: u64,
    /// Bytes of them.
    pub log_object_bytes_put: u64,
    /// What was asked of the object store.
    pub requests: Requests,
    /// Written to the own log.
    pub log: LocalStats,
    /// Written to mirrors of tables, those fetched included.
    pub mirror: LocalStats,
    /// Written to other local files: the local manifest, marks.
    pub other: LocalStats,
    /// Tables whose mirror was there when the store was opened.
    pub mirror_hits: u64,
    /// Tables whose mirror had to be fetched.
    pub mirror_fetches: u64,
    /// Flushes that wrote a table.
    pub flushes: u64,
    /// Flushes that failed.
    pub failed_flushes: u64,
    /// Merges, those included that only moved tables.
    pub merges: u64,
    /// Merges that failed.
    pub failed_merges: u64,
    /// How long the last flush took.
    pub last_flush: Duration,
    /// How long writes were held back so that background work keeps up.
    pub held_back: Duration,
    /// Writes refused because memtables wait for a flush.
    pub refused_full: u64,
    /// Writes refused because tables wait for the object store.
    pub refused_behind: u64,
    /// Times that writes were refused until one was taken again.
    pub stalls: u64,
    /// How long they lasted.
    pub stalled: Duration,
}

/// The runs of a level.
fn runs(view: &View, level: usize) -> &[Run] {
    match level.checked_sub(1) {
        None => &view.l0,
        Some(below) => view.levels.get(below).map_or(&[], std::slice::from_ref),
    }
}

impl Inner {
    fn level(&self, view: &View, number: usize) -> LevelStats {
        let mut level = LevelStats::default();
        for table in runs(view, number).iter().flat_map(|run| run.iter()) {
            level.tables += 1;
            level.entries += table.info.entries;
            level.mirror_bytes += table.info.mirror_len;
            level.object_bytes += table.object_len();
        }
        if let Some(work) = self.counters.levels.get(number) {
            (level.jobs, level.time) = (work.time.count(), work.time.sum());
            (level.above_bytes, level.same_bytes) = (work.above.get(), work.same.get());
            (level.written_bytes, level.moved_bytes) = (work.written.get(), work.moved.get());
        }
        level
    }

    /// Bytes in the active memtable; frozen ones, and bytes in them.
    fn memtables(&self) -> (u64, u64, u64) {
        let writer = lock(&self.writer);
        let frozen_bytes = writer.frozen.iter().map(|memtable| memtable.used() as u64).sum();
        (writer.active.table().used() as u64, writer.frozen.len() as u64, frozen_bytes)
    }

    /// Tells the configured recorder where each figure stands.
    pub(super) fn register(self: &Arc<Inner>) {
        let (recorder, prefix) = (&*self.config.recorder, &self.config.prefix[..]);
        self.counters.register(recorder, prefix);
        let gauge = |name, help, more: Option<(&'static str, &str)>, read: fn(&Inner, usize) -> u64, level: usize| {
            let inner = Arc::downgrade(self);
            let read = move || inner.upgrade().map_or(0.0, |inner| read(&inner, level) as f64);
            let value = Arc::new(Gauge::new(read));
            with_labels(prefix, more, |labels| recorder.gauge(&Metric { name, help, labels }, value));
        };
        let plain = |name, help, read: fn(&Inner, usize) -> u64| gauge(name, help, None, read, 0);
        plain("lsmstore_memtable_bytes", "Bytes in memtables.", |inner, _| {
            let (active, _, frozen) = inner.memtables();
            active + frozen
        });
        plain("lsmstore_frozen_memtables", "Full memtables that wait for a flush.", |inner, _| inner.memtables().1);
        plain("lsmstore_pending_bytes", "Bytes of tables that have no object yet.", |inner, _| {
            inner.pending_bytes.load(std::sync::atomic::Ordering::Acquire)
        });
        plain("lsmstore_backlog_bytes", "Bytes that no object has in any form.", |inner, _| {
            inner.backlog_bytes.load(std::sync::atomic::Ordering::Acquire)
        });
        plain("lsmstore_manifest", "Number of the newest manifest.", |inner, _| lock(&inner.manifest).number);
        plain("lsmstore_epoch", "The writer's epoch.", |inner, _| inner.epoch);
        plain("lsmstore_usable", "1, or 0 once the store is fenced, poisoned or closed.", |inner, _| {
            u64::from(inner.unusable.get().is_none())
        });
        for level in 0..LEVELS {
            let number = level.to_string();
            let gauge = |name, help, read| gauge(name, help, Some(("level", &number[..])), read, level);
            gauge("lsmstore_level_tables", "Tables of a level.", |inner, n| inner.level(&inner.current(), n).tables);
            gauge("lsmstore_level_mirror_bytes", "Bytes of a level's mirrors.", |inner, n| {
                inner.level(&inner.current(), n).mirror_bytes
            });
            gauge("lsmstore_level_object_bytes", "Bytes of a level's objects.", |inner, n| {
                inner.level(&inner.current(), n).object_bytes
            });
        }
    }
}

impl Store {
    /// The figures of this moment.
    pub fn stats(&self) -> Stats {
        let inner = &self.inner;
        let (active_bytes, frozen, frozen_bytes) = inner.memtables();
        let view = inner.current();
        let counters = &inner.counters;
        let count = |counter: &Arc<Counter>| counter.get();
        let manifest = self.manifest();
        let [log, mirror, other] = counters.local.kinds().map(|(_, kind)| LocalStats::of(kind));
        let merges = counters.levels.iter().skip(1).map(|level| level.time.count() + level.moves.get());
        Stats {
            active_bytes,
            frozen,
            frozen_bytes,
            levels: (0..=view.levels.len()).map(|number| inner.level(&view, number)).collect(),
            view_number: self.view_number(),
            pending_bytes: inner.pending_bytes.load(std::sync::atomic::Ordering::Acquire),
            backlog_bytes: inner.backlog_bytes.load(std::sync::atomic::Ordering::Acquire),
            manifest_number: manifest.number,
            epoch: inner.epoch,
            last_sequence: self.last_sequence(),
            durable_sequence: manifest.last_sequence,
            batches: count(&counters.batches),
            writes: count(&counters.writes),
            deletes: count(&counters.deletes),
            logical_bytes: count(&counters.logical_bytes),
            written_bytes: count(&counters.bytes),
            gets_found: count(&counters.reads.found),
            gets_absent: count(&counters.reads.absent),
            get_tables: count(&counters.reads.tables),
            scans: count(&counters.reads.scans),
            objects_put: count(&counters.objects),
            object_bytes_put: count(&counters.object_bytes),
            log_objects_put: count(&counters.log_objects),
            log_object_bytes_put: count(&counters.log_object_bytes),
            requests: Requests::of(&counters.requests),
            log,
            mirror,
            other,
            mirror_hits: count(&counters.mirror.hits),
            mirror_fetches: count(&counters.mirror.fetches),
            flushes: counters.levels[0].time.count(),
            failed_flushes: count(&counters.failed_flushes),
            merges: merges.sum(),
            failed_merges: count(&counters.failed_merges),
            last_flush: counters.last_flush(),
            refused_full: count(&counters.stalls.full),
            refused_behind: count(&counters.stalls.behind),
            stalls: counters.stalls.time.count(),
            stalled: counters.stalls.time.sum(),
            held_back: counters.held_back.sum(),
        }
    }
}

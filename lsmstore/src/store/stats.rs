//! What a store tells of itself.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::batch::Batch;
use crate::sstable::cursor::Run;
use crate::store::{Store, lock};

/// Counted since the store was opened.
#[derive(Default)]
pub(super) struct Counters {
    batches: AtomicU64,
    writes: AtomicU64,
    bytes: AtomicU64,
    objects: AtomicU64,
    object_bytes: AtomicU64,
    flushes: AtomicU64,
    merges: AtomicU64,
    last_flush_micros: AtomicU64,
}

impl Counters {
    pub(super) fn written(&self, batch: &Batch) {
        self.batches.fetch_add(1, Ordering::Relaxed);
        self.writes.fetch_add(batch.len() as u64, Ordering::Relaxed);
        self.bytes.fetch_add(batch.encoded_len() as u64, Ordering::Relaxed);
    }

    pub(super) fn put(&self, bytes: usize) {
        self.objects.fetch_add(1, Ordering::Relaxed);
        self.object_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn flushed(&self, took: Duration) {
        self.flushes.fetch_add(1, Ordering::Relaxed);
        self.last_flush_micros.store(took.as_micros() as u64, Ordering::Relaxed);
    }

    pub(super) fn merged(&self) {
        self.merges.fetch_add(1, Ordering::Relaxed);
    }
}

/// Tables of a level.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LevelStats {
    /// Number of tables.
    pub tables: u64,
    /// Versions in them.
    pub entries: u64,
    /// Bytes of their mirror files.
    pub mirror_bytes: u64,
    /// Bytes of their objects.
    pub object_bytes: u64,
}

/// A moment's figures; counts are since the store was opened.
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
    /// Writes in them.
    pub writes: u64,
    /// Encoded bytes of them.
    pub written_bytes: u64,
    /// Objects put.
    pub objects_put: u64,
    /// Bytes of them.
    pub object_bytes_put: u64,
    /// Flushes that wrote a table.
    pub flushes: u64,
    /// Merges.
    pub merges: u64,
    /// How long the last flush took.
    pub last_flush: Duration,
}

impl Store {
    /// The figures of this moment.
    pub fn stats(&self) -> Stats {
        let inner = &self.inner;
        let (active_bytes, frozen, frozen_bytes) = {
            let writer = lock(&inner.writer);
            let frozen_bytes = writer.frozen.iter().map(|memtable| memtable.used() as u64).sum();
            (writer.active.table().used() as u64, writer.frozen.len() as u64, frozen_bytes)
        };
        let view = inner.current();
        let level = |runs: &[Run]| {
            runs.iter().flat_map(|run| run.iter()).fold(LevelStats::default(), |sum, table| LevelStats {
                tables: sum.tables + 1,
                entries: sum.entries + table.info.entries,
                mirror_bytes: sum.mirror_bytes + table.info.mirror_len,
                object_bytes: sum.object_bytes + table.object_len(),
            })
        };
        let levels = std::iter::once(level(&view.l0));
        let counters = &inner.counters;
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let manifest = self.manifest();
        Stats {
            active_bytes,
            frozen,
            frozen_bytes,
            levels: levels.chain(view.levels.iter().map(|run| level(std::slice::from_ref(run)))).collect(),
            view_number: self.view_number(),
            pending_bytes: inner.pending_bytes.load(Ordering::Acquire),
            backlog_bytes: inner.backlog_bytes.load(Ordering::Acquire),
            manifest_number: manifest.number,
            epoch: inner.epoch,
            last_sequence: self.last_sequence(),
            durable_sequence: manifest.last_sequence,
            batches: count(&counters.batches),
            writes: count(&counters.writes),
            written_bytes: count(&counters.bytes),
            objects_put: count(&counters.objects),
            object_bytes_put: count(&counters.object_bytes),
            flushes: count(&counters.flushes),
            merges: count(&counters.merges),
            last_flush: Duration::from_micros(count(&counters.last_flush_micros)),
        }
    }
}

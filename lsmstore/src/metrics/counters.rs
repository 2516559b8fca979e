//! What a store counts while it is open. Names, meanings and units are in `register`, which is the list that
//! dashboards are made from.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::batch::Batch;
use crate::error::WriteError;
use crate::metrics::local::LocalCounters;
use crate::metrics::objects::RequestCounters;
use crate::metrics::{Counter, Histogram, Metric, Recorder};

/// Levels that there can be: L0 to L6.
pub(crate) const LEVELS: usize = 7;

/// What readers of views do. Views of other processes count for themselves, and nobody asks them.
#[derive(Debug)]
pub(crate) struct Reads {
    /// Point reads that found a value or a deletion.
    pub(crate) found: Arc<Counter>,
    /// Point reads that found nothing.
    pub(crate) absent: Arc<Counter>,
    /// Tables that point reads looked into: those that key range and filter did not rule out.
    pub(crate) tables: Arc<Counter>,
    /// Cursors that were made.
    pub(crate) scans: Arc<Counter>,
}

impl Default for Reads {
    fn default() -> Reads {
        let counter = || Arc::new(Counter::sharded());
        Reads { found: counter(), absent: counter(), tables: counter(), scans: counter() }
    }
}

impl Reads {
    /// Counts a point read that looked into `tables` tables.
    #[inline]
    pub(crate) fn got(&self, found: bool, tables: u64) {
        if found { &self.found } else { &self.absent }.add(1);
        if tables > 0 {
            self.tables.add(tables);
        }
    }
}

/// The work by which tables came to a level.
#[derive(Debug, Default)]
pub(crate) struct LevelCounters {
    /// Bytes of tables that came down to be merged; of L0: of memtables as tables.
    pub(crate) above: Arc<Counter>,
    /// Bytes of tables of the level itself that were merged with them.
    pub(crate) same: Arc<Counter>,
    /// Bytes of the tables that came out.
    pub(crate) written: Arc<Counter>,
    /// Bytes of tables that came down as they are.
    pub(crate) moved: Arc<Counter>,
    /// How often tables came down as they are.
    pub(crate) moves: Arc<Counter>,
    /// Each merge into the level; of L0: each flush.
    pub(crate) time: Arc<Histogram>,
}

/// Times in which writes were refused.
#[derive(Debug, Default)]
pub(crate) struct Stalls {
    /// Writes that were refused because memtables wait for a flush.
    pub(crate) full: Arc<Counter>,
    /// Writes that were refused because tables wait for the object store.
    pub(crate) behind: Arc<Counter>,
    /// From the first refusal to the next write that was taken.
    pub(crate) time: Arc<Histogram>,
    /// When the first write was refused, in microseconds and one more; 0 while writes are taken.
    since: AtomicU64,
}

impl Stalls {
    /// Takes note of how a write ended.
    #[inline]
    pub(crate) fn ended<T>(&self, result: &Result<T, WriteError>, now: impl FnOnce() -> Duration) {
        let refused = match result {
            Ok(_) if self.since.load(Ordering::Relaxed) == 0 => return,
            Ok(_) => {
                let since = self.since.swap(0, Ordering::Relaxed);
                if since > 0 {
                    self.time.add(now().saturating_sub(Duration::from_micros(since - 1)));
                }
                return;
            }
            Err(WriteError::Full { .. }) => &self.full,
            Err(WriteError::Behind { .. }) => &self.behind,
            Err(_) => return,
        };
        refused.add(1);
        let now = now().as_micros() as u64 + 1;
        // Somebody else may have been refused before.
        let _ = self.since.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// How tables got their mirrors when the store was opened.
#[derive(Debug, Default)]
pub(crate) struct MirrorCounters {
    /// Mirrors that were there.
    pub(crate) hits: Arc<Counter>,
    /// Mirrors that were made of the table's object.
    pub(crate) fetches: Arc<Counter>,
}

/// Counted since the store was opened.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) batches: Arc<Counter>,
    pub(crate) writes: Arc<Counter>,
    pub(crate) deletes: Arc<Counter>,
    pub(crate) logical_bytes: Arc<Counter>,
    pub(crate) bytes: Arc<Counter>,
    pub(crate) objects: Arc<Counter>,
    pub(crate) object_bytes: Arc<Counter>,
    pub(crate) log_objects: Arc<Counter>,
    pub(crate) log_object_bytes: Arc<Counter>,
    pub(crate) reads: Arc<Reads>,
    pub(crate) levels: [LevelCounters; LEVELS],
    pub(crate) failed_flushes: Arc<Counter>,
    pub(crate) failed_merges: Arc<Counter>,
    last_flush_micros: AtomicU64,
    /// Groups of writes that were held back so that background work keeps up.
    pub(crate) held_back: Arc<Histogram>,
    pub(crate) stalls: Stalls,
    pub(crate) mirror: Arc<MirrorCounters>,
    pub(crate) requests: Arc<RequestCounters>,
    pub(crate) local: Arc<LocalCounters>,
}

impl Counters {
    pub(crate) fn written(&self, batch: &Batch) {
        self.batches.add(1);
        self.writes.add(batch.len() as u64);
        self.deletes.add(batch.deletions() as u64);
        self.logical_bytes.add(batch.logical_bytes());
        self.bytes.add(batch.encoded_len() as u64);
    }

    pub(crate) fn put(&self, bytes: usize) {
        self.objects.add(1);
        self.object_bytes.add(bytes as u64);
    }

    /// An object of the log was put.
    pub(crate) fn shipped(&self, bytes: usize) {
        self.log_objects.add(1);
        self.log_object_bytes.add(bytes as u64);
    }

    /// A flush wrote tables of `bytes` bytes.
    pub(crate) fn flushed(&self, took: Duration, bytes: u64) {
        let [l0, ..] = &self.levels;
        l0.above.add(bytes);
        l0.written.add(bytes);
        l0.time.add(took);
        self.last_flush_micros.store(took.as_micros() as u64, Ordering::Relaxed);
    }

    pub(crate) fn last_flush(&self) -> Duration {
        Duration::from_micros(self.last_flush_micros.load(Ordering::Relaxed))
    }

    /// A merge of `above` bytes that came down and `same` bytes of level `to` wrote `written` bytes to it.
    pub(crate) fn merged(&self, to: usize, took: Duration, (above, same): (u64, u64), written: u64) {
        if let Some(level) = self.levels.get(to) {
            level.above.add(above);
            level.same.add(same);
            level.written.add(written);
            level.time.add(took);
        }
    }

    /// Tables of `bytes` bytes became tables of level `to` as they are.
    pub(crate) fn moved(&self, to: usize, bytes: u64) {
        if let Some(level) = self.levels.get(to) {
            level.moved.add(bytes);
            level.moves.add(1);
        }
    }

    /// Tells a recorder where each figure stands.
    pub(crate) fn register(&self, recorder: &dyn Recorder, prefix: &str) {
        let counter = |name, help, more: Option<(&'static str, &str)>, value: &Arc<Counter>| {
            with_labels(prefix, more, |labels| recorder.counter(&Metric { name, help, labels }, Arc::clone(value)));
        };
        let histogram = |name, help, more: Option<(&'static str, &str)>, value: &Arc<Histogram>| {
            with_labels(prefix, more, |labels| recorder.histogram(&Metric { name, help, labels }, Arc::clone(value)));
        };
        counter("lsmstore_batches_total", "Batches applied.", None, &self.batches);
        counter("lsmstore_writes_total", "Writes applied, deletions among them.", None, &self.writes);
        counter("lsmstore_deletes_total", "Deletions applied.", None, &self.deletes);
        let help = "Bytes of the keys and values applied.";
        counter("lsmstore_logical_bytes_total", help, None, &self.logical_bytes);
        for (result, value) in [("found", &self.reads.found), ("absent", &self.reads.absent)] {
            counter("lsmstore_gets_total", "Point reads, by what they found.", Some(("result", result)), value);
        }
        let help = "Tables that point reads looked into.";
        counter("lsmstore_get_tables_total", help, None, &self.reads.tables);
        counter("lsmstore_scans_total", "Cursors over keys.", None, &self.reads.scans);
        for (name, kind) in self.local.kinds() {
            let label = Some(("kind", name));
            counter("lsmstore_local_bytes_total", "Bytes written to the local disk.", label, &kind.bytes);
            counter("lsmstore_local_syncs_total", "Syncs of files on the local disk.", label, &kind.syncs);
        }
        for (name, class) in self.requests.classes() {
            let label = Some(("class", name));
            counter("lsmstore_requests_total", "Requests to the object store.", label, &class.requests);
            let help = "Requests that the object store failed; that something is not there is no failure.";
            counter("lsmstore_request_failures_total", help, label, &class.failures);
            let help = "Requests for what the last one failed to do.";
            counter("lsmstore_request_retries_total", help, label, &class.retries);
            let help = "Bytes sent to or received from the object store.";
            counter("lsmstore_request_bytes_total", help, label, &class.bytes);
            histogram("lsmstore_request_seconds", "Until the object store answered.", label, &class.time);
        }
        for (number, level) in self.levels.iter().enumerate() {
            let number = number.to_string();
            let label = Some(("level", &number[..]));
            let help = "Bytes of tables written to a level.";
            counter("lsmstore_level_written_bytes_total", help, label, &level.written);
            let help = "Bytes of tables read to be merged into a level, of the one above it.";
            counter("lsmstore_level_above_bytes_total", help, label, &level.above);
            let help = "Bytes of tables read to be merged into a level, of its own.";
            counter("lsmstore_level_same_bytes_total", help, label, &level.same);
            let help = "Bytes of tables that changed to a level unread.";
            counter("lsmstore_level_moved_bytes_total", help, label, &level.moved);
            let help = "How long merges into a level took; of level 0: flushes.";
            histogram("lsmstore_level_seconds", help, label, &level.time);
        }
        counter("lsmstore_log_objects_total", "Objects of the log put.", None, &self.log_objects);
        counter("lsmstore_log_object_bytes_total", "Bytes of the log put.", None, &self.log_object_bytes);
        for (job, value) in [("flush", &self.failed_flushes), ("merge", &self.failed_merges)] {
            counter("lsmstore_failed_jobs_total", "Flushes and merges that failed.", Some(("job", job)), value);
        }
        for (reason, value) in [("full", &self.stalls.full), ("behind", &self.stalls.behind)] {
            counter("lsmstore_refused_writes_total", "Writes refused.", Some(("reason", reason)), value);
        }
        let help = "From the first write that was refused to the next that was taken.";
        histogram("lsmstore_stall_seconds", help, None, &self.stalls.time);
        let help = "Groups of writes that were held back so that background work keeps up.";
        histogram("lsmstore_held_back_seconds", help, None, &self.held_back);
        for (result, value) in [("hit", &self.mirror.hits), ("fetch", &self.mirror.fetches)] {
            let help = "Tables named at the start, by whether their mirror was there or had to be fetched.";
            counter("lsmstore_mirrors_total", help, Some(("result", result)), value);
        }
    }
}

/// Calls `tell` with the store's labels and perhaps one more.
pub(crate) fn with_labels<'a>(
    prefix: &'a str,
    more: Option<(&'static str, &'a str)>,
    tell: impl FnOnce(&[(&'static str, &'a str)]),
) {
    match more {
        Some(more) => tell(&[("prefix", prefix), more]),
        None => tell(&[("prefix", prefix)]),
    }
}

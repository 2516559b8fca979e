//! Figures: what the store counts, and how others get to read it.
//!
//! A store counts in any case, in atomics of its own: they are the one source from which [`Store::stats`] and every
//! exporter read. A [`Recorder`] given by [`Config::recorder`] is told once, when the store is opened, where each figure
//! stands, and reads it when it likes. So exporting costs reads and writes nothing, and a recorder that is slow delays
//! nobody. [`Prometheus`] is one that renders text:
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::sync::Arc;
//! use lsmstore::metrics::Prometheus;
//! use lsmstore::{Config, LogChoice, Store, SystemEnv, objects};
//!
//! # let dir = tempfile::tempdir()?;
//! # let folder = dir.path();
//! let prometheus = Arc::new(Prometheus::new());
//! let config = Config::new(folder, "demo").recorder(Arc::clone(&prometheus) as _);
//! let store = Store::open(config, objects::memory(), Arc::new(SystemEnv::new()), LogChoice::Nobody).await?;
//! assert!(prometheus.render().contains("lsmstore_requests_total{prefix=\"demo\",class=\"put\"} "));
//! # Ok(())
//! # }
//! ```
//!
//! # Invariants
//! * A [`Counter`] never goes back. All are of the open handle: the next one begins at zero.
//! * Nothing here does I/O or takes a lock that a reader or writer of the store waits for.
//!
//! [`Store::stats`]: crate::Store::stats
//! [`Config::recorder`]: crate::Config::recorder

pub(crate) mod counters;
pub(crate) mod local;
pub(crate) mod objects;
mod prometheus;

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

pub use prometheus::Prometheus;

/// Takes note of where figures stand; see the module. The methods are called once for each figure, while the store is
/// being opened.
pub trait Recorder: Send + Sync + Debug {
    /// Something that only grows.
    fn counter(&self, metric: &Metric<'_>, value: Arc<Counter>);
    /// Something that is as it is at the moment.
    fn gauge(&self, metric: &Metric<'_>, value: Arc<Gauge>);
    /// How long something took, each time.
    fn histogram(&self, metric: &Metric<'_>, value: Arc<Histogram>);
}

/// A recorder that forgets all it is told: the default.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoRecorder;

impl Recorder for NoRecorder {
    fn counter(&self, _: &Metric<'_>, _: Arc<Counter>) {}
    fn gauge(&self, _: &Metric<'_>, _: Arc<Gauge>) {}
    fn histogram(&self, _: &Metric<'_>, _: Arc<Histogram>) {}
}

/// What a figure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Metric<'a> {
    /// Its name, by the rules of Prometheus: the unit at its end, and `_total` for what only grows.
    pub name: &'static str,
    /// A sentence about it.
    pub help: &'static str,
    /// What tells it from others of its name: the store's prefix first.
    pub labels: &'a [(&'static str, &'a str)],
}

/// Shards of a counter that many threads add to at once.
const SHARDS: usize = 8;

/// One cache line, so that threads that count do not take it from each other.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Shard(AtomicU64);

/// Something that only grows.
#[derive(Debug)]
pub struct Counter {
    shards: Box<[Shard]>,
}

impl Default for Counter {
    fn default() -> Counter {
        Counter { shards: Box::new([Shard::default()]) }
    }
}

impl Counter {
    /// For what readers count, from many threads.
    pub(crate) fn sharded() -> Counter {
        Counter { shards: (0..SHARDS).map(|_| Shard::default()).collect() }
    }

    /// Counts `by` more.
    #[inline]
    pub(crate) fn add(&self, by: u64) {
        let shard = if self.shards.len() == 1 { 0 } else { this_thread() % self.shards.len() };
        if let Some(shard) = self.shards.get(shard) {
            shard.0.fetch_add(by, Ordering::Relaxed);
        }
    }

    /// How much it is now.
    pub fn get(&self) -> u64 {
        self.shards.iter().map(|shard| shard.0.load(Ordering::Relaxed)).sum()
    }
}

/// A number for each thread, in the order in which they first count.
#[inline]
fn this_thread() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static NUMBER: usize = NEXT.fetch_add(1, Ordering::Relaxed);
    }
    // A thread that is ending has no number any more.
    NUMBER.try_with(|number| *number).unwrap_or(0)
}

/// Something that is as it is at the moment, looked up when it is asked for.
pub struct Gauge(Box<dyn Fn() -> f64 + Send + Sync>);

impl Gauge {
    pub(crate) fn new(read: impl Fn() -> f64 + Send + Sync + 'static) -> Gauge {
        Gauge(Box::new(read))
    }

    /// How much it is now; 0 once the store is gone.
    pub fn get(&self) -> f64 {
        (self.0)()
    }
}

impl Debug for Gauge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Gauge").field(&self.get()).finish()
    }
}

/// Upper bounds of a histogram's buckets, in microseconds: 1 ms to 5 minutes.
const BOUNDS: [u64; 14] = [
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    10_000_000,
    60_000_000,
    300_000_000,
];

/// How long something took, each time.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BOUNDS.len() + 1],
    micros: AtomicU64,
}

impl Histogram {
    pub(crate) fn add(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS.partition_point(|&bound| bound < micros);
        if let Some(bucket) = self.buckets.get(bucket) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        self.micros.fetch_add(micros, Ordering::Relaxed);
    }

    /// How often it happened.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).sum()
    }

    /// How long all of them took.
    pub fn sum(&self) -> Duration {
        Duration::from_micros(self.micros.load(Ordering::Relaxed))
    }

    /// For each upper bound how many took at most as long.
    pub fn buckets(&self) -> impl Iterator<Item = (Duration, u64)> {
        let mut below = 0;
        BOUNDS.iter().zip(&self.buckets).map(move |(&bound, bucket)| {
            below += bucket.load(Ordering::Relaxed);
            (Duration::from_micros(bound), below)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_of_many_threads_loses_nothing() {
        let counter = Counter::sharded();
        std::thread::scope(|scope| {
            for _ in 0..20 {
                scope.spawn(|| (0..1000).for_each(|_| counter.add(3)));
            }
        });
        assert_eq!(counter.get(), 60_000);
    }

    #[test]
    fn a_duration_is_counted_in_every_bucket_that_is_not_below_it() {
        let histogram = Histogram::default();
        for micros in [0, 1_000, 1_001, 400_000_000] {
            histogram.add(Duration::from_micros(micros));
        }
        let buckets: Vec<u64> = histogram.buckets().map(|(_, count)| count).collect();
        assert_eq!((buckets[0], buckets[1], buckets[BOUNDS.len() - 1]), (2, 3, 3));
        assert_eq!((histogram.count(), histogram.sum()), (4, Duration::from_micros(400_002_001)));
    }
}

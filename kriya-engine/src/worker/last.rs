//! The end of an orderly stop: what is in memory goes to the local disk, and from there as much to the object store as
//! gets there in time. Nothing is lost by what does not; the next worker goes on with it.

use std::cell::Cell;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use lsmstore::{FlushError, FlushOptions, Store};

use crate::worker::WorkerError;
use crate::worker::engine::Engine;
use crate::worker::publishing::as_long_as;
use crate::worker::sealing;

/// How long a stop goes on at most: those who wait for a server to stop have a minute by default.
const LONGEST: Duration = Duration::from_secs(45);
/// How long it waits for an object store that takes nothing.
const STALLED: Duration = Duration::from_secs(20);
/// How long it seals segments: without that the next start has to index their rows again.
const SEALING: Duration = Duration::from_secs(8);

/// Flushes everything, seals what is worth it, and flushes again with the mark of an orderly stop.
pub(crate) fn last_flush(engine: &Engine) -> Result<(), WorkerError> {
    let began = Instant::now();
    // A session that asked for a flush while the worker still worked ends it before the last one begins.
    drop(engine.flushing.lock().unwrap_or_else(PoisonError::into_inner));
    let flush = |options| {
        engine.runtime.block_on(engine.store.flush_local(options)).map_err(WorkerError::new)?;
        let goes_on = || !engine.signals.abrupt() && began.elapsed() < LONGEST;
        engine.runtime.block_on(publish_while_it_gets_ahead(&engine.store, STALLED, goes_on)).map_err(|why| {
            WorkerError::new(format!("what is on the local disk and in the log is not in the bucket yet: {why}"))
        })
    };
    // Sealing writes to the store, which nobody but this thread flushes any more.
    flush(FlushOptions::default())?;
    let sealing = Instant::now();
    let goes_on = || !engine.signals.abrupt() && sealing.elapsed() < SEALING;
    if let Err(why) = sealing::seal_all(engine, true, &goes_on) {
        engine.complain(why);
    }
    flush(FlushOptions { clean: true, force: true })
}

/// Publishes for as long as objects get through and `goes_on` says so, but waits no longer than `stalled` for the next
/// one. Says why if not everything was published.
async fn publish_while_it_gets_ahead(
    store: &Store,
    stalled: Duration,
    goes_on: impl Fn() -> bool,
) -> Result<(), String> {
    let put = || store.stats().objects_put;
    loop {
        let before = put();
        let progress = Cell::new((before, Instant::now()));
        let gets_ahead = || {
            let now = put();
            if now > progress.get().0 {
                progress.set((now, Instant::now()));
            }
            goes_on() && progress.get().1.elapsed() < stalled
        };
        match as_long_as(gets_ahead, store.publish()).await {
            Some(Ok(_)) => return Ok(()),
            // One request of many failed: the others got through.
            Some(Err(error)) if !matches!(error, FlushError::Unusable(_)) && put() > before && goes_on() => {}
            Some(Err(error)) => return Err(error.to_string()),
            None => return Err("the object store is too slow".to_owned()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use kriya_testkit::fault::{Fault, Kind, Operation};
    use kriya_testkit::stores::FaultStore;
    use lsmstore::{Batch, Config, LogChoice, SystemEnv, objects};

    use super::*;

    const TABLES: usize = 60;

    /// A store with tables that wait for objects.
    async fn waiting(dir: &tempfile::TempDir) -> (Store, Arc<FaultStore>) {
        let objects = Arc::new(FaultStore::new(objects::memory()));
        let env = Arc::new(SystemEnv::new());
        let config = Config::new(dir.path(), "test").memtable_bytes(4096);
        let store = Store::open(config, Arc::clone(&objects) as _, env, LogChoice::Nobody).await.unwrap();
        for n in 0..TABLES {
            let mut batch = Batch::new();
            batch.put(&n.to_le_bytes(), b"value");
            store.apply(&batch).unwrap();
            store.flush_local(FlushOptions::default()).await.unwrap();
        }
        (store, objects)
    }

    #[tokio::test]
    async fn the_last_publication_goes_on_for_as_long_as_objects_get_through() {
        let dir = tempfile::tempdir().unwrap();
        let (store, objects) = waiting(&dir).await;
        // All of it takes 3 seconds, each object a fifth of one; and some requests fail.
        let puts = |fault: Fault| fault.on(&[Operation::Put]);
        objects.set(vec![
            puts(Fault::always(Kind::Slow(Duration::from_millis(200)))),
            puts(Fault::always(Kind::Before)).every(7),
        ]);
        publish_while_it_gets_ahead(&store, Duration::from_secs(2), || true).await.unwrap();
        assert_eq!(store.stats().pending_bytes, 0);
        assert_eq!(store.manifest().tables, TABLES as u64);
    }

    #[tokio::test]
    async fn a_store_that_takes_nothing_or_fails_is_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let (store, objects) = waiting(&dir).await;
        objects.set(vec![Fault::always(Kind::Silent)]);
        let stalled = Duration::from_millis(300);
        let why = publish_while_it_gets_ahead(&store, stalled, || true).await.unwrap_err();
        assert!(why.contains("too slow"), "{why}");
        objects.set(vec![Fault::always(Kind::Down)]);
        publish_while_it_gets_ahead(&store, Duration::from_secs(3600), || true).await.unwrap_err();
        objects.set(vec![Fault::always(Kind::Silent)]);
        publish_while_it_gets_ahead(&store, Duration::from_secs(3600), || false).await.unwrap_err();
    }
}

//! The thread that brings to the object store what is durable on the local disk, and what happens while it cannot.
//!
//! Flushes and merges do not wait for it. The log's slot follows what was published; past the backlog that the settings
//! allow it follows the local disk instead, so that the log does not fill it up, and writers wait.

use std::future::Future;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use lsmstore::FlushError;

use crate::worker::engine::Engine;
use crate::worker::host::Level;

/// How long the thread sleeps when nobody wakes it.
const IDLE: Duration = Duration::from_secs(60);
/// Pause after a failed attempt, doubled up to the second.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// How often a failure that goes on is told again.
const AGAIN: Duration = Duration::from_secs(60);

/// Publishes until the worker ends.
pub(crate) fn publish_forever(engine: &Engine) {
    let mut failing: Option<Failing> = None;
    while engine.signals.working() {
        engine.signals.publishing.wait(failing.as_ref().map_or(IDLE, |failing| failing.pause));
        if failing.is_none() && !engine.store.wants_publish() {
            continue;
        }
        let Some(published) = engine.unless_ending(engine.store.publish()) else { break };
        match published {
            Ok(_) => {
                engine.log_let_go.store(false, Ordering::Relaxed);
                if engine.signals.failing.swap(false, Ordering::SeqCst) {
                    // What was not sealed without it.
                    engine.signals.sealing.wake();
                }
                if failing.take().is_some() {
                    engine.host.report(Level::Log, "the object store is back; everything on the local disk is in it");
                    engine.forget_complaint();
                }
            }
            Err(error @ FlushError::Unusable(_)) => {
                engine.complain(format!("publishing failed: {error}"));
                engine.signals.ending.wake();
                break;
            }
            Err(error) => {
                engine.signals.failing.store(true, Ordering::SeqCst);
                Failing::note(&mut failing, engine, format!("the object store cannot be written to: {error}"), RETRY);
                follow_the_local_disk(engine);
            }
        }
    }
}

/// Something that fails again and again.
pub(crate) struct Failing {
    pause: Duration,
    until: Instant,
    told: Instant,
}

impl Failing {
    /// Notes a failure, and tells it now and then. The pause after it is the first of `retry`, doubled with each further
    /// failure up to the second.
    pub(crate) fn note(failing: &mut Option<Failing>, engine: &Engine, message: String, retry: (Duration, Duration)) {
        let now = Instant::now();
        let pause = failing.as_ref().map_or(retry.0, |failing| (failing.pause * 2).min(retry.1).max(retry.0));
        let mut told = failing.as_ref().map(|failing| failing.told);
        if told.is_none_or(|told| now.duration_since(told) >= AGAIN) {
            engine.complain(message);
            told = None;
        }
        *failing = Some(Failing { pause, until: now + pause, told: told.unwrap_or(now) });
    }

    /// How much of the pause is left.
    pub(crate) fn left(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }
}

/// Lets the log go before the local manifest's position, if more than the backlog lies behind the published one, or if the
/// host would not keep it any longer anyway: what lies behind the local position would be lost with it.
pub(crate) fn follow_the_local_disk(engine: &Engine) {
    let published = engine.store.manifest().position;
    let Ok(now) = engine.host.position() else { return };
    let runs_out = engine.signals.log_runs_out.swap(false, Ordering::SeqCst);
    if !runs_out && now.saturating_sub(published) <= engine.config.backlog_bytes {
        return;
    }
    let local = engine.runtime.block_on(engine.store.local_manifest()).position;
    if local <= published {
        return;
    }
    match engine.log.let_go(local) {
        // Told once for each outage: publishing takes it back.
        Ok(true) if !engine.log_let_go.swap(true, Ordering::Relaxed) => {}
        Ok(_) => return,
        Err(error) => {
            engine.signals.log_runs_out.fetch_or(runs_out, Ordering::SeqCst);
            engine.complain(format!("letting the log go failed: {error}"));
            return;
        }
    }
    let bound = if runs_out { "max_slot_wal_keep_size allows" } else { "lsm_s3.backlog_mb waits for the object store" };
    let message = format!(
        "more of the log than {bound}: it is let go, and what is not in the bucket is on this server's disk alone; a \
         standby or a base backup needs the log's archive now"
    );
    engine.host.report(Level::Warning, &message);
}

/// Waits for a job for as long as `goes_on` says so: whatever it waits for itself is then given up.
pub(crate) async fn as_long_as<T>(goes_on: impl Fn() -> bool, job: impl Future<Output = T>) -> Option<T> {
    let over = async {
        while goes_on() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::select! {
        biased;
        done = job => Some(done),
        () = over => None,
    }
}

impl Engine {
    /// Runs a job, unless the worker comes to its end meanwhile: whatever the job waits for is then given up.
    pub(crate) fn unless_ending<T>(&self, job: impl Future<Output = T>) -> Option<T> {
        self.while_it_may(&|| self.signals.working(), job)
    }

    /// Runs a job for as long as `goes_on` says so.
    pub(crate) fn while_it_may<T>(&self, goes_on: &dyn Fn() -> bool, job: impl Future<Output = T>) -> Option<T> {
        self.runtime.block_on(as_long_as(goes_on, job))
    }

    /// What was complained of is over.
    pub(crate) fn forget_complaint(&self) {
        *self.last_error.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = None;
    }
}

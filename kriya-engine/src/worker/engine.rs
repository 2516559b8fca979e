//! What all threads of a worker share.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use lsmstore::{Applied, Batch, Store, View, WriteError};
use tokio::sync::watch;

use crate::control::Control;
use crate::keys::Counter;
use crate::worker::config::WorkerConfig;
use crate::worker::counters::{CounterError, Counters, MAX_WRITES, reserve_sequences};
use crate::worker::host::{Host, Level};
use crate::worker::indexes::Indexes;
use crate::worker::lease::Tenancy;
use crate::worker::live::Live;
use crate::worker::locking::Locks;
use crate::worker::owner::LogKeeper;
use crate::worker::segments::SegmentFiles;
use crate::worker::sessions::Sessions;
use crate::worker::views::Views;

/// Something to do for a thread that sleeps.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    pending: Mutex<bool>,
    changed: Condvar,
}

impl Signal {
    pub(crate) fn wake(&self) {
        *self.pending.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }

    /// Waits for [`Signal::wake`], but no longer than `timeout`; says whether it came.
    pub(crate) fn wait(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        while !*pending {
            let Some(left) = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) else {
                return false;
            };
            pending = self.changed.wait_timeout(pending, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        *pending = false;
        true
    }
}

/// Who has to wake up.
#[derive(Debug, Default)]
pub(crate) struct Signals {
    pub flushing: Signal,
    pub merging: Signal,
    pub publishing: Signal,
    pub collecting: Signal,
    pub tenancy: Signal,
    pub linking: Signal,
    pub sealing: Signal,
    /// The worker's first thread: stop, or a store that has become unusable.
    pub ending: Signal,
    /// A flush was asked for: what is worth sealing is sealed, full or not.
    pub seal_early: AtomicBool,
    /// Something was dropped: tables of the store that hold nothing else can go.
    pub dropped: AtomicBool,
    /// Somebody wants a flush now, whether something was written or not.
    pub flush_now: AtomicBool,
    /// The host will not keep the log much longer: it is needed from the local disk's position on only.
    pub log_runs_out: AtomicBool,
    how: Mutex<Ending>,
    /// The worker has opened its store; before, nobody waits for it to end in order.
    pub serving: AtomicBool,
    /// The last publication failed: at the end one more is not waited for.
    pub failing: AtomicBool,
    /// Nobody waits for the object store any more.
    pub abandoned: watch::Sender<bool>,
}

/// Whether and how the worker comes to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) enum Ending {
    #[default]
    No,
    /// No new transaction may write; those that run may finish.
    Orderly,
    /// Nobody writes any more: background work ends, the last flush follows.
    Finishing,
    /// As if it had crashed.
    Abrupt,
}

impl Signals {
    pub(crate) fn end(&self, how: Ending) {
        {
            let mut ending = self.how.lock().unwrap_or_else(PoisonError::into_inner);
            *ending = (*ending).max(how);
        }
        if how == Ending::Abrupt || !self.serving.load(Ordering::SeqCst) || self.failing.load(Ordering::SeqCst) {
            self.abandoned.send_replace(true);
        }
        for signal in [
            &self.flushing,
            &self.merging,
            &self.publishing,
            &self.collecting,
            &self.tenancy,
            &self.linking,
            &self.sealing,
            &self.ending,
        ] {
            signal.wake();
        }
    }

    pub(crate) fn ending(&self) -> Ending {
        *self.how.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether background work goes on.
    pub(crate) fn working(&self) -> bool {
        self.ending() < Ending::Finishing
    }

    pub(crate) fn abrupt(&self) -> bool {
        self.ending() == Ending::Abrupt
    }
}

/// Why a batch was not applied.
#[derive(Debug)]
pub(crate) enum ApplyError {
    /// Too much waits for a flush.
    Busy,
    Failed(String),
}

impl fmt::Display for ApplyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ApplyError::Busy => f.write_str("the store is full until something is flushed"),
            ApplyError::Failed(why) => f.write_str(why),
        }
    }
}

pub(crate) struct Engine {
    /// What the worker started with.
    pub config: WorkerConfig,
    pub live: Arc<Live>,
    pub host: Arc<dyn Host>,
    pub runtime: tokio::runtime::Handle,
    pub store: Store,
    pub log: Arc<LogKeeper>,
    pub control: Arc<Control>,
    pub counters: Counters,
    pub indexes: Indexes,
    pub views: Views,
    pub sessions: Sessions,
    pub segments: SegmentFiles,
    pub signals: Arc<Signals>,
    /// The slot follows the local disk because the object store is away.
    pub log_let_go: AtomicBool,
    /// The bucket's lease, if it needs one.
    pub tenancy: Option<Tenancy>,
    /// What became of the takeover that this worker began with.
    pub taken_over: String,
    pub last_error: Mutex<Option<String>>,
    /// A background thread panicked.
    pub broken: AtomicBool,
    /// Held while flushing, so that a flush that was asked for is not followed by one that nobody needs.
    pub flushing: Mutex<()>,
    /// Transactions whose fate decides over an object: (object, transaction, whether it drops it).
    pub undecided: Mutex<Vec<(u64, u64, bool)>>,
    /// Row locks, of this generation alone.
    pub locks: Mutex<Locks>,
    /// Threads of index builds and seals: all cores, once.
    pub pool: rayon::ThreadPool,
}

impl Engine {
    pub(crate) fn generation(&self) -> u64 {
        self.log.generation
    }

    /// Applies a batch under new sequence numbers.
    pub(crate) fn apply(&self, batch: &Batch) -> Result<Applied, ApplyError> {
        self.may_apply(batch)?;
        self.store.apply(batch).map_err(|error| self.write_failed(error))
    }

    /// Applies a batch if `check` holds; `None` if it does not.
    pub(crate) fn apply_if(
        &self,
        check: impl FnOnce(&View) -> bool,
        batch: &Batch,
    ) -> Result<Option<Applied>, ApplyError> {
        self.may_apply(batch)?;
        self.store.apply_if(check, batch).map_err(|error| self.write_failed(error))
    }

    /// As [`Engine::apply`], waiting while the store is full, unless the worker crashes or `go_on` says no.
    pub(crate) fn apply_patiently(&self, batch: &Batch, go_on: impl Fn() -> bool) -> Result<Applied, ApplyError> {
        loop {
            match self.apply(batch) {
                Err(ApplyError::Busy) if go_on() && !self.signals.abrupt() => {
                    // Woken by nobody in particular: a flush takes longer than this.
                    std::thread::sleep(Duration::from_millis(20));
                }
                other => return other,
            }
        }
    }

    fn may_apply(&self, batch: &Batch) -> Result<(), ApplyError> {
        if batch.len() > MAX_WRITES {
            return Err(ApplyError::Failed(format!(
                "a batch has {} writes, at most {MAX_WRITES} are allowed",
                batch.len()
            )));
        }
        reserve_sequences(&self.store, &self.log).map_err(|error| ApplyError::Failed(error.to_string()))
    }

    fn write_failed(&self, error: WriteError) -> ApplyError {
        match error {
            WriteError::Full { .. } => {
                self.signals.flushing.wake();
                ApplyError::Busy
            }
            WriteError::Behind { .. } => {
                self.signals.publishing.wake();
                ApplyError::Busy
            }
            WriteError::Unusable(why) => {
                self.signals.ending.wake();
                ApplyError::Failed(why.to_string())
            }
            other => ApplyError::Failed(other.to_string()),
        }
    }

    /// The first of `count` numbers in a row that were never given out.
    pub(crate) fn take(&self, counter: Counter, id: u64, count: u64) -> Result<u64, ApplyError> {
        self.counters.take(&self.store, &self.log, counter, id, count).map_err(|error| match error {
            CounterError::Write(error) => self.write_failed(error),
            other => ApplyError::Failed(other.to_string()),
        })
    }

    /// Notes what went wrong in the background, for the server's log and the status.
    pub(crate) fn complain(&self, message: String) {
        self.host.report(Level::Warning, &message);
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(message);
    }
}

//! The storage worker: the one process that writes.
//!
//! [`start`] spawns everything and returns; the caller's thread then serves the calls of its [`Host`] until
//! [`WorkerHandle::finished`] says how it ended. Threads: one that starts and ends the worker, one that accepts, one per
//! session, one each for flushing, merging, publishing, collecting, linking and sealing, a small async runtime for objects, and a pool for builds.
//!
//! Locks are taken in this order, and none is held while waiting for the host except where said: an index's append lock,
//! the counters (which log a ceiling through the host), the store's writer, the table of row locks. The host's thread takes none of them.

mod active;
mod build;
mod cache;
mod check;
mod collecting;
mod config;
mod counters;
mod engine;
mod fence;
mod flushing;
mod gate;
mod history;
mod host;
mod indexes;
mod kept;
mod last;
mod lease;
mod live;
mod locking;
mod locks;
mod loss;
mod opening;
mod owner;
mod place;
mod publishing;
mod replay;
mod requests;
mod sealing;
mod segments;
mod server;
mod sessions;
mod startup;
mod status;
mod views;

use std::fmt;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::os::unix::fs::DirBuilderExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::control::State;
use check::Checker;
#[cfg(feature = "s3")]
pub use config::S3Endpoint;
pub use config::{Endpoint, WorkerConfig};
use engine::{Ending, Engine, Signals};
pub use host::{Facts, Host, HostError, KeptLog, Level, LogChunk, LogRange, LogRecord, XidState};
use live::Live;
use opening::Opening;
use server::{Door, Server};

/// How long a stop that waits for transactions lets others wait for the next worker.
const NEWCOMERS_WAIT: Duration = Duration::from_secs(10);

/// How a worker ended that did not end well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerError {
    message: String,
}

impl WorkerError {
    fn new(message: impl fmt::Display) -> WorkerError {
        WorkerError { message: message.to_string() }
    }
}

impl fmt::Display for WorkerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for WorkerError {}

/// A worker that was started. Dropped before it has finished, it ends at once, as in a crash: nothing is flushed. Dropping
/// waits for the worker's threads, so calls of the host must still be answered meanwhile, if only by errors.
#[derive(Debug)]
pub struct WorkerHandle {
    signals: Arc<Signals>,
    live: Arc<Live>,
    thread: Mutex<Option<JoinHandle<Result<(), WorkerError>>>>,
    result: Mutex<Option<Result<(), WorkerError>>>,
}

impl WorkerHandle {
    /// Asks for an orderly stop and returns at once: no new sessions and writing transactions, then, when the running ones
    /// have ended, a flush that is marked clean.
    pub fn stop(&self) {
        self.signals.end(Ending::Orderly);
    }

    /// Asks for a flush and a fresh position in the log, soon; returns at once.
    pub fn flush_soon(&self) {
        self.signals.flush_now.store(true, Ordering::Relaxed);
        self.signals.flushing.wake();
    }

    /// Says that the host will soon stop keeping the log that the store needs: a flush, after which the log before the local
    /// disk's position is let go, whatever the object store has. Returns at once.
    pub fn log_runs_out(&self) {
        self.signals.log_runs_out.store(true, Ordering::SeqCst);
        self.flush_soon();
    }

    /// Takes over new settings. Flush interval, size of memtables, the cache's budget, the retention and credentials take effect. While
    /// nothing is served, the next attempt is made with all of them; while tables are served, where they are kept does
    /// not change: [`Host::report`] and the status tell what waits for a restart. Without tables the worker ends in order,
    /// to be started anew.
    pub fn reconfigure(&self, config: WorkerConfig) {
        self.live.ask(config);
        for signal in [&self.signals.flushing, &self.signals.ending] {
            signal.wake();
        }
    }

    /// How the worker ended, once it has.
    pub fn finished(&self) -> Option<Result<(), WorkerError>> {
        let mut result = self.result.lock().unwrap_or_else(PoisonError::into_inner);
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if result.is_none() && thread.as_ref().is_some_and(JoinHandle::is_finished) {
            *result = thread.take().map(join);
        }
        result.clone()
    }
}

fn join(thread: JoinHandle<Result<(), WorkerError>>) -> Result<(), WorkerError> {
    thread.join().unwrap_or_else(|_| Err(WorkerError::new("the worker's first thread panicked")))
}

impl Drop for WorkerHandle {
    fn drop(&mut self) {
        self.signals.end(Ending::Abrupt);
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = join(thread);
        }
    }
}

/// Starts a worker. Everything that can go wrong is told by [`WorkerHandle::finished`] and [`Host::report`].
pub fn start(config: WorkerConfig, host: Arc<dyn Host>) -> WorkerHandle {
    let signals = Arc::new(Signals::default());
    let live = Live::new(config.clone());
    let (for_thread, settings) = (Arc::clone(&signals), Arc::clone(&live));
    let thread = std::thread::Builder::new()
        .name("kriya-worker".into())
        .spawn(move || run(&config, &settings, &host, &for_thread));
    let (thread, result) = match thread {
        Ok(thread) => (Some(thread), None),
        Err(error) => (None, Some(Err(WorkerError::new(format!("no thread for the worker: {error}"))))),
    };
    WorkerHandle { signals, live, thread: Mutex::new(thread), result: Mutex::new(result) }
}

fn run(
    config: &WorkerConfig,
    live: &Arc<Live>,
    host: &Arc<dyn Host>,
    signals: &Arc<Signals>,
) -> Result<(), WorkerError> {
    let _lock = prepare(config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("kriya-io")
        .enable_all()
        .build()
        .map_err(WorkerError::new)?;
    let checker = Checker { runtime: runtime.handle().clone(), live: Arc::clone(live) };
    let opening = Opening { started: config, live, host, signals, checker };
    let result = opening.open_and_serve();
    // Whatever async work is left is abandoned, as in a crash; an orderly end has none.
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

/// Makes the folders and takes the lock, which is held as long as the worker lives.
fn prepare(config: &WorkerConfig) -> Result<File, WorkerError> {
    let failed = |path: &Path| {
        let path = path.display().to_string();
        move |error: std::io::Error| WorkerError::new(format!("{path}: {error}"))
    };
    for dir in [config.dir.clone(), config.store_dir()] {
        DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(failed(&dir))?;
    }
    let path = config.dir.join("worker.lock");
    let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(failed(&path))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => {
            Err(WorkerError::new(format!("another storage worker uses {}", config.dir.display())))
        }
        Err(TryLockError::Error(error)) => Err(failed(&path)(error)),
    }
}

fn serve(engine: Arc<Engine>, socket: &Path) -> Result<(), WorkerError> {
    engine.signals.serving.store(true, Ordering::SeqCst);
    let mut threads = Vec::new();
    let mut spawn = |name: &str, job: fn(&Engine)| {
        let engine = Arc::clone(&engine);
        let job = move || {
            if catch_unwind(AssertUnwindSafe(|| job(&engine))).is_err() {
                // Without it the store would fill up and nobody would know why.
                engine.broken.store(true, Ordering::SeqCst);
                engine.signals.ending.wake();
            }
        };
        let thread = std::thread::Builder::new().name(name.into()).spawn(job);
        thread.map(|thread| threads.push(thread)).map_err(WorkerError::new)
    };
    let spawned = spawn("kriya-flush", flushing::flush_forever)
        .and_then(|()| spawn("kriya-merge", flushing::merge_forever))
        .and_then(|()| spawn("kriya-publish", publishing::publish_forever))
        .and_then(|()| spawn("kriya-collect", collecting::collect_forever))
        .and_then(|()| spawn("kriya-lease", lease::keep_forever))
        .and_then(|()| spawn("kriya-link", sealing::link_forever))
        .and_then(|()| spawn("kriya-seal", sealing::seal_forever));
    engine.control.set_state(State::Serving);
    let server =
        spawned.and_then(|()| Server::start(socket, Door::Open(Arc::clone(&engine))).map_err(WorkerError::new));
    let sessions = server.as_ref().map(Server::sessions).unwrap_or_default();
    let served = server.and_then(|server| {
        let lost = wait_while_usable(&engine);
        engine.control.set_state(State::Stopping);
        engine.sessions.close();
        match lost {
            Some(why) => Err(WorkerError::new(why)),
            None => {
                while !engine.signals.abrupt() && !engine.sessions.wait_for_writers(Duration::from_millis(200)) {
                    engine.sessions.cut_writers_after(NEWCOMERS_WAIT);
                }
                drop(server);
                Ok(())
            }
        }
    });
    engine.signals.end(if served.is_ok() { Ending::Finishing } else { Ending::Abrupt });
    for thread in threads {
        // A panic was noticed where it happened.
        let _ = thread.join();
    }
    let ended = match served {
        Ok(()) if !engine.signals.abrupt() => last::last_flush(&engine),
        other => other,
    };
    engine.sessions.cut();
    sessions.join();
    if !engine.signals.abrupt() && ended.is_ok() {
        // A folder that nothing is in may go on with any other bucket.
        let empty = flushing::holds_anything(&engine) == Ok(false);
        let store = engine.store.clone();
        let closed =
            engine.runtime.block_on(async { if empty { store.close_empty().await } else { store.close().await } });
        closed.map_err(WorkerError::new)?;
        if let Some(tenancy) = &engine.tenancy {
            tenancy.give_up(&engine.runtime);
        }
        let mark = engine.config.clean_mark();
        File::create(&mark).and_then(|file| file.sync_all()).map_err(WorkerError::new)?;
    }
    ended
}

/// Waits for the end; says why the store became unusable if it did.
fn wait_while_usable(engine: &Engine) -> Option<String> {
    loop {
        engine.signals.ending.wait(Duration::from_secs(60));
        if let Err(why) = engine.store.view() {
            return Some(why.to_string());
        }
        if engine.broken.load(Ordering::SeqCst) {
            return Some("a background thread of the storage worker panicked".into());
        }
        if engine.signals.ending() != Ending::No {
            return None;
        }
        if engine.live.take_change() && reconfigure(engine) {
            return None;
        }
    }
}

/// Takes over what can be; says whether the worker should end, so that the next one starts with the new settings.
fn reconfigure(engine: &Engine) -> bool {
    let asked = engine.live.asked();
    engine.store.set_memtable_bytes(asked.memtable_bytes);
    if asked.is_place_of(&engine.config) {
        engine.live.set_pending(None);
        return false;
    }
    let holds = flushing::holds_anything(engine).unwrap_or_else(|error| {
        engine.complain(format!("looking for tables failed: {error}"));
        true
    });
    if !holds {
        engine.host.report(Level::Log, "where objects are kept has changed, and there are none: starting again");
        return true;
    }
    let kept = engine.config.place();
    engine.live.set_pending(Some(asked.place()));
    engine.host.report(
        Level::Warning,
        &format!(
            "tables stay in {kept}, although the settings now name {}: tables that exist would be lost there. Restore the \
             settings, or drop the tables and restart the server",
            asked.place()
        ),
    );
    false
}

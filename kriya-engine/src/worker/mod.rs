//! The storage worker: the one process that writes.
//!
//! [`start`] spawns everything and returns; the caller's thread then serves the calls of its [`Host`] until
//! [`WorkerHandle::finished`] says how it ended. Threads: one that starts and ends the worker, one that accepts, one per
//! session, one each for flushing, merging, linking and sealing, a small async runtime for objects, and a pool for builds.
//!
//! Locks are taken in this order, and none is held while waiting for the host except where said: an index's append lock,
//! the counters (which log a ceiling through the host), the store's writer, the table of row locks. The host's thread takes none of them.

mod active;
mod build;
mod counters;
mod engine;
mod fence;
mod flushing;
mod history;
mod host;
mod indexes;
mod lease;
mod locking;
mod locks;
mod owner;
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
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use lsmstore::FlushOptions;

use crate::control::{Control, State};
use engine::{Ending, Engine, Signals};
pub use host::{Facts, Host, HostError, Level, LogChunk, LogRange, LogRecord, XidState};
use server::{Door, Order, Server};
use startup::StartError;

/// How long an orderly stop waits for the object store; nothing is lost without it.
const LAST_PUBLICATION: Duration = Duration::from_secs(20);

/// Where objects are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Endpoint {
    /// A folder beside the worker's other files.
    Local,
    /// Memory of the worker: gone with it.
    Memory,
    /// An object store at this URL.
    Url(String),
}

impl Endpoint {
    /// For the status: without anything secret.
    pub(crate) fn name(&self) -> String {
        match self {
            Endpoint::Local => "local".into(),
            Endpoint::Memory => "memory".into(),
            Endpoint::Url(url) => match url.split_once('@') {
                Some((_, place)) => place.into(),
                None => url.clone(),
            },
        }
    }
}

/// How a worker is set up.
#[derive(Debug, Clone)]
pub struct WorkerConfig {
    /// Folder of the worker, made if missing, for its owner alone: lock, socket, mirrors, and objects if they are local.
    pub dir: PathBuf,
    /// Where objects are kept.
    pub endpoint: Endpoint,
    /// Bucket; part of the objects' names for the endpoints that have no buckets.
    pub bucket: String,
    /// Prefix of all names in the bucket; may be empty.
    pub prefix: String,
    /// Bytes of a memtable.
    pub memtable_bytes: usize,
    /// How often what was written is flushed.
    pub flush_interval: Duration,
    /// What may wait for an object store that is slow or down: bytes of tables on the local disk, then writers wait; bytes
    /// of log, then it is kept from the local disk's position on only.
    pub backlog_bytes: u64,
    /// For a bucket that other servers can reach: how often this one says in it that it uses it. `None`: never.
    pub lease: Option<Duration>,
    /// Version of the build, for the status.
    pub version: String,
}

impl WorkerConfig {
    /// The socket on which a worker with this folder serves.
    pub fn socket(dir: &Path) -> PathBuf {
        dir.join("worker.sock")
    }

    fn store_dir(&self) -> PathBuf {
        self.dir.join("store")
    }

    pub(crate) fn mirror_dir(&self) -> PathBuf {
        self.store_dir().join("mirror")
    }

    fn segments_dir(&self) -> PathBuf {
        self.dir.join("segments")
    }

    fn objects_dir(&self) -> PathBuf {
        self.dir.join("objects")
    }

    fn object_prefix(&self) -> String {
        let (bucket, prefix) = (self.bucket.trim_matches('/'), self.prefix.trim_matches('/'));
        [bucket, prefix].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/")
    }

    fn clean_mark(&self) -> PathBuf {
        self.dir.join("CLEAN")
    }

    /// Whether the last stop was orderly, so that local files are what was written; it is told once.
    fn take_clean_mark(&self) -> bool {
        std::fs::remove_file(self.clean_mark()).is_ok()
    }
}

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
    let for_thread = Arc::clone(&signals);
    let thread = std::thread::Builder::new().name("kriya-worker".into()).spawn(move || run(config, host, &for_thread));
    let (thread, result) = match thread {
        Ok(thread) => (Some(thread), None),
        Err(error) => (None, Some(Err(WorkerError::new(format!("no thread for the worker: {error}"))))),
    };
    WorkerHandle { signals, thread: Mutex::new(thread), result: Mutex::new(result) }
}

fn run(config: WorkerConfig, host: Arc<dyn Host>, signals: &Arc<Signals>) -> Result<(), WorkerError> {
    let _lock = prepare(&config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("kriya-io")
        .enable_all()
        .build()
        .map_err(WorkerError::new)?;
    let control = Arc::new(Control::create().map_err(WorkerError::new)?);
    let socket = WorkerConfig::socket(&config.dir);
    let open = |takeover| {
        let (config, host) = (config.clone(), Arc::clone(&host));
        startup::open(config, host, runtime.handle(), Arc::clone(&control), Arc::clone(signals), takeover)
    };
    let mut opened = open(None);
    let result = loop {
        match opened {
            Err(StartError::Failed(message)) => break Err(WorkerError::new(message)),
            Err(StartError::Refused { message, hint }) => {
                host.report(Level::Warning, &format!("the store cannot be used: {message}"));
                let (orders, ordered) = mpsc::channel();
                let door = Door::Refused { message: message.clone(), hint, orders };
                let server = Server::start(&socket, door).map_err(WorkerError::new)?;
                let Some(order) = wait_for_order(signals, &ordered) else { break Err(WorkerError::new(message)) };
                drop(server);
                opened = open(Some(order.takeover));
                // Who gave the order may be gone.
                let _ = order.outcome.send(outcome(&opened));
            }
            Ok(engine) => break serve(Arc::new(engine), &socket),
        }
    };
    // Whatever async work is left is abandoned, as in a crash; an orderly end has none.
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

/// Waits for an order to take the bucket over; none if the worker's end comes first.
fn wait_for_order(signals: &Signals, orders: &mpsc::Receiver<Order>) -> Option<Order> {
    while signals.ending() == Ending::No {
        if let Ok(order) = orders.recv_timeout(Duration::from_millis(200)) {
            return Some(order);
        }
    }
    None
}

/// What is told of a takeover to who ordered it.
fn outcome(opened: &Result<Engine, StartError>) -> Result<String, (String, String)> {
    match opened {
        Ok(engine) => Ok(engine.taken_over.clone()),
        Err(StartError::Failed(message)) => Err((message.clone(), String::new())),
        Err(StartError::Refused { message, hint }) => Err((message.clone(), hint.clone())),
    }
}

/// Makes the folders and takes the lock, which is held as long as the worker lives.
fn prepare(config: &WorkerConfig) -> Result<File, WorkerError> {
    let failed = |path: &Path| {
        let path = path.display().to_string();
        move |error: std::io::Error| WorkerError::new(format!("{path}: {error}"))
    };
    for dir in [config.dir.clone(), config.store_dir(), config.segments_dir()] {
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
                while !engine.signals.abrupt() && !engine.sessions.wait_for_writers(Duration::from_millis(200)) {}
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
        Ok(()) if !engine.signals.abrupt() => last_flush(&engine),
        other => other,
    };
    engine.sessions.cut();
    sessions.join();
    if !engine.signals.abrupt() && ended.is_ok() {
        let closed = engine.runtime.block_on(engine.store.clone().close());
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
    }
}

fn last_flush(engine: &Engine) -> Result<(), WorkerError> {
    let flush = |options| {
        engine.runtime.block_on(engine.store.flush_local(options)).map_err(WorkerError::new)?;
        let publish = async { tokio::time::timeout(LAST_PUBLICATION, engine.store.publish()).await };
        let published = engine.runtime.block_on(publish);
        let why = match published {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "the object store is too slow".to_owned(),
        };
        Err(WorkerError::new(format!("what is on the local disk and in the log is not in the bucket yet: {why}")))
    };
    // Sealing writes to the store, which nobody but this thread flushes any more.
    flush(FlushOptions::default())?;
    sealing::seal_all(engine, true);
    flush(FlushOptions { clean: true, force: true })
}

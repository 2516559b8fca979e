//! The background worker `kriya storage worker`: one per server.
//!
//! Its main thread is the only one that calls Postgres. The engine's threads (made with all signals blocked) send it
//! jobs over a channel; an eventfd wakes it from its latch. Everything else is the engine's: see `kriya_engine::worker`.
//!
//! It is started from `shared_preload_libraries`, or by the first session that needs it. It ends with exit code 1, for
//! 0 would tell the postmaster never to start it again; only a worker that a session started and that could not serve
//! (because another one does, say) ends with 0: the next session in need starts one again.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

#[cfg(feature = "s3")]
use kriya_engine::worker::S3Endpoint;
use kriya_engine::worker::{Endpoint, WorkerConfig, WorkerHandle};
#[cfg(feature = "s3")]
use lsmstore::objects::EndpointUrl;
use pgrx::bgworkers::{BackgroundWorker, BackgroundWorkerBuilder, BgWorkerStartTime, SignalWakeFlags};
use pgrx::prelude::*;
use rustix::event::EventfdFlags;

use crate::host::{Job, MainThread, SlotHealth, guard};
use crate::settings;

/// Name of the worker, its process title included.
pub const NAME: &str = "kriya storage worker";
const LIBRARY: &str = "kriya_pg";
const MAIN: &str = "kriya_worker_main";
/// How often a server says in a bucket that it uses it: each time is a PUT that is paid for.
const LEASE: Duration = Duration::from_secs(10);
/// How often the bucket is looked through for garbage: a handful of listings each time.
const COLLECT_EVERY: Duration = Duration::from_secs(900);
/// How long the main thread sleeps when nobody wakes it.
const TICK: Duration = Duration::from_secs(1);

fn builder() -> BackgroundWorkerBuilder {
    BackgroundWorkerBuilder::new(NAME)
        .set_type(NAME)
        .set_library(LIBRARY)
        .set_function(MAIN)
        .enable_spi_access()
        .set_start_time(BgWorkerStartTime::RecoveryFinished)
        .set_restart_time(Some(Duration::from_secs(1)))
}

/// Registers the worker while the server starts; called from `shared_preload_libraries` only.
pub fn register() {
    builder().load();
}

/// Starts the worker from a session because nobody serves. Two sessions may do so at once: the engine's lock file lets
/// one worker through, the other ends.
///
/// # Errors
/// A sentence, when the server has no free worker slot.
pub fn start_from_session() -> Result<(), String> {
    // SAFETY: a plain variable of this process.
    let pid = unsafe { pg_sys::MyProcPid };
    builder()
        .set_notify_pid(pid)
        .load_dynamic()
        .map(drop)
        .map_err(|_| "could not start the storage worker: no background worker slot is free".to_owned())
}

/// Folder of the engine, relative to the data directory, which is the working directory of every server process: a
/// relative socket path cannot be too long.
pub fn folder() -> PathBuf {
    PathBuf::from("kriya")
}

/// Runs `f` with all signals blocked in this thread, so that the threads it makes never run Postgres' handlers.
fn with_signals_blocked<R>(f: impl FnOnce() -> R) -> R {
    // SAFETY: the sets are initialised by sigfillset and pthread_sigmask before they are read.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        let mut old: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut old);
        let result = f();
        libc::pthread_sigmask(libc::SIG_SETMASK, &old, std::ptr::null_mut());
        result
    }
}

#[cfg(feature = "s3")]
fn s3_endpoint(url: &str) -> Result<Endpoint, String> {
    let given = |setting| Some(settings::text(setting)).filter(|text| !text.is_empty());
    Ok(Endpoint::S3(S3Endpoint {
        url: EndpointUrl::parse(url).map_err(|error| error.to_string())?,
        region: settings::text(&settings::REGION),
        path_style: match settings::text(&settings::PATH_STYLE).as_str() {
            "on" => Some(true),
            "off" => Some(false),
            _ => None,
        },
        ca_file: given(&settings::CA_FILE).map(PathBuf::from),
        credentials: settings::credentials(),
    }))
}

#[cfg(not(feature = "s3"))]
fn s3_endpoint(_url: &str) -> Result<Endpoint, String> {
    Err("this library was built without S3".to_owned())
}

fn configuration() -> Result<WorkerConfig, String> {
    let endpoint = match settings::text(&settings::ENDPOINT).as_str() {
        "local" => Endpoint::Local,
        "memory" => Endpoint::Memory,
        url => s3_endpoint(url)?,
    };
    let cache = settings::text(&settings::CACHE_DIR);
    let cache_megabytes = u64::try_from(settings::CACHE_SIZE_MB.get()).map_err(|e| e.to_string())?;
    let megabytes = usize::try_from(settings::MEMTABLE_SIZE_MB.get()).map_err(|e| e.to_string())?;
    let interval = u64::try_from(settings::FLUSH_INTERVAL_MS.get()).map_err(|e| e.to_string())?;
    Ok(WorkerConfig {
        dir: folder(),
        cache_dir: (!cache.is_empty()).then(|| PathBuf::from(cache)),
        cache_bytes: cache_megabytes << 20,
        lease: (!matches!(endpoint, Endpoint::Local | Endpoint::Memory)).then_some(LEASE),
        endpoint,
        bucket: settings::text(&settings::BUCKET),
        prefix: settings::text(&settings::PREFIX),
        memtable_bytes: megabytes << 20,
        flush_interval: Duration::from_millis(interval),
        backlog_bytes: u64::try_from(settings::BACKLOG_MB.get()).map_err(|e| e.to_string())? << 20,
        retention: Duration::from_secs(
            60 * u64::try_from(settings::RETENTION_MINUTES.get()).map_err(|e| e.to_string())?,
        ),
        collect_every: COLLECT_EVERY,
        version: env!("CARGO_PKG_VERSION").to_owned(),
    })
}

/// Sleeps until a job arrives, a signal came or the tick has passed. False: the worker was asked to stop.
fn wait(wake: &OwnedFd) -> bool {
    let events = pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH | pg_sys::WL_SOCKET_READABLE;
    // SAFETY: the latch is this process' own, the descriptor is open for the call.
    unsafe {
        pg_sys::WaitLatchOrSocket(
            pg_sys::MyLatch,
            events as i32,
            wake.as_raw_fd(),
            TICK.as_millis() as i64,
            pg_sys::PG_WAIT_EXTENSION,
        );
        pg_sys::ResetLatch(pg_sys::MyLatch);
    }
    let mut count = [0u8; 8];
    // Non-blocking: nothing to read means that something else woke us.
    let _ = rustix::io::read(wake, &mut count);
    !BackgroundWorker::sigterm_received()
}

fn serve(jobs: &Receiver<Job>, wake: &OwnedFd, host: &MainThread, handle: &WorkerHandle) -> Option<String> {
    let (mut stopping, mut slot) = (false, SlotHealth::Kept);
    loop {
        let now = host.look_after_slot(slot);
        match now {
            SlotHealth::KeptForUs if now != slot => handle.flush_soon(),
            // Again and again: who could not do it now may be able to the next time.
            SlotHealth::RunsOut | SlotHealth::Lost => handle.log_runs_out(),
            _ => {}
        }
        slot = now;
        // Barriers of DROP DATABASE and the like wait for every process to have seen them.
        let _ = guard(|| {
            check_for_interrupts!();
        });
        if !wait(wake) && !stopping {
            stopping = true;
            handle.stop();
        }
        if BackgroundWorker::sighup_received() {
            // SAFETY: the main thread, outside of any transaction.
            let read = guard(|| unsafe { pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP) });
            match read.map_err(|error| error.to_string()).and_then(|()| configuration()) {
                Ok(config) => handle.reconfigure(config),
                Err(message) => warning!("{NAME}: the settings were not taken over: {message}"),
            }
        }
        while let Ok(job) = jobs.try_recv() {
            job();
        }
        if let Some(result) = handle.finished() {
            return result.err().map(|error| error.to_string());
        }
    }
}

/// Entry point of the worker process.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn kriya_worker_main(_argument: pg_sys::Datum) {
    BackgroundWorker::attach_signal_handlers(SignalWakeFlags::SIGHUP | SignalWakeFlags::SIGTERM);
    // SAFETY: the main thread of a fresh worker; no database, so that none of them is blocked by it.
    unsafe { pg_sys::BackgroundWorkerInitializeConnection(std::ptr::null(), std::ptr::null(), 0) };
    // SAFETY: a plain variable of this process.
    if unsafe { pg_sys::IsBinaryUpgrade } {
        return;
    }
    let (sender, jobs): (Sender<Job>, Receiver<Job>) = channel();
    let wake = match rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK) {
        Ok(wake) => Arc::new(wake),
        Err(error) => error!("kriya storage worker: no descriptor to be woken by: {error}"),
    };
    let config = configuration().unwrap_or_else(|message| error!("kriya storage worker: {message}"));
    let host = Arc::new(MainThread::new(sender, Arc::clone(&wake)));
    let for_engine = Arc::clone(&host);
    let handle = with_signals_blocked(|| kriya_engine::worker::start(config, for_engine));
    log!("{NAME} started");
    let failure = serve(&jobs, &wake, &host, &handle);
    match &failure {
        Some(message) => log!("{NAME} ended: {message}"),
        None => log!("{NAME} stopped"),
    }
    let again = failure.is_none() || crate::was_preloaded();
    // SAFETY: the regular way out of a server process; 1 asks the postmaster to start the worker again.
    unsafe { pg_sys::proc_exit(again.into()) };
}

//! What the engine's threads ask of Postgres: jobs that the worker's main thread runs one by one.
//!
//! A job runs under a guard that turns a Postgres error into a [`HostError`]; a transaction it had open is rolled back.

use std::ffi::{c_char, c_void};
use std::os::fd::OwnedFd;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, sync_channel};

use kriya_engine::record;
use kriya_engine::worker::{Facts, Host, HostError, KeptLog, Level, LogChunk, LogRange, LogRecord, XidState};
use pgrx::prelude::*;

use crate::glue;
use crate::xid::{FullXid, lower};

/// Something to be run on the main thread.
pub type Job = Box<dyn FnOnce() + Send>;

/// What becomes of the log that the store still needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotHealth {
    /// It is kept.
    Kept,
    /// It is kept for our slot alone.
    KeptForUs,
    /// It will not be kept for much longer.
    RunsOut,
    /// It is gone, or kept by nobody.
    Lost,
}

/// The engine's way to the main thread.
pub struct MainThread {
    jobs: Sender<Job>,
    wake: Arc<OwnedFd>,
    /// From where on the slot keeps the log; 0 before it was set.
    kept_from: AtomicU64,
}

impl MainThread {
    /// `wake` is the eventfd on which the main thread waits beside its latch.
    pub fn new(jobs: Sender<Job>, wake: Arc<OwnedFd>) -> MainThread {
        MainThread { jobs, wake, kept_from: AtomicU64::new(0) }
    }

    /// Looks whether the log that the store needs is kept, and warns when that has become worse. Called by the main
    /// thread on every round.
    pub fn look_after_slot(&self, before: SlotHealth) -> SlotHealth {
        let position = self.kept_from.load(Ordering::Relaxed);
        if position == 0 {
            return before;
        }
        // SAFETY: the main thread; reads of shared memory.
        let now = match unsafe { glue::kriya_slot_health(position) } {
            0 => SlotHealth::Kept,
            1 => SlotHealth::KeptForUs,
            2 => SlotHealth::RunsOut,
            _ => SlotHealth::Lost,
        };
        if now == SlotHealth::Lost && before != now {
            warning!(
                "{}: write-ahead log that is not in the object store yet is no longer kept; the next flush makes up for it, a crash before would not be recovered from. Raise max_slot_wal_keep_size",
                crate::worker::NAME
            );
        }
        now
    }

    fn run<R: Send + 'static>(&self, job: impl FnOnce() -> R + Send + 'static) -> Result<R, HostError> {
        let (reply, answer) = sync_channel(1);
        let guarded = move || {
            let _ = reply.send(guard(job));
        };
        self.jobs.send(Box::new(guarded)).map_err(|_| ended())?;
        let _ = rustix::io::write(&*self.wake, &1u64.to_ne_bytes());
        answer.recv().map_err(|_| ended())?
    }
}

/// Lets base backups know of the slot.
fn remember_slot() {
    if let Err(error) = crate::slot::remember() {
        warning!("{}: the replication slot's file could not be copied: {error}", crate::worker::NAME);
    }
}

fn ended() -> HostError {
    HostError::new("the server process that keeps the log has ended")
}

/// Runs a job; an error of Postgres becomes a value, and whatever transaction it left open is rolled back.
pub fn guard<R>(job: impl FnOnce() -> R) -> Result<R, HostError> {
    let job = AssertUnwindSafe(move || Ok(job()));
    PgTryBuilder::new(job)
        .catch_others(|error| {
            // SAFETY: the main thread; the functions are made for this situation. Locks that the failed call held
            // inside Postgres are released as after any error in a process without a session.
            unsafe {
                glue::kriya_after_error();
                if pg_sys::IsTransactionState() || pg_sys::IsAbortedTransactionBlockState() {
                    pg_sys::AbortCurrentTransaction();
                }
            }
            Err(if is_gone(&error) { HostError::gone(message(&error)) } else { HostError::new(message(&error)) })
        })
        .execute()
}

/// Whether a file is not there, or not what it should be: `kriya_log_read` says so of the log.
fn is_gone(error: &pgrx::pg_sys::panic::CaughtError) -> bool {
    use pgrx::pg_sys::errcodes::PgSqlErrorCode::{ERRCODE_DATA_CORRUPTED, ERRCODE_UNDEFINED_FILE};
    use pgrx::pg_sys::panic::CaughtError;
    match error {
        CaughtError::PostgresError(report) | CaughtError::ErrorReport(report) => {
            matches!(report.sql_error_code(), ERRCODE_DATA_CORRUPTED | ERRCODE_UNDEFINED_FILE)
        }
        CaughtError::RustPanic { .. } => false,
    }
}

fn message(error: &pgrx::pg_sys::panic::CaughtError) -> String {
    use pgrx::pg_sys::panic::CaughtError;
    match error {
        CaughtError::PostgresError(report) | CaughtError::ErrorReport(report) => match report.detail() {
            Some(detail) => format!("{} ({detail})", report.message()),
            None => report.message().to_owned(),
        },
        CaughtError::RustPanic { ereport, .. } => ereport.message().to_owned(),
    }
}

struct Reading {
    chunk: LogChunk,
    bytes: usize,
    limit: usize,
}

unsafe extern "C-unwind" fn each_record(
    context: *mut c_void,
    start: u64,
    end: u64,
    data: *const c_char,
    length: u32,
) -> bool {
    // SAFETY: `context` is the Reading of the call below, nobody else uses it meanwhile; `data` covers `length` bytes.
    let (reading, payload) = unsafe {
        (&mut *context.cast::<Reading>(), std::slice::from_raw_parts(data.cast::<u8>(), length as usize).to_vec())
    };
    reading.bytes += payload.len();
    reading.chunk.records.push(LogRecord { start, end, payload });
    reading.bytes < reading.limit
}

impl Host for MainThread {
    fn facts(&self) -> Result<Facts, HostError> {
        self.run(|| {
            // SAFETY: plain reads of shared state on the main thread.
            unsafe {
                Facts {
                    system_identifier: pg_sys::GetSystemIdentifier(),
                    timeline: glue::kriya_log_timeline(),
                    next_xid: pg_sys::ReadNextFullTransactionId().value,
                }
            }
        })
    }

    fn position(&self) -> Result<u64, HostError> {
        // SAFETY: a read under a spinlock, on the main thread.
        self.run(|| unsafe { glue::kriya_log_position() })
    }

    fn redo(&self) -> Result<u64, HostError> {
        // SAFETY: a read under a spinlock, on the main thread.
        self.run(|| unsafe { pg_sys::GetRedoRecPtr() })
    }

    fn log(&self, records: Vec<Vec<u8>>, flush: bool) -> Result<LogRange, HostError> {
        self.run(move || {
            // SAFETY: the main thread; each record is a whole vector that lives through the call.
            unsafe {
                let (mut first, mut end) = (None, glue::kriya_log_position());
                for record in &records {
                    let mut start = 0;
                    end = glue::kriya_log_insert(
                        record.as_ptr().cast(),
                        record.len() as u32,
                        std::ptr::null(),
                        0,
                        true,
                        &mut start,
                    );
                    first.get_or_insert(start);
                }
                let start = first.unwrap_or(end);
                if flush {
                    pg_sys::XLogFlush(end);
                }
                LogRange { start, end }
            }
        })
    }

    fn read_log(&self, from: u64, upto: u64, max_bytes: usize) -> Result<LogChunk, HostError> {
        self.run(move || {
            let mut reading = Reading {
                chunk: LogChunk { records: Vec::new(), next: from, end_reached: false },
                bytes: 0,
                limit: max_bytes,
            };
            // SAFETY: the context outlives the call, the magic is a constant.
            let next = unsafe {
                glue::kriya_log_read(
                    from,
                    upto,
                    record::MAGIC.as_ptr().cast(),
                    record::MAGIC.len() as u32,
                    each_record,
                    (&raw mut reading).cast(),
                )
            };
            reading.chunk.next = next;
            reading.chunk.end_reached = next >= upto;
            reading.chunk
        })
    }

    fn ensure_slot(&self, position: u64) -> Result<(), HostError> {
        let kept = self.run(move || {
            // SAFETY: the main thread, which holds no other slot.
            let kept = unsafe { glue::kriya_slot_keep(position) };
            remember_slot();
            kept
        })?;
        self.kept_from.store(position, Ordering::Relaxed);
        if kept {
            return Ok(());
        }
        Err(HostError::gone(format!(
            "write-ahead log from {:X}/{:X} on, which is not in the object store yet, has been removed",
            position >> 32,
            position & 0xFFFF_FFFF
        )))
    }

    fn advance_slot(&self, position: u64) -> Result<(), HostError> {
        self.run(move || {
            // SAFETY: the main thread, which holds no other slot.
            unsafe { glue::kriya_slot_advance(position) };
            remember_slot();
        })?;
        self.kept_from.store(position, Ordering::Relaxed);
        Ok(())
    }

    fn kept(&self) -> Result<KeptLog, HostError> {
        self.run(|| {
            let mut lost = false;
            // SAFETY: reads of shared memory on the main thread.
            let from = unsafe { glue::kriya_slot_position(&mut lost) };
            KeptLog { from: (from != 0).then_some(from), lost }
        })
    }

    fn resolve(&self, xids: &[u64]) -> Result<Vec<XidState>, HostError> {
        let xids = xids.to_vec();
        self.run(move || {
            // SAFETY: a short transaction of the main thread. The fresh snapshot makes the process' idea of the oldest
            // running transaction current, without which old xids would be misjudged after 2^31 of them.
            unsafe {
                pg_sys::StartTransactionCommand();
                pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
                let next = FullXid(pg_sys::ReadNextFullTransactionId().value);
                let states = xids
                    .iter()
                    .map(|&xid| match lower(xid) {
                        _ if FullXid(xid) >= next => XidState::Aborted,
                        xid if pg_sys::TransactionIdIsInProgress(xid) => XidState::InProgress,
                        xid if pg_sys::TransactionIdDidCommit(xid) => XidState::Committed,
                        _ => XidState::Aborted,
                    })
                    .collect();
                pg_sys::PopActiveSnapshot();
                pg_sys::CommitTransactionCommand();
                states
            }
        })
    }

    fn barrier(&self) -> Result<(), HostError> {
        self.run(|| {
            // SAFETY: a short transaction of the main thread; the lock is released at its end.
            unsafe {
                pg_sys::StartTransactionCommand();
                glue::kriya_commit_lock(true);
                pg_sys::CommitTransactionCommand();
            }
        })
    }

    fn report(&self, level: Level, message: &str) {
        let message = message.to_owned();
        let _ = self.run(move || match level {
            Level::Warning => warning!("{}: {message}", crate::worker::NAME),
            _ => log!("{}: {message}", crate::worker::NAME),
        });
    }
}

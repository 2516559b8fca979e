//! This backend's connection to the storage worker, and its transaction's unsent writes.
//!
//! # Rules kept here (the log protocol's 4 to 7)
//! * The first message under an xid, each subtransaction's too, is preceded by an announce record.
//! * A batch is sent, acknowledged, then logged with the numbers of the acknowledgement; only then does the call return.
//! * Rows of tables without indexes, and index entries, wait in buffers. They are sent before anything of ours reads,
//!   at the end of a subtransaction, at the end of a statement and before commit; a rolled back subtransaction's buffers are
//!   thrown away. A buffer leaves its place only when it is logged, so a failed sending loses nothing; where it fails in a
//!   subtransaction of the one that filled it, nobody knows whether the worker has it, and that one must not commit.
//! * Before commit: everything is sent, the commit lock is taken, and the worker must be the one we wrote through.

mod buffers;
mod connection;
mod locks;

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kriya_engine::catalogue::IndexDescription;
use kriya_engine::locks::LockMode;
use kriya_engine::record::{self, RecordHead};
use kriya_engine::{Check, CheckLine, ClientError, FlushReport, IndexDefinition, Session, Wait, Written};
use lsmstore::{Batch, View, fail};
use pgrx::prelude::*;

use crate::error::{Failure, OrRaise, raise};
use crate::{glue, worker, xid};

use buffers::Rows;
pub use buffers::{buffer_row, drain};
pub use connection::{PollWait, interrupts, nap};
use connection::{connect, until_served};
use locks::forget_locks;
pub use locks::{Changed, ask, change, fence, holders_for_update, keep_locks, lock};

/// Rows of one message to the worker, at most.
pub const MESSAGE_ROWS: usize = 1000;
/// Bytes of one message to the worker, at most, unless one row alone is larger.
pub const MESSAGE_BYTES: usize = 1 << 20;
const FIRST_LEASE: u32 = 32;
const LARGEST_LEASE: u32 = 8192;

#[derive(Default)]
struct Transaction {
    /// Generation of the worker through which this transaction wrote or locked.
    generation: Option<u64>,
    announced: Vec<u64>,
    /// The strongest row lock that was asked for.
    strongest: Option<LockMode>,
    /// Subtransactions that locked rows, with their levels.
    locked: Vec<(i32, u64)>,
    rows: Option<Rows>,
    /// Pre-commit is over: nothing may wait in a buffer any more.
    committing: bool,
    /// The level of a buffer that could not be sent while a subtransaction was running.
    doomed: Option<i32>,
}

struct Lease {
    generation: u64,
    tids: Range<u64>,
    last: u32,
}

#[derive(Default)]
struct Backend {
    session: Option<Session>,
    transaction: Transaction,
    leases: HashMap<u64, Lease>,
    /// The view that was taken last in this transaction.
    latest: Option<Arc<View>>,
}

thread_local! {
    static BACKEND: RefCell<Backend> = RefCell::default();
}

/// Has the worker try what it needs of its object store.
pub fn check_store() -> Vec<CheckLine> {
    refuse_in_recovery();
    // SAFETY: a plain variable of this process.
    let pid = unsafe { pg_sys::MyProcPid } as u32;
    until_served(|socket| kriya_engine::check_store(socket, pid, &mut PollWait))
}

/// Runs `f` with a live session, connecting first where there is none.
pub fn with<R>(f: impl FnOnce(&mut Session, &mut dyn Wait) -> Result<R, ClientError>) -> R {
    refuse_in_recovery();
    BACKEND.with_borrow_mut(|backend| with_backend(backend, f))
}

/// As [`with`], for a question that changes nothing: if the worker goes away while it is asked, the next one is asked.
pub fn inquire<R>(mut f: impl FnMut(&mut Session, &mut dyn Wait) -> Result<R, ClientError>) -> R {
    for _ in 0..3 {
        let answer = with(|session, wait| match f(session, wait) {
            Err(ClientError::Gone) => Ok(None),
            other => other.map(Some),
        });
        if let Some(answer) = answer {
            return answer;
        }
    }
    with(f)
}

fn with_backend<R>(backend: &mut Backend, f: impl FnOnce(&mut Session, &mut dyn Wait) -> Result<R, ClientError>) -> R {
    if backend.session.as_ref().is_some_and(|session| !session.alive()) {
        (backend.session, backend.latest) = (None, None);
    }
    if backend.session.is_none() && holds_a_page() {
        raise(restarted());
    }
    let session = backend.session.get_or_insert_with(connect);
    f(session, &mut PollWait).unwrap_or_else(|error| raise(Failure::from(error)))
}

/// Whether interrupts are held off, as where a page of an index is locked: others wait for it and cannot be cancelled, so
/// nothing that may take long is waited for.
fn holds_a_page() -> bool {
    // SAFETY: a plain variable of this process.
    unsafe { pg_sys::InterruptHoldoffCount > 0 }
}

fn refuse_in_recovery() {
    // SAFETY: reads of this process' and shared state.
    unsafe {
        if pg_sys::RecoveryInProgress() {
            raise(Failure::unsupported("lsm_s3 tables and lsm_hnsw indexes cannot be read on a standby yet"));
        }
        if !pg_sys::IsUnderPostmaster {
            raise(Failure::unsupported(
                "lsm_s3 tables and lsm_hnsw indexes need a server: single-user mode has no worker",
            ));
        }
    }
}

/// The newest view, without sending what is buffered.
pub fn view_undrained() -> Arc<View> {
    with(|session, wait| session.view(wait))
}

/// True once pre-commit is over: nothing may wait in a buffer any more.
pub fn is_committing() -> bool {
    BACKEND.with_borrow(|backend| backend.transaction.committing)
}

/// The newest view, after everything this transaction has buffered was sent. Pinned until the transaction ends.
pub fn view() -> Arc<View> {
    drain();
    let view = view_undrained();
    at_end(|backend| backend.latest = Some(Arc::clone(&view)));
    view
}

/// A view that is not older than the one of that number (0: the newest there is), whose number takes its place. Cheap
/// where the last one will do.
pub fn view_since(number: &mut u64) -> Arc<View> {
    let latest = BACKEND.with_borrow(|backend| backend.latest.clone());
    match latest {
        Some(view) if *number != 0 && view.number() >= *number => view,
        _ => {
            // Whoever asks on behalf of a locked page asks for rows of indexed tables, which do not wait in buffers.
            let view = if holds_a_page() { view_undrained() } else { view() };
            *number = view.number();
            view
        }
    }
}

/// The generation through which the current transaction writes; fails if the worker changed in between.
fn write_generation(backend: &mut Backend) -> u64 {
    if backend.transaction.generation.is_none() && backend.session.as_ref().is_some_and(|session| !session.serving()) {
        // The worker is stopping and takes no new writers: this one waits for the next worker.
        (backend.session, backend.latest) = (None, None);
    }
    let now = with_backend(backend, |session, _| Ok(session.generation()));
    let then = *backend.transaction.generation.get_or_insert(now);
    if then != now {
        raise(restarted());
    }
    then
}

/// Raises an error if the worker through which this transaction wrote has been replaced: what it logged since may be
/// dropped by a replay.
pub fn check_same_worker() {
    BACKEND.with_borrow_mut(|backend| {
        if backend.transaction.generation.is_some() {
            write_generation(backend);
        }
    });
}

fn restarted() -> Failure {
    Failure::new(
        PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
        "the storage worker was restarted while this transaction was writing",
    )
    .hint("Run the transaction again.")
}

fn cut_short() -> Failure {
    Failure::new(
        PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
        "what this transaction wrote before a subtransaction could not be sent to the storage worker",
    )
    .hint("Run the transaction again.")
}

/// Notes that a buffer of that level could not be sent. Where the level itself ends by it, all is well.
pub fn doom(level: i32) {
    at_end(|backend| {
        // SAFETY: a session's own state.
        if level < unsafe { pg_sys::GetCurrentTransactionNestLevel() } {
            let doomed = &mut backend.transaction.doomed;
            *doomed = Some(doomed.map_or(level, |other| other.min(level)));
        }
    });
}

fn log(kind: record::Kind, backend_generation: u64, sequence: u64, xid: u64, incarnation: u32, body: &[u8]) {
    let head = RecordHead { kind, generation: backend_generation, sequence, xid, incarnation };
    for (header, part) in record::headers(&head, body.len()).or_raise() {
        let (length, part) = (part.len() as u32, body[part].as_ptr().cast());
        // SAFETY: header and body live through the call, which copies them into the log.
        unsafe {
            glue::kriya_log_insert(
                header.as_ptr().cast(),
                header.len() as u32,
                part,
                length,
                false,
                std::ptr::null_mut(),
            );
        }
    }
}

/// Logs, once per xid and before its first message, that this xid writes.
fn announce(backend: &mut Backend, xid: u64) {
    if xid == 0 || backend.transaction.announced.iter().rev().any(|known| *known == xid) {
        return;
    }
    let generation = write_generation(backend);
    let incarnation = with_backend(backend, |session, _| Ok(session.incarnation()));
    log(record::Kind::Announce, generation, 0, xid, incarnation, &[]);
    backend.transaction.announced.push(xid);
    fail::point("after-announce");
}

/// Repeats a request while the worker says that the store is full.
fn patiently<R>(mut request: impl FnMut() -> Option<R>) -> R {
    let (began, mut told) = (Instant::now(), false);
    loop {
        if let Some(result) = request() {
            return result;
        }
        if !told && began.elapsed() > Duration::from_secs(1) {
            told = true;
            ereport!(
                PgLogLevel::NOTICE,
                PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION,
                "waiting until the storage worker has room again: what was written before is not in the object store yet",
                "lsm_s3_status() tells what is in the way; lsm_s3.backlog_mb is how much may wait on the local disk."
            );
        }
        nap(Duration::from_millis(5));
    }
}

/// Logs what was acknowledged.
fn log_batch(backend: &mut Backend, generation: u64, first: u64, xid: u64, batch: &Batch) {
    fail::point("after-ack");
    let incarnation = with_backend(backend, |session, _| Ok(session.incarnation()));
    log(record::Kind::Batch, generation, first, xid, incarnation, batch.as_bytes());
    fail::point("after-log");
}

fn write_now(backend: &mut Backend, xid: u64, batch: &Batch, checks: &[Check]) -> bool {
    announce(backend, xid);
    let generation = write_generation(backend);
    let first =
        patiently(|| match with_backend(backend, |session, wait| session.write(generation, batch, checks, wait)) {
            Written::At(first) => Some(Some(first)),
            Written::Lost => Some(None),
            Written::Busy => None,
        });
    let Some(first) = first else { return false };
    log_batch(backend, generation, first, xid, batch);
    true
}

/// Sends a batch under `xid` (0: under none, as VACUUM does) and logs it. False if a check failed: nothing was written.
pub fn write(xid: u64, batch: &Batch, checks: &[Check]) -> bool {
    refuse_in_recovery();
    drain();
    BACKEND.with_borrow_mut(|backend| write_now(backend, xid, batch, checks))
}

/// What became of a request whose batch the worker composes.
pub enum Composed<R> {
    /// Written: the batch, its first sequence number, what the caller wants to know.
    Written(Batch, u64, R),
    /// The store is full; to be asked again.
    Busy,
    /// Nothing was written.
    Nothing(R),
}

/// Like [`write`] for what the worker itself composes: index entries, a built index.
pub fn write_composed<R>(
    xid: u64,
    mut request: impl FnMut(&mut Session, u64, &mut dyn Wait) -> Result<Composed<R>, ClientError>,
) -> R {
    refuse_in_recovery();
    BACKEND.with_borrow_mut(|backend| {
        announce(backend, xid);
        let generation = write_generation(backend);
        let (written, result) =
            patiently(|| match with_backend(backend, |session, wait| request(session, generation, wait)) {
                Composed::Written(batch, first, result) => Some((Some((batch, first)), result)),
                Composed::Nothing(result) => Some((None, result)),
                Composed::Busy => None,
            });
        if let Some((batch, first)) = written {
            log_batch(backend, generation, first, xid, &batch);
        }
        result
    })
}

/// Begins the building of an index; an earlier one that this session left unfinished is forgotten by the worker.
pub fn begin_build(index: u64, description: &IndexDescription, estimated_rows: u64) {
    refuse_in_recovery();
    BACKEND.with_borrow_mut(|backend| {
        announce(backend, xid::current());
        let generation = write_generation(backend);
        with_backend(backend, |session, wait| {
            let definition = IndexDefinition { id: index, description: description.clone(), estimated_rows };
            session.build_begin(generation, &definition, wait)
        });
    });
}

/// Orders the worker to take over a store that it refused. What came of it, in a sentence.
pub fn take_over(accept_loss: bool) -> String {
    refuse_in_recovery();
    until_served(|socket| Session::take_over(socket, accept_loss, &mut PollWait))
}

/// True if the worker can be spoken to without waiting for it to start.
pub fn is_served() -> bool {
    BACKEND.with_borrow_mut(|backend| {
        if backend.session.as_ref().is_some_and(Session::alive) {
            return true;
        }
        // SAFETY: a plain variable of this process.
        let pid = unsafe { pg_sys::MyProcPid } as u32;
        backend.session = Session::connect(&worker::folder().join("worker.sock"), pid, &mut PollWait).ok();
        backend.session.is_some()
    })
}

/// A new table's or index' id.
pub fn new_id() -> u64 {
    patiently(|| with(|session, wait| session.new_id(wait)))
}

/// Has everything written to the object store. A worker that is stopping leaves that to the next one, unless this
/// transaction wrote through it: then it does not end before the transaction does.
pub fn flush() -> FlushReport {
    refuse_in_recovery();
    drain();
    patiently(|| {
        BACKEND.with_borrow_mut(|backend| {
            let wrote = backend.transaction.generation.is_some();
            if !wrote && backend.session.as_ref().is_some_and(|session| !session.serving()) {
                (backend.session, backend.latest) = (None, None);
            }
            with_backend(backend, |session, wait| match session.flush(wait) {
                Err(error) if session.serving() || matches!(error, ClientError::Interrupted) => Err(error),
                Err(_) if wrote => Err(ClientError::Stopping),
                Err(_) => Ok(None),
                Ok(report) => Ok(Some(report)),
            })
        })
    })
}

/// Which incarnation of the store rows are written in and read from.
pub fn incarnation() -> u32 {
    let known = BACKEND.with_borrow(|backend| backend.session.as_ref().map(Session::incarnation));
    known.unwrap_or_else(|| with(|session, _| Ok(session.incarnation())))
}

/// The next TID of a table; `expected` more are wanted soon.
pub fn next_tid(table: u64, expected: usize) -> u64 {
    refuse_in_recovery();
    BACKEND.with_borrow_mut(|backend| {
        let generation = write_generation(backend);
        if let Some(lease) = backend.leases.get_mut(&table)
            && lease.generation == generation
            && let Some(tid) = lease.tids.next()
        {
            return tid;
        }
        let last = backend.leases.get(&table).map_or(FIRST_LEASE / 2, |lease| lease.last);
        let wanted = u32::try_from(expected).unwrap_or(LARGEST_LEASE);
        let count = last.saturating_mul(2).max(wanted).min(LARGEST_LEASE);
        let mut tids = patiently(|| with_backend(backend, |session, wait| session.lease_tids(table, count, wait)));
        let first = tids.next().unwrap_or_else(|| raise(Failure::internal("the storage worker leased no TIDs")));
        backend.leases.insert(table, Lease { generation, tids, last: count });
        first
    })
}

/// Logs that the current (sub)transaction writes, before the first thing of it is buffered.
pub fn announce_current(xid: u64) {
    refuse_in_recovery();
    BACKEND.with_borrow_mut(|backend| announce(backend, xid));
}

/// True if the current transaction has written, or holds something to be written: both begin with an announcement.
pub fn has_written() -> bool {
    BACKEND.with_borrow(|backend| backend.transaction.generation.is_some())
}

/// Before commit: sends what is left, then takes the commit lock and checks that the worker is still the same one.
pub fn before_commit() {
    drain();
    let wrote = BACKEND.with_borrow_mut(|backend| {
        backend.transaction.committing = true;
        backend.transaction.generation
    });
    let Some(generation) = wrote else { return };
    if BACKEND.with_borrow(|backend| backend.transaction.doomed.is_some()) {
        raise(cut_short());
    }
    // A request that was cancelled under a savepoint has broken the connection: another one to the same worker is as
    // good. Before the lock, for a new worker serves only when nobody holds it.
    BACKEND.with_borrow_mut(write_generation);
    fail::point("before-commit-check");
    // SAFETY: inside a transaction, which releases the lock at its end.
    unsafe { glue::kriya_commit_lock(false) };
    let same = BACKEND.with_borrow(|backend| {
        backend.session.as_ref().is_some_and(|session| session.alive() && session.generation() == generation)
    });
    if !same {
        raise(restarted());
    }
    fail::point("after-commit-check");
}

/// Runs a callback of the end of a (sub)transaction. A process that is told to exit while it waits for the worker comes
/// here with the session borrowed by the frames that will never be returned to: then there is nothing to be done, and
/// nothing that may fail.
fn at_end(callback: impl FnOnce(&mut Backend)) {
    BACKEND.with(|backend| {
        if let Ok(mut backend) = backend.try_borrow_mut() {
            callback(&mut backend);
        }
    });
}

/// At a subtransaction's rollback: its buffered writes never happened.
pub fn forget_level(level: i32) {
    at_end(|backend| {
        if backend.transaction.rows.as_ref().is_some_and(|rows| rows.level >= level) {
            backend.transaction.rows = None;
        }
        backend.transaction.doomed = backend.transaction.doomed.filter(|doomed| *doomed < level);
    });
    crate::index::entries::forget_level(level);
    forget_locks(level);
}

/// At the end of a transaction, committed or not. Sends a hint at most; never fails.
pub fn transaction_ended() {
    at_end(|backend| {
        backend.latest = None;
        let wrote = backend.transaction.generation.is_some();
        backend.transaction = Transaction::default();
        if backend.session.as_ref().is_some_and(|session| !session.alive()) {
            // A request was cut short: with the socket goes whatever the worker still does for it.
            backend.session = None;
        }
        if let Some(session) = backend.session.as_mut() {
            if wrote {
                session.transaction_ended();
            }
            session.unpin();
        }
    });
    crate::index::entries::forget_level(0);
}

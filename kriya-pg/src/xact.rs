//! Callbacks at the ends of transactions and subtransactions.
//!
//! A dropped table or index is recorded before commit, under the dropping transaction's xid, from Postgres' own list of
//! files to be deleted: that list knows of DROP, TRUNCATE, rewrites and cascades alike.

use kriya_engine::keys;
use lsmstore::Batch;
use pgrx::prelude::*;

use crate::compat::Locator;
use crate::error::{Failure, raise};
use crate::{identity, session, xid};

/// Registers the callbacks. Called once, when the library is loaded.
pub fn init() {
    // SAFETY: called while the library is loaded, on the main thread; the callbacks live as long as the process.
    unsafe {
        pg_sys::RegisterXactCallback(Some(at_transaction), std::ptr::null_mut());
        pg_sys::RegisterSubXactCallback(Some(at_subtransaction), std::ptr::null_mut());
        PREVIOUS_START = pg_sys::ExecutorStart_hook;
        pg_sys::ExecutorStart_hook = Some(at_executor_start);
        PREVIOUS_FINISH = pg_sys::ExecutorFinish_hook;
        pg_sys::ExecutorFinish_hook = Some(at_executor_finish);
    }
}

static mut PREVIOUS_START: pg_sys::ExecutorStart_hook_type = None;
static mut PREVIOUS_FINISH: pg_sys::ExecutorFinish_hook_type = None;

/// Before a parallel query: its workers must find what this session has buffered.
#[pg_guard]
unsafe extern "C-unwind" fn at_executor_start(query: *mut pg_sys::QueryDesc, flags: i32) {
    // SAFETY: written once while the library was loaded; the arguments are passed through.
    unsafe {
        if session::has_written() && (*(*query).plannedstmt).parallelModeNeeded {
            session::drain();
        }
        match PREVIOUS_START {
            Some(previous) => previous(query, flags),
            None => pg_sys::standard_ExecutorStart(query, flags),
        }
    }
}

/// At the end of a statement: what it buffered is sent before other statements run. What reads meanwhile, an AFTER trigger
/// say, sends it first.
#[pg_guard]
unsafe extern "C-unwind" fn at_executor_finish(query: *mut pg_sys::QueryDesc) {
    // SAFETY: written once while the library was loaded; the argument is passed through.
    unsafe {
        match PREVIOUS_FINISH {
            Some(previous) => previous(query),
            None => pg_sys::standard_ExecutorFinish(query),
        }
    }
    if session::has_written() {
        session::drain();
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn at_transaction(event: pg_sys::XactEvent::Type, _argument: *mut core::ffi::c_void) {
    use pg_sys::XactEvent::*;
    match event {
        XACT_EVENT_PRE_COMMIT => {
            record_drops();
            session::before_commit();
        }
        XACT_EVENT_PRE_PREPARE if session::has_written() || !dropped_files().is_empty() => raise(Failure::unsupported(
            "PREPARE TRANSACTION is not supported yet in a transaction that changed lsm_s3 tables or lsm_hnsw indexes, or locked rows",
        )),
        XACT_EVENT_COMMIT | XACT_EVENT_ABORT | XACT_EVENT_PREPARE => session::transaction_ended(),
        _ => {}
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn at_subtransaction(
    event: pg_sys::SubXactEvent::Type,
    _own: pg_sys::SubTransactionId,
    _parent: pg_sys::SubTransactionId,
    _argument: *mut core::ffi::c_void,
) {
    use pg_sys::SubXactEvent::*;
    match event {
        // Nothing is sent at the start: an error there would end the connection.
        SUBXACT_EVENT_PRE_COMMIT_SUB => {
            session::drain();
            // SAFETY: a session's own state.
            session::keep_locks(unsafe { pg_sys::GetCurrentTransactionNestLevel() });
        }
        // SAFETY: a session's own state.
        SUBXACT_EVENT_ABORT_SUB => session::forget_level(unsafe { pg_sys::GetCurrentTransactionNestLevel() }),
        _ => {}
    }
}

/// Identities of the files that go if this transaction commits.
fn dropped_files() -> Vec<identity::Identity> {
    let mut files: *mut Locator = std::ptr::null_mut();
    // SAFETY: the list is palloc'd by the call and covers `count` locators.
    let files = unsafe {
        let count = pg_sys::smgrGetPendingDeletes(true, &mut files);
        if count <= 0 {
            return Vec::new();
        }
        std::slice::from_raw_parts(files, count as usize)
    };
    // SAFETY: inside a transaction, before the files are deleted.
    files.iter().filter_map(|&file| unsafe { identity::of_file(file) }).collect()
}

fn record_drops() {
    let dropped = dropped_files();
    // A drop does not wait for a worker that is away: the file is the truth, the mark only lets space be freed.
    if dropped.is_empty() || !session::is_served() {
        return;
    }
    let mut batch = Batch::new();
    for identity in dropped.iter().filter(|identity| identity.incarnation == session::incarnation()) {
        batch.put(&keys::drop_mark(identity.id, xid::current()), &[]);
    }
    if !batch.is_empty() {
        session::write(xid::current(), &batch, &[]);
    }
}

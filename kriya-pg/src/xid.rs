//! 64-bit transaction ids, and the little of Postgres' commit log that a backend asks again and again.
//!
//! Rows carry full transaction ids; Postgres' functions take the lower half. A small direct-mapped cache keeps final
//! states (committed, aborted), so that a scan over rows of few transactions asks Postgres once for each of them.

use std::cell::RefCell;

use pgrx::pg_sys;

/// A transaction id with its epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FullXid(pub u64);

/// The id without its epoch, as Postgres' functions take it.
pub fn lower(xid: u64) -> pg_sys::TransactionId {
    pg_sys::TransactionId::from(xid as u32)
}

/// The current (sub)transaction's id; gives it one if it has none.
pub fn current() -> u64 {
    // SAFETY: a session's own state; raises an error in recovery and in parallel workers.
    unsafe { pg_sys::GetCurrentFullTransactionId().value }
}

/// The current top transaction's id; gives it one if it has none.
pub fn top() -> u64 {
    // SAFETY: as above.
    unsafe { pg_sys::GetTopFullTransactionId().value }
}

/// True if the transaction has neither committed nor rolled back; it belongs to another session.
pub fn is_running(xid: u64) -> bool {
    // SAFETY: a read of shared state about an id that this server assigned.
    unsafe { pg_sys::TransactionIdIsInProgress(lower(xid)) }
}

/// What became of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is the current one or one of its live parents or children.
    Own,
    /// It runs in another session.
    Running,
    /// It committed.
    Committed,
    /// It rolled back, or crashed.
    Aborted,
}

const CACHE: usize = 64;

thread_local! {
    static FINAL: RefCell<[(u64, bool); CACHE]> = const { RefCell::new([(0, false); CACHE]) };
}

fn cached(xid: u64) -> Option<bool> {
    FINAL.with_borrow(|cache| {
        let (key, committed) = cache[xid as usize % CACHE];
        (key == xid).then_some(committed)
    })
}

fn remember(xid: u64, committed: bool) {
    FINAL.with_borrow_mut(|cache| cache[xid as usize % CACHE] = (xid, committed));
}

/// True if the transaction is known to have committed; false says nothing about a running one. The caller has made sure
/// that it is not running, as Postgres' own visibility rules do.
pub fn did_commit(xid: u64) -> bool {
    if let Some(committed) = cached(xid) {
        return committed;
    }
    // SAFETY: the id was assigned by this server; its commit log reaches back to it.
    let committed = unsafe { pg_sys::TransactionIdDidCommit(lower(xid)) };
    if committed {
        remember(xid, true);
    }
    committed
}

/// True if the id belongs to the current transaction or a live subtransaction of it.
pub fn is_own(xid: u64) -> bool {
    // SAFETY: a session's own state.
    unsafe { pg_sys::TransactionIdIsCurrentTransactionId(lower(xid)) }
}

/// What became of a transaction, in the order that avoids the race with one that ends meanwhile: own, running, committed.
pub fn outcome(xid: u64) -> Outcome {
    if is_own(xid) {
        return Outcome::Own;
    }
    if let Some(committed) = cached(xid) {
        return if committed { Outcome::Committed } else { Outcome::Aborted };
    }
    // SAFETY: reads of shared state about an id that this server assigned.
    let (running, committed) = unsafe {
        let running = pg_sys::TransactionIdIsInProgress(lower(xid));
        (running, !running && pg_sys::TransactionIdDidCommit(lower(xid)))
    };
    if running {
        return Outcome::Running;
    }
    remember(xid, committed);
    if committed { Outcome::Committed } else { Outcome::Aborted }
}

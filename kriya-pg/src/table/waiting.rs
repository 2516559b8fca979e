//! Waiting for those who are in the way of a lock or a change.
//!
//! Who waits is Postgres' own business: a session takes the row's place in Postgres' lock table (first come, first
//! served), then waits for the other transaction's own lock. So deadlocks are found, timeouts and cancels work, and
//! `pg_blocking_pids` knows. What lies in the worker says only whom to wait for.

use kriya_engine::locks::{Claim, LockMode, Obstacle};
use pgrx::prelude::*;

use super::version::Version;
use crate::error::{Failure, raise};
use crate::xid::{self, lower};
use crate::{compat, session};

/// How Postgres names the mode of a row lock.
pub fn tuple_mode(mode: LockMode) -> pg_sys::LockTupleMode::Type {
    match mode {
        LockMode::KeyShare => pg_sys::LockTupleMode::LockTupleKeyShare,
        LockMode::Share => pg_sys::LockTupleMode::LockTupleShare,
        LockMode::NoKeyUpdate => pg_sys::LockTupleMode::LockTupleNoKeyExclusive,
        LockMode::Update => pg_sys::LockTupleMode::LockTupleExclusive,
    }
}

/// The mode that Postgres names so.
pub fn lock_mode(mode: pg_sys::LockTupleMode::Type) -> LockMode {
    match mode {
        pg_sys::LockTupleMode::LockTupleKeyShare => LockMode::KeyShare,
        pg_sys::LockTupleMode::LockTupleShare => LockMode::Share,
        pg_sys::LockTupleMode::LockTupleNoKeyExclusive => LockMode::NoKeyUpdate,
        _ => LockMode::Update,
    }
}

/// The session's place in the line for a row. Left by [`Queue::leave`], or by Postgres when an error ends the transaction.
pub struct Queue {
    relation: pg_sys::Relation,
    pointer: pg_sys::ItemPointerData,
    mode: pg_sys::LOCKMODE,
    policy: pg_sys::LockWaitPolicy::Type,
    operation: pg_sys::XLTW_Oper::Type,
    entered: bool,
}

impl Queue {
    /// For a row of an open relation; nothing is taken yet.
    pub fn new(
        relation: pg_sys::Relation,
        pointer: pg_sys::ItemPointerData,
        mode: LockMode,
        policy: pg_sys::LockWaitPolicy::Type,
        operation: pg_sys::XLTW_Oper::Type,
    ) -> Queue {
        // The strengths of the heap's own lines: those who can share a row need not wait for each other.
        let mode = match mode {
            LockMode::KeyShare => pg_sys::AccessShareLock,
            LockMode::Share => pg_sys::RowShareLock,
            LockMode::NoKeyUpdate => pg_sys::ExclusiveLock,
            LockMode::Update => pg_sys::AccessExclusiveLock,
        } as pg_sys::LOCKMODE;
        Queue { relation, pointer, mode, policy, operation, entered: false }
    }

    /// Takes its place, once. False if it would have to wait and shall skip the row instead.
    ///
    /// # Safety
    /// The relation is still open, in a transaction.
    pub unsafe fn enter(&mut self) -> bool {
        if self.entered {
            return true;
        }
        // SAFETY: the caller's promise.
        unsafe {
            if self.policy == pg_sys::LockWaitPolicy::LockWaitBlock {
                pg_sys::LockTuple(self.relation, &mut self.pointer, self.mode);
            } else if !compat::lock_tuple_if_free(self.relation, &mut self.pointer, self.mode) {
                return self.give_up();
            }
        }
        self.entered = true;
        true
    }

    /// Whether the session stands in the line.
    pub fn entered(&self) -> bool {
        self.entered
    }

    /// Waits for the transaction that is changing the row, and for the holders of locks in the way of `claim`: as on heap,
    /// whoever waits for a row waits for all who hold it, then looks again. False if the row shall be skipped instead.
    ///
    /// # Safety
    /// As [`Queue::enter`].
    pub unsafe fn wait_for_change(&mut self, other: u64, number: u64, claim: &mut Claim) -> bool {
        let mut obstacle = session::ask(claim, number);
        obstacle.xids.push(other);
        // SAFETY: the caller's promise.
        unsafe { self.wait_for_all(obstacle, &mut claim.ended) }
    }

    /// Waits until the transaction has ended. False if the row shall be skipped instead.
    ///
    /// # Safety
    /// As [`Queue::enter`].
    pub unsafe fn wait_for(&mut self, xid: u64) -> bool {
        // SAFETY: the caller's promise.
        unsafe { wait_for(self.relation, self.pointer, xid, self.policy, self.operation) }
    }

    /// Waits for those in the way as far as they still run, the oldest first, as the heap does; `ended` learns of those who
    /// do not. Who holds a weaker lock already must not stand behind those who wait for it to go. False if the row shall be
    /// skipped instead.
    ///
    /// # Safety
    /// As [`Queue::enter`].
    pub unsafe fn wait_for_all(&mut self, mut obstacle: Obstacle, ended: &mut Vec<u64>) -> bool {
        obstacle.xids.sort_unstable();
        for xid in obstacle.xids {
            if xid::is_running(xid) {
                // SAFETY: the caller's promise.
                unsafe {
                    if !obstacle.member && !self.enter() || !self.wait_for(xid) {
                        return false;
                    }
                }
            }
            ended.push(xid);
        }
        true
    }

    /// Skips the row, or raises the error of a session that does not want to wait.
    unsafe fn give_up(&self) -> bool {
        // SAFETY: the relation is open.
        unsafe { give_up(self.relation, self.policy) }
    }

    /// Leaves the line.
    ///
    /// # Safety
    /// As [`Queue::enter`].
    pub unsafe fn leave(mut self) {
        if self.entered {
            // SAFETY: the caller's promise; entered above.
            unsafe { pg_sys::UnlockTuple(self.relation, &mut self.pointer, self.mode) };
        }
    }
}

/// Waits until the transaction has ended. False if the row shall be skipped instead.
///
/// # Safety
/// An open relation, in a transaction.
pub unsafe fn wait_for(
    relation: pg_sys::Relation,
    mut pointer: pg_sys::ItemPointerData,
    xid: u64,
    policy: pg_sys::LockWaitPolicy::Type,
    operation: pg_sys::XLTW_Oper::Type,
) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        if policy == pg_sys::LockWaitPolicy::LockWaitBlock {
            pg_sys::XactLockTableWait(lower(xid), relation, &mut pointer, operation);
            return true;
        }
        compat::transaction_has_ended(lower(xid)) || give_up(relation, policy)
    }
}

unsafe fn give_up(relation: pg_sys::Relation, policy: pg_sys::LockWaitPolicy::Type) -> bool {
    if policy == pg_sys::LockWaitPolicy::LockWaitError {
        // SAFETY: the relation is open.
        let name = unsafe { std::ffi::CStr::from_ptr((*(*relation).rd_rel).relname.data.as_ptr()) };
        raise(Failure::new(
            PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE,
            format!("could not obtain lock on row in relation \"{}\"", name.to_string_lossy()),
        ));
    }
    false
}

/// Tells the executor what stands in the way of a change or lock.
///
/// # Safety
/// `data` is the executor's own structure.
pub unsafe fn fail(
    result: pg_sys::TM_Result::Type,
    version: &Version<'_>,
    data: *mut pg_sys::TM_FailureData,
) -> pg_sys::TM_Result::Type {
    let mark = version.mark.map(|(mark, _)| mark);
    // SAFETY: the caller's promise.
    unsafe {
        (*data).ctid = version.successor();
        (*data).xmax = mark.map_or(pg_sys::InvalidTransactionId, |mark| lower(mark.xmax));
        (*data).cmax = match (result, mark) {
            (pg_sys::TM_Result::TM_SelfModified, Some(mark)) => mark.cmax,
            _ => pg_sys::InvalidCommandId,
        };
    }
    result
}

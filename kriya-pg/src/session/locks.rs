//! Row locks of this backend's transaction, as it asks the worker for them.
//!
//! Whoever locks through a worker's generation counts as one who wrote through it: before commit the worker must still be
//! the same one, for its successor knows of no locks.

use kriya_engine::locks::{self, Claim, LockMode, Marked, Obstacle};
use kriya_engine::{Changed as Answer, Check, Locked};
use lsmstore::Batch;
use pgrx::prelude::*;

use super::{
    BACKEND, Composed, at_end, drain, refuse_in_recovery, with, with_backend, write_composed, write_generation,
};
use crate::xid;

/// What came of a change.
#[must_use]
pub enum Changed {
    /// It is written and logged.
    Done,
    /// The row has another mark than expected.
    Lost,
    /// Locks are in the way.
    InTheWay(Obstacle),
}

/// Writes a batch with the mark of a row under `xid` and logs it, if the check holds and no lock is in the way.
pub fn change(xid: u64, batch: &Batch, check: &Check, change: &locks::Change) -> Changed {
    drain();
    write_composed(xid, |session, generation, wait| {
        Ok(match session.change(generation, batch, check, change, wait)? {
            Answer::At(first) => Composed::Written(batch.clone(), first, Changed::Done),
            Answer::Lost => Composed::Nothing(Changed::Lost),
            Answer::InTheWay(obstacle) => Composed::Nothing(Changed::InTheWay(obstacle)),
            Answer::Busy => Composed::Busy,
        })
    })
}

/// Locks versions of a row.
pub fn lock(claim: &Claim, versions: &[Marked]) -> Locked {
    refuse_in_recovery();
    // SAFETY: a session's own state.
    let level = unsafe { pg_sys::GetCurrentTransactionNestLevel() };
    BACKEND.with_borrow_mut(|backend| {
        let generation = write_generation(backend);
        backend.transaction.strongest = backend.transaction.strongest.max(Some(claim.mode));
        // Noted before it is asked for: the answer may be cut off.
        let locked = &mut backend.transaction.locked;
        if level > 1 && !locked.iter().rev().any(|known| *known == (level, claim.xid)) {
            locked.push((level, claim.xid));
        }
        with_backend(backend, |session, wait| session.lock(generation, claim, versions, wait))
    })
}

/// Who is in the way of a claim to a version.
pub fn ask(claim: &Claim, tid: u64) -> Obstacle {
    with(|session, wait| session.ask(claim, tid, wait))
}

/// The subtransactions of the current transaction that hold a row as if to delete it. Asks nobody if none can.
pub fn holders_for_update(table: u64, tid: u64) -> Vec<u64> {
    if BACKEND.with_borrow(|backend| backend.transaction.strongest != Some(LockMode::Update)) {
        return Vec::new();
    }
    let held = with(|session, wait| session.held(table, tid, xid::top(), wait));
    held.into_iter().filter(|(_, mode)| *mode == LockMode::Update).map(|(xid, _)| xid).collect()
}

/// Returns when nothing is on its way to the worker any more that any session sent before.
pub fn fence() {
    with(|session, wait| session.fence(wait));
}

/// At a subtransaction's commit: what it locked is its parent's from now on.
pub fn keep_locks(level: i32) {
    at_end(|backend| {
        for (of, _) in &mut backend.transaction.locked {
            *of = (*of).min(level - 1);
        }
        backend.transaction.doomed = backend.transaction.doomed.map(|doomed| doomed.min(level - 1));
    });
}

/// At a subtransaction's rollback: what it locked is free. The worker would find out when somebody wants it.
pub fn forget_locks(level: i32) {
    at_end(|backend| {
        let locked = &mut backend.transaction.locked;
        let xids: Vec<u64> = locked.iter().filter(|(of, _)| *of >= level).map(|(_, xid)| *xid).collect();
        locked.retain(|(of, _)| *of < level);
        if let Some(session) = backend.session.as_mut().filter(|_| !xids.is_empty()) {
            session.subtransactions_ended(xids);
        }
    });
}

//! Which row versions a snapshot sees: Postgres' own rules (heapam_visibility.c), applied to xmin, xmax and command ids
//! of our rows and deletion marks.
//!
//! The order of the questions is Postgres' too: first whether the transaction is our own, then whether the snapshot or
//! the table of running transactions has it, and only then whether it committed.

use kriya_engine::row::Mark;
use pgrx::pg_sys;

use super::version::Version;
use crate::error::{Failure, raise};
use crate::xid::{self, Outcome, lower};

/// What an UPDATE or DELETE finds: as `HeapTupleSatisfiesUpdate`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Updatable {
    /// Nobody is in the way.
    Ok,
    /// Not there for this command.
    Invisible,
    /// Changed by this transaction, in this command or a later one.
    SelfModified,
    /// Replaced by a newer version, or moved to another partition, committed.
    Updated,
    /// Deleted, committed.
    Deleted,
    /// Changed by this running transaction.
    BeingModified(u64),
}

/// True if `version` is visible to `snapshot`. A dirty snapshot is told of running transactions, as Postgres' does.
///
/// # Safety
/// `snapshot` is a valid snapshot.
pub unsafe fn satisfies(version: &Version<'_>, snapshot: pg_sys::Snapshot) -> bool {
    use pg_sys::SnapshotType::*;
    // SAFETY: the caller's promise.
    unsafe {
        match (*snapshot).snapshot_type {
            SNAPSHOT_MVCC => mvcc(version, &*snapshot),
            SNAPSHOT_SELF => own(version),
            SNAPSHOT_ANY => true,
            SNAPSHOT_DIRTY => dirty(version, &mut *snapshot),
            SNAPSHOT_NON_VACUUMABLE => !is_aborted(version),
            SNAPSHOT_TOAST => raise(Failure::internal("lsm_s3 tables have no TOAST tables")),
            _ => raise(Failure::unsupported("logical decoding does not read lsm_s3 tables")),
        }
    }
}

/// 64-bit order of a row's xid against a snapshot's 32-bit bounds, which are less than 2^31 apart from it.
fn precedes(xid: u64, bound: pg_sys::TransactionId) -> bool {
    ((xid as u32).wrapping_sub(bound.into_inner()) as i32) < 0
}

fn in_snapshot(xid: u64, snapshot: &pg_sys::SnapshotData) -> bool {
    if precedes(xid, snapshot.xmin) {
        return false;
    }
    // SAFETY: a valid snapshot; the function only reads it.
    unsafe { pg_sys::XidInMVCCSnapshot(lower(xid), std::ptr::from_ref(snapshot).cast_mut()) }
}

/// Committed, and before the snapshot: asked of Postgres once for each xid, thereafter answered from the cache.
fn committed_before(xid: u64, snapshot: &pg_sys::SnapshotData) -> bool {
    precedes(xid, snapshot.xmin) && xid::did_commit(xid)
}

fn mvcc(version: &Version<'_>, snapshot: &pg_sys::SnapshotData) -> bool {
    let xmin = version.header.xmin;
    if !committed_before(xmin, snapshot) {
        if xid::is_own(xmin) {
            if version.header.cmin >= snapshot.curcid {
                return false;
            }
            return match version.mark {
                None => true,
                // A mark of someone else on our own row: of a subtransaction of ours that rolled back.
                Some((mark, _)) if !xid::is_own(mark.xmax) => true,
                Some((mark, _)) => mark.cmax >= snapshot.curcid,
            };
        }
        if in_snapshot(xmin, snapshot) || !xid::did_commit(xmin) {
            return false;
        }
    }
    let Some((mark, _)) = version.mark else { return true };
    if committed_before(mark.xmax, snapshot) {
        return false;
    }
    if xid::is_own(mark.xmax) {
        return mark.cmax >= snapshot.curcid;
    }
    in_snapshot(mark.xmax, snapshot) || !xid::did_commit(mark.xmax)
}

fn own(version: &Version<'_>) -> bool {
    match xid::outcome(version.header.xmin) {
        Outcome::Running | Outcome::Aborted => return false,
        Outcome::Own | Outcome::Committed => {}
    }
    match version.mark {
        None => true,
        Some((mark, _)) => matches!(xid::outcome(mark.xmax), Outcome::Running | Outcome::Aborted),
    }
}

fn dirty(version: &Version<'_>, snapshot: &mut pg_sys::SnapshotData) -> bool {
    snapshot.xmin = pg_sys::InvalidTransactionId;
    snapshot.xmax = pg_sys::InvalidTransactionId;
    snapshot.speculativeToken = 0;
    match xid::outcome(version.header.xmin) {
        Outcome::Aborted => return false,
        // In the table, whatever becomes of the mark: the caller waits for its maker.
        Outcome::Running => {
            snapshot.xmin = lower(version.header.xmin);
            // By which the caller waits until it is known whether the row stays.
            snapshot.speculativeToken = version.header.token;
            return true;
        }
        Outcome::Own | Outcome::Committed => {}
    }
    let Some((mark, _)) = version.mark else { return true };
    match xid::outcome(mark.xmax) {
        Outcome::Own | Outcome::Committed => false,
        Outcome::Aborted => true,
        Outcome::Running => {
            snapshot.xmax = lower(mark.xmax);
            true
        }
    }
}

/// True if the transaction that made the version has rolled back.
pub fn is_aborted(version: &Version<'_>) -> bool {
    xid::outcome(version.header.xmin) == Outcome::Aborted
}

/// What a change by the current transaction's command `command` would find.
pub fn updatable(version: &Version<'_>, command: pg_sys::CommandId) -> Updatable {
    match xid::outcome(version.header.xmin) {
        Outcome::Own if version.header.cmin >= command => return Updatable::Invisible,
        Outcome::Own | Outcome::Committed => {}
        Outcome::Running | Outcome::Aborted => return Updatable::Invisible,
    }
    let Some((mark, _)) = version.mark else { return Updatable::Ok };
    match xid::outcome(mark.xmax) {
        Outcome::Own if mark.cmax >= command => Updatable::SelfModified,
        Outcome::Own => Updatable::Invisible,
        Outcome::Aborted => Updatable::Ok,
        Outcome::Running => Updatable::BeingModified(mark.xmax),
        Outcome::Committed if version.next().is_some() || mark.flags & Mark::MOVED != 0 => Updatable::Updated,
        Outcome::Committed => Updatable::Deleted,
    }
}

/// True if the version has no mark, or one that leaves its key as it is; `later`: to one who comes from an earlier version.
pub fn keeps_key(version: &Version<'_>, later: bool) -> bool {
    let changes = if later { Mark::KEY } else { Mark::KEY | Mark::LOCKED };
    version.mark.is_none_or(|(mark, _)| mark.flags & changes == 0)
}

/// What an index build makes of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Buildable {
    /// Indexed, and counted as a live row.
    Live,
    /// Indexed for older snapshots only.
    Dying,
    /// Not indexed.
    Dead,
}

/// As an index build on the heap judges (`HeapTupleSatisfiesVacuum`); nobody can see what was deleted before `oldest`.
pub fn buildable(version: &Version<'_>, oldest: pg_sys::TransactionId) -> Buildable {
    match xid::outcome(version.header.xmin) {
        Outcome::Aborted => return Buildable::Dead,
        Outcome::Own | Outcome::Running | Outcome::Committed => {}
    }
    let Some((mark, _)) = version.mark else { return Buildable::Live };
    match xid::outcome(mark.xmax) {
        Outcome::Aborted | Outcome::Running => Buildable::Live,
        Outcome::Committed if precedes(mark.xmax, oldest) => Buildable::Dead,
        Outcome::Own | Outcome::Committed => Buildable::Dying,
    }
}

//! `tuple_lock`: row locks, and finding the version of a row that counts now.
//!
//! The contract is the heap's (`heapam_tuple_lock`): a row that others have changed is followed to its newest version if
//! the executor wants that, as READ COMMITTED does; a lock that a change does not exclude (a foreign key's beside a change
//! that leaves the key alone) is placed on all versions that came after, so that it holds for whoever deletes the last.

use kriya_engine::Locked;
use kriya_engine::locks::{Claim, LockMode, Marked};
use kriya_engine::row::Mark;
use lsmstore::View;
use pgrx::prelude::*;

use super::version::Version;
use super::visibility::{self, Updatable};
use super::waiting::{Queue, fail, lock_mode, wait_for};
use super::{refuse_serializable, tid};
use crate::error::{Failure, raise};
use crate::xid::{self, Outcome};
use crate::{identity, session};

const FIND_LAST_VERSION: u8 = pg_sys::TUPLE_LOCK_FLAG_FIND_LAST_VERSION as u8;
const LOCK_UPDATE_IN_PROGRESS: u8 = pg_sys::TUPLE_LOCK_FLAG_LOCK_UPDATE_IN_PROGRESS as u8;

struct Wish {
    relation: pg_sys::Relation,
    table: u64,
    command: pg_sys::CommandId,
    mode: LockMode,
    policy: pg_sys::LockWaitPolicy::Type,
    /// Later versions of a row that is being changed are locked too.
    follow: bool,
    data: *mut pg_sys::TM_FailureData,
}

/// What the versions after the wanted one say to the wish.
enum Chain {
    /// These are to be locked, the wanted one first.
    Free(Vec<Marked>),
    /// This transaction is about to change the key.
    Wait(u64),
    /// The key was changed, or the row deleted.
    Fail(pg_sys::TM_Result::Type),
}

/// What became of the row.
enum Found {
    Row(pg_sys::TM_Result::Type),
    /// It lives on in another partition.
    Moved,
}

impl Wish {
    /// Locks one version and stores it in the slot, if there is one, whatever the result. `lines` gets the place that was
    /// taken while waiting: it is kept until the newest version is locked, so that nobody behind gets there first.
    unsafe fn lock(
        &self,
        number: u64,
        slot: *mut pg_sys::TupleTableSlot,
        lines: &mut Vec<Queue>,
    ) -> pg_sys::TM_Result::Type {
        let pointer = tid::pointer(number);
        let mut queue = Queue::new(self.relation, pointer, self.mode, self.policy, pg_sys::XLTW_Oper::XLTW_Lock);
        // SAFETY: the executor's arguments, as `Wish` was made of them.
        let result = unsafe { self.lock_in(number, slot, &mut queue) };
        lines.push(queue);
        result
    }

    /// Locks the version that counts now, starting at the pointer, which follows the row.
    unsafe fn lock_newest(
        &self,
        pointer: pg_sys::ItemPointer,
        slot: *mut pg_sys::TupleTableSlot,
        find_last: bool,
    ) -> Found {
        let mut lines = Vec::new();
        // SAFETY: the executor's arguments.
        unsafe {
            let found = loop {
                let Some(number) = tid::number(*pointer) else { break Found::Row(pg_sys::TM_Result::TM_Deleted) };
                let result = self.lock(number, slot, &mut lines);
                if result != pg_sys::TM_Result::TM_Updated || !find_last {
                    break Found::Row(result);
                }
                (*self.data).traversed = true;
                match self.newest(number, pointer) {
                    Ok(()) => {}
                    Err(found) => break found,
                }
            };
            lines.into_iter().for_each(|queue| queue.leave());
            found
        }
    }

    unsafe fn lock_in(
        &self,
        number: u64,
        slot: *mut pg_sys::TupleTableSlot,
        queue: &mut Queue,
    ) -> pg_sys::TM_Result::Type {
        use pg_sys::TM_Result::*;
        let (transaction, xid) = (xid::top(), xid::current());
        let mut claim = Claim { table: self.table, transaction, xid, mode: self.mode, ended: Vec::new() };
        loop {
            session::interrupts();
            let view = session::view();
            let Some(version) = Version::get(&view, self.table, number) else { return TM_Deleted };
            let found = visibility::updatable(&version, self.command);
            // SAFETY: the executor's arguments; a slot of the table's own kind.
            let end = |result| unsafe {
                if !slot.is_null() {
                    version.store(slot, (*self.relation).rd_id);
                }
                if result == TM_Ok { result } else { fail(result, &version, self.data) }
            };
            let shared = self.mode == LockMode::KeyShare && visibility::keeps_key(&version, false);
            match found {
                Updatable::Ok => {}
                Updatable::Invisible => return end(TM_Invisible),
                Updatable::SelfModified => return end(TM_SelfModified),
                Updatable::Updated | Updatable::BeingModified(_) if shared => {}
                Updatable::Updated => return end(TM_Updated),
                Updatable::Deleted => return end(TM_Deleted),
                Updatable::BeingModified(other) => {
                    // SAFETY: an open relation, in a transaction.
                    if !unsafe { queue.wait_for_change(other, number, &mut claim) } {
                        return end(TM_WouldBlock);
                    }
                    continue;
                }
            }
            let versions = match self.chain(&view, &version) {
                Chain::Free(versions) => versions,
                Chain::Fail(result) => return end(result),
                Chain::Wait(other) => {
                    // SAFETY: an open relation, in a transaction. As the heap, without asking the policy.
                    unsafe {
                        let (block, oper) =
                            (pg_sys::LockWaitPolicy::LockWaitBlock, pg_sys::XLTW_Oper::XLTW_LockUpdated);
                        wait_for(self.relation, version.successor(), other, block, oper);
                    }
                    continue;
                }
            };
            match session::lock(&claim, &versions) {
                Locked::Granted => return end(TM_Ok),
                Locked::Lost => {}
                // SAFETY: an open relation, in a transaction.
                Locked::InTheWay(obstacle) => unsafe {
                    if !queue.wait_for_all(obstacle, &mut claim.ended) {
                        return end(TM_WouldBlock);
                    }
                },
            }
        }
    }

    /// The versions that a lock of `first` must be placed on.
    fn chain(&self, view: &View, first: &Version<'_>) -> Chain {
        let marked = |version: &Version<'_>| (version.number, version.mark.map(|(_, bytes)| bytes.to_vec()));
        let mut versions = vec![marked(first)];
        let mut last = *first;
        while let (true, Some((mark, _)), Some(next)) = (self.follow, last.mark, last.next()) {
            session::interrupts();
            if xid::outcome(mark.xmax) == Outcome::Aborted {
                break;
            }
            let Some(version) = Version::get(view, self.table, next) else { break };
            if version.header.xmin != mark.xmax {
                break;
            }
            if let Some((mark, _)) = version.mark
                && !visibility::keeps_key(&version, true)
            {
                match xid::outcome(mark.xmax) {
                    Outcome::Running => return Chain::Wait(mark.xmax),
                    Outcome::Committed if version.next().is_some() || mark.flags & Mark::MOVED != 0 => {
                        return Chain::Fail(pg_sys::TM_Result::TM_Updated);
                    }
                    Outcome::Committed => return Chain::Fail(pg_sys::TM_Result::TM_Deleted),
                    Outcome::Own | Outcome::Aborted => {}
                }
            }
            versions.push(marked(&version));
            last = version;
        }
        Chain::Free(versions)
    }

    /// From a version that was replaced to the one that counts now, waiting for those who change it.
    unsafe fn newest(&self, replaced: u64, pointer: pg_sys::ItemPointer) -> Result<(), Found> {
        use pg_sys::TM_Result::*;
        let gone = || Found::Row(TM_Deleted);
        let (mut number, mut maker) = (replaced, None);
        loop {
            session::interrupts();
            let view = session::view();
            let version = Version::get(&view, self.table, number).ok_or_else(gone)?;
            if let Some(maker) = maker {
                if version.header.xmin != maker {
                    return Err(gone());
                }
                match version.mark.map(|(mark, _)| (mark.xmax, xid::outcome(mark.xmax))) {
                    None | Some((_, Outcome::Aborted)) if version.header.cmin >= self.command && xid::is_own(maker) => {
                        // SAFETY: the executor's own structure.
                        unsafe {
                            (*self.data).xmax = xid::lower(maker);
                            (*self.data).cmax = version.header.cmin;
                        }
                        return Err(Found::Row(TM_SelfModified));
                    }
                    None | Some((_, Outcome::Aborted)) => return Ok(()),
                    Some((other, Outcome::Running)) => {
                        let operation = pg_sys::XLTW_Oper::XLTW_FetchUpdated;
                        // SAFETY: an open relation, in a transaction.
                        if !unsafe { wait_for(self.relation, *pointer, other, self.policy, operation) } {
                            return Err(Found::Row(TM_WouldBlock));
                        }
                        continue;
                    }
                    Some((_, Outcome::Own | Outcome::Committed)) => {}
                }
            }
            let (mark, _) = version.mark.ok_or_else(gone)?;
            if mark.flags & Mark::MOVED != 0 {
                return Err(Found::Moved);
            }
            number = version.next().ok_or_else(gone)?;
            maker = Some(mark.xmax);
            // SAFETY: the executor's pointer, which follows the row.
            unsafe { *pointer = tid::pointer(number) };
        }
    }
}

/// After waiting for a change of a row that others wait for too: takes the newest version while still first in line, for
/// the executor is going to ask for it at once.
///
/// # Safety
/// An open relation, in a transaction of its command `command`.
pub unsafe fn keep_place(
    relation: pg_sys::Relation,
    mut pointer: pg_sys::ItemPointerData,
    command: pg_sys::CommandId,
    mode: LockMode,
) {
    let mut data = pg_sys::TM_FailureData::default();
    let policy = pg_sys::LockWaitPolicy::LockWaitBlock;
    // SAFETY: the caller's promise. What the row has become, the executor finds out for itself.
    unsafe {
        let table = identity::of(relation).id;
        let wish = Wish { relation, table, command, mode, policy, follow: false, data: &raw mut data };
        let _ = wish.lock_newest(&mut pointer, std::ptr::null_mut(), true);
    }
}

#[pg_guard]
#[allow(clippy::too_many_arguments)]
pub unsafe extern "C-unwind" fn lock(
    relation: pg_sys::Relation,
    pointer: pg_sys::ItemPointer,
    _snapshot: pg_sys::Snapshot,
    slot: *mut pg_sys::TupleTableSlot,
    command: pg_sys::CommandId,
    mode: pg_sys::LockTupleMode::Type,
    policy: pg_sys::LockWaitPolicy::Type,
    flags: u8,
    data: *mut pg_sys::TM_FailureData,
) -> pg_sys::TM_Result::Type {
    refuse_serializable();
    // SAFETY: the executor's arguments.
    unsafe {
        let table = identity::of(relation).id;
        let follow = flags & LOCK_UPDATE_IN_PROGRESS != 0;
        let wish = Wish { relation, table, command, mode: lock_mode(mode), policy, follow, data };
        (*data).traversed = false;
        match wish.lock_newest(pointer, slot, flags & FIND_LAST_VERSION != 0) {
            Found::Row(result) => result,
            Found::Moved => raise(Failure::new(
                PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
                "tuple to be locked was already moved to another partition due to concurrent update",
            )),
        }
    }
}

//! INSERT, COPY, UPDATE, DELETE.
//!
//! Nothing is changed in place: a DELETE writes a mark beside the row, an UPDATE a mark and a new row in one batch. The
//! mark is written by compare-and-set against the mark this session judged the row by, and against the row's locks; who
//! loses reads again. A row of
//! a table with indexes is acknowledged and logged before its index entries are made, for other sessions' unique checks
//! must find it; rows of tables without indexes wait in a buffer.

use kriya_engine::locks::{self, Claim, LockMode};
use kriya_engine::row::{Mark, NO_NEXT};
use kriya_engine::{Check, keys};
use lsmstore::Batch;
use pgrx::prelude::*;

use super::lock::keep_place;
use super::version::{self, Version};
use super::visibility::{self, Updatable};
use super::waiting::{Queue, fail, tuple_mode};
use super::{refuse_serializable, tid};
use crate::error::{Failure, raise};
use crate::session::{MESSAGE_BYTES, MESSAGE_ROWS};
use crate::{glue, identity, session, xid};

/// The number of a new row; tables end where item pointers do.
pub fn new_number(table: u64, expected: usize) -> u64 {
    let number = session::next_tid(table, expected);
    if number >= tid::LIMIT {
        raise(
            Failure::new(
                PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
                "table has used up the row numbers that PostgreSQL can name",
            )
            .hint("Copy its rows into a new table."),
        );
    }
    number
}

/// Tells the slot which row it holds now: RETURNING and triggers look at its system columns.
///
/// # Safety
/// A slot with a row of the open relation.
pub unsafe fn stamp(
    relation: pg_sys::Relation,
    slot: *mut pg_sys::TupleTableSlot,
    number: u64,
    xid: u64,
    command: pg_sys::CommandId,
) {
    // SAFETY: a slot with a row of the open relation. A tuple that the slot does not own is a copy, of no interest.
    unsafe {
        (*slot).tts_tid = tid::pointer(number);
        (*slot).tts_tableOid = (*relation).rd_id;
        let mut owned = false;
        let tuple = pg_sys::ExecFetchSlotHeapTuple(slot, true, &mut owned);
        if owned {
            pg_sys::pfree(tuple.cast());
            return;
        }
        version::stamp(tuple, (*relation).rd_id, number, xid, command);
    }
}

#[pg_guard]
#[allow(clippy::too_many_arguments)]
pub unsafe extern "C-unwind" fn insert(
    relation: pg_sys::Relation,
    slot: *mut pg_sys::TupleTableSlot,
    command: pg_sys::CommandId,
    _options: i32,
    _bulk: *mut pg_sys::BulkInsertStateData,
) {
    refuse_serializable();
    // SAFETY: an open relation, a slot with a row of it. COPY's FREEZE option is ignored.
    unsafe {
        let table = identity::of(relation).id;
        let xid = xid::current();
        let number = new_number(table, 1);
        let value = version::value_of_slot(relation, slot, xid, command, 0);
        if (*(*relation).rd_rel).relhasindex {
            let mut batch = Batch::new();
            batch.put(&keys::row(table, number), &value);
            session::write(xid, &batch, &[]);
        } else {
            session::buffer_row(table, xid, &keys::row(table, number), &value);
        }
        stamp(relation, slot, number, xid, command);
        glue::kriya_count(relation, 1, false, false);
    }
}

#[pg_guard]
#[allow(clippy::too_many_arguments)]
pub unsafe extern "C-unwind" fn multi_insert(
    relation: pg_sys::Relation,
    slots: *mut *mut pg_sys::TupleTableSlot,
    count: i32,
    command: pg_sys::CommandId,
    _options: i32,
    _bulk: *mut pg_sys::BulkInsertStateData,
) {
    refuse_serializable();
    // SAFETY: `count` slots with rows of the open relation.
    unsafe {
        let slots = std::slice::from_raw_parts(slots, usize::try_from(count).unwrap_or(0));
        let table = identity::of(relation).id;
        let xid = xid::current();
        let mut batch = Batch::new();
        let mut rows = 0;
        for &slot in slots {
            let number = new_number(table, slots.len());
            batch.put(&keys::row(table, number), &version::value_of_slot(relation, slot, xid, command, 0));
            stamp(relation, slot, number, xid, command);
            rows += 1;
            if rows >= MESSAGE_ROWS || batch.encoded_len() >= MESSAGE_BYTES {
                session::write(xid, &batch, &[]);
                batch.clear();
                rows = 0;
            }
        }
        if !batch.is_empty() {
            session::write(xid, &batch, &[]);
        }
        glue::kriya_count(relation, slots.len() as i64, false, false);
    }
}

struct Change {
    relation: pg_sys::Relation,
    pointer: pg_sys::ItemPointer,
    command: pg_sys::CommandId,
    crosscheck: pg_sys::Snapshot,
    wait: bool,
    operation: pg_sys::XLTW_Oper::Type,
    data: *mut pg_sys::TM_FailureData,
}

impl Change {
    /// Writes a mark on the row, with `next` in it and `more` in the same batch, once nobody is in the way.
    unsafe fn apply(&self, mode: LockMode, flags: u8, next: u64, more: impl Fn(&mut Batch)) -> pg_sys::TM_Result::Type {
        let block = pg_sys::LockWaitPolicy::LockWaitBlock;
        // SAFETY: the executor's arguments, as `Change` was made of them.
        unsafe {
            let mut queue = Queue::new(self.relation, *self.pointer, mode, block, self.operation);
            let result = self.apply_in(mode, flags, next, more, &mut queue);
            let again = pg_sys::XactIsoLevel < pg_sys::XACT_REPEATABLE_READ as i32;
            if result == pg_sys::TM_Result::TM_Updated && again && queue.entered() {
                keep_place(self.relation, *self.pointer, self.command, mode);
            }
            queue.leave();
            result
        }
    }

    unsafe fn apply_in(
        &self,
        mode: LockMode,
        flags: u8,
        next: u64,
        more: impl Fn(&mut Batch),
        queue: &mut Queue,
    ) -> pg_sys::TM_Result::Type {
        // SAFETY: as above.
        let (table, number) = unsafe {
            let Some(number) = tid::number(*self.pointer) else { return pg_sys::TM_Result::TM_Invisible };
            (identity::of(self.relation).id, number)
        };
        let xid = xid::current();
        let transaction = xid::top();
        let claim = Claim { table, transaction, xid, mode, ended: Vec::new() };
        let mut change = locks::Change { claim, tid: number, next: (next != NO_NEXT).then_some(next) };
        loop {
            session::interrupts();
            let view = session::view();
            let Some(version) = Version::get(&view, table, number) else { return pg_sys::TM_Result::TM_Invisible };
            // SAFETY: as above.
            unsafe {
                match visibility::updatable(&version, self.command) {
                    Updatable::Ok => {}
                    Updatable::Invisible => return pg_sys::TM_Result::TM_Invisible,
                    Updatable::SelfModified => return self.fail(pg_sys::TM_Result::TM_SelfModified, &version),
                    Updatable::Updated => return self.fail(pg_sys::TM_Result::TM_Updated, &version),
                    Updatable::Deleted => return self.fail(pg_sys::TM_Result::TM_Deleted, &version),
                    Updatable::BeingModified(_) if !self.wait => {
                        return self.fail(pg_sys::TM_Result::TM_BeingModified, &version);
                    }
                    Updatable::BeingModified(other) => {
                        drop(view);
                        queue.wait_for_change(other, number, &mut change.claim);
                        continue;
                    }
                }
                if !self.crosscheck.is_null() && !visibility::satisfies(&version, self.crosscheck) {
                    return self.fail(pg_sys::TM_Result::TM_Updated, &version);
                }
            }
            let mark = Mark { flags, incarnation: session::incarnation(), xmax: xid, cmax: self.command, next };
            let mut value = Vec::new();
            mark.encode_into(&mut value);
            let key = keys::mark(table, number);
            let mut batch = Batch::new();
            more(&mut batch);
            batch.put(&key, &value);
            let expected = version.mark.map(|(_, bytes)| bytes.to_vec());
            let check = Check { key: key.to_vec(), expected };
            match session::change(xid, &batch, &check, &change) {
                session::Changed::Done => return pg_sys::TM_Result::TM_Ok,
                session::Changed::Lost => {}
                // SAFETY: as above.
                session::Changed::InTheWay(obstacle) => unsafe {
                    if !self.wait {
                        return self.fail(pg_sys::TM_Result::TM_BeingModified, &version);
                    }
                    drop(view);
                    queue.wait_for_all(obstacle, &mut change.claim.ended);
                },
            }
        }
    }

    unsafe fn fail(&self, result: pg_sys::TM_Result::Type, version: &Version<'_>) -> pg_sys::TM_Result::Type {
        // SAFETY: the executor's own structure.
        unsafe {
            (*self.data).traversed = false;
            fail(result, version, self.data)
        }
    }

    /// Flags of the mark: an update of a row that this transaction has locked as if it deleted it counts as one that
    /// changes the key, as on heap.
    unsafe fn flags(&self, mode: LockMode) -> u8 {
        // SAFETY: the executor's arguments.
        unsafe {
            let table = identity::of(self.relation).id;
            let holders = match tid::number(*self.pointer) {
                Some(number) if mode != LockMode::Update => session::holders_for_update(table, number),
                _ => Vec::new(),
            };
            let xid = xid::current();
            let key = mode == LockMode::Update || holders.contains(&xid);
            let locked = holders.iter().any(|holder| *holder != xid);
            (u8::from(key) * Mark::KEY) | (u8::from(locked) * Mark::LOCKED)
        }
    }

    /// The mode that a change to the slot's content needs: a weaker one where no foreign key can notice.
    unsafe fn mode(&self, slot: *mut pg_sys::TupleTableSlot) -> LockMode {
        // SAFETY: the executor's arguments; the copied tuple lives until it is freed.
        unsafe {
            if !(*(*self.relation).rd_rel).relhasindex {
                return LockMode::NoKeyUpdate;
            }
            let view = session::view();
            let table = identity::of(self.relation).id;
            let old = tid::number(*self.pointer).and_then(|number| Version::get(&view, table, number));
            let Some(old) = old else { return LockMode::Update };
            let tuple = old.heap_tuple((*self.relation).rd_id);
            let changes = glue::kriya_key_changes(self.relation, tuple, slot);
            pg_sys::pfree(tuple.cast());
            if changes { LockMode::Update } else { LockMode::NoKeyUpdate }
        }
    }
}

#[pg_guard]
#[allow(clippy::too_many_arguments)]
pub unsafe extern "C-unwind" fn delete(
    relation: pg_sys::Relation,
    pointer: pg_sys::ItemPointer,
    command: pg_sys::CommandId,
    _snapshot: pg_sys::Snapshot,
    crosscheck: pg_sys::Snapshot,
    wait: bool,
    data: *mut pg_sys::TM_FailureData,
    changing_partition: bool,
) -> pg_sys::TM_Result::Type {
    refuse_serializable();
    let operation = pg_sys::XLTW_Oper::XLTW_Delete;
    let change = Change { relation, pointer, command, crosscheck, wait, operation, data };
    // SAFETY: the executor's arguments.
    unsafe {
        let flags = Mark::KEY | if changing_partition { Mark::MOVED } else { 0 };
        let result = change.apply(LockMode::Update, flags, NO_NEXT, |_| {});
        if result == pg_sys::TM_Result::TM_Ok {
            glue::kriya_count(relation, 0, false, true);
        }
        result
    }
}

unsafe fn update_row(change: &Change, mode: LockMode, slot: *mut pg_sys::TupleTableSlot) -> pg_sys::TM_Result::Type {
    // SAFETY: the executor's arguments.
    unsafe {
        let table = identity::of(change.relation).id;
        let number = new_number(table, 1);
        let value = version::value_of_slot(change.relation, slot, xid::current(), change.command, 0);
        let flags = change.flags(mode);
        let result = change.apply(mode, flags, number, |batch| {
            batch.put(&keys::row(table, number), &value);
        });
        if result == pg_sys::TM_Result::TM_Ok {
            stamp(change.relation, slot, number, xid::current(), change.command);
            glue::kriya_count(change.relation, 0, true, false);
        }
        result
    }
}

#[cfg(any(feature = "pg13", feature = "pg14", feature = "pg15"))]
type Indexes = bool;
#[cfg(not(any(feature = "pg13", feature = "pg14", feature = "pg15")))]
type Indexes = pg_sys::TU_UpdateIndexes::Type;

#[pg_guard]
#[allow(clippy::too_many_arguments)]
pub unsafe extern "C-unwind" fn update(
    relation: pg_sys::Relation,
    pointer: pg_sys::ItemPointer,
    slot: *mut pg_sys::TupleTableSlot,
    command: pg_sys::CommandId,
    _snapshot: pg_sys::Snapshot,
    crosscheck: pg_sys::Snapshot,
    wait: bool,
    data: *mut pg_sys::TM_FailureData,
    lock_mode: *mut pg_sys::LockTupleMode::Type,
    update_indexes: *mut Indexes,
) -> pg_sys::TM_Result::Type {
    refuse_serializable();
    let operation = pg_sys::XLTW_Oper::XLTW_Update;
    let change = Change { relation, pointer, command, crosscheck, wait, operation, data };
    // SAFETY: the executor's arguments. Each version has its own row number, so every index gets a new entry.
    unsafe {
        let mode = change.mode(slot);
        *lock_mode = tuple_mode(mode);
        let result = update_row(&change, mode, slot);
        #[cfg(any(feature = "pg13", feature = "pg14", feature = "pg15"))]
        {
            *update_indexes = result == pg_sys::TM_Result::TM_Ok;
        }
        #[cfg(not(any(feature = "pg13", feature = "pg14", feature = "pg15")))]
        {
            *update_indexes = if result == pg_sys::TM_Result::TM_Ok {
                pg_sys::TU_UpdateIndexes::TU_All
            } else {
                pg_sys::TU_UpdateIndexes::TU_None
            };
        }
        result
    }
}

//! INSERT, COPY, UPDATE, DELETE.
//!
//! Nothing is changed in place: a DELETE writes a mark beside the row, an UPDATE a mark and a new row in one batch. The
//! mark is written by compare-and-set against the mark this session judged the row by; who loses reads again. A row of
//! a table with indexes is acknowledged and logged before its index entries are made, for other sessions' unique checks
//! must find it; rows of tables without indexes wait in a buffer.

use kriya_engine::row::{Mark, NO_NEXT};
use kriya_engine::{Check, keys};
use lsmstore::Batch;
use pgrx::prelude::*;

use super::version::{self, Version};
use super::visibility::{self, Updatable};
use super::{refuse_serializable, tid};
use crate::error::{Failure, raise};
use crate::session::{MESSAGE_BYTES, MESSAGE_ROWS};
use crate::xid::{self, lower};
use crate::{glue, identity, session};

/// The number of a new row; tables end where item pointers do.
fn new_number(table: u64, expected: usize) -> u64 {
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
unsafe fn stamp(
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
        let value = version::value_of_slot(relation, slot, xid, command);
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
            batch.put(&keys::row(table, number), &version::value_of_slot(relation, slot, xid, command));
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

/// What stands in the way of a change, as the executor wants to know it.
unsafe fn fail(
    result: pg_sys::TM_Result::Type,
    version: &Version<'_>,
    data: *mut pg_sys::TM_FailureData,
) -> pg_sys::TM_Result::Type {
    let mark = version.mark.map(|(mark, _)| mark);
    // SAFETY: the executor's own structure.
    unsafe {
        (*data).ctid = tid::pointer(version.next().unwrap_or(version.number));
        (*data).xmax = mark.map_or(pg_sys::InvalidTransactionId, |mark| lower(mark.xmax));
        (*data).cmax = match (result, mark) {
            (pg_sys::TM_Result::TM_SelfModified, Some(mark)) => mark.cmax,
            _ => pg_sys::InvalidCommandId,
        };
        (*data).traversed = false;
    }
    result
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
    unsafe fn apply(&self, next: u64, more: impl Fn(&mut Batch)) -> pg_sys::TM_Result::Type {
        // SAFETY: the executor's arguments, as `Change` was made of them.
        let (table, number) = unsafe {
            let Some(number) = tid::number(*self.pointer) else { return pg_sys::TM_Result::TM_Invisible };
            (identity::of(self.relation).id, number)
        };
        let xid = xid::current();
        loop {
            session::interrupts();
            let view = session::view();
            let Some(version) = Version::get(&view, table, number) else { return pg_sys::TM_Result::TM_Invisible };
            // SAFETY: as above.
            unsafe {
                match visibility::updatable(&version, self.command) {
                    Updatable::Ok => {}
                    Updatable::Invisible => return pg_sys::TM_Result::TM_Invisible,
                    Updatable::SelfModified => return fail(pg_sys::TM_Result::TM_SelfModified, &version, self.data),
                    Updatable::Updated => return fail(pg_sys::TM_Result::TM_Updated, &version, self.data),
                    Updatable::Deleted => return fail(pg_sys::TM_Result::TM_Deleted, &version, self.data),
                    Updatable::BeingModified(_) if !self.wait => {
                        return fail(pg_sys::TM_Result::TM_BeingModified, &version, self.data);
                    }
                    Updatable::BeingModified(other) => {
                        drop(view);
                        pg_sys::XactLockTableWait(lower(other), self.relation, self.pointer, self.operation);
                        continue;
                    }
                }
                if !self.crosscheck.is_null() && !visibility::satisfies(&version, self.crosscheck) {
                    return fail(pg_sys::TM_Result::TM_Updated, &version, self.data);
                }
            }
            let mark = Mark { flags: 0, incarnation: session::incarnation(), xmax: xid, cmax: self.command, next };
            let mut value = Vec::new();
            mark.encode_into(&mut value);
            let key = keys::mark(table, number);
            let mut batch = Batch::new();
            more(&mut batch);
            batch.put(&key, &value);
            let expected = version.mark.map(|(_, bytes)| bytes.to_vec());
            let check = Check { key: key.to_vec(), expected };
            drop(view);
            if session::write(xid, &batch, std::slice::from_ref(&check)) {
                return pg_sys::TM_Result::TM_Ok;
            }
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
    if changing_partition {
        raise(Failure::unsupported("moving a row of an lsm_s3 table to another partition is not supported yet"));
    }
    let operation = pg_sys::XLTW_Oper::XLTW_Delete;
    let change = Change { relation, pointer, command, crosscheck, wait, operation, data };
    // SAFETY: the executor's arguments.
    unsafe {
        let result = change.apply(NO_NEXT, |_| {});
        if result == pg_sys::TM_Result::TM_Ok {
            glue::kriya_count(relation, 0, false, true);
        }
        result
    }
}

unsafe fn update_row(change: &Change, slot: *mut pg_sys::TupleTableSlot) -> pg_sys::TM_Result::Type {
    refuse_serializable();
    // SAFETY: the executor's arguments.
    unsafe {
        let table = identity::of(change.relation).id;
        let number = new_number(table, 1);
        let value = version::value_of_slot(change.relation, slot, xid::current(), change.command);
        let result = change.apply(number, |batch| {
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
    let operation = pg_sys::XLTW_Oper::XLTW_Update;
    let change = Change { relation, pointer, command, crosscheck, wait, operation, data };
    // SAFETY: the executor's arguments. Each version has its own row number, so every index gets a new entry.
    unsafe {
        *lock_mode = pg_sys::LockTupleMode::LockTupleExclusive;
        let result = update_row(&change, slot);
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

#[pg_guard]
#[allow(clippy::too_many_arguments)]
pub unsafe extern "C-unwind" fn insert_speculative(
    _relation: pg_sys::Relation,
    _slot: *mut pg_sys::TupleTableSlot,
    _command: pg_sys::CommandId,
    _options: i32,
    _bulk: *mut pg_sys::BulkInsertStateData,
    _token: u32,
) {
    raise(Failure::unsupported("INSERT ... ON CONFLICT into lsm_s3 tables is not supported yet"));
}

#[pg_guard]
#[allow(clippy::too_many_arguments)]
pub unsafe extern "C-unwind" fn complete_speculative(
    _relation: pg_sys::Relation,
    _slot: *mut pg_sys::TupleTableSlot,
    _token: u32,
    _succeeded: bool,
) {
    raise(Failure::unsupported("INSERT ... ON CONFLICT into lsm_s3 tables is not supported yet"));
}

#[pg_guard]
#[allow(clippy::too_many_arguments)]
pub unsafe extern "C-unwind" fn lock(
    _relation: pg_sys::Relation,
    _pointer: pg_sys::ItemPointer,
    _snapshot: pg_sys::Snapshot,
    _slot: *mut pg_sys::TupleTableSlot,
    _command: pg_sys::CommandId,
    _mode: pg_sys::LockTupleMode::Type,
    _policy: pg_sys::LockWaitPolicy::Type,
    _flags: u8,
    _data: *mut pg_sys::TM_FailureData,
) -> pg_sys::TM_Result::Type {
    raise(
        Failure::unsupported("row locks on lsm_s3 tables are not supported yet").detail(
            "SELECT ... FOR UPDATE or SHARE, foreign keys to lsm_s3 tables, and changing a row that another session has changed meanwhile need them.",
        ),
    )
}

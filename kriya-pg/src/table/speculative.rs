//! INSERT ... ON CONFLICT: rows that are inserted on trial.
//!
//! The row carries a token until its index entries are made. Others who meet it meanwhile wait for the token, not for the
//! transaction. Then the row is written once more: without the token, or, if an entry of another row was in the way, as a
//! row that no transaction made, which nobody has ever seen. Nothing refers to it then but its index entries.

use kriya_engine::keys;
use kriya_engine::row::RowHeader;
use lsmstore::Batch;
use pgrx::prelude::*;

use super::modify::{new_number, stamp};
use super::version::{self, Version};
use super::{refuse_serializable, tid};
use crate::error::{Failure, OrRaise, raise};
use crate::{glue, identity, session, xid};

#[pg_guard]
#[allow(clippy::too_many_arguments)]
pub unsafe extern "C-unwind" fn insert(
    relation: pg_sys::Relation,
    slot: *mut pg_sys::TupleTableSlot,
    command: pg_sys::CommandId,
    _options: i32,
    _bulk: *mut pg_sys::BulkInsertStateData,
    token: u32,
) {
    refuse_serializable();
    // SAFETY: an open relation, a slot with a row of it.
    unsafe {
        let table = identity::of(relation).id;
        let xid = xid::current();
        let number = new_number(table, 1);
        let mut batch = Batch::new();
        batch.put(&keys::row(table, number), &version::value_of_slot(relation, slot, xid, command, token));
        session::write(xid, &batch, &[]);
        stamp(relation, slot, number, xid, command);
        glue::kriya_count(relation, 1, false, false);
    }
}

#[pg_guard]
#[allow(clippy::too_many_arguments)]
pub unsafe extern "C-unwind" fn complete(
    relation: pg_sys::Relation,
    slot: *mut pg_sys::TupleTableSlot,
    token: u32,
    succeeded: bool,
) {
    // SAFETY: the slot holds the row that was inserted above, by the same command.
    unsafe {
        let table = identity::of(relation).id;
        let view = session::view();
        let inserted = tid::number((*slot).tts_tid).and_then(|number| Version::get(&view, table, number));
        let Some(version) = inserted.filter(|version| version.header.token == token) else {
            raise(Failure::internal("the row that was inserted on trial is not there"));
        };
        let xmin = if succeeded { version.header.xmin } else { 0 };
        let mut value = Vec::new();
        RowHeader { token: 0, xmin, ..version.header }.encode_into(version.tuple, &mut value).or_raise();
        let mut batch = Batch::new();
        batch.put(&keys::row(table, version.number), &value);
        session::write(xid::current(), &batch, &[]);
        if !succeeded {
            glue::kriya_count(relation, 0, false, true);
        }
    }
}

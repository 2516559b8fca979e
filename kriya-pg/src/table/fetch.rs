//! Rows by their item pointers: index scans, TID scans, triggers.

use std::sync::Arc;

use lsmstore::View;
use pgrx::prelude::*;
use pgrx::{PgMemoryContexts, pg_sys};

use super::version::Version;
use super::{refuse_serializable, tid, visibility};
use crate::{identity, session};

#[repr(C)]
struct Fetch {
    base: pg_sys::IndexFetchTableData,
    state: *mut State,
}

struct State {
    view: Option<Arc<View>>,
    table: u64,
}

#[pg_guard]
pub unsafe extern "C-unwind" fn begin(relation: pg_sys::Relation) -> *mut pg_sys::IndexFetchTableData {
    refuse_serializable();
    // SAFETY: an open relation; zeroed memory of the current context, the state is dropped with it.
    unsafe {
        let fetch = pg_sys::palloc0(size_of::<Fetch>()).cast::<Fetch>();
        (*fetch).base.rel = relation;
        let state = State { view: None, table: identity::of(relation).id };
        (*fetch).state = PgMemoryContexts::CurrentMemoryContext.leak_and_drop_on_delete(state);
        fetch.cast()
    }
}

#[pg_guard]
pub unsafe extern "C-unwind" fn reset(fetch: *mut pg_sys::IndexFetchTableData) {
    // SAFETY: begun above. The next row is fetched from a view taken after the next scan's snapshot.
    unsafe { (*(*fetch.cast::<Fetch>()).state).view = None }
}

#[pg_guard]
pub unsafe extern "C-unwind" fn end(fetch: *mut pg_sys::IndexFetchTableData) {
    // SAFETY: begun above.
    unsafe {
        (*(*fetch.cast::<Fetch>()).state).view = None;
        pg_sys::pfree(fetch.cast());
    }
}

#[pg_guard]
pub unsafe extern "C-unwind" fn tuple(
    fetch: *mut pg_sys::IndexFetchTableData,
    pointer: pg_sys::ItemPointer,
    snapshot: pg_sys::Snapshot,
    slot: *mut pg_sys::TupleTableSlot,
    call_again: *mut bool,
    all_dead: *mut bool,
) -> bool {
    // SAFETY: begun above; the pointers are the index scan's.
    unsafe {
        *call_again = false;
        if !all_dead.is_null() {
            *all_dead = false;
        }
        let state = &mut *(*fetch.cast::<Fetch>()).state;
        let Some(number) = tid::number(*pointer) else { return false };
        // A snapshot that looks at what is going on now needs the newest view at each row.
        if (*snapshot).snapshot_type != pg_sys::SnapshotType::SNAPSHOT_MVCC {
            state.view = None;
        }
        let view = state.view.get_or_insert_with(session::view);
        match Version::get(view, state.table, number) {
            Some(version) if visibility::satisfies(&version, snapshot) => {
                version.store(slot, (*(*fetch).rel).rd_id);
                true
            }
            _ => false,
        }
    }
}

#[pg_guard]
pub unsafe extern "C-unwind" fn row_version(
    relation: pg_sys::Relation,
    pointer: pg_sys::ItemPointer,
    snapshot: pg_sys::Snapshot,
    slot: *mut pg_sys::TupleTableSlot,
) -> bool {
    refuse_serializable();
    // SAFETY: an open relation, a valid pointer, a slot of our kind.
    unsafe {
        let Some(number) = tid::number(*pointer) else { return false };
        let view = session::view();
        match Version::get(&view, identity::of(relation).id, number) {
            Some(version) if visibility::satisfies(&version, snapshot) => {
                version.store(slot, (*relation).rd_id);
                true
            }
            _ => false,
        }
    }
}

#[pg_guard]
pub unsafe extern "C-unwind" fn tid_valid(_scan: pg_sys::TableScanDesc, pointer: pg_sys::ItemPointer) -> bool {
    // SAFETY: a pointer of the caller's.
    unsafe { tid::number(*pointer) }.is_some()
}

#[pg_guard]
pub unsafe extern "C-unwind" fn latest_tid(scan: pg_sys::TableScanDesc, pointer: pg_sys::ItemPointer) {
    // SAFETY: a scan and a pointer of the caller's.
    unsafe {
        let relation = (*scan).rs_rd;
        let table = identity::of(relation).id;
        let view = session::view();
        let mut next = tid::number(*pointer);
        while let Some(number) = next {
            check_for_interrupts!();
            let Some(version) = Version::get(&view, table, number) else { break };
            if visibility::satisfies(&version, (*scan).rs_snapshot) {
                *pointer = tid::pointer(number);
            }
            next = version.next();
        }
    }
}

#[pg_guard]
pub unsafe extern "C-unwind" fn satisfies_snapshot(
    relation: pg_sys::Relation,
    slot: *mut pg_sys::TupleTableSlot,
    snapshot: pg_sys::Snapshot,
) -> bool {
    // SAFETY: a slot that holds a row of the open relation.
    unsafe {
        let Some(number) = tid::number((*slot).tts_tid) else { return false };
        let view = session::view();
        Version::get(&view, identity::of(relation).id, number)
            .is_some_and(|version| visibility::satisfies(&version, snapshot))
    }
}

//! Rows by their item pointers: index scans, TID scans, triggers.

use pgrx::pg_sys;
use pgrx::prelude::*;

use super::version::Version;
use super::{refuse_serializable, tid, visibility};
use crate::{identity, session};

#[repr(C)]
struct Fetch {
    base: pg_sys::IndexFetchTableData,
    table: u64,
    /// Number of the view that the scan reads, 0 before it has one. The view itself is the session's: nothing here needs
    /// to be dropped.
    view: u64,
}

#[pg_guard]
pub unsafe extern "C-unwind" fn begin(relation: pg_sys::Relation) -> *mut pg_sys::IndexFetchTableData {
    refuse_serializable();
    // SAFETY: an open relation; zeroed memory of the current context.
    unsafe {
        let fetch = pg_sys::palloc0(size_of::<Fetch>()).cast::<Fetch>();
        (*fetch).base.rel = relation;
        (*fetch).table = identity::of(relation).id;
        fetch.cast()
    }
}

#[pg_guard]
pub unsafe extern "C-unwind" fn reset(fetch: *mut pg_sys::IndexFetchTableData) {
    // SAFETY: begun above. The next row is fetched from a view taken after the next scan's snapshot.
    unsafe { (*fetch.cast::<Fetch>()).view = 0 }
}

#[pg_guard]
pub unsafe extern "C-unwind" fn end(fetch: *mut pg_sys::IndexFetchTableData) {
    // SAFETY: begun above.
    unsafe { pg_sys::pfree(fetch.cast()) }
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
        let fetch = &mut *fetch.cast::<Fetch>();
        let Some(number) = tid::number(*pointer) else { return false };
        // A snapshot that looks at what is going on now needs the newest view at each row.
        if (*snapshot).snapshot_type != pg_sys::SnapshotType::SNAPSHOT_MVCC {
            fetch.view = 0;
        }
        let view = session::view_since(&mut fetch.view);
        match Version::get(&view, fetch.table, number) {
            Some(version) if visibility::satisfies(&version, snapshot) => {
                version.store(slot, (*fetch.base.rel).rd_id);
                true
            }
            _ => false,
        }
    }
}

/// True if the row of that number is there and visible.
///
/// # Safety
/// `fetch` was begun above, `snapshot` is an MVCC snapshot.
pub unsafe fn sees(fetch: *mut pg_sys::IndexFetchTableData, number: u64, snapshot: pg_sys::Snapshot) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        let fetch = &mut *fetch.cast::<Fetch>();
        let view = session::view_since(&mut fetch.view);
        Version::get(&view, fetch.table, number).is_some_and(|version| visibility::satisfies(&version, snapshot))
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

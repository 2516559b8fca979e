//! Sequential scans of lsm_s3 tables, parallel and backward ones too, and ANALYZE's sampling.
//!
//! The scan's snapshot is taken before the view (`table_beginscan` is given it), so the view holds every row that the
//! snapshot sees. What a scan owns is dropped with the memory context it was begun in, also after an error.

use pgrx::prelude::*;
use pgrx::{PgMemoryContexts, pg_sys};

use super::cursor::Cursor;
use super::version::Version;
use super::{refuse_serializable, tid, visibility};
use crate::{glue, identity, session, xid};

#[repr(C)]
struct Scan {
    base: pg_sys::TableScanDescData,
    state: *mut State,
}

struct State {
    cursor: Option<Cursor>,
    parallel: Option<Box<pg_sys::ParallelBlockTableScanWorkerData>>,
    parallel_started: bool,
    returned: i64,
}

fn new_cursor(relation: pg_sys::Relation) -> Cursor {
    // SAFETY: the relation of a scan is open.
    let table = unsafe { identity::of(relation) }.id;
    Cursor::new(&session::view(), table)
}

#[pg_guard]
pub unsafe extern "C-unwind" fn begin(
    relation: pg_sys::Relation,
    snapshot: pg_sys::Snapshot,
    key_count: i32,
    _keys: *mut pg_sys::ScanKeyData,
    parallel: pg_sys::ParallelTableScanDesc,
    flags: u32,
) -> pg_sys::TableScanDesc {
    refuse_serializable();
    // SAFETY: an open relation; the descriptor is zeroed memory of the current context, the state is dropped with it.
    unsafe {
        pg_sys::RelationIncrementReferenceCount(relation);
        let scan = pg_sys::palloc0(size_of::<Scan>()).cast::<Scan>();
        (*scan).base.rs_rd = relation;
        (*scan).base.rs_snapshot = snapshot;
        (*scan).base.rs_nkeys = key_count;
        (*scan).base.rs_flags = flags;
        (*scan).base.rs_parallel = parallel;
        let worker = (!parallel.is_null()).then(|| Box::new(std::mem::zeroed()));
        let state =
            State { cursor: Some(new_cursor(relation)), parallel: worker, parallel_started: false, returned: 0 };
        (*scan).state = PgMemoryContexts::CurrentMemoryContext.leak_and_drop_on_delete(state);
        if flags & pg_sys::ScanOptions::SO_TYPE_SEQSCAN != 0 {
            glue::kriya_count_scan(relation);
        }
        scan.cast()
    }
}

#[pg_guard]
pub unsafe extern "C-unwind" fn end(scan: pg_sys::TableScanDesc) {
    // SAFETY: a scan begun above; the state stays until its context goes, but lets go of the view now.
    unsafe {
        let state = &mut *(*scan.cast::<Scan>()).state;
        state.cursor = None;
        glue::kriya_count_rows((*scan).rs_rd, state.returned);
        pg_sys::RelationDecrementReferenceCount((*scan).rs_rd);
        if (*scan).rs_flags & pg_sys::ScanOptions::SO_TEMP_SNAPSHOT != 0 {
            pg_sys::UnregisterSnapshot((*scan).rs_snapshot);
        }
        pg_sys::pfree(scan.cast());
    }
}

#[pg_guard]
pub unsafe extern "C-unwind" fn rescan(
    scan: pg_sys::TableScanDesc,
    _keys: *mut pg_sys::ScanKeyData,
    _set_params: bool,
    _allow_strategy: bool,
    _allow_sync: bool,
    _allow_page_mode: bool,
) {
    // SAFETY: a scan begun above.
    unsafe {
        let state = &mut *(*scan.cast::<Scan>()).state;
        state.cursor = Some(new_cursor((*scan).rs_rd));
        state.parallel_started = false;
    }
}

/// Moves the cursor to the next run of rows of a parallel scan. False: there are no more.
unsafe fn next_parallel_block(scan: pg_sys::TableScanDesc, state: &mut State) -> bool {
    let (Some(worker), Some(cursor)) = (state.parallel.as_mut(), state.cursor.as_mut()) else { return false };
    // SAFETY: the shared descriptor was set up by Postgres' helper, which is used here again.
    let block = unsafe {
        let shared = (*scan).rs_parallel.cast::<pg_sys::ParallelBlockTableScanDescData>();
        let worker: *mut pg_sys::ParallelBlockTableScanWorkerData = &mut **worker;
        if !state.parallel_started {
            state.parallel_started = true;
            pg_sys::table_block_parallelscan_startblock_init((*scan).rs_rd, worker, shared);
        }
        pg_sys::table_block_parallelscan_nextpage((*scan).rs_rd, worker, shared)
    };
    if block == pg_sys::InvalidBlockNumber {
        return false;
    }
    let low = u64::from(block) * tid::PER_BLOCK;
    cursor.restrict(low, low + tid::PER_BLOCK);
    true
}

#[pg_guard]
pub unsafe extern "C-unwind" fn next_slot(
    scan: pg_sys::TableScanDesc,
    direction: pg_sys::ScanDirection::Type,
    slot: *mut pg_sys::TupleTableSlot,
) -> bool {
    // SAFETY: a scan begun above, a slot of the kind that `slot_callbacks` names, a valid snapshot.
    unsafe {
        let state = &mut *(*scan.cast::<Scan>()).state;
        if state.parallel.is_some() && !state.parallel_started && !next_parallel_block(scan, state) {
            pg_sys::ExecClearTuple(slot);
            return false;
        }
        loop {
            check_for_interrupts!();
            let Some(cursor) = state.cursor.as_mut() else { break };
            let backward = direction == pg_sys::ScanDirection::BackwardScanDirection;
            let version = if backward { cursor.previous() } else { cursor.next() };
            if let Some(version) = version {
                if visibility::satisfies(&version, (*scan).rs_snapshot) {
                    version.store(slot, (*(*scan).rs_rd).rd_id);
                    state.returned += 1;
                    return true;
                }
                continue;
            }
            if !next_parallel_block(scan, state) {
                break;
            }
        }
        pg_sys::ExecClearTuple(slot);
        false
    }
}

/// Every version of a scan's share of the table, whatever a snapshot would say of it: for index builds.
///
/// # Safety
/// `scan` was begun above and is forward only.
pub unsafe fn next_version<'a>(scan: pg_sys::TableScanDesc) -> Option<Version<'a>> {
    // SAFETY: the caller's promise. A version borrows from the cursor, which only this function moves.
    unsafe {
        let state = &mut *(*scan.cast::<Scan>()).state;
        if state.parallel.is_some() && !state.parallel_started && !next_parallel_block(scan, state) {
            return None;
        }
        loop {
            let cursor: *mut Option<Cursor> = &mut state.cursor;
            if let Some(version) = (*cursor).as_mut().and_then(Cursor::next) {
                return Some(version);
            }
            if !next_parallel_block(scan, state) {
                return None;
            }
        }
    }
}

#[pg_guard]
pub unsafe extern "C-unwind" fn parallel_initialize(
    relation: pg_sys::Relation,
    parallel: pg_sys::ParallelTableScanDesc,
) -> pg_sys::Size {
    // What this session wrote must be where the parallel workers see it.
    session::drain();
    // SAFETY: Postgres' own helper with its own arguments.
    unsafe { pg_sys::table_block_parallelscan_initialize(relation, parallel) }
}

unsafe fn analyze_block(scan: pg_sys::TableScanDesc, block: pg_sys::BlockNumber) -> bool {
    if block == pg_sys::InvalidBlockNumber {
        return false;
    }
    // SAFETY: a scan begun above.
    let state = unsafe { &mut *(*scan.cast::<Scan>()).state };
    if let Some(cursor) = state.cursor.as_mut() {
        let low = u64::from(block) * tid::PER_BLOCK;
        cursor.restrict(low, low + tid::PER_BLOCK);
    }
    true
}

#[cfg(any(feature = "pg17", feature = "pg18"))]
#[pg_guard]
pub unsafe extern "C-unwind" fn analyze_next_block(
    scan: pg_sys::TableScanDesc,
    stream: *mut pg_sys::ReadStream,
) -> bool {
    let mut strategy: pg_sys::BufferAccessStrategy = std::ptr::null_mut();
    // SAFETY: the stream is ANALYZE's; only its block numbers are used, for our rows are in no buffers.
    unsafe { analyze_block(scan, pg_sys::read_stream_next_block(stream, &mut strategy)) }
}

#[cfg(not(any(feature = "pg17", feature = "pg18")))]
#[pg_guard]
pub unsafe extern "C-unwind" fn analyze_next_block(
    scan: pg_sys::TableScanDesc,
    block: pg_sys::BlockNumber,
    _strategy: pg_sys::BufferAccessStrategy,
) -> bool {
    // SAFETY: a scan begun above.
    unsafe { analyze_block(scan, block) }
}

#[pg_guard]
pub unsafe extern "C-unwind" fn analyze_next_tuple(
    scan: pg_sys::TableScanDesc,
    oldest: pg_sys::TransactionId,
    live: *mut f64,
    dead: *mut f64,
    slot: *mut pg_sys::TupleTableSlot,
) -> bool {
    // SAFETY: a scan begun above; the counters are ANALYZE's.
    unsafe {
        let state = &mut *(*scan.cast::<Scan>()).state;
        while let Some(version) = state.cursor.as_mut().and_then(Cursor::next) {
            match visibility::buildable(&version, oldest) {
                visibility::Buildable::Live if xid::outcome(version.header.xmin) != xid::Outcome::Running => {
                    *live += 1.0;
                    version.store(slot, (*(*scan).rs_rd).rd_id);
                    return true;
                }
                visibility::Buildable::Live => {}
                visibility::Buildable::Dying | visibility::Buildable::Dead => *dead += 1.0,
            }
        }
        pg_sys::ExecClearTuple(slot);
        false
    }
}

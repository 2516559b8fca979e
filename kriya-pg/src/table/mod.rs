//! The table access method `lsm_s3`: the routine table, and what is too small for a file of its own.

mod build;
mod cursor;
mod ddl;
mod fetch;
mod lock;
mod modify;
mod scan;
mod speculative;
pub mod tid;
pub mod version;
mod visibility;
mod waiting;

use pgrx::prelude::*;

use crate::error::{Failure, raise};
use crate::glue::raw;
use crate::{identity, session, sql_function};

/// Bytes of a block of Postgres.
const BLOCK: u64 = pg_sys::BLCKSZ as u64;

/// True if a relation is an lsm_s3 table.
///
/// # Safety
/// `relation` is open.
pub unsafe fn is_ours(relation: pg_sys::Relation) -> bool {
    // SAFETY: the caller's promise.
    unsafe { std::ptr::eq((*relation).rd_tableam, &raw const ROUTINE) }
}

/// True if the snapshot of an index scan over an lsm_s3 table sees the row of that number.
///
/// # Safety
/// `scan` is under way, and its table is one of ours.
pub unsafe fn sees(scan: pg_sys::IndexScanDesc, number: u64) -> bool {
    // SAFETY: the caller's promise; the fetch state was made by this access method.
    unsafe { fetch::sees((*scan).xs_heapfetch, number, (*scan).xs_snapshot) }
}

/// Predicate locks do not exist here yet, so SERIALIZABLE would be promised and not kept.
fn refuse_serializable() {
    // SAFETY: a plain variable of this process.
    if unsafe { pg_sys::XactIsoLevel } == pg_sys::XACT_SERIALIZABLE as i32 {
        raise(
            Failure::unsupported("SERIALIZABLE transactions on lsm_s3 tables are not supported yet")
                .hint("Use REPEATABLE READ or READ COMMITTED."),
        );
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn slot_callbacks(_relation: pg_sys::Relation) -> *const pg_sys::TupleTableSlotOps {
    &raw const pg_sys::TTSOpsHeapTuple
}

#[cfg(not(feature = "pg13"))]
#[pg_guard]
unsafe extern "C-unwind" fn index_delete_tuples(
    _relation: pg_sys::Relation,
    state: *mut pg_sys::TM_IndexDeleteOp,
) -> pg_sys::TransactionId {
    // No entry is ever called dead by a fetch, so this is asked on the chance of finding some: there are none known.
    // SAFETY: Postgres' own structure; keeping no entry for deletion is an allowed answer.
    unsafe { (*state).ndeltids = 0 };
    pg_sys::InvalidTransactionId
}

unsafe fn blocks(relation: pg_sys::Relation) -> u64 {
    // SAFETY: an open relation of ours.
    let table = unsafe { identity::of(relation) }.id;
    cursor::high_water(&session::view(), table).div_ceil(tid::PER_BLOCK)
}

#[pg_guard]
unsafe extern "C-unwind" fn size(relation: pg_sys::Relation, fork: pg_sys::ForkNumber::Type) -> u64 {
    match fork {
        // SAFETY: an open relation of ours.
        pg_sys::ForkNumber::MAIN_FORKNUM | pg_sys::ForkNumber::InvalidForkNumber => unsafe { blocks(relation) * BLOCK },
        _ => 0,
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn needs_toast_table(_relation: pg_sys::Relation) -> bool {
    false
}

#[pg_guard]
unsafe extern "C-unwind" fn toast_am(_relation: pg_sys::Relation) -> pg_sys::Oid {
    pg_sys::Oid::INVALID
}

#[pg_guard]
unsafe extern "C-unwind" fn estimate_size(
    relation: pg_sys::Relation,
    widths: *mut i32,
    pages: *mut pg_sys::BlockNumber,
    tuples: *mut f64,
    all_visible: *mut f64,
) {
    // SAFETY: Postgres' arguments. Rows are as wide as their columns; a page's worth of them costs what it does on heap.
    unsafe {
        let rows = cursor::high_water(&session::view(), identity::of(relation).id) as f64;
        let known = (*(*relation).rd_rel).reltuples;
        let known_pages = (*(*relation).rd_rel).relpages;
        let now = (rows / tid::PER_BLOCK as f64).ceil();
        *tuples = if known > 0.0 && known_pages > 0 { f64::from(known) / f64::from(known_pages) * now } else { rows };
        let width = f64::from(pg_sys::get_rel_data_width(relation, widths).max(1)) + 24.0;
        *pages = (*tuples * width / BLOCK as f64).ceil().clamp(0.0, f64::from(u32::MAX - 1)) as u32;
        *all_visible = 0.0;
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn sample_next_block(
    _scan: pg_sys::TableScanDesc,
    _state: *mut pg_sys::SampleScanState,
) -> bool {
    raise(Failure::unsupported("TABLESAMPLE on lsm_s3 tables is not supported yet"))
}

#[pg_guard]
unsafe extern "C-unwind" fn sample_next_tuple(
    _scan: pg_sys::TableScanDesc,
    _state: *mut pg_sys::SampleScanState,
    _slot: *mut pg_sys::TupleTableSlot,
) -> bool {
    raise(Failure::unsupported("TABLESAMPLE on lsm_s3 tables is not supported yet"))
}

static ROUTINE: pg_sys::TableAmRoutine = pg_sys::TableAmRoutine {
    type_: pg_sys::NodeTag::T_TableAmRoutine,
    slot_callbacks: Some(slot_callbacks),
    scan_begin: Some(scan::begin),
    scan_end: Some(scan::end),
    scan_rescan: Some(scan::rescan),
    scan_getnextslot: Some(scan::next_slot),
    parallelscan_estimate: Some(raw::table_block_parallelscan_estimate),
    parallelscan_initialize: Some(scan::parallel_initialize),
    parallelscan_reinitialize: Some(raw::table_block_parallelscan_reinitialize),
    index_fetch_begin: Some(fetch::begin),
    index_fetch_reset: Some(fetch::reset),
    index_fetch_end: Some(fetch::end),
    index_fetch_tuple: Some(fetch::tuple),
    tuple_fetch_row_version: Some(fetch::row_version),
    tuple_tid_valid: Some(fetch::tid_valid),
    tuple_get_latest_tid: Some(fetch::latest_tid),
    tuple_satisfies_snapshot: Some(fetch::satisfies_snapshot),
    #[cfg(not(feature = "pg13"))]
    index_delete_tuples: Some(index_delete_tuples),
    tuple_insert: Some(modify::insert),
    tuple_insert_speculative: Some(speculative::insert),
    tuple_complete_speculative: Some(speculative::complete),
    multi_insert: Some(modify::multi_insert),
    tuple_delete: Some(modify::delete),
    tuple_update: Some(modify::update),
    tuple_lock: Some(lock::lock),
    #[cfg(any(feature = "pg13", feature = "pg14", feature = "pg15"))]
    relation_set_new_filenode: Some(ddl::set_new_file),
    #[cfg(not(any(feature = "pg13", feature = "pg14", feature = "pg15")))]
    relation_set_new_filelocator: Some(ddl::set_new_file),
    relation_nontransactional_truncate: Some(ddl::nontransactional_truncate),
    relation_copy_data: Some(ddl::copy_data),
    relation_copy_for_cluster: Some(ddl::copy_for_cluster),
    relation_vacuum: Some(ddl::vacuum),
    scan_analyze_next_block: Some(scan::analyze_next_block),
    scan_analyze_next_tuple: Some(scan::analyze_next_tuple),
    index_build_range_scan: Some(build::range_scan),
    index_validate_scan: Some(build::validate_scan),
    relation_size: Some(size),
    relation_needs_toast_table: Some(needs_toast_table),
    relation_toast_am: Some(toast_am),
    relation_estimate_size: Some(estimate_size),
    scan_sample_next_block: Some(sample_next_block),
    scan_sample_next_tuple: Some(sample_next_tuple),
    // SAFETY: all bits zero is "no such callback" for the optional ones: bitmap scans, TID ranges, TOAST slices.
    ..unsafe { std::mem::zeroed() }
};

sql_function! {
    /// Handler of the access method.
    fn lsm_s3_handler(_call) {
        pg_sys::Datum::from((&raw const ROUTINE).cast_mut())
    }
}

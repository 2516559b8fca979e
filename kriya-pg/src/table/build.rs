//! Feeds an index build with the rows of an lsm_s3 table.

use pgrx::prelude::*;

use super::scan;
use super::visibility::{self, Buildable};
use crate::error::{Failure, raise};

#[pg_guard]
#[allow(clippy::too_many_arguments)]
pub unsafe extern "C-unwind" fn range_scan(
    relation: pg_sys::Relation,
    index: pg_sys::Relation,
    info: *mut pg_sys::IndexInfo,
    _allow_sync: bool,
    _any_visible: bool,
    _progress: bool,
    start: pg_sys::BlockNumber,
    blocks: pg_sys::BlockNumber,
    callback: pg_sys::IndexBuildCallback,
    callback_state: *mut core::ffi::c_void,
    shared: pg_sys::TableScanDesc,
) -> f64 {
    // SAFETY: Postgres' arguments; everything made here is freed here, or with the command's context after an error.
    unsafe {
        if (*info).ii_Concurrent {
            raise(Failure::unsupported("CREATE INDEX CONCURRENTLY on lsm_s3 tables is not supported yet"));
        }
        if start != 0 || blocks != pg_sys::InvalidBlockNumber {
            raise(Failure::unsupported("summarizing indexes on lsm_s3 tables are not supported yet"));
        }
        let Some(callback) = callback else { raise(Failure::internal("an index build without a callback")) };
        let state = pg_sys::CreateExecutorState();
        let slot = pg_sys::table_slot_create(relation, std::ptr::null_mut());
        let context = pg_sys::MakePerTupleExprContext(state);
        (*context).ecxt_scantuple = slot;
        let predicate = pg_sys::ExecPrepareQual((*info).ii_Predicate, state);
        // A parallel build brings the scan that its processes share.
        let scan = if shared.is_null() {
            pg_sys::table_beginscan(relation, &raw mut pg_sys::SnapshotAnyData, 0, std::ptr::null_mut())
        } else {
            shared
        };
        let mut values = [pg_sys::Datum::null(); pg_sys::INDEX_MAX_KEYS as usize];
        let mut nulls = [false; pg_sys::INDEX_MAX_KEYS as usize];
        let oldest = pg_sys::GetOldestNonRemovableTransactionId(relation);
        let mut rows = 0.0;
        while let Some(version) = scan::next_version(scan) {
            check_for_interrupts!();
            let alive = match visibility::buildable(&version, oldest) {
                Buildable::Dead => continue,
                Buildable::Dying => false,
                Buildable::Live => true,
            };
            if alive {
                rows += 1.0;
            }
            pg_sys::MemoryContextReset((*context).ecxt_per_tuple_memory);
            version.store(slot, (*relation).rd_id);
            if !predicate.is_null() && !pg_sys::ExecQual(predicate, context) {
                continue;
            }
            pg_sys::FormIndexDatum(info, slot, state, values.as_mut_ptr(), nulls.as_mut_ptr());
            let mut pointer = (*slot).tts_tid;
            callback(index, &mut pointer, values.as_mut_ptr(), nulls.as_mut_ptr(), alive, callback_state);
        }
        pg_sys::table_endscan(scan);
        pg_sys::ExecDropSingleTupleTableSlot(slot);
        pg_sys::FreeExecutorState(state);
        (*info).ii_ExpressionsState = std::ptr::null_mut();
        (*info).ii_PredicateState = std::ptr::null_mut();
        rows
    }
}

#[pg_guard]
pub unsafe extern "C-unwind" fn validate_scan(
    _relation: pg_sys::Relation,
    _index: pg_sys::Relation,
    _info: *mut pg_sys::IndexInfo,
    _snapshot: pg_sys::Snapshot,
    _state: *mut pg_sys::ValidateIndexState,
) {
    raise(Failure::unsupported("CREATE INDEX CONCURRENTLY on lsm_s3 tables is not supported yet"));
}

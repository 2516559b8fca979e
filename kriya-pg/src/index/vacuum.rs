//! VACUUM of tables with lsm_hnsw indexes.
//!
//! Postgres frees the line pointers of dead heap rows after this returns, and then reuses them: so the entries that
//! name them are deleted, acknowledged and logged before. Entries are named by their numbers, which are never reused.

use kriya_engine::IndexDeleted;
use pgrx::prelude::*;

use super::Naming;
use crate::identity;
use crate::session::{self, Composed};

/// Entries deleted by one message.
const MESSAGE_ENTRIES: usize = 4096;

fn delete(index: u64, entries: &[u64]) {
    session::write_composed(0, |session, generation, wait| {
        Ok(match session.index_delete(generation, index, entries, wait)? {
            IndexDeleted::At { batch, first } => Composed::Written(batch, first, ()),
            IndexDeleted::Busy => Composed::Busy,
        })
    });
}

#[pg_guard]
pub unsafe extern "C-unwind" fn bulk_delete(
    info: *mut pg_sys::IndexVacuumInfo,
    stats: *mut pg_sys::IndexBulkDeleteResult,
    callback: pg_sys::IndexBulkDeleteCallback,
    callback_state: *mut core::ffi::c_void,
) -> *mut pg_sys::IndexBulkDeleteResult {
    // SAFETY: VACUUM's arguments. Only the heap asks: lsm_s3 tables never reuse row numbers and have nothing to vacuum.
    unsafe {
        let result = result(stats);
        let Some(callback) = callback else { return result };
        let index = identity::of((*info).index).id;
        // An entry of a rolled back row may still be on its way, from a session that was cut short. It must be there to be
        // deleted: once the row's place is given to another, nobody could tell.
        session::fence();
        let reader = session::with(|session, wait| session.index(index, wait));
        let (mut dead, mut removed, mut live) = (Vec::new(), 0.0, 0.0);
        for (entry, tid) in reader.entries() {
            check_for_interrupts!();
            let mut pointer = Naming::Pointers.pointer(tid);
            if !callback(&mut pointer, callback_state) {
                live += 1.0;
                continue;
            }
            // Deleted once more where it was deleted before: that deletion may have been cut short before it was logged.
            removed += 1.0;
            dead.push(entry);
            if dead.len() >= MESSAGE_ENTRIES {
                delete(index, &dead);
                dead.clear();
            }
        }
        if !dead.is_empty() {
            delete(index, &dead);
        }
        session::check_same_worker();
        (*result).tuples_removed += removed;
        (*result).num_index_tuples = live;
        result
    }
}

unsafe fn result(stats: *mut pg_sys::IndexBulkDeleteResult) -> *mut pg_sys::IndexBulkDeleteResult {
    // SAFETY: zeroed memory of the current context.
    if stats.is_null() { unsafe { PgBox::<pg_sys::IndexBulkDeleteResult>::alloc0() }.into_pg() } else { stats }
}

#[pg_guard]
pub unsafe extern "C-unwind" fn cleanup(
    info: *mut pg_sys::IndexVacuumInfo,
    stats: *mut pg_sys::IndexBulkDeleteResult,
) -> *mut pg_sys::IndexBulkDeleteResult {
    // SAFETY: VACUUM's arguments.
    unsafe {
        if (*info).analyze_only {
            return stats;
        }
        let result = result(stats);
        if stats.is_null() {
            (*result).num_index_tuples = (*info).num_heap_tuples;
            (*result).estimated_count = true;
        }
        result
    }
}

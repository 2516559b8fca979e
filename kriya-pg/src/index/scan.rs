//! Nearest neighbours in order: `ORDER BY column <-> query`.
//!
//! The search runs in this process, over segments that are mapped here, and goes on for as long as the executor asks:
//! neither a LIMIT above ef_search nor rows that the snapshot does not see, or a filter drops, end it early. Run to its
//! end it returns every entry once.

use std::cell::Cell;
use std::sync::Arc;

use kriya_engine::{IndexCursor, SearchMemory, Step};
use pgrx::prelude::*;
use pgrx::{PgMemoryContexts, pg_sys};

use super::{Naming, is_indexable, metric};
use crate::error::{Failure, OrRaise, raise};
use crate::types::vector;
use crate::{identity, session, settings, table};

struct State {
    cursor: Option<IndexCursor>,
    naming: Naming,
    /// The query is taken when the first row is asked for.
    query: Option<pg_sys::Datum>,
    started: bool,
}

thread_local! {
    /// Of the search that ended last, for the next one. A search that an error cuts short leaves nothing.
    static SPARE: Cell<Option<SearchMemory>> = const { Cell::new(None) };
}

/// Ends the search, if there is one: its maps are let go, its memory is kept.
fn finish(state: &mut State) {
    if let Some(cursor) = state.cursor.take() {
        SPARE.set(Some(cursor.into_memory()));
    }
}

#[pg_guard]
pub unsafe extern "C-unwind" fn begin(
    index: pg_sys::Relation,
    key_count: i32,
    order_count: i32,
) -> pg_sys::IndexScanDesc {
    // SAFETY: Postgres' helper makes the descriptor; the state is dropped with the current context.
    unsafe {
        let scan = pg_sys::RelationGetIndexScan(index, key_count, order_count);
        let state = State { cursor: None, naming: Naming::Pointers, query: None, started: false };
        (*scan).opaque = PgMemoryContexts::CurrentMemoryContext.leak_and_drop_on_delete(state).cast();
        scan
    }
}

#[pg_guard]
pub unsafe extern "C-unwind" fn rescan(
    scan: pg_sys::IndexScanDesc,
    _keys: pg_sys::ScanKey,
    _key_count: i32,
    orders: pg_sys::ScanKey,
    order_count: i32,
) {
    // SAFETY: a scan begun above; the order keys are Postgres'.
    unsafe {
        let state = &mut *(*scan).opaque.cast::<State>();
        finish(state);
        state.started = false;
        state.query = None;
        if order_count > 0 && !orders.is_null() {
            let order = &*orders;
            let null = order.sk_flags & pg_sys::SK_ISNULL as i32 != 0;
            state.query = (!null).then_some(order.sk_argument);
            // Postgres looks at its own copy to print and to check them.
            if (*scan).numberOfOrderBys > 0 {
                (*scan).orderByData.copy_from(orders, order_count as usize);
            }
        }
    }
}

unsafe fn start(scan: pg_sys::IndexScanDesc, state: &mut State) {
    // SAFETY: a scan begun above, with its snapshot and table set by Postgres.
    unsafe {
        let snapshot = (*scan).xs_snapshot;
        if snapshot.is_null() || (*snapshot).snapshot_type != pg_sys::SnapshotType::SNAPSHOT_MVCC {
            raise(Failure::internal("lsm_hnsw indexes can only be scanned with an MVCC snapshot"));
        }
        if (*scan).numberOfOrderBys == 0 {
            raise(Failure::internal("cannot scan an lsm_hnsw index without an order"));
        }
        state.naming = Naming::of((*scan).heapRelation);
        let index = (*scan).indexRelation;
        let (metric, _) = metric(index);
        session::drain();
        let id = identity::of(index).id;
        let reader = session::with(|session, wait| session.index(id, wait));
        let view = session::view();
        let Some(dim) = reader.dim() else { return };
        // Distances to a NULL are NULL, and no direction is nearer to a zero vector than another: any order is right.
        let mut query = vec![0.0; dim];
        query[0] = 1.0;
        if let Some(datum) = state.query {
            let given = vector::detoast(datum);
            if given.dim() != dim {
                raise(Failure::new(
                    PgSqlErrorCode::ERRCODE_DATA_EXCEPTION,
                    format!("different vector dimensions {dim} and {}", given.dim()),
                ));
            }
            if is_indexable(metric, given.as_slice()) {
                query.copy_from_slice(given.as_slice());
            }
        }
        let ef = usize::try_from(settings::EF_SEARCH.get()).unwrap_or(1);
        let memory = SPARE.take().unwrap_or_default();
        let cursor = IndexCursor::start_in(memory, reader, Arc::clone(&view), &query, ef).or_raise();
        state.cursor = Some(if settings::STRICT_ORDER.get() { cursor.in_strict_order() } else { cursor });
    }
}

#[pg_guard]
pub unsafe extern "C-unwind" fn next(scan: pg_sys::IndexScanDesc, direction: pg_sys::ScanDirection::Type) -> bool {
    if direction != pg_sys::ScanDirection::ForwardScanDirection {
        raise(Failure::internal("lsm_hnsw indexes are scanned forward only"));
    }
    // SAFETY: a scan begun above.
    unsafe {
        let state = &mut *(*scan).opaque.cast::<State>();
        if !state.started {
            state.started = true;
            start(scan, state);
        }
        let Some(cursor) = state.cursor.as_mut() else { return false };
        let found = loop {
            check_for_interrupts!();
            let found = match cursor.step().or_raise() {
                Step::Row(found) => found,
                Step::Skipped => continue,
                Step::End => return false,
            };
            // In strict order, entries of versions that nobody here sees would keep out rows that come later.
            if matches!(state.naming, Naming::Pointers) || table::sees(scan, found.tid) {
                break found;
            }
            cursor.take_back();
        };
        (*scan).xs_heaptid = state.naming.pointer(found.tid);
        (*scan).xs_recheck = false;
        (*scan).xs_recheckorderby = false;
        true
    }
}

#[pg_guard]
pub unsafe extern "C-unwind" fn end(scan: pg_sys::IndexScanDesc) {
    // SAFETY: a scan begun above; the state stays until its context goes, but lets go of its maps now.
    unsafe { finish(&mut *(*scan).opaque.cast::<State>()) }
}

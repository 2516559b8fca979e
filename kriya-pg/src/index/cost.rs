//! What the planner is told: an ordered scan touches about ef_search nodes' neighbours, then rows one by one.

use pgrx::prelude::*;

use super::options;
use crate::{session, settings};

#[pg_guard]
#[allow(clippy::too_many_arguments)]
pub unsafe extern "C-unwind" fn estimate(
    _root: *mut pg_sys::PlannerInfo,
    path: *mut pg_sys::IndexPath,
    _loops: f64,
    startup: *mut pg_sys::Cost,
    total: *mut pg_sys::Cost,
    selectivity: *mut pg_sys::Selectivity,
    correlation: *mut f64,
    pages: *mut f64,
) {
    // SAFETY: the planner's own structures.
    unsafe {
        *correlation = 0.0;
        *pages = 0.0;
        *selectivity = 1.0;
        // The index knows an order, not a membership: it answers nothing else. And while nobody serves it, other ways to
        // the rows of a heap table must be open.
        if (*path).indexorderbys.is_null() || pg_sys::RecoveryInProgress() || !session::is_served() {
            *selectivity = 0.0;
            *startup = f64::INFINITY;
            *total = f64::INFINITY;
            return;
        }
        let info = (*path).indexinfo;
        let index = pg_sys::index_open((*info).indexoid, pg_sys::NoLock as pg_sys::LOCKMODE);
        let m = f64::from(options::of(index).m);
        pg_sys::index_close(index, pg_sys::NoLock as pg_sys::LOCKMODE);
        let rows = (*info).tuples.max(1.0);
        let ef = f64::from(settings::EF_SEARCH.get());
        // Nodes whose distance is computed: each expanded one shows its neighbours, of which most were seen before.
        let visited = (ef * m * 0.75 + rows.log2() * m).min(rows);
        // A distance of a few hundred dimensions costs about as much as two operators.
        let distance = 2.0 * pg_sys::cpu_operator_cost;
        *startup = visited * distance;
        // The first ef rows are found by then; each further one goes on with the search.
        *total = *startup + (rows - ef).max(0.0) * m * distance + rows * pg_sys::cpu_index_tuple_cost;
    }
}

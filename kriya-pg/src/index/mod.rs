//! The index access method `lsm_hnsw`: nearest neighbours over lsm_s3 tables and ordinary ones.

mod build;
mod cost;
pub mod entries;
mod options;
mod scan;
mod vacuum;

use kriya_engine::{Metric, metric_code, metric_of};
use pgrx::prelude::*;

use crate::error::{Failure, OrRaise, raise};
use crate::sql_function;
use crate::table::{self, tid};

/// Registers the options of CREATE INDEX ... WITH. Called once, when the library is loaded.
pub fn init() {
    options::init();
}

/// Metric of an index, and its number.
unsafe fn metric(index: pg_sys::Relation) -> (Metric, u8) {
    // SAFETY: an open index of ours, whose operator class has support function 1.
    let number = unsafe {
        let function = pg_sys::index_getprocinfo(index, 1, 1);
        pg_sys::FunctionCall0Coll(function, pg_sys::InvalidOid).value() as i32
    };
    let code = u8::try_from(number).unwrap_or(u8::MAX);
    (metric_of(code).or_raise(), code)
}

/// How an index names the rows of its table: lsm_s3 rows by number, heap rows by block and offset.
#[derive(Clone, Copy, Debug)]
enum Naming {
    Numbers,
    Pointers,
}

impl Naming {
    unsafe fn of(table: pg_sys::Relation) -> Naming {
        // SAFETY: an open relation.
        if unsafe { table::is_ours(table) } { Naming::Numbers } else { Naming::Pointers }
    }

    fn name(self, pointer: pg_sys::ItemPointerData) -> u64 {
        match self {
            Naming::Numbers => tid::number(pointer)
                .unwrap_or_else(|| raise(Failure::internal("an lsm_s3 row with an impossible item pointer"))),
            Naming::Pointers => {
                let (block, offset) = tid::parts(pointer);
                block << 16 | offset
            }
        }
    }

    fn pointer(self, name: u64) -> pg_sys::ItemPointerData {
        match self {
            Naming::Numbers => tid::pointer(name),
            Naming::Pointers => {
                let mut pointer = pg_sys::ItemPointerData::default();
                pgrx::itemptr::item_pointer_set_all(&mut pointer, (name >> 16) as u32, name as u16);
                pointer
            }
        }
    }
}

/// True if a vector has a place in an index of that metric: cosine knows no direction of a zero vector.
fn is_indexable(metric: Metric, vector: &[f32]) -> bool {
    metric != Metric::Cosine || vector.iter().any(|&x| x != 0.0)
}

#[pg_guard]
unsafe extern "C-unwind" fn validate(_class: pg_sys::Oid) -> bool {
    true
}

sql_function! {
    /// Handler of the access method.
    fn lsm_hnsw_handler(_call) {
        // SAFETY: a zeroed node of the right type in the current context, as index_am_handler functions return it.
        let mut routine = unsafe { PgBox::<pg_sys::IndexAmRoutine>::alloc_node(pg_sys::NodeTag::T_IndexAmRoutine) };
        routine.amstrategies = 0;
        routine.amsupport = 1;
        routine.amcanorderbyop = true;
        routine.amoptionalkey = true;
        routine.amkeytype = pg_sys::InvalidOid;
        routine.ambuild = Some(build::build);
        routine.ambuildempty = Some(build::build_empty);
        routine.aminsert = Some(entries::insert);
        routine.ambulkdelete = Some(vacuum::bulk_delete);
        routine.amvacuumcleanup = Some(vacuum::cleanup);
        routine.amcostestimate = Some(cost::estimate);
        routine.amoptions = Some(options::parse);
        routine.amvalidate = Some(validate);
        routine.ambeginscan = Some(scan::begin);
        routine.amrescan = Some(scan::rescan);
        routine.amgettuple = Some(scan::next);
        routine.amendscan = Some(scan::end);
        pg_sys::Datum::from(routine.into_pg())
    }

    /// Metric of `lsm_vector_l2_ops`.
    fn lsm_hnsw_metric_l2(_call) {
        pg_sys::Datum::from(i32::from(metric_code(Metric::L2)))
    }

    /// Metric of `lsm_vector_cosine_ops`.
    fn lsm_hnsw_metric_cosine(_call) {
        pg_sys::Datum::from(i32::from(metric_code(Metric::Cosine)))
    }

    /// Metric of `lsm_vector_ip_ops`.
    fn lsm_hnsw_metric_ip(_call) {
        pg_sys::Datum::from(i32::from(metric_code(Metric::InnerProduct)))
    }
}

//! CREATE INDEX and REINDEX: the rows go to the worker, which builds one sealed segment of them with all its cores.

use kriya_engine::catalogue::IndexDescription;
use kriya_engine::{Metric, Progress};
use pgrx::prelude::*;

use super::{Naming, is_indexable, metric, options};
use crate::compat;
use crate::error::{Failure, raise};
use crate::identity::{self, Identity, Kind};
use crate::session::{self, Composed};
use crate::types::vector;
use crate::xid;

struct Building {
    metric: Metric,
    naming: Naming,
    dim: usize,
    tids: Vec<u64>,
    floats: Vec<f32>,
    rows: f64,
}

impl Building {
    fn add(&mut self, pointer: pg_sys::ItemPointerData, floats: &[f32]) {
        if self.dim == 0 {
            self.dim = floats.len();
        }
        if floats.len() != self.dim {
            raise(Failure::new(
                PgSqlErrorCode::ERRCODE_DATA_EXCEPTION,
                format!("expected {} dimensions, not {}", self.dim, floats.len()),
            ));
        }
        if !is_indexable(self.metric, floats) {
            return;
        }
        self.tids.push(self.naming.name(pointer));
        self.floats.extend_from_slice(floats);
        self.rows += 1.0;
        if 4 * self.floats.len() >= session::MESSAGE_BYTES {
            self.send();
        }
    }

    fn send(&mut self) {
        if !self.tids.is_empty() {
            session::with(|session, wait| session.build_rows(&self.tids, &self.floats, wait));
            self.tids.clear();
            self.floats.clear();
        }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn add_row(
    _index: pg_sys::Relation,
    pointer: pg_sys::ItemPointer,
    values: *mut pg_sys::Datum,
    nulls: *mut bool,
    _alive: bool,
    state: *mut core::ffi::c_void,
) {
    // SAFETY: the state is the Building of the call below; one column.
    unsafe {
        if !*nulls {
            let value = vector::detoast(*values);
            (*state.cast::<Building>()).add(*pointer, value.as_slice());
        }
    }
}

unsafe fn description(table: pg_sys::Relation, index: pg_sys::Relation, metric: u8, dim: u16) -> IndexDescription {
    // SAFETY: open relations.
    unsafe {
        let (database, tablespace, relfilenumber) = compat::locator_parts(&compat::locator(index));
        let parameters = options::of(index);
        IndexDescription {
            database,
            tablespace,
            relfilenumber,
            created_xid: xid::current(),
            incarnation: session::incarnation(),
            table: crate::table::is_ours(table).then(|| identity::of(table).id),
            metric,
            m: parameters.m,
            ef_construction: parameters.ef_construction,
            dim,
            name: std::ffi::CStr::from_ptr((*(*index).rd_rel).relname.data.as_ptr()).to_string_lossy().into_owned(),
        }
    }
}

/// Dimensions that the indexed column is declared with, or 0.
unsafe fn declared_dim(index: pg_sys::Relation) -> u16 {
    // SAFETY: an open index has a descriptor with at least one attribute.
    let typmod = unsafe { compat::first_typmod((*index).rd_att) };
    u16::try_from(typmod).unwrap_or(0)
}

#[pg_guard]
pub unsafe extern "C-unwind" fn build(
    table: pg_sys::Relation,
    index: pg_sys::Relation,
    info: *mut pg_sys::IndexInfo,
) -> *mut pg_sys::IndexBuildResult {
    // SAFETY: Postgres' arguments: open relations, the index' file is new and empty.
    unsafe {
        if (*(*index).rd_rel).relpersistence as u8 != pg_sys::RELPERSISTENCE_PERMANENT {
            raise(Failure::unsupported("lsm_hnsw indexes on unlogged and temporary tables are not supported yet"));
        }
        if (*info).ii_Concurrent {
            raise(Failure::unsupported("CREATE INDEX CONCURRENTLY USING lsm_hnsw is not supported yet"));
        }
        let (metric, number) = metric(index);
        let dim = declared_dim(index);
        let naming = Naming::of(table);
        let description = description(table, index, number, dim);
        let id = session::new_id();
        let estimated = (*(*table).rd_rel).reltuples.max(0.0) as u64;
        session::drain();
        session::begin_build(id, &description, estimated);
        let mut building =
            Building { metric, naming, dim: dim.into(), tids: Vec::new(), floats: Vec::new(), rows: 0.0 };
        let tuples = pg_sys::table_index_build_scan(
            table,
            index,
            info,
            true,
            true,
            Some(add_row),
            (&raw mut building).cast(),
            std::ptr::null_mut(),
        );
        building.send();
        session::write_composed(xid::current(), |session, _, wait| {
            let mut report = |progress: Progress| {
                pg_sys::pgstat_progress_update_param(
                    pg_sys::PROGRESS_CREATEIDX_TUPLES_TOTAL as i32,
                    progress.total as i64,
                );
                pg_sys::pgstat_progress_update_param(
                    pg_sys::PROGRESS_CREATEIDX_TUPLES_DONE as i32,
                    progress.done as i64,
                );
            };
            let built = session.build_end(&mut report, wait)?;
            Ok(Composed::Written(built.batch, built.first, ()))
        });
        let locator = compat::locator(index);
        let identity = Identity::new(Kind::Index, id, session::incarnation());
        identity::create(locator, compat::open_storage(locator), identity);
        identity::forget(index);
        let mut result = PgBox::<pg_sys::IndexBuildResult>::alloc0();
        result.heap_tuples = tuples;
        result.index_tuples = building.rows;
        result.into_pg()
    }
}

#[pg_guard]
pub unsafe extern "C-unwind" fn build_empty(_index: pg_sys::Relation) {
    raise(Failure::unsupported("lsm_hnsw indexes on unlogged tables are not supported yet"));
}

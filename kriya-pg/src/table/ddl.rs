//! Creation and truncation of lsm_s3 tables.
//!
//! A new file of a relation is a new table of the store: an id, a catalogue entry under the creating xid, and the
//! identity page. TRUNCATE and rewrites make a new file; the old one's table is marked as dropped before commit.

use kriya_engine::catalogue::{CatalogueEntry, TableEntry};
use kriya_engine::keys;
use lsmstore::Batch;
use pgrx::prelude::*;

use crate::compat::{self, Locator};
use crate::error::{Failure, raise};
use crate::identity::{self, Identity, Kind};
use crate::{session, xid};

unsafe fn name(relation: pg_sys::Relation) -> String {
    // SAFETY: an open relation; its name is zero-terminated.
    unsafe { std::ffi::CStr::from_ptr((*(*relation).rd_rel).relname.data.as_ptr()).to_string_lossy().into_owned() }
}

unsafe fn new_table(relation: pg_sys::Relation, locator: &Locator) -> Identity {
    let id = session::new_id();
    let (database, tablespace, relfilenumber) = compat::locator_parts(locator);
    let incarnation = session::incarnation();
    let entry = CatalogueEntry::Table(TableEntry {
        database,
        tablespace,
        relfilenumber,
        created_xid: xid::current(),
        incarnation,
        // SAFETY: the caller's open relation.
        name: unsafe { name(relation) },
    });
    let mut batch = Batch::new();
    batch.put(&keys::catalogue(id), &entry.encode());
    session::write(xid::current(), &batch, &[]);
    Identity::new(Kind::Table, id, incarnation)
}

#[pg_guard]
pub unsafe extern "C-unwind" fn set_new_file(
    relation: pg_sys::Relation,
    locator: *const Locator,
    persistence: core::ffi::c_char,
    freeze_xid: *mut pg_sys::TransactionId,
    minimum_multi: *mut pg_sys::MultiXactId,
) {
    match persistence as u8 {
        pg_sys::RELPERSISTENCE_PERMANENT => {}
        pg_sys::RELPERSISTENCE_UNLOGGED => raise(
            Failure::unsupported("unlogged lsm_s3 tables are not supported yet")
                .hint("Create the table without UNLOGGED."),
        ),
        _ => raise(
            Failure::unsupported("temporary lsm_s3 tables are not supported yet")
                .hint("Use USING heap for temporary tables."),
        ),
    }
    // SAFETY: Postgres' arguments: a free locator, an open relation, two results.
    unsafe {
        *freeze_xid = pg_sys::RecentXmin;
        *minimum_multi = pg_sys::GetOldestMultiXactId();
        let storage = compat::create_storage(*locator, persistence);
        let identity = new_table(relation, &*locator);
        identity::create(*locator, storage, identity);
        identity::forget(relation);
    }
}

#[pg_guard]
pub unsafe extern "C-unwind" fn nontransactional_truncate(relation: pg_sys::Relation) {
    // SAFETY: the relation was created in this transaction and is locked by it: its old table dies with it either way.
    unsafe {
        let old = identity::of(relation).id;
        session::drain();
        let identity = new_table(relation, &compat::locator(relation));
        identity::replace(relation, identity);
        let mut batch = Batch::new();
        batch.put(&keys::drop_mark(old, xid::current()), &[]);
        session::write(xid::current(), &batch, &[]);
    }
}

#[pg_guard]
pub unsafe extern "C-unwind" fn copy_data(_relation: pg_sys::Relation, _locator: *const Locator) {
    raise(Failure::unsupported("ALTER TABLE ... SET TABLESPACE or SET LOGGED on lsm_s3 tables is not supported yet"));
}

#[pg_guard]
#[allow(clippy::too_many_arguments)]
pub unsafe extern "C-unwind" fn copy_for_cluster(
    _old: pg_sys::Relation,
    _new: pg_sys::Relation,
    _index: pg_sys::Relation,
    _use_sort: bool,
    _oldest: pg_sys::TransactionId,
    _xid_cutoff: *mut pg_sys::TransactionId,
    _multi_cutoff: *mut pg_sys::MultiXactId,
    _tuples: *mut f64,
    _vacuumed: *mut f64,
    _recently_dead: *mut f64,
) {
    raise(Failure::unsupported("VACUUM FULL and CLUSTER on lsm_s3 tables are not supported yet"));
}

/// Row versions are dropped by compaction and entries of dead rows are skipped by whoever reads them, so a VACUUM has
/// nothing to do that anything relies on. It says that it was here, or autovacuum would come again every minute.
#[pg_guard]
pub unsafe extern "C-unwind" fn vacuum(
    relation: pg_sys::Relation,
    _parameters: *mut pg_sys::VacuumParams,
    _strategy: pg_sys::BufferAccessStrategy,
) {
    // SAFETY: an open relation of VACUUM's.
    unsafe {
        let class = (*relation).rd_rel;
        let live = (*class).reltuples.max(0.0) as i64;
        pg_sys::pgstat_report_vacuum((*relation).rd_id, (*class).relisshared, live, 0);
    }
}

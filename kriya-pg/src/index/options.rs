//! `WITH (m = ..., ef_construction = ...)`.

use std::sync::atomic::{AtomicU32, Ordering};

use pgrx::prelude::*;

use crate::error::{Failure, raise};

const M: (i32, i32, i32) = (16, 2, 100);
const EF_CONSTRUCTION: (i32, i32, i32) = (200, 4, 1000);

/// Number that Postgres gave our kind of options, in this process.
static KIND: AtomicU32 = AtomicU32::new(0);

/// What Postgres keeps of the options in the relation's descriptor.
#[repr(C)]
struct Stored {
    length: i32,
    m: i32,
    ef_construction: i32,
}

/// Parameters of an index.
#[derive(Clone, Copy, Debug)]
pub struct Parameters {
    /// Neighbours of a node on the upper levels; twice as many on the lowest.
    pub m: u16,
    /// Candidates kept while a node is inserted.
    pub ef_construction: u16,
}

/// Registers the options.
pub fn init() {
    // SAFETY: constant names and texts, copied by Postgres; called while the library is loaded.
    unsafe {
        let kind = pg_sys::add_reloption_kind();
        let lock = pg_sys::AccessExclusiveLock as pg_sys::LOCKMODE;
        let (default, least, most) = M;
        pg_sys::add_int_reloption(kind, c"m".as_ptr(), c"Neighbours of a node".as_ptr(), default, least, most, lock);
        let (default, least, most) = EF_CONSTRUCTION;
        pg_sys::add_int_reloption(
            kind,
            c"ef_construction".as_ptr(),
            c"Candidates kept while a node is inserted".as_ptr(),
            default,
            least,
            most,
            lock,
        );
        KIND.store(kind, Ordering::Relaxed);
    }
}

#[pg_guard]
pub unsafe extern "C-unwind" fn parse(options: pg_sys::Datum, validate: bool) -> *mut pg_sys::bytea {
    let int = pg_sys::relopt_type::RELOPT_TYPE_INT;
    let field = |name: &'static core::ffi::CStr, offset: usize| pg_sys::relopt_parse_elt {
        optname: name.as_ptr(),
        opttype: int,
        offset: offset as i32,
        #[cfg(feature = "pg18")]
        isset_offset: 0,
    };
    let fields = [
        field(c"m", core::mem::offset_of!(Stored, m)),
        field(c"ef_construction", core::mem::offset_of!(Stored, ef_construction)),
    ];
    // SAFETY: the table describes `Stored`, whose size is given; the result is one, or null.
    unsafe {
        let kind = KIND.load(Ordering::Relaxed);
        let stored = pg_sys::build_reloptions(
            options,
            validate,
            kind,
            size_of::<Stored>(),
            fields.as_ptr(),
            fields.len() as i32,
        )
        .cast::<Stored>();
        if validate && !stored.is_null() && (*stored).ef_construction < 2 * (*stored).m {
            raise(Failure::new(
                PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
                "ef_construction must be greater than or equal to 2 * m",
            ));
        }
        stored.cast()
    }
}

/// Parameters of an open index.
///
/// # Safety
/// `index` is open and of this access method.
pub unsafe fn of(index: pg_sys::Relation) -> Parameters {
    // SAFETY: what amoptions returned is a `Stored`.
    let (m, ef_construction) = unsafe {
        let stored = (*index).rd_options.cast::<Stored>();
        if stored.is_null() { (M.0, EF_CONSTRUCTION.0) } else { ((*stored).m, (*stored).ef_construction) }
    };
    Parameters { m: m as u16, ef_construction: ef_construction as u16 }
}

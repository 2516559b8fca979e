//! The PostgreSQL extension kriya_pg.
//!
//! Everything that knows Postgres is in this crate; what it does lives in the crates below it. The SQL objects are
//! declared by hand in `sql/kriya_pg--0.1.0.sql` and bound by symbol name, so an ordinary `cargo build` makes the
//! library: no SQL is generated.

mod compat;
mod error;
mod glue;
mod host;
mod identity;
mod index;
mod monitor;
mod session;
mod settings;
mod slot;
mod table;
pub mod types;
mod worker;
mod xact;
mod xid;

use std::sync::atomic::{AtomicBool, Ordering};

use pgrx::pg_sys::ffi;
use pgrx::prelude::*;

pgrx::pg_module_magic!(name, version);

// `cargo pgrx install` writes the base script itself from what the library declares and copies only upgrade scripts
// out of `sql/`. With this declaration what it writes is the script by hand; a plain build needs only the file.
pgrx::extension_sql_file!("../sql/kriya_pg--0.1.0.sql", name = "kriya_pg", finalize);

/// Set in the postmaster, inherited by every process it forks.
static PRELOADED: AtomicBool = AtomicBool::new(false);

/// True if the library came with `shared_preload_libraries`, so that the postmaster keeps the worker running.
pub(crate) fn was_preloaded() -> bool {
    PRELOADED.load(Ordering::Relaxed)
}

/// Called by Postgres when it loads the library.
#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    settings::init();
    index::init();
    xact::init();
    // SAFETY: plain variables of this process.
    let (preloading, upgrading) =
        unsafe { (pg_sys::process_shared_preload_libraries_in_progress, pg_sys::IsBinaryUpgrade) };
    if preloading && !upgrading {
        PRELOADED.store(true, Ordering::Relaxed);
        if let Err(error) = slot::restore() {
            warning!("replication slot lsm_s3 could not be restored: {error}");
        }
        worker::register();
    }
}

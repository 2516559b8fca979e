//! A copy of the replication slot's file that base backups carry.
//!
//! Backups leave replication slots out. A restored server would let go, at the checkpoint that ends its recovery, of
//! exactly the log that the store needs, before the worker can say so. So the worker keeps a copy of the file that
//! Postgres made of the slot beside its own files, and the postmaster puts it back when the slot is missing: before
//! recovery begins, which reads it as if it had always been there. A standby is left alone: nobody advances a slot there.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use pgrx::pg_sys;

use crate::worker::folder;

const SLOT: &str = "pg_replslot/lsm_s3";

/// Its bytes are those of one major version of Postgres.
fn copy() -> PathBuf {
    folder().join(format!("slot-{}", pg_sys::PG_VERSION_NUM / 10_000))
}

/// Copies the slot's file if it is newer than the copy. Called by the worker whenever it has moved the slot.
pub fn remember() -> io::Result<()> {
    let (state, copy) = (Path::new(SLOT).join("state"), copy());
    let written = fs::metadata(&state)?.modified()?;
    if fs::metadata(&copy).and_then(|known| known.modified()).is_ok_and(|known| known >= written) {
        return Ok(());
    }
    let aside = copy.with_extension("tmp");
    fs::copy(&state, &aside)?;
    fs::rename(&aside, &copy)
}

/// Puts the slot back if it is missing. Called in the postmaster, before anything else runs.
pub fn restore() -> io::Result<()> {
    let copy = copy();
    if Path::new(SLOT).exists() || Path::new("standby.signal").exists() || !copy.exists() {
        return Ok(());
    }
    // A folder with this ending is one that Postgres was making: it clears it away by itself.
    let aside = PathBuf::from(format!("{SLOT}.tmp"));
    match fs::remove_dir_all(&aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::create_dir(&aside)?;
    fs::copy(&copy, aside.join("state"))?;
    fs::File::open(aside.join("state"))?.sync_all()?;
    fs::File::open(&aside)?.sync_all()?;
    fs::rename(&aside, SLOT)?;
    fs::File::open("pg_replslot")?.sync_all()
}

//! A copy of the replication slot's file that base backups carry.
//!
//! Backups leave replication slots out. A restored server would let go, at the checkpoint that ends its recovery, of
//! exactly the log that the store needs, before the worker can say so. So the worker keeps a copy of the file that
//! Postgres made of the slot beside its own files, and the postmaster of a restored backup, which `backup_label` tells,
//! puts it back: before recovery begins, which reads it as if it had always been there and renames the label. A standby
//! is left alone: nobody advances a slot there.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use pgrx::pg_sys;

use crate::worker::folder;

const SLOT: &str = "pg_replslot/lsm_s3";

/// Its bytes are those of one major version of Postgres.
fn copy() -> PathBuf {
    folder().join(format!("slot-{}", pg_sys::PG_VERSION_NUM / 10_000))
}

/// First bytes of the file, its CRC, version, and the length of what follows them.
const HEADER: usize = 16;
const MAGIC: u32 = 0x0105_1CA1;

/// Whether these are the bytes of our slot's file as Postgres writes it. A server does not start over one that is not
/// whole.
fn is_whole(bytes: &[u8]) -> bool {
    let word = |at: usize| bytes.get(at..at + 4).and_then(|word| Some(u32::from_ne_bytes(word.try_into().ok()?)));
    word(0) == Some(MAGIC)
        && word(4) == bytes.get(8..).map(crc32c::crc32c)
        && word(12).is_some_and(|length| length as usize == bytes.len() - HEADER)
        && bytes[HEADER..].starts_with(b"lsm_s3\0")
}

fn whole(path: &Path) -> io::Result<Vec<u8>> {
    let bytes = fs::read(path)?;
    let damaged = || io::Error::new(io::ErrorKind::InvalidData, format!("{} is damaged", path.display()));
    if is_whole(&bytes) { Ok(bytes) } else { Err(damaged()) }
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = fs::File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Copies the slot's file if it is newer than the copy. Called by the worker whenever it has moved the slot.
pub fn remember() -> io::Result<()> {
    let (state, copy) = (Path::new(SLOT).join("state"), copy());
    let written = fs::metadata(&state)?.modified()?;
    if fs::metadata(&copy).and_then(|known| known.modified()).is_ok_and(|known| known >= written) {
        return Ok(());
    }
    let aside = copy.with_extension("tmp");
    write(&aside, &whole(&state)?)?;
    fs::rename(&aside, &copy)?;
    fs::File::open(folder())?.sync_all()
}

/// Puts the slot back if it is missing from a base backup that is started; anywhere else somebody dropped it. Called in the postmaster, before anything else runs.
pub fn restore() -> io::Result<()> {
    let copy = copy();
    let is_there = |name: &str| Path::new(name).exists();
    if !is_there("backup_label") || is_there(SLOT) || is_there("standby.signal") || !copy.exists() {
        return Ok(());
    }
    let bytes = whole(&copy)?;
    // A folder with this ending is one that Postgres was making: it clears it away by itself.
    let aside = PathBuf::from(format!("{SLOT}.tmp"));
    match fs::remove_dir_all(&aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::create_dir(&aside)?;
    write(&aside.join("state"), &bytes)?;
    fs::File::open(&aside)?.sync_all()?;
    fs::rename(&aside, SLOT)?;
    fs::File::open("pg_replslot")?.sync_all()
}

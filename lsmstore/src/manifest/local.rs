//! The local manifest: a file in the store's folder that names what is durable on the local disk and perhaps not in the
//! object store yet. Its bytes are those of a manifest; a table without an object has the object length 0.
//!
//! It counts only beside the bucket it was written for: of the same store and the same epoch as the bucket's newest
//! manifest (whoever took the bucket over afterwards did so with another epoch), with a newer R or S, and with a whole
//! mirror of each table that has no object.

use std::path::Path;

use crate::env::{Env, write_whole};
use crate::error::StorageError;
use crate::fail;
use crate::manifest::Manifest;
use crate::mirror::Mirror;

const NAME: &str = "MANIFEST";

/// Replaces the local manifest.
pub(crate) fn write(env: &dyn Env, dir: &Path, bytes: &[u8]) -> Result<(), StorageError> {
    fail::point("before-local-manifest");
    write_whole(env, dir, NAME, bytes)?;
    fail::point("after-local-manifest");
    Ok(())
}

/// Removes it: the bucket holds everything.
pub(crate) fn remove(env: &dyn Env, dir: &Path) {
    // One that stays is of an older epoch than the bucket's newest manifest, and says nothing.
    let _ = env.remove(&dir.join(NAME));
}

/// The local manifest and its number, if it is newer than `newest` of the bucket.
///
/// # Errors
/// Why it cannot be used although it is newer, or that it cannot be read.
pub(crate) fn newer(
    env: &dyn Env,
    dir: &Path,
    mirror: &Mirror,
    newest: &Manifest,
) -> Result<Option<(u64, Manifest)>, StorageError> {
    let path = dir.join(NAME);
    let bytes = match env.read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StorageError::local(path)(error)),
    };
    let name = path.display().to_string();
    let (number, manifest) = Manifest::decode_any(&name, &bytes).map_err(StorageError::Corrupt)?;
    let (held, found) = ((newest.last_sequence, newest.position), (manifest.last_sequence, manifest.position));
    if (manifest.store_id, manifest.epoch) != (newest.store_id, newest.epoch) || found <= held {
        return Ok(None);
    }
    for table in manifest.levels.iter().flatten().filter(|table| table.object_len == 0) {
        mirror.open(table, true)?;
    }
    Ok(Some((number, manifest)))
}

//! The local manifest: a file in the store's folder that names what is durable on the local disk and perhaps not in the
//! object store yet. Its bytes are those of a manifest; a table without an object has the object length 0.
//!
//! It counts only beside the bucket it was written for: of the same store and the same epoch as the bucket's newest
//! manifest (whoever took the bucket over afterwards did so with another epoch), with a newer R or S, and with a whole
//! mirror of each table that has no object. There is one from the first opening of a folder on, so it also tells whose
//! tables are there. One that names tables which nobody else has is never thrown away: it is used, or set aside.

use std::collections::HashSet;
use std::fmt::{self, Display, Formatter};
use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::env::{Env, nonce, write_whole};
use crate::error::StorageError;
use crate::fail;
use crate::manifest::Manifest;
use crate::mirror::Mirror;
use crate::sstable::{TableId, TableRef};

const NAME: &str = "MANIFEST";

/// Replaces the local manifest.
pub(crate) fn write(env: &dyn Env, dir: &Path, bytes: &[u8]) -> Result<(), StorageError> {
    fail::point("before-local-manifest");
    write_whole(env, dir, NAME, bytes)?;
    fail::point("after-local-manifest");
    Ok(())
}

/// Removes it: nothing that it names would be missed.
pub(crate) fn remove(env: &dyn Env, dir: &Path) -> Result<(), StorageError> {
    let path = dir.join(NAME);
    match env.remove(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(StorageError::local(path)(error)),
        _ => env.sync_dir(dir).map_err(StorageError::local(dir)),
    }
}

/// The local manifest and the number that it was born with; none if there is none.
///
/// # Errors
/// That it cannot be read or is damaged.
pub(crate) fn read(env: &dyn Env, dir: &Path) -> Result<Option<(u64, Manifest)>, StorageError> {
    let path = dir.join(NAME);
    let bytes = match env.read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StorageError::local(path)(error)),
    };
    Manifest::decode_any(&path.display().to_string(), &bytes).map(Some).map_err(StorageError::Corrupt)
}

/// Whether a local manifest is ahead of `newest` of the bucket.
pub(crate) fn is_ahead(local: &Manifest, newest: &Manifest) -> bool {
    (local.store_id, local.epoch) == (newest.store_id, newest.epoch)
        && (local.last_sequence, local.position) > (newest.last_sequence, newest.position)
}

/// The local manifest and its number, if it is newer than `newest` of the bucket. Every checksum of what it alone has
/// was verified.
///
/// # Errors
/// Why it cannot be used although it is newer, or that it cannot be read.
pub(crate) fn newer(
    env: &dyn Env,
    dir: &Path,
    mirror: &Mirror,
    newest: &Manifest,
) -> Result<Option<(u64, Manifest)>, StorageError> {
    let Some((number, manifest)) = read(env, dir)?.filter(|(_, local)| is_ahead(local, newest)) else {
        return Ok(None);
    };
    for table in pending(&manifest) {
        mirror.open(table, true)?;
    }
    Ok(Some((number, manifest)))
}

/// The tables that may have no object.
fn pending(manifest: &Manifest) -> impl Iterator<Item = &TableRef> {
    manifest.levels.iter().flatten().filter(|table| table.object_len == 0)
}

/// How many tables the local manifest of a folder names that may be nowhere but on the local disk; 0 if there is none.
///
/// # Errors
/// [`StorageError`] if it cannot be read or is damaged.
pub fn pending_tables(env: &dyn Env, local_dir: &Path) -> Result<usize, StorageError> {
    Ok(read(env, local_dir)?.map_or(0, |(_, local)| pending(&local).count()))
}

/// What the local disk holds of another store than the one in the bucket, or of one whose bucket is empty now.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LeftBehind {
    /// That store.
    pub store_id: Uuid,
    /// The folder that holds it.
    pub local_dir: PathBuf,
    /// Tables that its local manifest names.
    pub tables: usize,
    /// Those of them that may be nowhere else.
    pub pending: usize,
}

impl Display for LeftBehind {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let LeftBehind { store_id, local_dir, tables, pending } = self;
        let dir = local_dir.display();
        write!(f, "{dir} belongs to store {store_id} with {tables} tables, {pending} of which may be nowhere else")
    }
}

/// What would be lost to a folder that went on with `newest` of a bucket, or with an empty one, although it belongs to
/// another store.
pub(crate) fn left_behind(dir: &Path, local: &Manifest, newest: Option<&Manifest>) -> Option<LeftBehind> {
    let (tables, pending) = (local.levels.iter().flatten().count(), pending(local).count());
    let missed = match newest {
        None => tables,
        Some(newest) if newest.store_id != local.store_id => pending,
        Some(_) => 0,
    };
    let found = LeftBehind { store_id: local.store_id, local_dir: dir.to_owned(), tables, pending };
    (missed > 0).then_some(found)
}

/// The tables that nobody else has, once the store goes on as `next`, when the bucket's newest manifest was `newest`.
pub(crate) fn missed<'a>(local: &'a Manifest, newest: Option<&Manifest>, next: &Manifest) -> Vec<&'a TableRef> {
    if newest.is_some_and(|newest| {
        (newest.store_id, newest.epoch) == (local.store_id, local.epoch) && !is_ahead(local, newest)
    }) {
        // All writes of it are in the bucket, if in other tables.
        return Vec::new();
    }
    let kept: HashSet<TableId> = match local.store_id == next.store_id {
        true => {
            newest.into_iter().chain([next]).flat_map(|known| known.levels.iter().flatten()).map(|t| t.id).collect()
        }
        false => HashSet::new(),
    };
    pending(local).filter(|table| !kept.contains(&table.id)).collect()
}

/// Moves the mirrors of `tables` and a copy of the manifest that names them to a folder of their own, which is returned.
pub(crate) fn set_aside(
    env: &dyn Env,
    mirror: &Mirror,
    number: u64,
    manifest: &Manifest,
    tables: &[&TableRef],
) -> Result<PathBuf, StorageError> {
    let folder = mirror.aside().join(manifest.nonce.to_string());
    env.create_dir(&folder).map_err(StorageError::local(&folder))?;
    let bytes = manifest.encode(number, 1).map_err(StorageError::local(&folder))?;
    write_whole(env, &folder, NAME, &bytes)?;
    for table in tables {
        mirror.move_to(table, &folder)?;
    }
    env.sync_dir(&folder).map_err(StorageError::local(&folder))?;
    env.sync_dir(&mirror.aside()).map_err(StorageError::local(mirror.aside()))?;
    Ok(folder)
}

/// Moves every mirror but those of `keep` to a folder of their own, which is
/// returned. None if there is no other.
pub(crate) fn set_all_aside(
    env: &dyn Env,
    mirror: &Mirror,
    keep: &[TableRef],
) -> Result<Option<PathBuf>, StorageError> {
    let others = mirror.others(keep)?;
    if others.is_empty() {
        return Ok(None);
    }
    let id = nonce(env).map_err(StorageError::local("random bytes"))?;
    let folder = mirror.aside().join(id.to_string());
    env.create_dir(&folder).map_err(StorageError::local(&folder))?;
    for path in others {
        let name = path.file_name().unwrap_or_default();
        env.rename(&path, &folder.join(name)).map_err(StorageError::local(&path))?;
    }
    env.sync_dir(&folder).map_err(StorageError::local(&folder))?;
    env.sync_dir(&mirror.aside()).map_err(StorageError::local(mirror.aside()))?;
    Ok(Some(folder))
}

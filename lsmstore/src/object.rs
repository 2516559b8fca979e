//! Objects: their names, and creating one without ever replacing another.
//!
//! ```text
//! {prefix}/manifest/{number:020}
//! {prefix}/sst/{epoch:016x}/{counter:016x}.sst
//! {prefix}/wal/{epoch:016x}/{number:016x}      the log, see `wal::remote`
//! {prefix}/fence/{epoch:016x}                  an epoch that is over, see `gc`
//! {prefix}/boundary/{number:020}               what was collected, see `gc`
//! {prefix}/checkpoint/{id}/{beat:08x}          what is kept by name, see `checkpoint`
//! {prefix}/probe/{nonce}                       scratch, see `probe`
//! ```
//! Everything is made by create-if-absent. "Already exists" does not mean that somebody else made it: clients retry
//! requests that had taken effect, and some stores answer a conflict so. The object itself decides.

use std::ops::Range;
use std::path::Path as LocalPath;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use uuid::Uuid;

use crate::error::{Corruption, StorageError};
use crate::sstable::TableId;

/// Objects in memory, gone with the process. For tests and for `endpoint = memory`.
pub fn memory() -> Arc<dyn ObjectStore> {
    Arc::new(object_store::memory::InMemory::new())
}

/// Objects as files under `dir`, which is made if missing; each is synced before it counts as written.
///
/// # Errors
/// [`StorageError`] if the folder cannot be made.
pub fn local(dir: &LocalPath) -> Result<Arc<dyn ObjectStore>, StorageError> {
    std::fs::create_dir_all(dir).map_err(StorageError::local(dir))?;
    let store = object_store::local::LocalFileSystem::new_with_prefix(dir)
        .map_err(StorageError::object(format!("opening the folder {}", dir.display())))?;
    Ok(Arc::new(store.with_fsync(true)))
}

/// Names of objects under a prefix.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    prefix: Path,
}

impl Names {
    pub(crate) fn new(prefix: &str) -> Names {
        Names { prefix: Path::from(prefix) }
    }

    fn name(&self, rest: &str) -> Path {
        // What is special in the prefix is escaped already, and once.
        self.prefix.parts().chain(Path::from(rest).parts()).collect()
    }

    /// The prefix, if there is one.
    #[cfg(feature = "ctl")]
    pub(crate) fn root(&self) -> Option<Path> {
        (!self.prefix.as_ref().is_empty()).then(|| self.prefix.clone())
    }

    pub(crate) fn manifests(&self) -> Path {
        self.name("manifest")
    }

    pub(crate) fn manifest(&self, number: u64) -> Path {
        self.name(&format!("manifest/{number:020}"))
    }

    /// The number in a manifest's name; none for a name that is not one.
    pub(crate) fn manifest_number(path: &Path) -> Option<u64> {
        let name = path.filename()?;
        (name.len() == 20 && name.bytes().all(|byte| byte.is_ascii_digit())).then(|| name.parse().ok()).flatten()
    }

    pub(crate) fn tables(&self) -> Path {
        self.name("sst")
    }

    pub(crate) fn table(&self, id: TableId) -> Path {
        self.name(&format!("sst/{:016x}/{:016x}.sst", id.epoch, id.counter))
    }

    /// The table that a name is of; none for a name that is not a table's.
    pub(crate) fn table_id(path: &Path) -> Option<TableId> {
        let counter = hex(path.filename()?.strip_suffix(".sst")?, 16)?;
        let epoch = hex(path.as_ref().rsplit('/').nth(1)?, 16)?;
        Some(TableId { epoch, counter })
    }

    pub(crate) fn logs(&self) -> Path {
        self.name("wal")
    }

    pub(crate) fn log(&self, epoch: u64, number: u64) -> Path {
        self.name(&format!("wal/{epoch:016x}/{number:016x}"))
    }

    /// Epoch and number in the name of an object of the log.
    pub(crate) fn logged(path: &Path) -> Option<(u64, u64)> {
        let number = hex(path.filename()?, 16)?;
        Some((hex(path.as_ref().rsplit('/').nth(1)?, 16)?, number))
    }

    pub(crate) fn fences(&self) -> Path {
        self.name("fence")
    }

    pub(crate) fn fence(&self, epoch: u64) -> Path {
        self.name(&format!("fence/{epoch:016x}"))
    }

    /// The epoch in a fence's name.
    pub(crate) fn fenced_epoch(path: &Path) -> Option<u64> {
        hex(path.filename()?, 16)
    }

    pub(crate) fn boundaries(&self) -> Path {
        self.name("boundary")
    }

    pub(crate) fn boundary(&self, number: u64) -> Path {
        self.name(&format!("boundary/{number:020}"))
    }

    pub(crate) fn checkpoints(&self) -> Path {
        self.name("checkpoint")
    }

    pub(crate) fn checkpoint(&self, id: Uuid, beat: u64) -> Path {
        self.name(&format!("checkpoint/{id}/{beat:08x}"))
    }

    /// Whose checkpoint a name is of, and which beat.
    pub(crate) fn checkpoint_beat(path: &Path) -> Option<(Uuid, u64)> {
        let beat = hex(path.filename()?, 8)?;
        Some((path.as_ref().rsplit('/').nth(1)?.parse().ok()?, beat))
    }

    pub(crate) fn probe(&self, nonce: Uuid) -> Path {
        self.name(&format!("probe/{nonce}"))
    }
}

fn hex(text: &str, digits: usize) -> Option<u64> {
    let whole = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    whole.then(|| u64::from_str_radix(text, 16).ok()).flatten()
}

/// How a create-if-absent ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Created {
    /// The object is there and ours.
    Ours,
    /// Somebody else's object has the name.
    Theirs,
}

/// Attempts of one create in which the object was neither written nor there.
const ATTEMPTS: usize = 8;

/// Creates an object. If one is there already, `is_ours` judges its bytes.
pub(crate) async fn create(
    objects: &dyn ObjectStore,
    path: &Path,
    bytes: Bytes,
    is_ours: impl Fn(&[u8]) -> Result<bool, Corruption>,
) -> Result<Created, StorageError> {
    let mut last = None;
    for _ in 0..ATTEMPTS {
        let options = PutOptions::from(PutMode::Create);
        match objects.put_opts(path, PutPayload::from(bytes.clone()), options).await {
            Ok(_) => return Ok(Created::Ours),
            Err(error @ (object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. })) => {
                if let Some(found) = get(objects, path).await? {
                    return Ok(if is_ours(&found)? { Created::Ours } else { Created::Theirs });
                }
                last = Some(error);
            }
            Err(error) => return Err(StorageError::object(format!("creating {path}"))(error)),
        }
    }
    let source = last.unwrap_or(object_store::Error::NotImplemented {
        operation: "create-if-absent".into(),
        implementer: objects.to_string(),
    });
    Err(StorageError::object(format!("creating {path}: said to exist {ATTEMPTS} times, never found"))(source))
}

/// The bytes of an object, none if it is not there.
pub(crate) async fn get(objects: &dyn ObjectStore, path: &Path) -> Result<Option<Bytes>, StorageError> {
    let read = async { objects.get(path).await?.bytes().await };
    match read.await {
        Ok(bytes) => Ok(Some(bytes)),
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(StorageError::object(format!("reading {path}"))(error)),
    }
}

/// Whether an object is there.
pub(crate) async fn exists(objects: &dyn ObjectStore, path: &Path) -> Result<bool, StorageError> {
    match objects.head(path).await {
        Ok(_) => Ok(true),
        Err(object_store::Error::NotFound { .. }) => Ok(false),
        Err(error) => Err(StorageError::object(format!("looking for {path}"))(error)),
    }
}

/// Everything below a folder, in no order.
pub(crate) async fn list(objects: &dyn ObjectStore, dir: &Path) -> Result<Vec<ObjectMeta>, StorageError> {
    objects.list(Some(dir)).try_collect().await.map_err(StorageError::object(format!("listing {dir}")))
}

/// Deletes objects; those that are not there are as good as deleted.
pub(crate) async fn delete(objects: &dyn ObjectStore, paths: Vec<Path>) -> Result<(), StorageError> {
    let mut deleted = objects.delete_stream(futures::stream::iter(paths).map(Ok).boxed());
    while let Some(result) = deleted.next().await {
        match result {
            Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => return Err(StorageError::object("deleting")(error)),
        }
    }
    Ok(())
}

/// Bytes of an object, from `range.start` on and below `range.end`, all of them.
///
/// # Errors
/// [`StorageError::Missing`] if it is not there, damage if it is shorter.
pub(crate) async fn get_range(
    objects: &dyn ObjectStore,
    path: &Path,
    range: Range<u64>,
) -> Result<Bytes, StorageError> {
    let what = || format!("reading bytes {} to {} of {path}", range.start, range.end);
    match objects.get_range(path, range.clone()).await {
        Ok(bytes) if bytes.len() as u64 == range.end - range.start => Ok(bytes),
        Ok(bytes) => {
            let what = format!("{} bytes were expected and {} came", range.end - range.start, bytes.len());
            Err(Corruption::new(path.as_ref(), range.start, what).into())
        }
        Err(object_store::Error::NotFound { .. }) => Err(StorageError::Missing { object: path.to_string() }),
        Err(error) => Err(StorageError::object(what())(error)),
    }
}

/// Bytes of one request for a part of a large object, and how many are asked for at a time.
const PART: u64 = 8 << 20;
const PARTS_AT_A_TIME: usize = 4;

/// An object of `length` bytes, in parts asked for side by side if it is large; none if it is not there.
pub(crate) async fn get_large(
    objects: &dyn ObjectStore,
    path: &Path,
    length: u64,
) -> Result<Option<Bytes>, StorageError> {
    if length <= PART {
        return get(objects, path).await;
    }
    let parts = (0..length.div_ceil(PART)).map(|part| part * PART..((part + 1) * PART).min(length));
    let parts = futures::stream::iter(parts).map(|part| get_range(objects, path, part)).buffered(PARTS_AT_A_TIME);
    let mut parts = std::pin::pin!(parts);
    let mut whole = BytesMut::new();
    while let Some(part) = parts.next().await {
        match part {
            Ok(bytes) => whole.extend_from_slice(&bytes),
            Err(StorageError::Missing { .. }) => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    Ok(Some(whole.freeze()))
}

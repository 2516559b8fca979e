//! Objects: their names, and creating one without ever replacing another.
//!
//! ```text
//! {prefix}/manifest/{number:020}
//! {prefix}/sst/{epoch:016x}/{counter:016x}.sst
//! ```
//! Everything is made by create-if-absent. "Already exists" does not mean that somebody else made it: clients retry
//! requests that had taken effect, and some stores answer a conflict so. The object itself decides.

use std::path::Path as LocalPath;
use std::sync::Arc;

use bytes::Bytes;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};

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
        if self.prefix.as_ref().is_empty() { Path::from(rest) } else { Path::from(format!("{}/{rest}", self.prefix)) }
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

    pub(crate) fn table(&self, id: TableId) -> Path {
        self.name(&format!("sst/{:016x}/{:016x}.sst", id.epoch, id.counter))
    }
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
    Err(StorageError::Object { what: format!("creating {path}: said to exist {ATTEMPTS} times, never found"), source })
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

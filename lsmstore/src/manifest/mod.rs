//! The manifest: which tables make up the store, numbered, immutable, made by create-if-absent only.
//!
//! Each manifest is complete in itself. Its number is the version of the store; its nonce tells one attempt at a number
//! from another, so that a retried PUT that had already taken effect is recognised; its epoch names the writer, and a
//! writer that finds a number taken by someone else is fenced. Bytes are in `format`, finding and making in `publish`.

pub(crate) mod format;
pub(crate) mod publish;

use std::sync::Arc;

use object_store::ObjectStore;
use uuid::Uuid;

use crate::error::StorageError;
use crate::sstable::TableRef;

pub(crate) use format::{LogKind, Manifest};

/// What a manifest says, without its tables.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ManifestInfo {
    /// Its number; the newest is the highest.
    pub number: u64,
    /// Tells it from another attempt at the same number.
    pub nonce: Uuid,
    /// Nonce of the manifest before it; nil for the first.
    pub previous_nonce: Uuid,
    /// The store, named once when the bucket was first used.
    pub store_id: Uuid,
    /// The writer's epoch.
    pub epoch: u64,
    /// S: writes up to here are in the tables.
    pub last_sequence: u64,
    /// R: an external log's replay starts here.
    pub position: u64,
    /// What the external log's `birth` returned.
    pub owner: Vec<u8>,
    /// Whether it is the last one of an orderly stop.
    pub clean: bool,
    /// Number of tables.
    pub tables: u64,
    /// Versions in them.
    pub entries: u64,
    /// Bytes of their objects.
    pub object_bytes: u64,
}

impl ManifestInfo {
    pub(crate) fn of(number: u64, manifest: &Manifest) -> ManifestInfo {
        let sum = |of: fn(&TableRef) -> u64| manifest.levels.iter().flatten().map(of).sum();
        ManifestInfo {
            number,
            nonce: manifest.nonce,
            previous_nonce: manifest.previous_nonce,
            store_id: manifest.store_id,
            epoch: manifest.epoch,
            last_sequence: manifest.last_sequence,
            position: manifest.position,
            owner: manifest.owner.clone(),
            clean: manifest.clean,
            tables: sum(|_| 1),
            entries: sum(|table| table.entries),
            object_bytes: sum(|table| table.object_len),
        }
    }
}

/// The newest manifest under `prefix`, read without opening the store; none if the bucket is empty there. Nothing is
/// written.
///
/// # Errors
/// [`StorageError`] if the object store fails or the manifest is damaged.
pub async fn peek(objects: &Arc<dyn ObjectStore>, prefix: &str) -> Result<Option<ManifestInfo>, StorageError> {
    let names = crate::object::Names::new(prefix);
    let latest = publish::latest(&**objects, &names).await?;
    Ok(latest.map(|(number, manifest)| ManifestInfo::of(number, &manifest)))
}

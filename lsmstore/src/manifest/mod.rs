//! The manifest: which tables make up the store, numbered, immutable, made by create-if-absent only.
//!
//! Each manifest is complete in itself. Its number is the version of the store; its nonce tells one attempt at a number
//! from another, so that a retried PUT that had already taken effect is recognised; its epoch names the writer, and a
//! writer that finds a number taken by someone else is fenced. Bytes are in `format`, finding and making in `publish`.

pub(crate) mod format;
pub(crate) mod local;
pub(crate) mod publish;

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use object_store::ObjectStore;
use uuid::Uuid;

use crate::config::Config;
use crate::env::Env;
use crate::error::StorageError;
use crate::mirror::Mirror;
use crate::sstable::TableRef;

pub(crate) use format::{LogKind, Manifest};
pub use local::{LeftBehind, pending_tables};

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

/// What a store could be opened from.
#[derive(Debug)]
#[non_exhaustive]
pub struct Candidates {
    /// The newest manifest in the bucket; none if the bucket is empty.
    pub newest: Option<ManifestInfo>,
    /// The manifest on the local disk, if it is ahead of it and everything it alone has is there and was verified.
    pub local: Option<ManifestInfo>,
    /// Why there is none although one may be ahead.
    pub local_error: Option<StorageError>,
    /// What the local folder holds of another store; opened all the same, that is set aside only if
    /// [`Config::leave_behind`] says so.
    pub left_behind: Option<LeftBehind>,
}

/// Looks at the bucket and the local folder without opening the store. Nothing is written. [`Config::base`] makes one of
/// them the one that the store goes on with.
///
/// # Errors
/// [`StorageError`] if the object store fails or its newest manifest is damaged.
pub async fn candidates(
    config: &Config,
    objects: &Arc<dyn ObjectStore>,
    env: &Arc<dyn Env>,
) -> Result<Candidates, StorageError> {
    let names = crate::object::Names::new(&config.prefix);
    let latest = publish::latest(&**objects, &names, None).await?;
    let (env, config) = (Arc::clone(env), config.clone());
    let seam = Arc::clone(&env);
    let look = move || {
        let mirror = Mirror::new(Arc::clone(&seam), config.mirror_dir(), config.block_bytes);
        let mut found = Candidates { newest: None, local: None, local_error: None, left_behind: None };
        let here = local::read(&*seam, &config.local_dir);
        let newest = latest.as_ref().map(|(_, newest)| newest);
        if let Ok(Some((_, here))) = &here {
            found.left_behind = local::left_behind(&config.local_dir, here, newest);
        }
        let ahead = match (&latest, here) {
            (_, Err(error)) => Err(error),
            (Some((_, newest)), Ok(Some(_))) => local::newer(&*seam, &config.local_dir, &mirror, newest),
            _ => Ok(None),
        };
        match ahead {
            Ok(ahead) => found.local = ahead.map(|(number, manifest)| ManifestInfo::of(number, &manifest)),
            Err(error) => found.local_error = Some(error),
        }
        found.newest = latest.map(|(number, newest)| ManifestInfo::of(number, &newest));
        found
    };
    crate::env::blocking(&*env, look).await.map_err(StorageError::from)
}

/// Objects that are asked for at a time.
const PARALLEL: usize = 16;

/// A table of a manifest of the bucket, or of the local one, that has neither its object nor its mirror: whoever has such a
/// manifest has an incomplete copy of a bucket. None if all are there.
///
/// # Errors
/// [`StorageError`] if the object store fails or the manifest is damaged.
pub async fn missing_table(
    config: &Config,
    objects: &Arc<dyn ObjectStore>,
    env: &Arc<dyn Env>,
    of: &ManifestInfo,
) -> Result<Option<String>, StorageError> {
    let names = crate::object::Names::new(&config.prefix);
    let local = local::read(&**env, &config.local_dir).ok().flatten();
    let manifest = match local.filter(|(_, local)| local.nonce == of.nonce) {
        Some((_, local)) => local,
        None => {
            let path = names.manifest(of.number);
            let bytes = crate::object::get(&**objects, &path).await?;
            let bytes = bytes.ok_or_else(|| StorageError::Missing { object: path.to_string() })?;
            Manifest::decode(path.as_ref(), of.number, &bytes)?
        }
    };
    let mirror = Mirror::new(Arc::clone(env), config.mirror_dir(), config.block_bytes);
    let elsewhere =
        manifest.levels.iter().flatten().filter(|table| !mirror.has(table)).map(|table| names.table(table.id));
    let missing = futures::stream::iter(elsewhere)
        .map(|object| async move {
            let there = crate::object::exists(&**objects, &object).await?;
            Ok::<_, StorageError>((!there).then(|| object.to_string()))
        })
        .buffer_unordered(PARALLEL)
        .try_filter_map(|missing| async move { Ok(missing) });
    let mut missing = std::pin::pin!(missing);
    missing.try_next().await
}

/// The numbers of the manifests under `prefix`, ascending: those that were collected are missing.
///
/// # Errors
/// [`StorageError`] if the object store fails.
pub async fn manifest_numbers(objects: &Arc<dyn ObjectStore>, prefix: &str) -> Result<Vec<u64>, StorageError> {
    publish::numbers(&**objects, &crate::object::Names::new(prefix)).await
}

/// Manifest `number` of the bucket, none if there is none of that number.
///
/// # Errors
/// [`StorageError`] if the object store fails or the manifest is damaged.
pub async fn read_manifest(
    objects: &Arc<dyn ObjectStore>,
    prefix: &str,
    number: u64,
) -> Result<Option<ManifestInfo>, StorageError> {
    let path = crate::object::Names::new(prefix).manifest(number);
    let Some(bytes) = crate::object::get(&**objects, &path).await? else { return Ok(None) };
    Ok(Some(ManifestInfo::of(number, &Manifest::decode(path.as_ref(), number, &bytes)?)))
}

/// The newest manifest under `prefix`, read without opening the store; none if the bucket is empty there. Nothing is
/// written.
///
/// # Errors
/// [`StorageError`] if the object store fails or the manifest is damaged.
pub async fn peek(objects: &Arc<dyn ObjectStore>, prefix: &str) -> Result<Option<ManifestInfo>, StorageError> {
    let names = crate::object::Names::new(prefix);
    let latest = publish::latest(&**objects, &names, None).await?;
    Ok(latest.map(|(number, manifest)| ManifestInfo::of(number, &manifest)))
}

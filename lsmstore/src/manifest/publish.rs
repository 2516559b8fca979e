//! Finding the newest manifest, and making the next one.

use futures::TryStreamExt;
use object_store::ObjectStore;
use uuid::Uuid;

use crate::error::StorageError;
use crate::fail;
use crate::manifest::Manifest;
use crate::object::{self, Created, Names};

/// The newest manifest; none if there is none.
pub(crate) async fn latest(objects: &dyn ObjectStore, names: &Names) -> Result<Option<(u64, Manifest)>, StorageError> {
    let Some(number) = newest_number(objects, names, None).await? else { return Ok(None) };
    let path = names.manifest(number);
    let bytes = object::get(objects, &path).await?.ok_or_else(|| StorageError::Missing { object: path.to_string() })?;
    let manifest = Manifest::decode(path.as_ref(), number, &bytes).map_err(|mut corruption| {
        // Going back to an older one loses what was published since: nobody but a human may do that.
        corruption.what += ". It is the newest manifest. Bring the object back (an older version of it, a copy of the \
                            bucket); or open the store with Config::base set to the nonce of an older manifest, which \
                            leaves behind what was published since";
        corruption
    })?;
    Ok(Some((number, manifest)))
}

/// The highest number of a manifest, above `after` if that is given.
pub(crate) async fn newest_number(
    objects: &dyn ObjectStore,
    names: &Names,
    after: Option<u64>,
) -> Result<Option<u64>, StorageError> {
    let dir = names.manifests();
    let listed = match after {
        Some(number) => objects.list_with_offset(Some(&dir), &names.manifest(number)),
        None => objects.list(Some(&dir)),
    };
    let numbers = listed.try_filter_map(|meta| async move { Ok(Names::manifest_number(&meta.location)) });
    numbers
        .try_fold(None, |newest: Option<u64>, number| async move { Ok(newest.max(Some(number))) })
        .await
        .map_err(StorageError::object(format!("listing {dir}")))
}

/// The numbers of all manifests, ascending.
pub(crate) async fn numbers(objects: &dyn ObjectStore, names: &Names) -> Result<Vec<u64>, StorageError> {
    let listed = object::list(objects, &names.manifests()).await?;
    let mut numbers: Vec<u64> = listed.iter().filter_map(|meta| Names::manifest_number(&meta.location)).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// Creates manifest `number`. Knows its own earlier attempt with the same nonce.
pub(crate) async fn create(
    objects: &dyn ObjectStore,
    names: &Names,
    number: u64,
    nonce: Uuid,
    bytes: bytes::Bytes,
) -> Result<Created, StorageError> {
    let path = names.manifest(number);
    fail::point("before-manifest");
    object::create(objects, &path, bytes, |found| match Manifest::decode(path.as_ref(), number, found) {
        Ok(manifest) => Ok(manifest.nonce == nonce),
        Err(corruption) => Err(corruption),
    })
    .await
}

//! Finding the newest manifest, and making the next one.

use futures::{StreamExt, TryStreamExt};
use object_store::ObjectStore;
use uuid::Uuid;

use crate::error::StorageError;
use crate::fail;
use crate::manifest::Manifest;
use crate::object::{self, Created, Names};

/// Names that one request lists.
const PAGE: usize = 1000;

/// The newest manifest, above `after` if that is given; none if there is none.
pub(crate) async fn latest(
    objects: &dyn ObjectStore,
    names: &Names,
    after: Option<u64>,
) -> Result<Option<(u64, Manifest)>, StorageError> {
    let Some(mut number) = newest_number(objects, names, after).await? else { return Ok(None) };
    let (path, bytes) = loop {
        let path = names.manifest(number);
        if let Some(bytes) = object::get(objects, &path).await? {
            break (path, bytes);
        }
        // It may have been collected since it was listed, if a newer one has taken its place.
        let newer = newest_number(objects, names, Some(number)).await?;
        number = newer.ok_or_else(|| StorageError::Missing { object: path.to_string() })?;
    };
    let manifest = Manifest::decode(path.as_ref(), number, &bytes).map_err(|mut corruption| {
        // Going back to an older one loses what was published since: nobody but a human may do that.
        corruption.what += ". It is the newest manifest. Bring the object back (an older version of it, a copy of the \
                            bucket); or open the store with Config::base set to the nonce of an older manifest, which \
                            leaves behind what was published since";
        corruption
    })?;
    Ok(Some((number, manifest)))
}

/// The highest number of a manifest, above `after` if that is given. There may be very many: it leaps over most of them.
pub(crate) async fn newest_number(
    objects: &dyn ObjectStore,
    names: &Names,
    after: Option<u64>,
) -> Result<Option<u64>, StorageError> {
    let (mut newest, mut leap, mut narrowing) = (None, 0_u64, false);
    loop {
        let behind = newest.or(after).map(|number: u64| number.saturating_add(leap));
        let page = page(objects, names, behind).await?;
        // Ascending in most stores, but not in a folder.
        let highest = page.iter().flatten().max().copied();
        match highest {
            Some(_) if page.len() < PAGE => return Ok(highest),
            // The store does not heed where it should begin.
            Some(_) if highest <= newest.or(after) => return all(objects, names, after).await,
            Some(_) => {
                newest = highest;
                leap = if narrowing { leap / 2 } else { (leap * 2).max(PAGE as u64) };
            }
            None if leap == 0 && page.len() < PAGE => return Ok(newest),
            None if leap == 0 => return all(objects, names, after).await,
            None => (narrowing, leap) = (true, leap / 2),
        }
        if leap < PAGE as u64 {
            leap = 0;
        }
    }
}

/// The highest of all numbers, above `after` if that is given, where names that are none of ours stand in the way.
async fn all(objects: &dyn ObjectStore, names: &Names, after: Option<u64>) -> Result<Option<u64>, StorageError> {
    Ok(numbers(objects, names).await?.last().copied().filter(|number| Some(*number) > after))
}

/// The first names of manifests behind one, as their numbers; up to a [`PAGE`].
async fn page(objects: &dyn ObjectStore, names: &Names, behind: Option<u64>) -> Result<Vec<Option<u64>>, StorageError> {
    let dir = names.manifests();
    let listed = match behind {
        Some(number) => objects.list_with_offset(Some(&dir), &names.manifest(number)),
        None => objects.list(Some(&dir)),
    };
    let found = listed.take(PAGE).map_ok(|meta| Names::manifest_number(&meta.location)).try_collect();
    found.await.map_err(StorageError::object(format!("listing {dir}")))
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use object_store::memory::InMemory;
    use object_store::{ObjectStoreExt, PutPayload};

    #[tokio::test]
    async fn the_newest_is_found_whatever_is_there() {
        let (names, folder) = (Names::new("test"), tempfile::tempdir().unwrap());
        let local = object_store::local::LocalFileSystem::new_with_prefix(folder.path()).unwrap();
        let counts = [0, 1, 2, 999, 1000, 1001, 2000, 2001, 3500, 9000];
        for (objects, counts) in [(&InMemory::new() as &dyn ObjectStore, &counts[..]), (&local, &counts[..8])] {
            let mut there = 0;
            for &count in counts {
                while there < count {
                    there += 1;
                    objects.put(&names.manifest(there), PutPayload::default()).await.unwrap();
                }
                let newest = (count > 0).then_some(count);
                assert_eq!(newest_number(objects, &names, None).await.unwrap(), newest);
                for after in [1, 998, 999, 1000, 1500, 3499, 8999, 9000] {
                    let above = newest.filter(|newest| *newest > after);
                    assert_eq!(newest_number(objects, &names, Some(after)).await.unwrap(), above, "above {after}");
                }
            }
        }
    }

    #[tokio::test]
    async fn what_was_collected_and_what_is_none_of_ours_hides_nothing() {
        let (names, objects) = (Names::new("test"), InMemory::new());
        // One that a checkpoint holds, and then a long gap.
        for number in [5].into_iter().chain(70_000..72_500) {
            objects.put(&names.manifest(number), PutPayload::default()).await.unwrap();
        }
        assert_eq!(newest_number(&objects, &names, None).await.unwrap(), Some(72_499));
        for n in 0..1500 {
            let name = names.manifests().join(format!("!{n}"));
            objects.put(&name, PutPayload::default()).await.unwrap();
        }
        assert_eq!(newest_number(&objects, &names, None).await.unwrap(), Some(72_499));
    }

    #[tokio::test]
    async fn a_hundred_thousand_take_few_requests() {
        let (names, objects) = (Names::new("test"), InMemory::new());
        for number in 1..=100_000 {
            objects.put(&names.manifest(number), PutPayload::default()).await.unwrap();
        }
        let counters = std::sync::Arc::new(crate::metrics::objects::RequestCounters::default());
        let objects = crate::metrics::objects::CountedObjects::new(std::sync::Arc::new(objects), counters.clone());
        assert_eq!(newest_number(&objects, &names, None).await.unwrap(), Some(100_000));
        assert!(counters.list.requests.get() < 25, "{} requests", counters.list.requests.get());
    }
}

//! The logs of the writer in the bucket, as far as they were read: what is newer than the newest manifest.

use uuid::Uuid;

use crate::error::StorageError;
use crate::follow::fetch::Fetcher;
use crate::manifest::Manifest;
use crate::wal::recover::Logged;
use crate::wal::remote::Tail;

/// From where the logs that a manifest names are to be read, given how far they were.
pub(super) fn tails(manifest: &Manifest, read: &[Tail]) -> Vec<Tail> {
    let tail = |&(epoch, from): &(u64, u64)| match read.iter().find(|tail| tail.epoch == epoch && tail.next >= from) {
        Some(tail) => *tail,
        None => Tail::new(epoch, from, true),
    };
    manifest.remote.iter().map(tail).collect()
}

/// Reads on: what has come, and from where to read on after that.
pub(super) async fn read(
    fetcher: &Fetcher,
    store: Uuid,
    tails: &[Tail],
) -> Result<(Vec<Logged>, Vec<Tail>), StorageError> {
    let (mut next, mut logged) = (tails.to_vec(), Vec::new());
    for tail in &mut next {
        logged.extend(tail.read(&*fetcher.objects, &fetcher.names, store).await?);
        if !tail.fenced {
            // Nothing can be in those of later writers before this one's has ended.
            break;
        }
    }
    Ok((logged, next))
}

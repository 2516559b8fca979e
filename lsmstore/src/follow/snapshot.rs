//! A snapshot: everything that one manifest shows, read without a mirror.

use std::fmt::{self, Debug, Formatter};
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::try_join_all;

use crate::checkpoint::{Checkpoint, CheckpointError, CheckpointOptions, Checkpoints};
use crate::error::{ReadError, StorageError};
use crate::follow::contents::{Contents, runs};
use crate::follow::error::FollowError;
use crate::follow::fetch::Fetcher;
use crate::follow::scan::SnapshotScan;
use crate::manifest::{ManifestInfo, publish};
use crate::sstable::fault::Absent;
use crate::view::View;

/// Everything as one manifest shows it. It does not change, however long it is held; see [`Follower`](crate::Follower) for
/// how long its objects stay. Cheap to clone.
#[derive(Clone)]
pub struct Snapshot {
    pub(super) fetcher: Arc<Fetcher>,
    pub(super) contents: Arc<Contents>,
    pub(super) sequence: u64,
}

impl Debug for Snapshot {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (manifest, sequence) = (self.contents.info.number, self.sequence);
        f.debug_struct("Snapshot").field("manifest", &manifest).field("sequence", &sequence).finish()
    }
}

impl Snapshot {
    /// The manifest that it shows.
    pub fn manifest(&self) -> &ManifestInfo {
        &self.contents.info
    }

    /// Writes up to this number are in it.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The value of `key`.
    ///
    /// # Errors
    /// [`FollowError`].
    pub async fn get(&self, key: &[u8]) -> Result<Option<Bytes>, FollowError> {
        // It is kept until the answer is found, so each round finds more than the one before.
        let view = self.contents.view();
        loop {
            match view.get(key, self.sequence) {
                Ok(found) => return Ok(found.map(Bytes::copy_from_slice)),
                Err(ReadError::Absent(Absent { block: None, .. })) => self.open_all(&view, key).await?,
                Err(ReadError::Absent(absent)) => self.bring(&view, absent).await?,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The keys of a range with their values, in order; reads ahead once it goes on.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use std::sync::Arc;
    /// # use lsmstore::{Config, Follower, FollowerConfig, LogChoice, Store, SystemEnv, objects};
    /// # let (dir, bucket) = (tempfile::tempdir()?, objects::memory());
    /// # let env: Arc<dyn lsmstore::Env> = Arc::new(SystemEnv::new());
    /// # let store = Store::open(Config::new(dir.path(), "demo"), bucket.clone(), env.clone(), LogChoice::Nobody).await?;
    /// # store.put(b"apple", b"red").await?;
    /// # store.flush().await?;
    /// let follower = Follower::open(FollowerConfig::new("demo"), bucket, env).await?;
    /// let mut scan = follower.snapshot().scan(&b"a"[..]..&b"c"[..]);
    /// while let Some((key, value)) = scan.next().await? {
    ///     println!("{} = {}", key.escape_ascii(), value.escape_ascii());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn scan<'a>(&self, keys: impl RangeBounds<&'a [u8]>) -> SnapshotScan {
        let owned = |bound: Bound<&&'a [u8]>| bound.map(|key| key.to_vec());
        SnapshotScan::new(self.clone(), owned(keys.start_bound()), owned(keys.end_bound()))
    }

    /// The keys that begin with `prefix`, with their values, in order.
    pub fn scan_prefix(&self, prefix: &[u8]) -> SnapshotScan {
        let end = behind_prefix(prefix).map_or(Bound::Unbounded, Bound::Excluded);
        SnapshotScan::new(self.clone(), Bound::Included(prefix.to_vec()), end)
    }

    /// Has the writer's garbage collection keep what this snapshot reads, until nobody has
    /// [refreshed](Checkpoints::refresh) it for `ttl`. Writes to the bucket, as nothing else here does.
    ///
    /// # Errors
    /// [`CheckpointError`]; [`Collected`](CheckpointError::Collected) if it is too late.
    pub async fn checkpoint(&self, name: &str, ttl: Duration) -> Result<Checkpoint, CheckpointError> {
        let Fetcher { objects, env, names, .. } = &*self.fetcher;
        let checkpoints = Checkpoints::of(Arc::clone(objects), Arc::clone(env), names.clone());
        let manifest = Some(self.contents.info.number);
        checkpoints.create(CheckpointOptions { name: name.to_owned(), ttl: Some(ttl), manifest }).await
    }

    /// The meta blocks of all tables that may have something to say of a key, at once.
    async fn open_all(&self, view: &View, key: &[u8]) -> Result<(), FollowError> {
        let holds = runs(view).filter_map(|run| {
            let table = run.get(run.partition_point(|table| table.info.max_key[..] < *key))?;
            (*key >= table.info.min_key[..]).then_some(table)
        });
        let absent = holds.filter(|table| table.lazy().is_some_and(|lazy| lazy.meta().is_none()));
        let fetched = try_join_all(absent.map(|table| self.fetcher.meta(table))).await;
        self.explained(fetched.map(drop)).await
    }

    /// Brings what a read did not find.
    pub(super) async fn bring(&self, view: &View, absent: Absent) -> Result<(), FollowError> {
        let table = self.contents.table(view, absent.table).ok_or(ReadError::Absent(absent))?;
        let fetched = match absent.block {
            Some(n) => self.fetcher.blocks(table, n..n + 1).await,
            None => self.fetcher.meta(table).await,
        };
        self.explained(fetched).await
    }

    /// Tells whether a missing object is lost or was collected.
    pub(super) async fn explained(&self, fetched: Result<(), StorageError>) -> Result<(), FollowError> {
        let Err(error) = fetched else { return Ok(()) };
        let StorageError::Missing { object } = error else { return Err(error.into()) };
        let Fetcher { objects, names, .. } = &*self.fetcher;
        let manifest = self.contents.info.number;
        match publish::newest_number(&**objects, names, Some(manifest)).await? {
            Some(newest) => Err(FollowError::Collected { object, manifest, newest }),
            None => Err(StorageError::Missing { object }.into()),
        }
    }
}

/// The first key behind all that begin with `prefix`; none if there is no such key.
fn behind_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte < u8::MAX)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}

//! A follower for people without tokio: the same, with calls that block.

use std::ops::RangeBounds;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use object_store::ObjectStore;

use crate::error::StorageError;
use crate::follow::{FollowError, Follower, FollowerConfig, SnapshotScan, Staleness};
use crate::runtime::Own;
use crate::view::KeyValue;

/// A [`Follower`] whose calls block. It has a runtime of its own; its calls may be made from any thread, from one of another
/// runtime too.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use lsmstore::{Blocking, BlockingFollower, Config, FollowerConfig, LogChoice, objects};
///
/// # let dir = tempfile::tempdir()?;
/// # let folder = dir.path();
/// let bucket = objects::local(&folder.join("bucket"))?;
/// let store = Blocking::open(Config::new(folder.join("local"), "demo"), bucket.clone(), LogChoice::Own)?;
/// store.put(b"apple", b"red")?;
/// store.flush()?;
///
/// let follower = BlockingFollower::open(FollowerConfig::new("demo"), bucket)?;
/// follower.follow(Duration::from_secs(5));
/// assert_eq!(follower.get(b"apple")?.as_deref(), Some(&b"red"[..]));
/// let mut scan = follower.scan(..);
/// while let Some((key, value)) = scan.next()? {
///     println!("{} = {}", key.escape_ascii(), value.escape_ascii());
/// }
/// # drop(scan);
/// # store.close()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct BlockingFollower {
    follower: Follower,
    runtime: Own,
}

impl BlockingFollower {
    /// As [`Follower::open`].
    ///
    /// # Errors
    /// [`FollowError`].
    pub fn open(config: FollowerConfig, objects: Arc<dyn ObjectStore>) -> Result<BlockingFollower, FollowError> {
        let runtime = Own::new().map_err(StorageError::local("threads"))?;
        let follower = runtime.block_on(Follower::open(config, objects, runtime.env()))?;
        Ok(BlockingFollower { follower, runtime })
    }

    /// The follower behind it: for snapshots and figures.
    pub fn follower(&self) -> &Follower {
        &self.follower
    }

    /// As [`Follower::get`].
    ///
    /// # Errors
    /// [`FollowError`].
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, FollowError> {
        self.runtime.block_on(self.follower.get(key))
    }

    /// The keys of a range of the newest manifest that is known, as [`Snapshot::scan`](crate::Snapshot::scan).
    pub fn scan<'a>(&self, keys: impl RangeBounds<&'a [u8]>) -> BlockingScan<'_> {
        self.walk(self.follower.snapshot().scan(keys))
    }

    /// A scan of a [snapshot](Follower::snapshot), with calls that block.
    pub fn walk(&self, scan: SnapshotScan) -> BlockingScan<'_> {
        BlockingScan { scan, runtime: &self.runtime }
    }

    /// As [`Follower::refresh`].
    ///
    /// # Errors
    /// [`FollowError`].
    pub fn refresh(&self) -> Result<bool, FollowError> {
        self.runtime.block_on(self.follower.refresh())
    }

    /// Refreshes every `interval` from now on, in the background, as [`Follower::follow`].
    pub fn follow(&self, interval: Duration) {
        self.runtime.spawn(self.follower.follow(interval));
    }

    /// As [`Follower::staleness`].
    pub fn staleness(&self) -> Staleness {
        self.follower.staleness()
    }
}

/// A [`SnapshotScan`] whose calls block; made by [`BlockingFollower::scan`].
#[derive(Debug)]
pub struct BlockingScan<'a> {
    scan: SnapshotScan,
    runtime: &'a Own,
}

impl BlockingScan<'_> {
    /// As [`SnapshotScan::next`].
    ///
    /// # Errors
    /// [`FollowError`].
    #[allow(clippy::should_implement_trait, reason = "what it returns borrows from it")]
    pub fn next(&mut self) -> Result<Option<KeyValue<'_>>, FollowError> {
        let BlockingScan { scan, runtime } = self;
        runtime.block_on(scan.next())
    }
}

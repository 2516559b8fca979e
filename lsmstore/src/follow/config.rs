//! How a bucket is followed.

use std::path::{Path, PathBuf};

/// Settings of a [`Follower`](crate::Follower).
#[derive(Clone, Debug)]
pub struct FollowerConfig {
    pub(crate) prefix: String,
    pub(crate) cache_bytes: u64,
    pub(crate) read_ahead_bytes: u64,
    pub(crate) parts: Option<(PathBuf, u64)>,
}

impl FollowerConfig {
    /// Follows the store under `prefix`; empty for the whole bucket.
    pub fn new(prefix: impl AsRef<str>) -> FollowerConfig {
        FollowerConfig {
            prefix: prefix.as_ref().trim_matches('/').to_owned(),
            cache_bytes: 256 << 20,
            read_ahead_bytes: 16 << 20,
            parts: None,
        }
    }

    /// Bytes of memory for what was fetched, decompressed. What a snapshot is reading stays beyond that. Default 256 MiB.
    pub fn cache_bytes(mut self, bytes: u64) -> FollowerConfig {
        self.cache_bytes = bytes;
        self
    }

    /// Bytes of objects that a scan which goes on and on may have asked for ahead; at most an eighth of the cache. Default
    /// 16 MiB.
    pub fn read_ahead_bytes(mut self, bytes: u64) -> FollowerConfig {
        self.read_ahead_bytes = bytes;
        self
    }

    /// Keeps parts of objects in a folder of the local disk, which belongs to this follower alone, up to so many bytes.
    /// What another store, prefix or bucket left there is removed. While another follower has it, opening waits for a second,
    /// and fails then. Default: nothing is kept there.
    pub fn cache_dir(mut self, dir: impl AsRef<Path>, bytes: u64) -> FollowerConfig {
        self.parts = Some((dir.as_ref().to_owned(), bytes));
        self
    }
}

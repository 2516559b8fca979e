//! Why a bucket that somebody else writes cannot be read.

use std::error::Error;
use std::fmt::{self, Display, Formatter};

use uuid::Uuid;

use crate::error::{Corruption, ReadError, StorageError, WriteError};

/// A follower, or one of its snapshots, that cannot answer.
#[derive(Debug)]
#[non_exhaustive]
pub enum FollowError {
    /// The object store or the local disk; damage of an object, with its name and the place in it.
    Storage(StorageError),
    /// Damaged bytes.
    Read(ReadError),
    /// Writes of the log cannot be kept beside the tables.
    Write(WriteError),
    /// There is no manifest under the prefix.
    NoStore {
        /// The prefix.
        prefix: String,
    },
    /// An object of this snapshot was collected by the writer, who has published newer manifests since: take a newer
    /// snapshot. A [checkpoint](crate::Snapshot::checkpoint) would have kept it.
    Collected {
        /// The object.
        object: String,
        /// The manifest that the snapshot is of.
        manifest: u64,
        /// The newest one.
        newest: u64,
    },
    /// The bucket holds another store than it did.
    AnotherStore {
        /// The store that it holds now.
        found: Uuid,
        /// The one that is followed.
        expected: Uuid,
    },
}

impl Display for FollowError {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            FollowError::Storage(error) => error.fmt(f),
            FollowError::Read(error) => error.fmt(f),
            FollowError::Write(error) => error.fmt(f),
            FollowError::NoStore { prefix } => write!(f, "there is no store under the prefix \"{prefix}\""),
            FollowError::Collected { object, manifest, newest } => write!(
                f,
                "object {object} of manifest {manifest} was collected; manifest {newest} is the newest: take a newer \
                 snapshot, or hold a checkpoint while you read"
            ),
            FollowError::AnotherStore { found, expected } => {
                write!(f, "the bucket holds store {found} now, expected {expected}")
            }
        }
    }
}

impl Error for FollowError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            FollowError::Storage(source) => Some(source),
            FollowError::Read(source) => Some(source),
            FollowError::Write(source) => Some(source),
            _ => None,
        }
    }
}

impl From<StorageError> for FollowError {
    fn from(source: StorageError) -> FollowError {
        FollowError::Storage(source)
    }
}

impl From<ReadError> for FollowError {
    fn from(source: ReadError) -> FollowError {
        FollowError::Read(source)
    }
}

impl From<WriteError> for FollowError {
    fn from(source: WriteError) -> FollowError {
        FollowError::Write(source)
    }
}

impl From<Corruption> for FollowError {
    fn from(source: Corruption) -> FollowError {
        FollowError::Storage(StorageError::Corrupt(source))
    }
}

//! Why a checkpoint cannot be made, found or held on to.

use std::error::Error;
use std::fmt::{self, Display, Formatter};

use uuid::Uuid;

use crate::error::{Corruption, StorageError};

/// A checkpoint that cannot be made, found or held on to.
#[derive(Debug)]
#[non_exhaustive]
pub enum CheckpointError {
    /// Object store.
    Storage(StorageError),
    /// There is no manifest that it could hold.
    Empty,
    /// What the manifest names may have been collected.
    Collected {
        /// The manifest.
        manifest: u64,
        /// The lowest one of which everything is there.
        boundary: u64,
    },
    /// There is no such manifest (any more).
    NoManifest {
        /// Its number.
        manifest: u64,
    },
    /// There is no such checkpoint (any more).
    NotFound {
        /// Its id.
        id: Uuid,
    },
    /// It was deleted, or not refreshed in time.
    Ended {
        /// Its id.
        id: Uuid,
    },
    /// Others change it all the time.
    Contended {
        /// Its id.
        id: Uuid,
    },
}

impl Display for CheckpointError {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            CheckpointError::Storage(error) => error.fmt(f),
            CheckpointError::Empty => f.write_str("there is no manifest under this prefix that could be kept"),
            CheckpointError::Collected { manifest, boundary } => write!(
                f,
                "manifest {manifest} cannot be kept any more: what only manifests before {boundary} name is collected"
            ),
            CheckpointError::NoManifest { manifest } => write!(f, "there is no manifest {manifest}"),
            CheckpointError::NotFound { id } => write!(f, "there is no checkpoint {id}"),
            CheckpointError::Contended { id } => write!(f, "others keep changing checkpoint {id}; try again"),
            CheckpointError::Ended { id } => {
                write!(f, "checkpoint {id} is over: it was deleted, or not refreshed in time")
            }
        }
    }
}

impl Error for CheckpointError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            CheckpointError::Storage(source) => Some(source),
            _ => None,
        }
    }
}

impl From<StorageError> for CheckpointError {
    fn from(source: StorageError) -> Self {
        CheckpointError::Storage(source)
    }
}

impl From<Corruption> for CheckpointError {
    fn from(source: Corruption) -> Self {
        CheckpointError::Storage(source.into())
    }
}

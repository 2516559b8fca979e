//! Who keeps the log from which unflushed writes are replayed: this crate, the owner, or nobody.
//!
//! With an [`ExternalLog`] the owner logs each batch himself (with the sequence numbers that `apply` returned) and the
//! store tells him two things: when data becomes durable, so that the log is durable before it, and from where a replay
//! would have to start.

use std::sync::Arc;

use async_trait::async_trait;
use uuid::Uuid;

use crate::error::LogError;
use crate::manifest::ManifestInfo;

/// Who keeps the log.
#[derive(Clone)]
#[non_exhaustive]
pub enum LogChoice {
    /// Nobody: what was not flushed is lost with the process.
    Nobody,
    /// This crate, in segments in the local folder.
    Own,
    /// The owner of the store.
    External(Arc<dyn ExternalLog>),
}

impl std::fmt::Debug for LogChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            LogChoice::Nobody => "Nobody",
            LogChoice::Own => "Own",
            LogChoice::External(_) => "External",
        })
    }
}

/// What the birth record of a manifest says.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Birth {
    /// The store, given once when the bucket was first used.
    pub store_id: Uuid,
    /// The writer's epoch.
    pub epoch: u64,
    /// The manifest about to be written.
    pub manifest_number: u64,
    /// Its nonce, by which it is told from another attempt at the same number.
    pub nonce: Uuid,
    /// R: replay from here on brings back everything that the manifest does not hold.
    pub position: u64,
    /// S: writes up to here are in the manifest's tables.
    pub last_sequence: u64,
    /// Whether this is the last manifest of an orderly stop.
    pub clean: bool,
}

/// A log kept by the owner of a store. Calls come from the store's async tasks, one at a time.
#[async_trait]
pub trait ExternalLog: Send + Sync {
    /// R: the position of the next record. Read before memtables are rotated; everything logged before it must have
    /// been applied before this call was answered.
    ///
    /// # Errors
    /// What the owner says; the flush fails, nothing is lost.
    async fn position(&self) -> Result<u64, LogError>;

    /// Logs the birth record of the manifest about to be written and makes the log durable up to and including it.
    /// Returns the owner's bytes to be kept in that manifest.
    ///
    /// # Errors
    /// What the owner says; the manifest is not written.
    async fn birth(&self, birth: &Birth) -> Result<Vec<u8>, LogError>;

    /// The manifest is durable: the log before its `position` is no longer needed. Called again for the newest
    /// manifest if it failed.
    ///
    /// # Errors
    /// What the owner says; reported by the flush, which has nevertheless taken effect.
    async fn published(&self, manifest: &ManifestInfo) -> Result<(), LogError>;
}

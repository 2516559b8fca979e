//! What a pass of garbage collection found and did.

use std::error::Error;
use std::fmt::{self, Display, Formatter};
use std::time::Duration;

use crate::checkpoint::Checkpoint;
use crate::error::{Corruption, StorageError, Unusable};

/// How to collect garbage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GcOptions {
    /// Nothing is written, deleted, or remembered for the next pass: the report says what a pass would delete now.
    pub dry_run: bool,
    /// In the place of [`Config::keep_for`](crate::Config::keep_for).
    pub keep_for: Option<Duration>,
}

/// What an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum GcKind {
    /// A manifest.
    Manifest,
    /// A table.
    Table,
    /// A beat of a checkpoint that is over.
    Checkpoint,
    /// A boundary of an earlier collection.
    Boundary,
    /// Writes of a log in the bucket that are in tables.
    Log,
}

/// An object that nothing needs.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Garbage {
    /// What it is.
    pub kind: GcKind,
    /// Its name in the bucket.
    pub object: String,
    /// Its length.
    pub bytes: u64,
}

/// Why objects stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum KeptBecause {
    /// A manifest, of the newest or young enough.
    Retained,
    /// A manifest that a checkpoint keeps.
    Checkpoint,
    /// What one of these manifests names, or the local one.
    Named,
    /// A table of this epoch that its writer has not uploaded, as far as is known here.
    OnItsWay,
    /// The end of a writer's log.
    Fence,
    /// Something of a later epoch than ours.
    Newer,
    /// Something in our folders that is not ours.
    Foreign,
}

/// Objects that stay for the same reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Kept {
    /// The reason.
    pub because: KeptBecause,
    /// How many.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What a pass of garbage collection found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct GcReport {
    /// Nothing was written or deleted.
    pub dry_run: bool,
    /// The lowest manifest of which everything stays, checkpoints apart.
    pub boundary: u64,
    /// Another pass is of no use before something is published: nothing waits, no checkpoint can end, and what stays goes
    /// by no time alone.
    pub settled: bool,
    /// What was deleted, or would be.
    pub deleted: Vec<Garbage>,
    /// What goes in a later pass, if that finds it useless, too.
    pub waiting: Vec<Garbage>,
    /// What stays.
    pub kept: Vec<Kept>,
    /// Checkpoints that hold.
    pub checkpoints: Vec<Checkpoint>,
    /// Checkpoints that nobody refreshed in time and that this pass ended.
    pub expired: Vec<Checkpoint>,
}

impl GcReport {
    pub(super) fn keep(&mut self, because: KeptBecause, bytes: u64) {
        let at = match self.kept.iter().position(|kept| kept.because == because) {
            Some(at) => at,
            None => {
                self.kept.push(Kept { because, objects: 0, bytes: 0 });
                self.kept.len() - 1
            }
        };
        self.kept[at].objects += 1;
        self.kept[at].bytes += bytes;
    }

    /// Bytes of what was deleted, or would be.
    pub fn deleted_bytes(&self) -> u64 {
        self.deleted.iter().map(|garbage| garbage.bytes).sum()
    }

    /// Bytes of what waits for a later pass.
    pub fn waiting_bytes(&self) -> u64 {
        self.waiting.iter().map(|garbage| garbage.bytes).sum()
    }
}

/// A pass that ended early. What it had deleted by then was garbage; the next pass finds the rest.
#[derive(Debug)]
#[non_exhaustive]
pub enum GcError {
    /// Object store, or something damaged or missing there: nothing is deleted then that might be needed to mend it.
    Storage(StorageError),
    /// The store refuses everything; a fenced one deletes nothing.
    Unusable(Unusable),
}

impl Display for GcError {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            GcError::Storage(error) => error.fmt(f),
            GcError::Unusable(error) => error.fmt(f),
        }
    }
}

impl Error for GcError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            GcError::Storage(source) => Some(source),
            GcError::Unusable(source) => Some(source),
        }
    }
}

impl From<StorageError> for GcError {
    fn from(source: StorageError) -> Self {
        GcError::Storage(source)
    }
}

impl From<Corruption> for GcError {
    fn from(source: Corruption) -> Self {
        GcError::Storage(source.into())
    }
}

impl From<Unusable> for GcError {
    fn from(source: Unusable) -> Self {
        GcError::Unusable(source)
    }
}

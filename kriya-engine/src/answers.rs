//! What a session asks to be built and what it is answered.

use lsmstore::Batch;

use crate::catalogue::IndexDescription;
use crate::locks::Obstacle;

/// The answer to a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Written {
    /// Readable by everybody; the first of its sequence numbers.
    At(u64),
    /// A check's current value is not the expected one; nothing was written.
    Lost,
    /// The store is full until something is flushed; nothing was written. Wait, cancellably, and try again.
    Busy,
}

/// The answer to a change of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Changed {
    /// As [`Written::At`]; the next version has the locks of the one that it replaces.
    At(u64),
    /// As [`Written::Lost`].
    Lost,
    /// Locks are in the way; nothing was written.
    InTheWay(Obstacle),
    /// As [`Written::Busy`].
    Busy,
}

/// The answer to the wish for a row lock.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Locked {
    /// It is held until the (sub)transaction ends.
    Granted,
    /// A version's mark is not the expected one.
    Lost,
    /// Locks are in the way.
    InTheWay(Obstacle),
}

/// The answer to new index entries.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum IndexWritten {
    /// They are found by searches. `batch` is what was put into the store, to be logged with `first`.
    At {
        /// Number of the first entry; the others follow it.
        first_entry: u64,
        /// What has to be logged.
        batch: Batch,
        /// The first of its sequence numbers.
        first: u64,
    },
    /// The index has another number of dimensions; nothing was written.
    Dimension {
        /// Of the index.
        expected: u32,
        /// Of an entry.
        got: u32,
    },
    /// As [`Written::Busy`].
    Busy,
}

/// The answer to deletions of index entries.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum IndexDeleted {
    /// Searches of new views skip them. `batch` is to be logged with `first`.
    At {
        /// What has to be logged.
        batch: Batch,
        /// The first of its sequence numbers.
        first: u64,
    },
    /// As [`Written::Busy`].
    Busy,
}

/// An index to be built from rows; see [`Session::build_begin`](crate::Session::build_begin).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexDefinition {
    /// Its id, from [`Session::new_id`](crate::Session::new_id).
    pub id: u64,
    /// What its catalogue entry will say; a dimension of 0 is filled in from the rows.
    pub description: IndexDescription,
    /// Number of rows to come, for the allotment of memory; it may be wrong.
    pub estimated_rows: u64,
}

/// An index that was built: its catalogue entry, segment and ceilings are in the store, its objects uploaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    /// What has to be logged.
    pub batch: Batch,
    /// The first of its sequence numbers.
    pub first: u64,
}

/// How far a long request has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Rows done.
    pub done: u64,
    /// Rows in all.
    pub total: u64,
}

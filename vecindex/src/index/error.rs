//! Why an index was not changed or saved.

use std::error::Error;
use std::fmt;

use crate::error::{CreateError, LinkError, PushError, SealError, VectorError};
use crate::hnsw::OrderError;

/// Why a row was not added. It is not in the index then.
#[derive(Debug)]
#[non_exhaustive]
pub enum AddError {
    /// There is a row of this key; remove it first.
    Duplicate {
        /// The key.
        key: u64,
    },
    /// The vector cannot be stored.
    Vector {
        /// The key it was to have.
        key: u64,
        /// What is wrong with it.
        error: VectorError,
    },
    /// There are as many rows as an index can have.
    Full {
        /// So many.
        rows: u32,
    },
    /// There is no room for it, and none could be made.
    Grow(OrderError),
    /// There is no memory for it.
    Push(PushError),
    /// It could not be linked.
    Link(LinkError),
}

impl fmt::Display for AddError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AddError::Duplicate { key } => write!(f, "there is a row of key {key} already"),
            AddError::Vector { key, error } => write!(f, "the row of key {key} cannot be added: {error}"),
            AddError::Full { rows } => write!(f, "the index has {rows} rows, and cannot have more"),
            AddError::Grow(e) => write!(f, "no room could be made for the row: {e}"),
            AddError::Push(e) => e.fmt(f),
            AddError::Link(e) => e.fmt(f),
        }
    }
}

impl Error for AddError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            AddError::Vector { error, .. } => Some(error),
            AddError::Grow(e) => Some(e),
            AddError::Push(e) => Some(e),
            AddError::Link(e) => Some(e),
            AddError::Duplicate { .. } | AddError::Full { .. } => None,
        }
    }
}

impl From<OrderError> for AddError {
    fn from(e: OrderError) -> Self {
        AddError::Grow(e)
    }
}

impl From<CreateError> for AddError {
    fn from(e: CreateError) -> Self {
        AddError::Grow(e.into())
    }
}

/// Why an index was not saved. What was there under the name still is.
#[derive(Debug)]
#[non_exhaustive]
pub enum SaveError {
    /// The rows that were removed could not be left out.
    Consolidate(OrderError),
    /// The file could not be written.
    Write(SealError),
}

impl fmt::Display for SaveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SaveError::Consolidate(e) => write!(f, "the index could not be copied without removed rows: {e}"),
            SaveError::Write(e) => e.fmt(f),
        }
    }
}

impl Error for SaveError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            SaveError::Consolidate(e) => Some(e),
            SaveError::Write(e) => Some(e),
        }
    }
}

impl From<SealError> for SaveError {
    fn from(e: SealError) -> Self {
        SaveError::Write(e)
    }
}

//! Merging two indexes: the rows of the smaller one are linked into a copy of the larger one.
//!
//! Rows are taken over as they are stored, so nothing is rounded twice, and linked by one caller alone: the result is the same whatever
//! the number of threads.

use std::error::Error;
use std::fmt;

use super::Hnsw;
use super::order::OrderError;
use crate::error::{LinkError, PushError};
use crate::metric::Metric;
use crate::storage::{Encoding, Rows};

/// Why two indexes were not merged.
#[derive(Debug)]
#[non_exhaustive]
pub enum MergeError {
    /// They have another number of dimensions.
    Dimension {
        /// Of the other index.
        got: usize,
        /// Of this one.
        expected: usize,
    },
    /// They compare rows in another way.
    Metric {
        /// Of the other index.
        got: Metric,
        /// Of this one.
        expected: Metric,
    },
    /// Only one of them has exact rows beside its codes.
    Exact,
    /// A key is in both.
    Duplicate {
        /// The key.
        key: u64,
    },
    /// Together they have more rows than an index can have.
    Full {
        /// Rows of both.
        rows: usize,
        /// Rows an index can have.
        most: u32,
    },
    /// The larger one could not be copied.
    Order(OrderError),
    /// A row could not be added.
    Push(PushError),
    /// The rows could not be linked.
    Link(LinkError),
}

impl fmt::Display for MergeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MergeError::Dimension { got, expected } => {
                write!(f, "the other index has {got} dimensions, expected {expected}")
            }
            MergeError::Metric { got, expected } => {
                write!(f, "the other index compares by {got:?}, expected {expected:?}")
            }
            MergeError::Exact => {
                f.write_str("one of the indexes keeps exact rows beside its codes, the other does not")
            }
            MergeError::Duplicate { key } => write!(f, "key {key} is in both indexes"),
            MergeError::Full { rows, most } => {
                write!(f, "the indexes have {rows} rows together, expected at most {most}")
            }
            MergeError::Order(e) => e.fmt(f),
            MergeError::Push(e) => e.fmt(f),
            MergeError::Link(e) => e.fmt(f),
        }
    }
}

impl Error for MergeError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            MergeError::Order(e) => Some(e),
            MergeError::Push(e) => Some(e),
            MergeError::Link(e) => Some(e),
            _ => None,
        }
    }
}

impl From<OrderError> for MergeError {
    fn from(e: OrderError) -> Self {
        MergeError::Order(e)
    }
}

impl<E: Encoding> Hnsw<Rows<E>> {
    /// An index on the heap with the rows and labels of both, those of the larger one first (of this one, if they are equal),
    /// each in their order, with room for `capacity`. It is built with the larger one's parameters and can be written to. Rows
    /// that are appended to either meanwhile are not in it.
    ///
    /// # Errors
    /// Other dimensions, another metric, rows that are not linked, no room, no memory.
    pub fn merged(&self, other: &Hnsw<Rows<E>>, capacity: u32) -> Result<Hnsw<Rows<E>>, MergeError> {
        let (large, small) = if other.len() > self.len() { (other, self) } else { (self, other) };
        let order: Vec<u32> = (0..large.len()).collect();
        let merged = large.in_order(&order, capacity)?;
        merged.take_in(small, 0..small.len())?;
        Ok(merged)
    }

    /// Appends rows of another index, as they are stored there, with their labels, and links them. Nobody else links.
    pub(crate) fn take_in(&self, other: &Hnsw<Rows<E>>, ids: impl IntoIterator<Item = u32>) -> Result<(), MergeError> {
        if other.dim() != self.dim() {
            return Err(MergeError::Dimension { got: other.dim(), expected: self.dim() });
        }
        if other.metric() != self.metric() {
            return Err(MergeError::Metric { got: other.metric(), expected: self.metric() });
        }
        for id in ids {
            self.append_as(other.label(id), || self.storage.push_stored(&other.storage, id))
                .map_err(MergeError::Push)?;
        }
        self.link_alone().map_err(MergeError::Link)
    }
}

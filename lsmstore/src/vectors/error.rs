//! Why a vector space could not be opened.

use std::error::Error;
use std::fmt::{self, Display, Formatter};

use vecindex::{CreateError, PushError};

use crate::error::{Corruption, ReadError, Unusable, WriteError};
use crate::vectors::Space;

/// Why a vector space could not be opened.
#[derive(Debug)]
#[non_exhaustive]
pub enum VectorsError {
    /// The store refuses everything.
    Unusable(Unusable),
    /// The rows could not be read.
    Read(ReadError),
    /// The space could not be written down.
    Write(WriteError),
    /// What the store has of the space makes no sense.
    Corrupt(Corruption),
    /// The space in the store is another one.
    Other {
        /// What the store has.
        found: Box<Space>,
        /// What was asked for.
        expected: Box<Space>,
    },
    /// There is no memory for the rows, or the dimension is out of range.
    Create(CreateError),
    /// The store has more rows than there was to be room for.
    Full {
        /// Rows that there is room for.
        capacity: u32,
    },
    /// A row of the store was not taken.
    Push(PushError),
}

impl Display for VectorsError {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            VectorsError::Unusable(e) => e.fmt(f),
            VectorsError::Read(e) => e.fmt(f),
            VectorsError::Write(e) => write!(f, "the vector space could not be written down: {e}"),
            VectorsError::Corrupt(e) => e.fmt(f),
            VectorsError::Other { found, expected } => {
                write!(f, "the vector space in the store has {found}, expected {expected}")
            }
            VectorsError::Create(e) => e.fmt(f),
            VectorsError::Full { capacity } => {
                write!(f, "the vector space has more rows than the {capacity} that there is room for")
            }
            VectorsError::Push(e) => e.fmt(f),
        }
    }
}

impl Error for VectorsError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            VectorsError::Unusable(e) => Some(e),
            VectorsError::Read(e) => Some(e),
            VectorsError::Write(e) => Some(e),
            VectorsError::Corrupt(e) => Some(e),
            VectorsError::Create(e) => Some(e),
            VectorsError::Push(e) => Some(e),
            VectorsError::Other { .. } | VectorsError::Full { .. } => None,
        }
    }
}

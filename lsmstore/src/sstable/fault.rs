//! Why a table could not be read: damage, or a part of it that is not in memory. The second is for readers that wait for what
//! is missing and try again; of mapped tables nothing ever is.

use std::error::Error;
use std::fmt::{self, Display, Formatter};

use crate::error::{Corruption, ReadError};
use crate::sstable::TableId;

/// A part of a table's object that is not in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Absent {
    pub(crate) table: TableId,
    /// Number of a data block; none for the meta blocks.
    pub(crate) block: Option<usize>,
}

impl Display for Absent {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.block {
            Some(block) => write!(f, "block {block} of table {} is not at hand", self.table),
            None => write!(f, "the index of table {} is not at hand", self.table),
        }
    }
}

impl Error for Absent {}

/// Why a table could not be read without waiting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Corrupt(Corruption),
    Absent(Absent),
}

impl From<Corruption> for Fault {
    fn from(corruption: Corruption) -> Fault {
        Fault::Corrupt(corruption)
    }
}

impl From<Absent> for Fault {
    fn from(absent: Absent) -> Fault {
        Fault::Absent(absent)
    }
}

/// For whoever reads mapped tables alone, of which nothing is ever absent.
impl From<Fault> for Corruption {
    fn from(fault: Fault) -> Corruption {
        match fault {
            Fault::Corrupt(corruption) => corruption,
            Fault::Absent(absent) => Corruption::new(format!("table {}", absent.table), 0, absent.to_string()),
        }
    }
}

impl From<Fault> for ReadError {
    fn from(fault: Fault) -> ReadError {
        match fault {
            Fault::Corrupt(corruption) => ReadError::Corrupt(corruption),
            Fault::Absent(absent) => ReadError::Absent(absent),
        }
    }
}

//! What one process tells another of a view: names and sizes, no paths and no bytes.

use bincode::{Decode, Encode};

use crate::error::Corruption;
use crate::sstable::TableRef;

/// A memtable of a view.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct MemtableRef {
    /// Names the region; never used twice within the life of a store's handle.
    pub id: u64,
    /// Bytes of the region.
    pub capacity: u64,
}

/// A view as told to another process; opened there by [`View::open`](crate::View::open).
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ViewDescription {
    /// The view's number.
    pub number: u64,
    /// Newest first.
    pub memtables: Vec<MemtableRef>,
    /// Tables of L0, newest first.
    pub l0: Vec<TableRef>,
    /// L1 and below, each in key order.
    pub levels: Vec<Vec<TableRef>>,
    /// Newest sequence number that the tables hold.
    pub table_sequence: u64,
    /// Lowest sequence number that can be read.
    pub floor: u64,
}

/// Longest encoded description, in bytes.
const LIMIT: usize = 256 << 20;

impl ViewDescription {
    /// For a message to another process of the same build.
    pub fn encode(&self) -> Vec<u8> {
        // Encoding plain numbers and vectors into memory cannot fail.
        bincode::encode_to_vec(self, bincode::config::standard()).unwrap_or_default()
    }

    /// Reads back what [`ViewDescription::encode`] made.
    ///
    /// # Errors
    /// [`Corruption`] if the bytes are not a description.
    pub fn decode(bytes: &[u8]) -> Result<ViewDescription, Corruption> {
        let bad = |what: String| Corruption::new("view description", 0, what);
        let config = bincode::config::standard().with_limit::<LIMIT>();
        match bincode::decode_from_slice(bytes, config) {
            Ok((description, read)) if read == bytes.len() => Ok(description),
            Ok((_, read)) => Err(bad(format!("{} bytes follow the description", bytes.len() - read))),
            Err(error) => Err(bad(error.to_string())),
        }
    }
}

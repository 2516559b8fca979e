//! A table of sorted versions in one file: an object in the store (blocks compressed) and its mirror on the local disk
//! (the same format, blocks raw, mapped by readers).
//!
//! ```text
//! block*   payload | codec u8 (0 raw, 1 zstd; 2 zstd with dictionary and 3 lz4 reserved) | crc32c u32
//! meta     filter, index, properties, range deletions if there are any, each framed like a block (raw), contiguous
//! footer   96 bytes, see footer.rs
//! ```
//! The CRC is seeded with the table's id and the block's offset, so that a block in another's place is found too. What
//! a payload looks like: entries in `block`, the filter in `filter`, index and properties in `write` and `read`, range
//! deletions in [`ranges`](crate::ranges).
//!
//! # Invariants
//! * Entries ascend strictly in internal key order.
//! * Smallest and largest key, and the sequence numbers, are those of entries and range deletions together; no range reaches
//!   beyond them, so tables of a level that do not overlap have nothing to say of each other's keys.
//! * There is an entry: a table of range deletions alone has the deletion of the first one's first key.
//! * Readers of a mirror verify each block once, when they first read it; they bound every length all the same.

pub(crate) mod block;
pub(crate) mod cursor;
pub(crate) mod fault;
pub(crate) mod filter;
pub(crate) mod footer;
pub(crate) mod layout;
pub(crate) mod lazy;
pub(crate) mod read;
pub(crate) mod transcode;
pub(crate) mod write;

use std::fmt::{self, Display, Formatter};

/// Name of a table for ever: the epoch of its writer and a counter within that epoch. Compared as a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, bincode::Encode, bincode::Decode)]
pub struct TableId {
    /// Epoch of the writer that made it.
    pub epoch: u64,
    /// Number within the epoch; never used twice.
    pub counter: u64,
}

impl Display for TableId {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{:016x}", self.epoch, self.counter)
    }
}

/// What is known of a table without reading it.
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct TableRef {
    /// Its name.
    pub id: TableId,
    /// Bytes of its mirror file.
    pub mirror_len: u64,
    /// Bytes of its object.
    pub object_len: u64,
    /// Smallest user key, of ranges that are deleted as well.
    pub min_key: Vec<u8>,
    /// Largest user key; the end of a range that is deleted, which is not in it, may count as one.
    pub max_key: Vec<u8>,
    /// Smallest sequence number.
    pub min_sequence: u64,
    /// Largest sequence number.
    pub max_sequence: u64,
    /// Versions in it, deletions included.
    pub entries: u64,
    /// Deletions in it, and range deletions, which are no versions.
    pub deletions: u64,
    /// Range deletions in it.
    pub ranges: u64,
    /// Bytes behind its data blocks, the same in mirror and object: who has them can find any block of the object.
    pub meta_len: u64,
}

impl TableRef {
    /// Name of the mirror file in the store's `mirror` folder.
    pub fn mirror_name(&self) -> String {
        format!("{}.lsm", self.id)
    }
}

//! What the store keeps about tables, indexes, index entries and segments: a bucket explains itself.
//!
//! Catalogue entries and segment records are a version byte and a bincode body; index entries, of which there are many,
//! have a fixed form:
//!
//! ```text
//! inline  version u8 | kind 0 u8 | dim u16 | reserved u32 | tid u64 | f32 * dim
//! in row  version u8 | kind 1 u8 | dim u16 | offset u32   | tid u64 | table u64
//! ```
//! Little-endian. The vector of an entry of the second form is `dim` floats at `offset` inside the value of row (table,
//! tid), where it was logged and stored once already.

use bincode::{Decode, Encode};

use crate::codec;
use crate::error::{FormatError, array};

/// Version of catalogue entries, index entries and segment records that this code writes and reads.
pub const VERSION: u8 = 1;

/// A table or an index, as the store knows it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum CatalogueEntry {
    /// A table whose rows are in the store.
    Table(TableEntry),
    /// A vector index, over a table of the store or over a heap table.
    Index(IndexDescription),
}

impl CatalogueEntry {
    /// Full id of the transaction that made it, 0 once that has committed for sure.
    pub fn created_xid(&self) -> u64 {
        match self {
            CatalogueEntry::Table(table) => table.created_xid,
            CatalogueEntry::Index(index) => index.created_xid,
        }
    }
}

/// A table; see [`CatalogueEntry::Table`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct TableEntry {
    /// Database to which it belongs.
    pub database: u32,
    /// Tablespace of its file.
    pub tablespace: u32,
    /// Number of its file when it was made.
    pub relfilenumber: u32,
    /// Full id of the transaction that made it.
    pub created_xid: u64,
    /// Incarnation under which `created_xid` has its meaning.
    pub incarnation: u32,
    /// Its name when it was made: a hint for humans.
    pub name: String,
}

/// A vector index; see [`CatalogueEntry::Index`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct IndexDescription {
    /// Database to which it belongs.
    pub database: u32,
    /// Tablespace of its file.
    pub tablespace: u32,
    /// Number of its file when it was made.
    pub relfilenumber: u32,
    /// Full id of the transaction that made it.
    pub created_xid: u64,
    /// Incarnation under which `created_xid` has its meaning.
    pub incarnation: u32,
    /// Table of the store that it indexes, or `None` for a heap table.
    pub table: Option<u64>,
    /// Metric: 0 L2, 1 cosine, 2 inner product.
    pub metric: u8,
    /// Links per node.
    pub m: u16,
    /// Candidates while building.
    pub ef_construction: u16,
    /// Dimensions, or 0 while nothing is known.
    pub dim: u16,
    /// Its name when it was made: a hint for humans.
    pub name: String,
}

fn versioned<T: Encode>(value: &T) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    codec::encode_into(value, &mut bytes);
    bytes
}

fn unversioned<T: Decode<()>>(what: &'static str, bytes: &[u8]) -> Result<T, FormatError> {
    match bytes.split_first() {
        None => Err(FormatError::short(what, 1, 0)),
        Some((&VERSION, body)) => codec::decode(what, body),
        Some((&version, _)) => Err(FormatError::version(what, VERSION, version)),
    }
}

impl CatalogueEntry {
    /// The value that is stored.
    pub fn encode(&self) -> Vec<u8> {
        versioned(self)
    }

    /// Reads a stored value.
    ///
    /// # Errors
    /// Bytes that are not a catalogue entry of this version.
    pub fn parse(bytes: &[u8]) -> Result<CatalogueEntry, FormatError> {
        unversioned("catalogue entry", bytes)
    }
}

/// A sealed segment: two objects in the store that are mapped when mirrored, and what they cover.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct SegmentRecord {
    /// Name of the object and mirror file with the rows, below the store's prefix.
    pub rows_object: String,
    /// Its length in bytes.
    pub rows_bytes: u64,
    /// CRC32C of the whole object.
    pub rows_crc: u32,
    /// Name of the object and mirror file with graph and labels.
    pub graph_object: String,
    /// Its length in bytes.
    pub graph_bytes: u64,
    /// CRC32C of the whole object.
    pub graph_crc: u32,
    /// Number of nodes.
    pub rows: u32,
    /// Dimensions.
    pub dim: u16,
    /// First entry number covered.
    pub first: u64,
    /// First entry number not covered: every entry of `first..end` is in here or was deleted.
    pub end: u64,
    /// Entry numbers of `first..end` that are not covered after all; reserved, empty.
    pub exceptions: Vec<u64>,
    /// Segments that this one replaces; reserved for readers of the bucket, the live worker deletes their records.
    pub replaces: Vec<u64>,
}

impl SegmentRecord {
    /// The value that is stored.
    pub fn encode(&self) -> Vec<u8> {
        versioned(self)
    }

    /// Reads a stored value.
    ///
    /// # Errors
    /// Bytes that are not a segment record of this version.
    pub fn parse(bytes: &[u8]) -> Result<SegmentRecord, FormatError> {
        unversioned("segment record", bytes)
    }

    /// Whether the entry is in this segment or was deleted before it was made.
    pub fn covers(&self, entry: u64) -> bool {
        (self.first..self.end).contains(&entry) && !self.exceptions.contains(&entry)
    }
}

/// An index entry as stored.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum IndexEntry<'a> {
    /// The vector stands in the entry.
    Inline {
        /// Row that it belongs to (of a heap table, usually).
        tid: u64,
        /// Floats, little-endian, at any alignment.
        vector: &'a [u8],
    },
    /// The vector stands in a row of the store.
    InRow {
        /// Row that it belongs to.
        tid: u64,
        /// Table of that row.
        table: u64,
        /// Where in the row's value the floats begin.
        offset: u32,
        /// Number of floats.
        dim: u16,
    },
}

const ENTRY_HEADER: usize = 16;
const ENTRY_WHAT: &str = "index entry";

impl IndexEntry<'_> {
    /// Appends the value of an entry with the vector inside. More than 65,535 dimensions are refused.
    ///
    /// # Errors
    /// Too many dimensions.
    pub fn encode_inline(tid: u64, vector: &[f32], into: &mut Vec<u8>) -> Result<(), FormatError> {
        let dim = u16::try_from(vector.len())
            .map_err(|_| FormatError::new(ENTRY_WHAT, format!("{} dimensions are too many", vector.len())))?;
        into.reserve(ENTRY_HEADER + vector.len() * 4);
        into.extend_from_slice(&[VERSION, 0]);
        into.extend_from_slice(&dim.to_le_bytes());
        into.extend_from_slice(&[0; 4]);
        into.extend_from_slice(&tid.to_le_bytes());
        for value in vector {
            into.extend_from_slice(&value.to_le_bytes());
        }
        Ok(())
    }

    /// Appends the value of an entry whose vector is in the row.
    pub fn encode_in_row(tid: u64, table: u64, offset: u32, dim: u16, into: &mut Vec<u8>) {
        into.extend_from_slice(&[VERSION, 1]);
        into.extend_from_slice(&dim.to_le_bytes());
        into.extend_from_slice(&offset.to_le_bytes());
        into.extend_from_slice(&tid.to_le_bytes());
        into.extend_from_slice(&table.to_le_bytes());
    }

    /// Reads a stored value.
    ///
    /// # Errors
    /// Bytes that are not an index entry of this version.
    pub fn parse(value: &[u8]) -> Result<IndexEntry<'_>, FormatError> {
        let header: [u8; ENTRY_HEADER] = array(ENTRY_WHAT, value, 0)?;
        if header[0] != VERSION {
            return Err(FormatError::version(ENTRY_WHAT, VERSION, header[0]));
        }
        let dim = u16::from_le_bytes(array(ENTRY_WHAT, &header, 2)?);
        let tid = u64::from_le_bytes(array(ENTRY_WHAT, &header, 8)?);
        let rest = &value[ENTRY_HEADER..];
        match (header[1], rest.len()) {
            (0, length) if length == usize::from(dim) * 4 => Ok(IndexEntry::Inline { tid, vector: rest }),
            (1, 8) => Ok(IndexEntry::InRow {
                tid,
                table: u64::from_le_bytes(array(ENTRY_WHAT, rest, 0)?),
                offset: u32::from_le_bytes(array(ENTRY_WHAT, &header, 4)?),
                dim,
            }),
            (kind, length) => {
                Err(FormatError::new(ENTRY_WHAT, format!("kind {kind} with {dim} dimensions and {length} bytes")))
            }
        }
    }

    /// Row that the entry belongs to.
    pub fn tid(&self) -> u64 {
        match self {
            IndexEntry::Inline { tid, .. } | IndexEntry::InRow { tid, .. } => *tid,
        }
    }
}

/// Puts the floats of `bytes` (little-endian, any alignment) into `into`, which is emptied first.
pub fn floats(bytes: &[u8], into: &mut Vec<f32>) {
    into.clear();
    into.extend(bytes.chunks_exact(4).map(|chunk| f32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]])));
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn index_entries_of_both_forms_come_back() {
        let mut value = Vec::new();
        IndexEntry::encode_inline(7, &[1.5, -2.0], &mut value).unwrap();
        let IndexEntry::Inline { tid: 7, vector } = IndexEntry::parse(&value).unwrap() else { panic!() };
        let mut back = Vec::new();
        floats(vector, &mut back);
        assert_eq!(back, [1.5, -2.0]);
        value.clear();
        IndexEntry::encode_in_row(8, 9, 100, 784, &mut value);
        assert_eq!(IndexEntry::parse(&value).unwrap(), IndexEntry::InRow { tid: 8, table: 9, offset: 100, dim: 784 });
    }

    #[test]
    fn cut_or_foreign_entries_are_errors() {
        let mut value = Vec::new();
        IndexEntry::encode_inline(7, &[1.5, -2.0], &mut value).unwrap();
        for cut in 0..value.len() {
            assert!(IndexEntry::parse(&value[..cut]).is_err());
        }
        for (at, byte) in [(0, 9), (1, 2), (2, 3)] {
            let mut bad = value.clone();
            bad[at] = byte;
            assert!(IndexEntry::parse(&bad).is_err());
        }
    }

    #[test]
    fn catalogue_entries_come_back_and_bad_ones_are_errors() {
        let entry = CatalogueEntry::Table(TableEntry {
            database: 1,
            tablespace: 2,
            relfilenumber: 3,
            created_xid: 4,
            incarnation: 5,
            name: "t".into(),
        });
        let bytes = entry.encode();
        assert_eq!(CatalogueEntry::parse(&bytes).unwrap(), entry);
        for cut in 0..bytes.len() {
            assert!(CatalogueEntry::parse(&bytes[..cut]).is_err());
        }
        assert!(CatalogueEntry::parse(&[99, 0, 0]).is_err());
    }
}

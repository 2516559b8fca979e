//! The last bytes of a table, and its properties.
//!
//! ```text
//! footer   0  filter, index, properties, range deletions (zero if there are none): offset u64, length u32 each   (48 bytes)
//!         48  begin of the meta blocks u64    56  version u32    60  flags u32 (zero)
//!         64  id: epoch u64, counter u64      80  reserved u32   84  crc32c u32 of all before    88  magic "LSMSTOR1"
//! ```

use crate::codec::{Reader, put_bytes, put_varint};
use crate::error::Corruption;
use crate::sstable::TableId;
use crate::sstable::block::{Handle, Piece};

pub(crate) const FOOTER: usize = 96;
const MAGIC: &[u8; 8] = b"LSMSTOR1";
const VERSION: u32 = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Footer {
    pub(crate) id: TableId,
    pub(crate) filter: Handle,
    pub(crate) index: Handle,
    pub(crate) properties: Handle,
    pub(crate) ranges: Option<Handle>,
    pub(crate) meta: u64,
}

impl Footer {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(FOOTER);
        let ranges = self.ranges.unwrap_or(Handle { offset: 0, len: 0 });
        for handle in [self.filter, self.index, self.properties, ranges] {
            out.extend_from_slice(&handle.offset.to_le_bytes());
            out.extend_from_slice(&handle.len.to_le_bytes());
        }
        out.extend_from_slice(&self.meta.to_le_bytes());
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&0_u32.to_le_bytes());
        out.extend_from_slice(&self.id.epoch.to_le_bytes());
        out.extend_from_slice(&self.id.counter.to_le_bytes());
        out.extend_from_slice(&0_u32.to_le_bytes());
        out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
        out.extend_from_slice(MAGIC);
        out
    }

    /// Reads the footer at the end of `file`, which must be of table `id`.
    pub(crate) fn decode(name: &str, id: TableId, file: Piece<'_>) -> Result<Footer, Corruption> {
        let start = file.bytes.len().saturating_sub(FOOTER);
        let bad = |at: usize, what: String| Corruption::new(name, file.offset + (start + at) as u64, what);
        let bytes = &file.bytes[start..];
        if bytes.len() < FOOTER {
            return Err(bad(0, format!("{} bytes are too few for a table", file.bytes.len())));
        }
        if &bytes[88..] != MAGIC {
            return Err(bad(88, "the magic LSMSTOR1 is not at the end".into()));
        }
        let mut reader = Reader::new(bytes);
        let mut handle = || Some(Handle { offset: reader.u64()?, len: reader.u32()? });
        let (filter, index, properties, ranges) = (handle(), handle(), handle(), handle());
        let rest = (|| {
            let (meta, version, flags) = (reader.u64()?, reader.u32()?, reader.u32()?);
            let found = TableId { epoch: reader.u64()?, counter: reader.u64()? };
            let reserved = reader.u32()?;
            Some((meta, version, flags | reserved, found, reader.u32()?))
        })();
        let (Some(filter), Some(index), Some(properties), Some(ranges), Some(rest)) =
            (filter, index, properties, ranges, rest)
        else {
            return Err(bad(0, "the footer is cut off".into()));
        };
        let (meta, version, flags, found, stored) = rest;
        let computed = crc32c::crc32c(&bytes[..84]);
        if computed != stored {
            return Err(bad(84, format!("checksum of the footer is {computed:#010x}, stored {stored:#010x}")));
        }
        if version != VERSION {
            return Err(bad(56, format!("format version {version}, this build reads {VERSION}")));
        }
        if flags != 0 {
            return Err(bad(60, "the table uses features that this build does not know".into()));
        }
        if found != id {
            return Err(bad(64, format!("this is table {found}, expected {id}")));
        }
        let ranges = (ranges.len > 0).then_some(ranges);
        Ok(Footer { id, filter, index, properties, ranges, meta })
    }
}

/// The id that the footer of a table names; nothing is checked.
#[cfg(feature = "ctl")]
pub(crate) fn named_id(file: &[u8]) -> Option<TableId> {
    let mut reader = Reader::new(file.get(file.len().checked_sub(FOOTER)? + 64..)?);
    Some(TableId { epoch: reader.u64()?, counter: reader.u64()? })
}

/// What a table says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Properties {
    pub(crate) min_key: Vec<u8>,
    pub(crate) max_key: Vec<u8>,
    pub(crate) min_sequence: u64,
    pub(crate) max_sequence: u64,
    pub(crate) entries: u64,
    pub(crate) deletions: u64,
    pub(crate) key_bytes: u64,
    pub(crate) value_bytes: u64,
    pub(crate) blocks: u64,
}

impl Properties {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_bytes(&mut out, &self.min_key);
        put_bytes(&mut out, &self.max_key);
        for number in [
            self.min_sequence,
            self.max_sequence,
            self.entries,
            self.deletions,
            self.key_bytes,
            self.value_bytes,
            self.blocks,
        ] {
            put_varint(&mut out, number);
        }
        put_bytes(&mut out, concat!("lsmstore ", env!("CARGO_PKG_VERSION")).as_bytes());
        out
    }

    /// Later fields may follow those known here.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Properties> {
        let mut reader = Reader::new(bytes);
        Some(Properties {
            min_key: reader.bytes()?.to_vec(),
            max_key: reader.bytes()?.to_vec(),
            min_sequence: reader.varint()?,
            max_sequence: reader.varint()?,
            entries: reader.varint()?,
            deletions: reader.varint()?,
            key_bytes: reader.varint()?,
            value_bytes: reader.varint()?,
            blocks: reader.varint()?,
        })
    }
}

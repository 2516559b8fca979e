//! The bytes of a segment.
//!
//! ```text
//! header   0  magic "LSMWAL01"    8  version u32   12  crc32c u32 of all behind it in the header
//!         16  store id 16 bytes  32  epoch u64     40  slot u64     48  nonce of the manifest it continues, 16 bytes
//! record   0  length u32 of what follows the crc    4  crc32c u32
//!          8  synced u64: bytes of the segment known to be durable when this was written
//!         16  first sequence number u64    24  flags u8 (0)    25  the batch, encoded
//! ```
//! A record's CRC is seeded with the store, epoch, slot, its offset and length, so that nothing stale or copied matches.

use uuid::Uuid;

use crate::codec::Reader;

const MAGIC: &[u8; 8] = b"LSMWAL01";
const VERSION: u32 = 1;
pub(crate) const HEADER: usize = 64;
/// Length and CRC.
const FRAME: usize = 8;
/// What stands in a record before the batch.
const FIXED: usize = 17;

/// What names a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) store: Uuid,
    pub(crate) epoch: u64,
    pub(crate) slot: u64,
    pub(crate) nonce: Uuid,
}

impl Segment {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(self.store.as_bytes());
        out.extend_from_slice(&self.epoch.to_le_bytes());
        out.extend_from_slice(&self.slot.to_le_bytes());
        out.extend_from_slice(self.nonce.as_bytes());
        let crc = crc32c::crc32c(&out[16..]);
        out[12..16].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// What is wrong with a header is said with its offset.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Segment, (u64, String)> {
        let header = bytes.get(..HEADER).ok_or((0, format!("{} bytes are too few for a segment", bytes.len())))?;
        if &header[..8] != MAGIC {
            return Err((0, "the magic LSMWAL01 is not at its begin".into()));
        }
        let mut reader = Reader::new(&header[8..]);
        let fields = (|| {
            let (version, stored) = (reader.u32()?, reader.u32()?);
            let (store, epoch, slot) = (Uuid::from_bytes(reader.array()?), reader.u64()?, reader.u64()?);
            Some((version, stored, Segment { store, epoch, slot, nonce: Uuid::from_bytes(reader.array()?) }))
        })();
        let (version, stored, segment) = fields.ok_or((0, "the header is cut off".to_owned()))?;
        let computed = crc32c::crc32c(&header[16..]);
        if computed != stored {
            return Err((12, format!("checksum of the header is {computed:#010x}, stored {stored:#010x}")));
        }
        if version != VERSION {
            return Err((8, format!("format version {version}, this build reads {VERSION}")));
        }
        Ok(segment)
    }

    fn crc(&self, offset: u64, body: &[u8]) -> u32 {
        let mut seed = crc32c::crc32c(self.store.as_bytes());
        for number in [self.epoch, self.slot, offset, body.len() as u64] {
            seed = crc32c::crc32c_append(seed, &number.to_le_bytes());
        }
        crc32c::crc32c_append(seed, body)
    }
}

/// A record as read back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record<'a> {
    pub(crate) synced: u64,
    pub(crate) first: u64,
    pub(crate) flags: u8,
    pub(crate) batch: &'a [u8],
    /// Offset behind it.
    pub(crate) end: usize,
}

/// Appends a record that will stand at `offset` of the segment.
pub(crate) fn write_record(out: &mut Vec<u8>, segment: &Segment, offset: u64, synced: u64, first: u64, batch: &[u8]) {
    let start = out.len();
    out.extend_from_slice(&((FIXED + batch.len()) as u32).to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&synced.to_le_bytes());
    out.extend_from_slice(&first.to_le_bytes());
    out.push(0);
    out.extend_from_slice(batch);
    let crc = segment.crc(offset, &out[start + FRAME..]);
    out[start + 4..start + FRAME].copy_from_slice(&crc.to_le_bytes());
}

/// Fields of what may be a record at `at`: nothing but the bounds is checked. With the CRC stored and the body.
pub(crate) fn glance(bytes: &[u8], at: usize) -> Option<(Record<'_>, u32, &[u8])> {
    let mut reader = Reader::new(bytes.get(at..)?);
    let length = reader.u32()? as usize;
    let stored = reader.u32()?;
    let body = reader.take(length)?;
    let mut fields = Reader::new(body);
    let (synced, first, flags) = (fields.u64()?, fields.u64()?, fields.u8()?);
    let batch = &body[FIXED..];
    Some((Record { synced, first, flags, batch, end: at + FRAME + length }, stored, body))
}

/// The record at `at`, if its CRC is right.
pub(crate) fn read_record<'a>(segment: &Segment, bytes: &'a [u8], at: usize) -> Option<Record<'a>> {
    let (record, stored, body) = glance(bytes, at)?;
    (segment.crc(at as u64, body) == stored).then_some(record)
}

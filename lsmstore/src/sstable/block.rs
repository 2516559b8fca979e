//! Blocks: the frame around every payload, and the payload of a data block.
//!
//! ```text
//! entry    shared varint | unshared varint | value length varint | key suffix | tag varint | value
//! tail     restart offsets u32 x n | n u32        (an entry with shared = 0 every 16)
//! ```

use crate::codec::{get_varint, put_varint, u32_at};
use crate::error::Corruption;
use crate::prefetch::prefetch;
use crate::sstable::TableId;

pub(crate) const RAW: u8 = 0;
pub(crate) const ZSTD: u8 = 1;

/// Codec and CRC behind a payload.
pub(crate) const FRAME: usize = 5;
const RESTART_EVERY: usize = 16;

/// Where a framed block stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Handle {
    pub(crate) offset: u64,
    /// With the frame.
    pub(crate) len: u32,
}

/// Bytes of a table's file from an offset on: all of it, or what was fetched of an object.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece<'a> {
    pub(crate) offset: u64,
    pub(crate) bytes: &'a [u8],
}

impl<'a> From<&'a [u8]> for Piece<'a> {
    fn from(file: &'a [u8]) -> Piece<'a> {
        Piece { offset: 0, bytes: file }
    }
}

impl Piece<'_> {
    /// Offset of its end in the file.
    pub(crate) fn end(&self) -> u64 {
        self.offset + self.bytes.len() as u64
    }
}

fn crc(id: TableId, offset: u64, parts: [&[u8]; 2]) -> u32 {
    let mut seed = [0; 24];
    seed[..8].copy_from_slice(&id.epoch.to_le_bytes());
    seed[8..16].copy_from_slice(&id.counter.to_le_bytes());
    seed[16..].copy_from_slice(&offset.to_le_bytes());
    parts.iter().fold(crc32c::crc32c(&seed), |crc, part| crc32c::crc32c_append(crc, part))
}

/// The frame for a payload that will stand at `offset`.
pub(crate) fn frame(id: TableId, offset: u64, payload: &[u8], codec: u8) -> [u8; FRAME] {
    let mut frame = [codec, 0, 0, 0, 0];
    frame[1..].copy_from_slice(&crc(id, offset, [payload, &[codec]]).to_le_bytes());
    frame
}

/// Finds a framed block in a file: payload, codec, CRC. Nothing but the bounds is checked.
pub(crate) fn unframe<'a>(file: Piece<'a>, handle: Handle) -> Option<(&'a [u8], u8, u32)> {
    let start = usize::try_from(handle.offset.checked_sub(file.offset)?).ok()?;
    let framed = file.bytes.get(start..start.checked_add(handle.len as usize)?)?;
    let payload = framed.len().checked_sub(FRAME)?;
    Some((&framed[..payload], framed[payload], u32_at(framed, payload + 1)?))
}

/// Finds a framed block and checks its CRC.
pub(crate) fn verified<'a>(
    name: &str,
    id: TableId,
    file: impl Into<Piece<'a>>,
    handle: Handle,
) -> Result<(&'a [u8], u8), Corruption> {
    let file = file.into();
    let Some((payload, codec, stored)) = unframe(file, handle) else {
        return Err(Corruption::new(
            name,
            handle.offset,
            format!("a block of {} bytes reaches beyond the {} of the file", handle.len, file.end()),
        ));
    };
    let computed = crc(id, handle.offset, [payload, &[codec]]);
    if computed != stored {
        return Err(Corruption::new(
            name,
            handle.offset,
            format!("checksum of a block is {computed:#010x}, stored {stored:#010x}"),
        ));
    }
    Ok((payload, codec))
}

/// Builds the payload of a data block.
#[derive(Default)]
pub(crate) struct BlockBuilder {
    payload: Vec<u8>,
    restarts: Vec<u32>,
    since_restart: usize,
    last_key: Vec<u8>,
}

impl BlockBuilder {
    pub(crate) fn is_empty(&self) -> bool {
        self.restarts.is_empty()
    }

    /// Bytes so far, with the tail.
    pub(crate) fn len(&self) -> usize {
        self.payload.len() + 4 * self.restarts.len() + 4
    }

    pub(crate) fn last_key(&self) -> &[u8] {
        &self.last_key
    }

    pub(crate) fn add(&mut self, key: &[u8], tag: u64, value: &[u8]) {
        let mut shared = 0;
        if self.restarts.is_empty() || self.since_restart == RESTART_EVERY {
            self.restarts.push(self.payload.len() as u32);
            self.since_restart = 0;
        } else {
            shared = self.last_key.iter().zip(key).take_while(|(a, b)| a == b).count();
        }
        self.since_restart += 1;
        put_varint(&mut self.payload, shared as u64);
        put_varint(&mut self.payload, (key.len() - shared) as u64);
        put_varint(&mut self.payload, value.len() as u64);
        self.payload.extend_from_slice(&key[shared..]);
        put_varint(&mut self.payload, tag);
        self.payload.extend_from_slice(value);
        self.last_key.truncate(shared);
        self.last_key.extend_from_slice(&key[shared..]);
    }

    /// The finished payload; the builder is empty afterwards.
    pub(crate) fn finish(&mut self) -> Vec<u8> {
        let mut payload = std::mem::take(&mut self.payload);
        for restart in &self.restarts {
            payload.extend_from_slice(&restart.to_le_bytes());
        }
        payload.extend_from_slice(&(self.restarts.len() as u32).to_le_bytes());
        self.restarts.clear();
        self.since_restart = 0;
        self.last_key.clear();
        payload
    }
}

/// A data block's payload with its tail understood.
#[derive(Clone, Copy)]
pub(crate) struct Block<'a> {
    payload: &'a [u8],
    /// End of the entries, begin of the restarts.
    pub(crate) entries: usize,
    pub(crate) restarts: usize,
}

/// One entry: where its parts stand in the payload.
pub(crate) struct Entry {
    pub(crate) shared: usize,
    pub(crate) suffix: (usize, usize),
    pub(crate) tag: u64,
    pub(crate) value: (usize, usize),
}

impl<'a> Block<'a> {
    #[inline]
    pub(crate) fn new(payload: &'a [u8]) -> Option<Block<'a>> {
        let tail = payload.len().checked_sub(4)?;
        let restarts = u32_at(payload, tail)? as usize;
        let entries = tail.checked_sub(restarts.checked_mul(4)?)?;
        (restarts > 0).then_some(Block { payload, entries, restarts })
    }

    /// A block whose tail was understood before.
    #[inline]
    pub(crate) fn known(payload: &'a [u8], entries: usize, restarts: usize) -> Block<'a> {
        Block { payload, entries, restarts }
    }

    /// Bytes of the payload.
    pub(crate) fn len(&self) -> usize {
        self.payload.len()
    }

    #[inline]
    pub(crate) fn bytes(&self, range: (usize, usize)) -> &'a [u8] {
        // Ranges come from `entry`, which checked them against `entries`.
        self.payload.get(range.0..range.1).unwrap_or(&[])
    }

    /// Asks for the memory at an offset ahead of its use.
    #[inline]
    pub(crate) fn prefetch(&self, at: usize) {
        prefetch(self.payload, at);
    }

    /// Offset of the n-th restart.
    #[inline]
    pub(crate) fn restart(&self, n: usize) -> Option<usize> {
        let at = u32_at(self.payload, self.entries + 4 * n)? as usize;
        (n < self.restarts && at < self.entries).then_some(at)
    }

    /// The entry at an offset.
    #[inline]
    pub(crate) fn entry(&self, mut at: usize) -> Option<Entry> {
        let entries = self.payload.get(..self.entries)?;
        let shared = usize::try_from(get_varint(entries, &mut at)?).ok()?;
        let unshared = usize::try_from(get_varint(entries, &mut at)?).ok()?;
        let value = usize::try_from(get_varint(entries, &mut at)?).ok()?;
        let suffix = (at, at.checked_add(unshared)?);
        at = suffix.1;
        let tag = get_varint(entries, &mut at)?;
        let value = (at, at.checked_add(value)?);
        (value.1 <= self.entries).then_some(Entry { shared, suffix, tag, value })
    }
}

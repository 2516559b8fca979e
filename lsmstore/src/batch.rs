//! A batch: writes that become visible, and durable, together or not at all.
//!
//! Its encoded form is what logs carry: `count u32 | (kind u8, key length varint, key, value length varint, value)*`,
//! the value fields only where the kind is put, or a range deletion, whose key is the begin of the range and whose value
//! is its end. The n-th write of a batch has the batch's first sequence number + n.

use bytes::Bytes;

use crate::codec::{Reader, put_bytes};
use crate::error::BatchError;
use crate::key::{DELETE, DELETE_RANGE, MAX_KEY_BYTES, MAX_VALUE_BYTES, PUT};

/// Longest encoded batch, in bytes.
pub const MAX_BATCH_BYTES: usize = (2 << 30) - 1;

/// Writes to be applied together, in order: of two writes to one key the later one wins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    encoded: Vec<u8>,
    count: u32,
    deletions: u32,
    /// Bytes of keys and values.
    logical: u64,
}

/// One write of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write<'a> {
    /// `key` has `value` from now on.
    Put {
        /// The key, at most [`MAX_KEY_BYTES`].
        key: &'a [u8],
        /// The value, at most [`MAX_VALUE_BYTES`].
        value: &'a [u8],
    },
    /// `key` is gone from now on; deleting what is not there is fine.
    Delete {
        /// The key, at most [`MAX_KEY_BYTES`].
        key: &'a [u8],
    },
    /// Every key from `from` on and below `to` is gone from now on.
    DeleteRange {
        /// The first key that goes, at most [`MAX_KEY_BYTES`].
        from: &'a [u8],
        /// The first key behind it that stays, above `from`, at most [`MAX_KEY_BYTES`].
        to: &'a [u8],
    },
}

impl<'a> Write<'a> {
    pub(crate) fn key(&self) -> &'a [u8] {
        match self {
            Write::Put { key, .. } | Write::Delete { key } | Write::DeleteRange { from: key, .. } => key,
        }
    }

    pub(crate) fn value(&self) -> &'a [u8] {
        match self {
            Write::Put { value, .. } | Write::DeleteRange { to: value, .. } => value,
            Write::Delete { .. } => &[],
        }
    }

    pub(crate) fn kind(&self) -> u8 {
        match self {
            Write::Put { .. } => PUT,
            Write::Delete { .. } => DELETE,
            Write::DeleteRange { .. } => DELETE_RANGE,
        }
    }
}

impl Default for Batch {
    fn default() -> Self {
        Batch::new()
    }
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Batch {
        Batch { encoded: vec![0; 4], count: 0, deletions: 0, logical: 0 }
    }

    /// Adds a write of `value` under `key`. Sizes are judged when the batch is applied.
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> &mut Batch {
        self.encoded.push(PUT);
        put_bytes(&mut self.encoded, key);
        put_bytes(&mut self.encoded, value);
        self.logical += (key.len() + value.len()) as u64;
        self.counted()
    }

    /// Adds a deletion of `key`.
    pub fn delete(&mut self, key: &[u8]) -> &mut Batch {
        self.encoded.push(DELETE);
        put_bytes(&mut self.encoded, key);
        self.deletions = self.deletions.saturating_add(1);
        self.logical += key.len() as u64;
        self.counted()
    }

    /// Adds a deletion of every key from `from` on and below `to`, whatever their number, as one write. What the batch puts
    /// there before goes too, what it puts there later stays. Nothing is added if both are the same key.
    ///
    /// Whether `to` is above `from` is judged when the batch is applied: [`BatchError::InvertedRange`].
    pub fn delete_range(&mut self, from: &[u8], to: &[u8]) -> &mut Batch {
        if from == to {
            return self;
        }
        self.encoded.push(DELETE_RANGE);
        put_bytes(&mut self.encoded, from);
        put_bytes(&mut self.encoded, to);
        self.deletions = self.deletions.saturating_add(1);
        self.logical += (from.len() + to.len()) as u64;
        self.counted()
    }

    fn counted(&mut self) -> &mut Batch {
        self.count = self.count.saturating_add(1);
        self.encoded[..4].copy_from_slice(&self.count.to_le_bytes());
        self
    }

    /// Number of writes; each takes one sequence number.
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether there is nothing to apply.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Number of deletions among the writes.
    pub fn deletions(&self) -> usize {
        self.deletions as usize
    }

    /// Bytes of the keys and values.
    pub fn logical_bytes(&self) -> u64 {
        self.logical
    }

    /// Bytes of the encoded form.
    pub fn encoded_len(&self) -> usize {
        self.encoded.len()
    }

    /// The encoded form without copying.
    pub fn as_bytes(&self) -> &[u8] {
        &self.encoded
    }

    /// The encoded form, to be logged.
    pub fn encode(&self) -> Bytes {
        Bytes::copy_from_slice(&self.encoded)
    }

    /// Forgets the writes, keeps the memory.
    pub fn clear(&mut self) {
        self.encoded.clear();
        self.encoded.resize(4, 0);
        (self.count, self.deletions, self.logical) = (0, 0, 0);
    }

    /// Reads back what [`Batch::encode`] made, checking every length.
    ///
    /// # Errors
    /// [`BatchError`] naming the offset where the bytes stop making sense, or a size over the limits.
    pub fn decode(bytes: &[u8]) -> Result<Batch, BatchError> {
        let bad = |offset: usize, what: &str| BatchError::Malformed { offset, what: what.to_owned() };
        if bytes.len() > MAX_BATCH_BYTES {
            return Err(BatchError::BatchTooLarge { bytes: bytes.len() });
        }
        let mut reader = Reader::new(bytes);
        let count = reader.u32().ok_or_else(|| bad(0, "the count of writes is cut off"))?;
        let (mut deletions, mut logical) = (0, 0);
        for _ in 0..count {
            let write = read_write(&mut reader).map_err(|what| bad(reader.at(), what))?;
            write.check()?;
            deletions += u32::from(write.kind() != PUT);
            logical += (write.key().len() + write.value().len()) as u64;
        }
        if !reader.is_empty() {
            return Err(bad(reader.at(), "bytes are left behind the last write"));
        }
        Ok(Batch { encoded: bytes.to_vec(), count, deletions, logical })
    }

    /// The writes in order.
    pub fn iter(&self) -> impl Iterator<Item = Write<'_>> {
        let mut reader = Reader::new(&self.encoded[4..]);
        // The bytes were made by `put`, `delete` and `delete_range` or checked by `decode`, so none of these reads can fail.
        (0..self.count).map_while(move |_| read_write(&mut reader).ok())
    }

    /// Whether the sizes are within the limits of the formats.
    pub(crate) fn check(&self) -> Result<(), BatchError> {
        if self.encoded.len() > MAX_BATCH_BYTES || self.count == u32::MAX {
            return Err(BatchError::BatchTooLarge { bytes: self.encoded.len() });
        }
        self.iter().try_for_each(|write| write.check())
    }
}

impl Write<'_> {
    fn check(&self) -> Result<(), BatchError> {
        if self.key().len() > MAX_KEY_BYTES {
            return Err(BatchError::KeyTooLarge { bytes: self.key().len() });
        }
        if let Write::DeleteRange { from, to } = self {
            if to.len() > MAX_KEY_BYTES {
                return Err(BatchError::KeyTooLarge { bytes: to.len() });
            }
            if from >= to {
                return Err(BatchError::InvertedRange { from: from.to_vec(), to: to.to_vec() });
            }
        }
        if self.value().len() > MAX_VALUE_BYTES {
            return Err(BatchError::ValueTooLarge { bytes: self.value().len() });
        }
        Ok(())
    }
}

fn read_write<'a>(reader: &mut Reader<'a>) -> Result<Write<'a>, &'static str> {
    match reader.u8() {
        Some(PUT) => {
            let key = reader.bytes().ok_or("a key is cut off")?;
            let value = reader.bytes().ok_or("a value is cut off")?;
            Ok(Write::Put { key, value })
        }
        Some(DELETE) => Ok(Write::Delete { key: reader.bytes().ok_or("a key is cut off")? }),
        Some(DELETE_RANGE) => {
            let from = reader.bytes().ok_or("a key is cut off")?;
            Ok(Write::DeleteRange { from, to: reader.bytes().ok_or("the end of a range is cut off")? })
        }
        Some(_) => Err("the kind of a write is unknown"),
        None => Err("a write is missing"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_comes_back_from_its_bytes() {
        let mut batch = Batch::new();
        batch.put(b"a", b"1").delete(b"b").delete_range(b"c", b"d").delete_range(b"e", b"e").put(b"", b"");
        let back = Batch::decode(&batch.encode()).unwrap();
        assert_eq!(back, batch);
        assert_eq!(back.iter().count(), 4);
        assert_eq!(back.iter().nth(2), Some(Write::DeleteRange { from: b"c", to: b"d" }));
        assert_eq!(back.iter().nth(1), Some(Write::Delete { key: b"b" }));
    }

    #[test]
    fn a_range_that_ends_before_it_begins_is_refused() {
        let mut batch = Batch::new();
        batch.delete_range(b"b", b"a");
        let refused = Batch::decode(&batch.encode());
        assert!(matches!(refused, Err(BatchError::InvertedRange { .. })), "{refused:?}");
        assert!(batch.check().is_err());
    }

    #[test]
    fn cut_or_changed_bytes_are_an_error_or_another_valid_batch() {
        let mut batch = Batch::new();
        batch.put(b"key", &[7; 200]).delete_range(b"from", b"to").delete(b"other");
        let bytes = batch.encode().to_vec();
        for cut in 0..bytes.len() {
            assert!(Batch::decode(&bytes[..cut]).is_err());
        }
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut changed = bytes.clone();
                changed[at] ^= 1 << bit;
                if let Ok(other) = Batch::decode(&changed) {
                    assert_eq!(other.iter().count(), other.len());
                }
            }
        }
        assert!(Batch::decode(&u32::MAX.to_le_bytes()).is_err());
    }
}

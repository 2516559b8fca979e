//! The log in the object store: what a machine that has nothing but the bucket replays.
//!
//! ```text
//! {prefix}/wal/{epoch:016x}/{number:016x}     numbers of an epoch begin with 1
//! header   as that of a local segment, with the number as its slot and a nonce of the object's own
//! record*  as in a local segment, synced = 0
//! trailer  0  records u32    4  last sequence number u64 (0 without records)
//!         12  crc32c u32 of all before    16  magic "LSMWEND1"
//! ```
//! An object without records is a *fence*: the epoch's log ends there. Whoever takes over creates it in the first number that
//! is free, and so the writer before, who may not know yet, cannot: a write of his counts only when all numbers up to its own
//! are there and his.
//!
//! # Invariants
//! * A fence is never deleted: its name is what keeps a writer out who slept through everything else.
//! * Objects before a fence, from the one on that the newest manifest names, were there when it was made: none of them can be
//!   created by a write that is new.
//! * An object is asked for only while few before it are not there yet ([`AHEAD`]): one that is missing where a later one is
//!   there is damage, and not the end.
//! * An object is there as a whole or not at all: damage in one is an error, never an end.

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::ObjectStore;
use uuid::Uuid;

use crate::batch::Batch;
use crate::codec::Reader;
use crate::error::{Corruption, StorageError};
use crate::key::MAX_SEQUENCE;
use crate::object::{self, Created, Names};
use crate::wal::record::{HEADER, Segment, read_record, write_record};
use crate::wal::recover::Logged;

pub(crate) const TRAILER: usize = 24;
const MAGIC: &[u8; 8] = b"LSMWEND1";
/// Bytes of a fence; every other object of the log has more.
pub(crate) const FENCE: usize = HEADER + TRAILER;
/// When an object is asked for, the one so many before it is there.
pub(crate) const AHEAD: u64 = 4;
/// Objects that are read at a time, once one was there.
const PARALLEL: usize = 8;

/// An object being filled.
#[derive(Debug)]
pub(crate) struct Piece {
    pub(crate) segment: Segment,
    bytes: Vec<u8>,
    records: u32,
    last: u64,
}

impl Piece {
    pub(crate) fn new(segment: Segment) -> Piece {
        Piece { segment, bytes: segment.encode(), records: 0, last: 0 }
    }

    /// Adds a batch of `count` writes, of which the first has number `first`.
    pub(crate) fn push(&mut self, first: u64, count: usize, batch: &[u8]) {
        let offset = self.bytes.len() as u64;
        write_record(&mut self.bytes, &self.segment, offset, 0, first, batch);
        self.records += 1;
        self.last = first + count as u64 - 1;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Bytes so far.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Gives the object its nonce.
    pub(crate) fn name(&mut self, nonce: Uuid) {
        self.segment.nonce = nonce;
        // The records' checksums do not depend on it.
        self.bytes[..HEADER].copy_from_slice(&self.segment.encode());
    }

    /// The whole object.
    pub(crate) fn finish(mut self) -> Bytes {
        self.bytes.extend_from_slice(&self.records.to_le_bytes());
        self.bytes.extend_from_slice(&self.last.to_le_bytes());
        let crc = crc32c::crc32c(&self.bytes);
        self.bytes.extend_from_slice(&crc.to_le_bytes());
        self.bytes.extend_from_slice(MAGIC);
        self.bytes.into()
    }
}

/// An object as read back.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) segment: Segment,
    pub(crate) batches: Vec<Logged>,
}

impl Found {
    pub(crate) fn is_fence(&self) -> bool {
        self.batches.is_empty()
    }
}

/// Reads an object of the log and checks all of it.
pub(crate) fn decode(name: &str, bytes: &[u8]) -> Result<Found, Corruption> {
    let bad = |at: usize, what: String| Corruption::new(name, at as u64, what);
    let end = bytes.len().checked_sub(TRAILER).filter(|end| *end >= HEADER);
    let end = end.ok_or_else(|| bad(0, format!("{} bytes are too few for an object of the log", bytes.len())))?;
    if &bytes[end + 16..] != MAGIC {
        return Err(bad(end + 16, "the magic LSMWEND1 is not at its end".into()));
    }
    let mut trailer = Reader::new(&bytes[end..]);
    let fields = (|| Some((trailer.u32()?, trailer.u64()?, trailer.u32()?)))();
    let (records, last, stored) = fields.ok_or_else(|| bad(end, "the trailer is cut off".into()))?;
    let computed = crc32c::crc32c(&bytes[..end + 12]);
    if computed != stored {
        return Err(bad(end + 12, format!("checksum is {computed:#010x}, stored {stored:#010x}")));
    }
    let segment = Segment::decode(bytes).map_err(|(at, what)| Corruption::new(name, at, what))?;
    let (mut at, mut batches, mut next) = (HEADER, Vec::new(), None);
    while at < end {
        // The records must not reach into the trailer.
        let record = read_record(&segment, &bytes[..end], at);
        let record = record.ok_or_else(|| bad(at, "a record is damaged".into()))?;
        if record.flags != 0 {
            return Err(bad(at, format!("record with flags {:#x} is not supported yet", record.flags)));
        }
        let batch = Batch::decode(record.batch).map_err(|error| bad(at, error.to_string()))?;
        if record.first == 0 || next.is_some_and(|next| next != record.first) {
            return Err(bad(at, format!("sequence number {} does not follow", record.first)));
        }
        let following = record.first.checked_add(batch.len() as u64).filter(|&n| n <= MAX_SEQUENCE);
        next = Some(following.ok_or_else(|| bad(at, "the sequence numbers are out of range".into()))?);
        batches.push(Logged { first: record.first, batch });
        at = record.end;
    }
    if records as usize != batches.len() || last != next.map_or(0, |next| next - 1) {
        return Err(bad(end, format!("the trailer tells of {records} records up to number {last}")));
    }
    Ok(Found { segment, batches })
}

/// How far the log of an epoch was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tail {
    pub(crate) epoch: u64,
    /// The next object to be read, or the fence.
    pub(crate) next: u64,
    pub(crate) fenced: bool,
    /// Its batches are wanted; else only its end is, and damage does not matter.
    replayed: bool,
}

impl Tail {
    pub(crate) fn new(epoch: u64, from: u64, replayed: bool) -> Tail {
        Tail { epoch, next: from, fenced: false, replayed }
    }

    /// Reads on, to the fence or to what is there yet. A single request if nothing is. After an error it is where it was.
    pub(crate) async fn read(
        &mut self,
        objects: &dyn ObjectStore,
        names: &Names,
        store: Uuid,
    ) -> Result<Vec<Logged>, StorageError> {
        let (mut batches, mut window, mut tail) = (Vec::new(), 1, *self);
        'log: while !tail.fenced {
            let Tail { epoch, replayed, .. } = tail;
            let read = futures::stream::iter(tail.next..tail.next + window as u64)
                .map(|number| async move {
                    let path = names.log(epoch, number);
                    let Some(bytes) = object::get(objects, &path).await? else { return Ok(None) };
                    let found = match decode(path.as_ref(), &bytes) {
                        Ok(found) if replayed || found.is_fence() => found,
                        Err(corruption) if replayed => return Err(corruption.into()),
                        _ => return Ok(Some(None)),
                    };
                    let Segment { store: of, epoch: in_epoch, slot, .. } = found.segment;
                    if (of, in_epoch, slot) != (store, epoch, number) {
                        let what = format!("the header is of store {of}, epoch {in_epoch}, number {slot}");
                        return Err(Corruption::new(path.as_ref(), 16, what).into());
                    }
                    Ok::<_, StorageError>(Some(Some(found)))
                })
                .buffered(window);
            let read: Vec<Option<Option<Found>>> = read.try_collect().await?;
            for found in read {
                match found {
                    None => break 'log,
                    Some(Some(found)) if found.is_fence() => {
                        tail.fenced = true;
                        break;
                    }
                    Some(found) => {
                        batches.extend(found.into_iter().flat_map(|found| found.batches));
                        tail.next += 1;
                    }
                }
            }
            window = (window * 2).min(PARALLEL);
        }
        *self = tail;
        Ok(batches)
    }

    /// An error if what seems to be the end is none.
    pub(crate) async fn refuse_hole(&self, objects: &dyn ObjectStore, names: &Names) -> Result<(), StorageError> {
        let (missing, beyond) = (names.log(self.epoch, self.next), names.log(self.epoch, self.next + AHEAD));
        let end = self.fenced || !self.replayed || !object::exists(objects, &beyond).await?;
        // It may have come since it was looked for.
        if end || object::exists(objects, &missing).await? {
            return Ok(());
        }
        Err(Corruption::new(missing.as_ref(), 0, format!("it is missing, but {beyond} is there")).into())
    }

    /// Ends the log of the epoch behind what is there, and reads that.
    pub(crate) async fn fence(
        &mut self,
        objects: &dyn ObjectStore,
        names: &Names,
        store: Uuid,
        nonce: Uuid,
    ) -> Result<Vec<Logged>, StorageError> {
        let mut batches = Vec::new();
        loop {
            batches.extend(self.read(objects, names, store).await?);
            if self.fenced {
                return Ok(batches);
            }
            let path = names.log(self.epoch, self.next);
            self.refuse_hole(objects, names).await?;
            let fence = Piece::new(Segment { store, epoch: self.epoch, slot: self.next, nonce }).finish();
            let created = object::create(objects, &path, fence, |found| ours(path.as_ref(), found, nonce)).await?;
            self.fenced = created == Created::Ours;
        }
    }
}

/// Whether an object that is there is the one with this nonce.
pub(crate) fn ours(name: &str, found: &[u8], nonce: Uuid) -> Result<bool, Corruption> {
    Ok(decode(name, found)?.segment.nonce == nonce)
}

/// Adds to what the local log holds what only the object store has: the end, if the machine stopped before it had synced that.
/// Sequence numbers must follow each other without a gap from `held + 1` or below.
pub(crate) fn join(local: Vec<Logged>, remote: Vec<Logged>, held: u64, dir: &str) -> Result<Vec<Logged>, Corruption> {
    let mut joined = local;
    let end = |logged: &Logged| logged.first + logged.batch.len() as u64;
    let mut next = joined.last().map(end);
    for logged in remote {
        let expected = next.unwrap_or(held + 1);
        if next.is_some() && end(&logged) <= expected {
            continue;
        }
        if logged.first > expected || (next.is_some() && logged.first < expected) {
            let what = format!("sequence number {} does not follow, expected {expected}", logged.first);
            return Err(Corruption::new(dir, 0, what));
        }
        next = Some(end(&logged));
        joined.push(logged);
    }
    Ok(joined)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn piece() -> Vec<u8> {
        let segment = Segment { store: Uuid::from_u128(1), epoch: 3, slot: 9, nonce: Uuid::from_u128(2) };
        let mut piece = Piece::new(segment);
        for (first, key) in [(5, "one"), (6, "two")] {
            let mut batch = Batch::new();
            batch.put(key.as_bytes(), b"value");
            piece.push(first, batch.len(), batch.as_bytes());
        }
        piece.finish().to_vec()
    }

    #[test]
    fn an_object_comes_back_from_its_bytes_and_one_without_records_is_a_fence() {
        let found = decode("o", &piece()).unwrap();
        assert!(!found.is_fence());
        assert_eq!(found.batches.iter().map(|logged| logged.first).collect::<Vec<_>>(), [5, 6]);
        let fence = Piece::new(found.segment).finish();
        assert_eq!(fence.len(), FENCE);
        assert!(decode("o", &fence).unwrap().is_fence());
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_an_error() {
        let bytes = piece();
        for at in 0..bytes.len() {
            assert!(decode("o", &bytes[..at]).is_err());
            for bit in 0..8 {
                let mut changed = bytes.clone();
                changed[at] ^= 1 << bit;
                assert!(decode("o", &changed).is_err(), "byte {at} bit {bit}");
            }
        }
    }

    fn logged(first: u64, writes: u64) -> Logged {
        let mut batch = Batch::new();
        for n in 0..writes {
            batch.put(&n.to_be_bytes(), b"");
        }
        Logged { first, batch }
    }

    fn firsts(joined: Result<Vec<Logged>, Corruption>) -> Option<Vec<u64>> {
        joined.ok().map(|joined| joined.iter().map(|logged| logged.first).collect())
    }

    #[test]
    fn the_end_that_only_the_object_store_has_is_added_and_a_gap_is_an_error() {
        let local = || vec![logged(4, 2), logged(6, 1)];
        assert_eq!(firsts(join(local(), vec![], 5, "")), Some(vec![4, 6]));
        assert_eq!(firsts(join(local(), vec![logged(6, 1)], 5, "")), Some(vec![4, 6]));
        assert_eq!(firsts(join(local(), vec![logged(6, 1), logged(7, 3)], 5, "")), Some(vec![4, 6, 7]));
        assert_eq!(firsts(join(local(), vec![logged(8, 1)], 5, "")), None, "a gap");
        assert_eq!(firsts(join(local(), vec![logged(6, 2)], 5, "")), None, "a batch that differs");
        assert_eq!(firsts(join(vec![], vec![logged(2, 2), logged(4, 1)], 5, "")), Some(vec![2, 4]));
        assert_eq!(firsts(join(vec![], vec![logged(7, 1)], 5, "")), None, "a gap behind the manifest");
    }
}

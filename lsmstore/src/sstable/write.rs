//! Writes a table with raw blocks (a mirror file) from versions in order; `transcode` makes the object of it.
//!
//! Index payload: `(separator length varint, separator, block offset u64, block length u32)*`, then the offset of each
//! of these as u32, then their number u32: found by binary search in place. A separator is not below the last user key
//! of its block and below the first of the next one (unless versions of one key go on there).

use std::io;

use crate::codec::put_bytes;
use crate::error::Corruption;
use crate::key::{self, DELETE, kind_of, sequence_of, tag};
use crate::ranges::{RangeDeletion, Ranges};
use crate::sstable::block::{BlockBuilder, FRAME, Handle, RAW, frame};
use crate::sstable::footer::{Footer, Properties};
use crate::sstable::{TableId, TableRef, filter};

/// Takes the bytes of a table as they come.
pub(crate) type Sink<'a> = &'a mut dyn FnMut(&[u8]) -> io::Result<()>;

/// Collects the index.
#[derive(Default)]
pub(crate) struct IndexBuilder {
    payload: Vec<u8>,
    offsets: Vec<u32>,
}

impl IndexBuilder {
    pub(crate) fn add(&mut self, separator: &[u8], handle: Handle) {
        self.offsets.push(self.payload.len() as u32);
        put_bytes(&mut self.payload, separator);
        self.payload.extend_from_slice(&handle.offset.to_le_bytes());
        self.payload.extend_from_slice(&handle.len.to_le_bytes());
    }

    pub(crate) fn finish(mut self) -> Vec<u8> {
        for offset in &self.offsets {
            self.payload.extend_from_slice(&offset.to_le_bytes());
        }
        self.payload.extend_from_slice(&(self.offsets.len() as u32).to_le_bytes());
        self.payload
    }
}

/// Frames payloads one behind the other.
pub(crate) struct Frames<'a> {
    id: TableId,
    sink: Sink<'a>,
    pub(crate) offset: u64,
}

impl<'a> Frames<'a> {
    pub(crate) fn new(id: TableId, sink: Sink<'a>) -> Frames<'a> {
        Frames { id, sink, offset: 0 }
    }

    pub(crate) fn put(&mut self, payload: &[u8], codec: u8) -> io::Result<Handle> {
        let len = u32::try_from(payload.len() + FRAME).map_err(|_| io::Error::other("a block is over 4 GiB"))?;
        let handle = Handle { offset: self.offset, len };
        (self.sink)(payload)?;
        (self.sink)(&frame(self.id, self.offset, payload, codec))?;
        self.offset += u64::from(len);
        Ok(handle)
    }

    /// Filter, index, properties, range deletions and footer; returns the length of the file.
    pub(crate) fn finish(mut self, filter: &[u8], index: &[u8], properties: &[u8], ranges: &Ranges) -> io::Result<u64> {
        let meta = self.offset;
        let filter = self.put(filter, RAW)?;
        let index = self.put(index, RAW)?;
        let properties = self.put(properties, RAW)?;
        let ranges = if ranges.is_empty() { None } else { Some(self.put(&ranges.encode(), RAW)?) };
        let footer = Footer { id: self.id, filter, index, properties, ranges, meta }.encode();
        (self.sink)(&footer)?;
        Ok(self.offset + footer.len() as u64)
    }
}

/// Builds a table; see the module.
pub(crate) struct TableWriter<'a> {
    frames: Frames<'a>,
    block_bytes: usize,
    block: BlockBuilder,
    /// A finished block whose separator waits for the next key.
    waiting: Option<(Vec<u8>, Handle)>,
    index: IndexBuilder,
    hashes: Vec<u64>,
    properties: Properties,
    last: Option<(Vec<u8>, u64)>,
    ranges: Vec<RangeDeletion>,
}

/// Why a table could not be written.
pub(crate) enum TableWriteError {
    Io(io::Error),
    /// The versions came out of order: what they were read from is damaged.
    Order(Corruption),
}

impl From<io::Error> for TableWriteError {
    fn from(error: io::Error) -> Self {
        TableWriteError::Io(error)
    }
}

impl<'a> TableWriter<'a> {
    pub(crate) fn new(id: TableId, block_bytes: usize, sink: Sink<'a>) -> TableWriter<'a> {
        TableWriter {
            frames: Frames::new(id, sink),
            block_bytes,
            block: BlockBuilder::default(),
            waiting: None,
            index: IndexBuilder::default(),
            hashes: Vec::new(),
            properties: Properties { min_sequence: u64::MAX, ..Properties::default() },
            last: None,
            ranges: Vec::new(),
        }
    }

    /// Bytes so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.frames.offset + self.block.len() as u64
    }

    /// Adds a version behind all before it. An exact repetition is passed over.
    pub(crate) fn add(&mut self, key: &[u8], tag: u64, value: &[u8]) -> Result<(), TableWriteError> {
        let mut same_key = false;
        if let Some((last_key, last_tag)) = &mut self.last {
            match key::compare((last_key, *last_tag), (key, tag)) {
                std::cmp::Ordering::Less => {}
                std::cmp::Ordering::Equal => return Ok(()),
                std::cmp::Ordering::Greater => {
                    let what = "versions to be written to a table come out of order";
                    return Err(TableWriteError::Order(Corruption::new(
                        format!("table {}", self.frames.id),
                        self.frames.offset,
                        what,
                    )));
                }
            }
            same_key = last_key == key;
            last_key.clear();
            last_key.extend_from_slice(key);
            *last_tag = tag;
        } else {
            self.properties.min_key = key.to_vec();
            self.last = Some((key.to_vec(), tag));
        }
        if let Some((last_key, handle)) = self.waiting.take() {
            let separator = if same_key { last_key } else { key::separator(&last_key, key) };
            self.index.add(&separator, handle);
        }
        if !same_key {
            self.hashes.push(key::hash(key));
        }
        let sequence = sequence_of(tag);
        let properties = &mut self.properties;
        properties.min_sequence = properties.min_sequence.min(sequence);
        properties.max_sequence = properties.max_sequence.max(sequence);
        properties.entries += 1;
        properties.deletions += u64::from(kind_of(tag) == DELETE);
        properties.key_bytes += key.len() as u64;
        properties.value_bytes += value.len() as u64;
        self.block.add(key, tag, value);
        if self.block.len() >= self.block_bytes {
            self.end_block()?;
        }
        Ok(())
    }

    /// Adds a range deletion; in no order.
    pub(crate) fn add_range(&mut self, deletion: RangeDeletion) {
        self.ranges.push(deletion);
    }

    fn end_block(&mut self) -> io::Result<()> {
        let last_key = self.block.last_key().to_vec();
        let payload = self.block.finish();
        self.properties.blocks += 1;
        self.waiting = Some((last_key, self.frames.put(&payload, RAW)?));
        Ok(())
    }

    /// Ends the table. The object's length is not known yet (zero). `None` if nothing was added.
    pub(crate) fn finish(mut self) -> Result<Option<TableRef>, TableWriteError> {
        let ranges = Ranges::new(std::mem::take(&mut self.ranges));
        if let (None, Some(first)) = (&self.last, ranges.iter().next()) {
            // It deletes its first key, so this says nothing new.
            self.add(&first.from, tag(first.sequence, DELETE), &[])?;
        }
        if !self.block.is_empty() {
            self.end_block()?;
        }
        let Some((last_key, handle)) = self.waiting.take() else { return Ok(None) };
        self.index.add(&last_key, handle);
        self.properties.max_key = last_key;
        let id = self.frames.id;
        let mut properties = self.properties;
        for deletion in ranges.iter() {
            properties.min_sequence = properties.min_sequence.min(deletion.sequence);
            properties.max_sequence = properties.max_sequence.max(deletion.sequence);
            properties.deletions += 1;
            if deletion.from < properties.min_key {
                properties.min_key.clone_from(&deletion.from);
            }
            if *deletion.last() > properties.max_key[..] {
                properties.max_key = deletion.last().to_vec();
            }
        }
        let (filter, index) = (filter::build(&self.hashes), self.index.finish());
        let meta = self.frames.offset;
        let mirror_len = self.frames.finish(&filter, &index, &properties.encode(), &ranges)?;
        Ok(Some(TableRef {
            id,
            mirror_len,
            object_len: 0,
            min_key: properties.min_key,
            max_key: properties.max_key,
            min_sequence: properties.min_sequence,
            max_sequence: properties.max_sequence,
            entries: properties.entries,
            deletions: properties.deletions,
            ranges: ranges.len() as u64,
            meta_len: mirror_len - meta,
        }))
    }
}

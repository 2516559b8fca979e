//! A part of a store's own log, a local segment or an object, read without the manifest that it continues.

use std::path::Path;

use uuid::Uuid;

use crate::batch::Batch;
use crate::error::{Corruption, StorageError};
use crate::inspect::read;
use crate::wal::record::{HEADER, Segment, read_record};
use crate::wal::remote;

/// A segment of the local log, or an object of the one in the bucket.
#[derive(Clone, Debug)]
pub struct LogFile {
    name: String,
    bytes: Vec<u8>,
    /// Where the records end.
    end: usize,
    segment: Segment,
}

/// A record: one batch.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogRecord {
    /// Where it begins in the file.
    pub offset: u64,
    /// Bytes of the file that were durable when it was written.
    pub synced: u64,
    /// The sequence number of its first write.
    pub first: u64,
    /// The batch.
    pub batch: Batch,
}

impl LogFile {
    /// Reads a segment, or a copy of an object.
    ///
    /// # Errors
    /// [`StorageError`] if it cannot be read or its header is damaged. A copy of an object that is damaged counts as a segment.
    pub fn open(path: &Path) -> Result<LogFile, StorageError> {
        Ok(LogFile::of(path.display().to_string(), read(path)?)?)
    }

    pub(super) fn of(name: String, bytes: Vec<u8>) -> Result<LogFile, Corruption> {
        let segment = Segment::decode(&bytes).map_err(|(at, what)| Corruption::new(&name[..], at, what))?;
        // A segment may end with what looks like a trailer.
        let end = match remote::decode(&name, &bytes) {
            Ok(_) => bytes.len() - remote::TRAILER,
            Err(_) => bytes.len(),
        };
        Ok(LogFile { name, bytes, end, segment })
    }

    /// Reads an object.
    pub(super) fn of_object(name: String, bytes: Vec<u8>) -> Result<LogFile, Corruption> {
        remote::decode(&name, &bytes)?;
        LogFile::of(name, bytes)
    }

    /// Whether it is an object: those are whole.
    pub fn is_object(&self) -> bool {
        self.end < self.bytes.len()
    }

    /// The store that it belongs to.
    pub fn store_id(&self) -> Uuid {
        self.segment.store
    }

    /// The writer's epoch.
    pub fn epoch(&self) -> u64 {
        self.segment.epoch
    }

    /// Its number within the epoch: of segments, or of objects.
    pub fn slot(&self) -> u64 {
        self.segment.slot
    }

    /// The nonce of the manifest that a segment continues, or the object's own.
    pub fn nonce(&self) -> Uuid {
        self.segment.nonce
    }

    /// Its bytes.
    pub fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Whether it has no record. An object without any is the end of the epoch's log.
    pub fn is_empty(&self) -> bool {
        self.end <= HEADER
    }

    /// The records in order. It ends with the first that is damaged or cut off: in the last segment of a writer that did not
    /// stop in an orderly way, that is where a replay ends; anywhere else it is damage.
    pub fn records(&self) -> impl Iterator<Item = Result<LogRecord, Corruption>> + '_ {
        let mut at = HEADER;
        std::iter::from_fn(move || {
            if at >= self.end {
                return None;
            }
            let offset = std::mem::replace(&mut at, usize::MAX);
            let bad = |what: String| Some(Err(Corruption::new(&self.name[..], offset as u64, what)));
            let Some(record) = read_record(&self.segment, &self.bytes[..self.end], offset) else {
                return bad(format!("a record is damaged or cut off; {} bytes are left", self.bytes.len() - offset));
            };
            if record.flags != 0 {
                return bad(format!("record with flags {:#x} is not supported yet", record.flags));
            }
            match Batch::decode(record.batch) {
                Ok(batch) => {
                    at = record.end;
                    let (synced, first) = (record.synced, record.first);
                    Some(Ok(LogRecord { offset: offset as u64, synced, first, batch }))
                }
                Err(error) => bad(error.to_string()),
            }
        })
    }
}

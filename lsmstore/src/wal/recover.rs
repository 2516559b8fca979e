//! Reading the log back.
//!
//! What was written but not synced when the machine stopped may be there in any part and order: a bad record is a torn
//! tail if it is in the last segment and no valid record behind it says that the log had been synced beyond it. Anything
//! else that is bad is damage, and an error that names file and offset. (A flipped bit in the very last record cannot be
//! told from a torn one.)

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::batch::Batch;
use crate::env::{Env, write_whole};
use crate::error::{Corruption, OpenError, StorageError};
use crate::wal::record::{HEADER, Segment, glance, read_record};
use crate::wal::{file_name, parse_name};

/// How far ahead a sequence number behind a bad record may lie to be looked at.
const PLAUSIBLE: u64 = 1 << 40;

/// A logged batch.
#[derive(Debug)]
pub(crate) struct Logged {
    pub(crate) first: u64,
    pub(crate) batch: Batch,
}

/// The segments in a folder.
pub(crate) struct Segments {
    dir: PathBuf,
    files: BTreeMap<(u64, u64), Vec<u8>>,
}

impl Segments {
    /// Reads all segments; each must belong to `store` (or, with none, must not be there).
    pub(crate) fn read(env: &dyn Env, dir: &Path, store: Option<Uuid>) -> Result<Segments, OpenError> {
        let mut files = BTreeMap::new();
        for name in env.list(dir).map_err(StorageError::local(dir))? {
            let Some(place) = parse_name(&name) else { continue };
            let path = dir.join(&name);
            let bytes = env.read(&path).map_err(StorageError::local(&path))?;
            if let Ok(segment) = Segment::decode(&bytes)
                && store != Some(segment.store)
            {
                return Err(OpenError::ForeignLog { found: segment.store, expected: store, path });
            }
            files.insert(place, bytes);
        }
        Ok(Segments { dir: dir.to_owned(), files })
    }

    /// Whether any record is in them.
    pub(crate) fn holds_records(&self) -> bool {
        self.files.values().any(|bytes| bytes.len() > HEADER)
    }

    pub(crate) fn remove_all(&self, env: &dyn Env) -> Result<(), StorageError> {
        for &(epoch, slot) in self.files.keys() {
            let path = self.dir.join(file_name(epoch, slot));
            env.remove(&path).map_err(StorageError::local(&path))?;
        }
        Ok(())
    }

    /// The batches of the segments that `recover` names, in order. The last segment is written again, durably and without a
    /// torn tail. Sequence numbers must follow each other without a gap, from `held + 1` or below.
    pub(crate) fn batches(
        &self,
        env: &dyn Env,
        store: Uuid,
        recover: &[(u64, u64)],
        held: u64,
    ) -> Result<Vec<Logged>, StorageError> {
        let needed: Vec<_> = (self.files.iter())
            .filter(|((epoch, slot), _)| recover.iter().any(|(needed, from)| needed == epoch && slot >= from))
            .collect();
        for &(epoch, slot) in recover {
            // Slot 0 may never have been started; a later one was durable before a manifest named it.
            if slot > 0 && !self.files.contains_key(&(epoch, slot)) {
                let name = self.dir.join(file_name(epoch, slot)).display().to_string();
                return Err(Corruption::new(name, 0, "the segment is missing, but the manifest needs it").into());
            }
        }
        let mut out = Vec::new();
        let mut next = None;
        let mut previous: Option<(u64, u64)> = None;
        for (number, &(&(epoch, slot), bytes)) in needed.iter().enumerate() {
            let path = self.dir.join(file_name(epoch, slot));
            let name = path.display().to_string();
            let expected = match previous {
                Some((before, last)) if before == epoch => last + 1,
                _ => recover.iter().filter(|(needed, _)| *needed == epoch).map(|(_, from)| *from).min().unwrap_or(0),
            };
            if slot != expected {
                let what = format!("the segment of slot {expected} before it is missing");
                return Err(Corruption::new(name, 0, what).into());
            }
            previous = Some((epoch, slot));
            let last = number + 1 == needed.len();
            let read = read_segment(&name, bytes, (store, epoch, slot), last, held, &mut next, &mut out)?;
            if read < HEADER {
                env.remove(&path).map_err(StorageError::local(&path))?;
                env.sync_dir(&self.dir).map_err(StorageError::local(&self.dir))?;
            } else if last {
                // What is replayed of it is followed by another segment, before which nothing may be torn. That it can be read
                // does not say that it is durable, and after a sync that failed a second one does not either: so it is
                // written again.
                write_whole(env, &self.dir, &file_name(epoch, slot), &bytes[..read])?;
            }
        }
        Ok(out)
    }
}

/// Reads one segment; returns how many of its bytes are good.
fn read_segment(
    name: &str,
    bytes: &[u8],
    (store, epoch, slot): (Uuid, u64, u64),
    last: bool,
    held: u64,
    next: &mut Option<u64>,
    out: &mut Vec<Logged>,
) -> Result<usize, Corruption> {
    let bad = |at: usize, what: String| Err(Corruption::new(name, at as u64, what));
    let segment = match Segment::decode(bytes) {
        Ok(segment) => segment,
        // Its header never became durable, so no record was written.
        Err(_) if last && bytes.len() <= HEADER => return Ok(0),
        Err((at, what)) => return Err(Corruption::new(name, at, what)),
    };
    if (segment.store, segment.epoch, segment.slot) != (store, epoch, slot) {
        return bad(
            16,
            format!("the header is of store {}, epoch {}, slot {}", segment.store, segment.epoch, segment.slot),
        );
    }
    let mut at = HEADER;
    while at < bytes.len() {
        let Some(record) = read_record(&segment, bytes, at) else {
            if !last {
                return bad(at, "a record is damaged or cut off, and this is not the last segment".into());
            }
            if let Some(behind) = synced_beyond(&segment, bytes, at, next.unwrap_or(held)) {
                return bad(at, format!("a record is damaged, but the record at {behind} says that it was durable"));
            }
            return Ok(at);
        };
        if record.flags != 0 {
            return bad(at, format!("record with flags {:#x} is not supported yet", record.flags));
        }
        let batch = match Batch::decode(record.batch) {
            Ok(batch) => batch,
            Err(error) => return bad(at, error.to_string()),
        };
        let gap = match *next {
            Some(next) => record.first != next,
            None => record.first == 0 || record.first > held + 1,
        };
        if gap {
            let expected = next.unwrap_or(held + 1);
            return bad(at, format!("sequence number {} does not follow, expected {expected}", record.first));
        }
        let Some(following) = record.first.checked_add(batch.len() as u64).filter(|&n| n <= crate::MAX_SEQUENCE) else {
            return bad(at, "the sequence numbers are out of range".into());
        };
        *next = Some(following);
        out.push(Logged { first: record.first, batch });
        at = record.end;
    }
    Ok(at)
}

/// Looks behind a bad record for a valid one that was written after it had become durable.
fn synced_beyond(segment: &Segment, bytes: &[u8], bad: usize, after: u64) -> Option<usize> {
    (bad + 1..bytes.len()).find(|&at| {
        // The CRC is computed only where the fields could be those of such a record.
        glance(bytes, at).is_some_and(|(record, ..)| {
            record.synced > bad as u64
                && record.synced <= at as u64
                && record.first >= after
                && record.first - after < PLAUSIBLE
                && read_record(segment, bytes, at).is_some()
        })
    })
}

//! The store's own log: local segments of records, one record for each batch.
//!
//! A segment is named by epoch and slot; a flush starts the next slot, and segments before those that the manifest names
//! are removed once it is durable. Bytes are in `record`, reading them back in `recover`; the same log in the object store, for
//! those who want it there, in `remote`.
//!
//! # Invariants
//! * A segment's header is durable, in its folder too, before the first record is written.
//! * A failed write or sync is never tried again: the store is poisoned.
//! * Damage in anything that was synced is an error; only what was written after the last sync may be torn.

pub(crate) mod record;
pub(crate) mod recover;
pub(crate) mod remote;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use uuid::Uuid;

use crate::env::{Env, EnvFile};
use record::{HEADER, Segment, write_record};

/// Name of a segment's file.
pub(crate) fn file_name(epoch: u64, slot: u64) -> String {
    format!("{epoch:016x}-{slot:016x}.wal")
}

/// Epoch and slot in the name of a segment's file.
pub(crate) fn parse_name(name: &str) -> Option<(u64, u64)> {
    let (epoch, slot) = name.strip_suffix(".wal")?.split_once('-')?;
    let number = |text: &str| (text.len() == 16).then(|| u64::from_str_radix(text, 16).ok()).flatten();
    Some((number(epoch)?, number(slot)?))
}

/// The segment being written.
#[derive(Debug)]
pub(crate) struct OwnLog {
    env: Arc<dyn Env>,
    dir: PathBuf,
    segment: Segment,
    file: Box<dyn EnvFile>,
    length: u64,
    synced: u64,
    buffer: Vec<u8>,
    /// A write or sync failed: nobody knows what is there, and a sync that is tried again may say yes all the same.
    failed: bool,
}

impl OwnLog {
    /// Starts the log of an epoch.
    pub(crate) fn start(env: Arc<dyn Env>, dir: &Path, store: Uuid, epoch: u64, nonce: Uuid) -> io::Result<OwnLog> {
        let segment = Segment { store, epoch, slot: 0, nonce };
        let file = create(&*env, dir, &segment)?;
        let length = HEADER as u64;
        Ok(OwnLog {
            env,
            dir: dir.to_owned(),
            segment,
            file,
            length,
            synced: length,
            buffer: Vec::new(),
            failed: false,
        })
    }

    /// Goes on in the next slot; everything in earlier ones is synced first. Returns the slot.
    pub(crate) fn rotate(&mut self) -> io::Result<u64> {
        self.sync()?;
        if self.length == HEADER as u64 {
            return Ok(self.segment.slot);
        }
        let next = Segment { slot: self.segment.slot + 1, ..self.segment };
        self.file = self.once(|log| create(&*log.env, &log.dir, &next))?;
        self.segment = next;
        (self.length, self.synced) = (HEADER as u64, HEADER as u64);
        Ok(next.slot)
    }

    /// Adds a record to those that [`OwnLog::write`] will write.
    pub(crate) fn push(&mut self, first: u64, batch: &[u8]) {
        let offset = self.length + self.buffer.len() as u64;
        write_record(&mut self.buffer, &self.segment, offset, self.synced, first, batch);
    }

    pub(crate) fn write(&mut self) -> io::Result<()> {
        self.once(|log| log.file.append(&log.buffer))?;
        self.length += self.buffer.len() as u64;
        self.buffer.clear();
        self.buffer.shrink_to(4 << 20);
        Ok(())
    }

    pub(crate) fn sync(&mut self) -> io::Result<()> {
        if self.synced < self.length {
            self.once(|log| log.file.sync())?;
            self.synced = self.length;
        }
        Ok(())
    }

    /// Does something to files, unless something failed before.
    fn once<T>(&mut self, job: impl FnOnce(&mut OwnLog) -> io::Result<T>) -> io::Result<T> {
        if self.failed {
            return Err(io::Error::other("a write or sync of it failed before"));
        }
        let done = job(self);
        self.failed = done.is_err();
        done
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }
}

fn create(env: &dyn Env, dir: &Path, segment: &Segment) -> io::Result<Box<dyn EnvFile>> {
    let mut file = env.create(&dir.join(file_name(segment.epoch, segment.slot)))?;
    file.append(&segment.encode())?;
    file.sync()?;
    env.sync_dir(dir)?;
    Ok(file)
}

/// Removes the segments that a replay from `recover` does not need.
pub(crate) fn release(env: &dyn Env, dir: &Path, recover: &[(u64, u64)]) -> io::Result<()> {
    for name in env.list(dir)? {
        let needed = |(epoch, slot)| recover.iter().any(|&(needed, from)| needed == epoch && slot >= from);
        // What is left of one that was being written again, as well.
        let aside = name.strip_suffix(".tmp").is_some_and(|name| parse_name(&format!("{name}.wal")).is_some());
        if aside || parse_name(&name).is_some_and(|place| !needed(place)) {
            env.remove(&dir.join(name))?;
        }
    }
    Ok(())
}

//! Applying batches.

use std::sync::atomic::Ordering;

use crate::batch::Batch;
use crate::error::{Unusable, WriteError};
use crate::key::MAX_SEQUENCE;
use crate::log::LogChoice;
use crate::memtable::insert::InsertError;
use crate::store::{Inner, Store, Writer, lock};
use crate::view::View;

/// The sequence numbers of an applied batch: one for each write, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Number of the first write.
    pub first: u64,
    /// Number of the last write.
    pub last: u64,
}

/// How a batch of a replayed log was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Replayed {
    /// It is in the memtable now.
    Applied,
    /// The manifest's tables hold it already.
    Skipped,
}

impl Store {
    /// Applies a batch under the next sequence numbers; when this returns every reader of the newest view sees it. An
    /// empty batch takes no number (`last` is then below `first`). Blocks only for other writers, for microseconds.
    ///
    /// With an external log the owner logs the batch after this, with the numbers returned. The first call ends the
    /// replay of a log.
    ///
    /// # Errors
    /// [`WriteError::Full`] while too many memtables wait for a flush: wait and try again. Nothing was applied if this
    /// fails.
    pub fn apply(&self, batch: &Batch) -> Result<Applied, WriteError> {
        self.inner.refuse_own_log()?;
        batch.check()?;
        let mut writer = lock(&self.inner.writer);
        let applied = self.inner.apply_next(&mut writer, batch);
        self.inner.noted(applied)
    }

    /// Applies a batch if `check` says so: it sees the newest state, and nothing is written between it and the batch.
    /// `None` if it said no. `check` runs under the writer's lock and must not write to the store.
    ///
    /// # Errors
    /// As [`Store::apply`].
    pub fn apply_if(&self, check: impl FnOnce(&View) -> bool, batch: &Batch) -> Result<Option<Applied>, WriteError> {
        self.inner.refuse_own_log()?;
        batch.check()?;
        let mut writer = lock(&self.inner.writer);
        self.inner.usable()?;
        if !check(&self.inner.current()) {
            return Ok(None);
        }
        let applied = self.inner.apply_next(&mut writer, batch);
        self.inner.noted(applied).map(Some)
    }

    /// Replays a logged batch at the numbers it had. Batches that the manifest holds are skipped; one applied twice
    /// counts once. Calls come in log order, which may differ a little from that of the numbers.
    ///
    /// # Errors
    /// [`WriteError::Sequence`] after the replay was ended by [`Store::set_next_sequence`] or [`Store::apply`];
    /// [`WriteError::Full`]: flush and try again.
    pub fn apply_at(&self, first: u64, batch: &Batch) -> Result<Replayed, WriteError> {
        self.inner.refuse_own_log()?;
        self.inner.replay_one(first, batch)
    }

    /// Ends the replay of a log: the next batch gets `floor` or, if that was used already, the number after the last.
    pub fn set_next_sequence(&self, floor: u64) {
        let mut writer = lock(&self.inner.writer);
        writer.replaying = None;
        self.inner.last_sequence.fetch_max(floor.saturating_sub(1).min(MAX_SEQUENCE), Ordering::AcqRel);
    }
}

impl Inner {
    /// Takes note of a write that was refused, or taken after one that was.
    pub(super) fn noted<T>(&self, result: Result<T, WriteError>) -> Result<T, WriteError> {
        self.counters.stalls.ended(&result, || self.env.reactor().monotonic());
        result
    }

    fn refuse_own_log(&self) -> Result<(), WriteError> {
        match self.log {
            LogChoice::Own => Err(WriteError::WrongLog { instead: "Store::write" }),
            _ => Ok(()),
        }
    }

    pub(super) fn replay_one(&self, first: u64, batch: &Batch) -> Result<Replayed, WriteError> {
        batch.check()?;
        let mut writer = lock(&self.writer);
        self.usable()?;
        let wrong = |what| Err(WriteError::Sequence { first, what });
        let Some(held) = writer.replaying else { return wrong("the replay is over") };
        if batch.is_empty() {
            return Ok(Replayed::Skipped);
        }
        let last = match first.checked_add(batch.len() as u64 - 1) {
            Some(last) if first > 0 && last <= MAX_SEQUENCE => last,
            _ => return wrong("the numbers are out of range"),
        };
        if last <= held {
            return Ok(Replayed::Skipped);
        }
        if first <= held {
            return wrong("the manifest holds a part of this batch");
        }
        self.insert(&mut writer, batch, first, last)?;
        Ok(Replayed::Applied)
    }

    pub(super) fn apply_next(&self, writer: &mut Writer, batch: &Batch) -> Result<Applied, WriteError> {
        self.usable()?;
        self.keeps_up()?;
        writer.replaying = None;
        let first = self.last_sequence.load(Ordering::Acquire) + 1;
        let last = first + batch.len() as u64 - 1;
        if last > MAX_SEQUENCE {
            return Err(WriteError::Sequence { first, what: "the sequence numbers are used up" });
        }
        if !batch.is_empty() {
            self.insert(writer, batch, first, last)?;
        }
        Ok(Applied { first, last })
    }

    /// Refuses new writes while too much waits for the object store. What is in a log already is not asked about: it was
    /// taken, and must be applied.
    pub(super) fn keeps_up(&self) -> Result<(), WriteError> {
        let (bytes, limit) = (self.backlog_bytes.load(Ordering::Acquire), self.config.max_pending_bytes);
        if bytes > limit { Err(WriteError::Behind { bytes, limit }) } else { Ok(()) }
    }

    /// Makes room, writes and publishes.
    pub(super) fn insert(&self, writer: &mut Writer, batch: &Batch, first: u64, last: u64) -> Result<(), WriteError> {
        let room = writer.heights.room(batch);
        if !writer.active.has(room.bytes) {
            self.make_room(writer, room.bytes)?;
        }
        match writer.active.insert(batch, first, &room) {
            Ok(()) => {}
            // Memory is committed before the first node is written: nothing happened.
            Err(InsertError::Memory(error)) => return Err(WriteError::Memory(error)),
            Err(InsertError::Corrupt(corruption)) => {
                let what = format!("a batch was applied in part: {corruption}");
                return Err(self.poison(Unusable::Poisoned { what }).into());
            }
        }
        self.last_sequence.fetch_max(last, Ordering::AcqRel);
        writer.active.table().publish(last);
        self.counters.written(batch);
        Ok(())
    }

    /// Goes on in a memtable that has room for `bytes`, unless too many wait for a flush.
    pub(super) fn make_room(&self, writer: &mut Writer, bytes: usize) -> Result<(), WriteError> {
        let frozen = writer.frozen.len();
        if frozen >= self.config.max_frozen && writer.active.table().entries() > 0 {
            return Err(WriteError::Full { frozen });
        }
        self.rotate(writer, bytes)
    }
}

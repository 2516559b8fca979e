//! Writes that no manifest holds yet, told by whoever reads the writer's log: memtables of the follower's own, beside the
//! tables of the newest manifest.
//!
//! # Invariants
//! * A view with a new memtable is there before the first write into it.
//! * A memtable goes when a manifest holds all of it; when another writer has taken over, all of them do, for he may have
//!   gone on without some of these writes and given their numbers to others.

use std::sync::Arc;

use kriya_region::{ALIGNMENT, Region};

use crate::batch::Batch;
use crate::error::WriteError;
use crate::follow::contents::Contents;
use crate::key::MAX_SEQUENCE;
use crate::manifest::ManifestInfo;
use crate::memtable::Memtable;
use crate::memtable::insert::{Heights, InsertError, Inserter, capacity_for};
use crate::store::Replayed;
use crate::wal::recover::Logged;

/// Bytes of a memtable, unless a batch needs more.
const MEMTABLE: usize = 4 << 20;

pub(super) struct Fresh {
    heights: Heights,
    active: Option<Inserter>,
    /// Newest first, the active one included.
    memtables: Vec<Arc<Memtable>>,
    next: u64,
}

impl Fresh {
    /// Without any. `seed` decides on nothing but speed.
    pub(super) fn new(seed: u64) -> Fresh {
        Fresh { heights: Heights::new(seed), active: None, memtables: Vec::new(), next: 1 }
    }

    /// Makes a batch readable beside `newest`, unless that holds it.
    pub(super) fn apply(&mut self, newest: &Contents, first: u64, batch: &Batch) -> Result<Replayed, WriteError> {
        batch.check()?;
        if batch.is_empty() {
            return Ok(Replayed::Skipped);
        }
        let last = match first.checked_add(batch.len() as u64 - 1) {
            Some(last) if first > 0 && last <= MAX_SEQUENCE => last,
            _ => return Err(WriteError::Sequence { first, what: "the numbers are out of range" }),
        };
        if last <= newest.info.last_sequence {
            return Ok(Replayed::Skipped);
        }
        let room = self.heights.room(batch);
        if !self.active.as_ref().is_some_and(|active| active.has(room.bytes)) {
            let capacity = MEMTABLE.max(capacity_for(room.bytes)).next_multiple_of(ALIGNMENT);
            let region = Arc::new(Region::heap(capacity).map_err(WriteError::Memory)?);
            let published = newest.sequence();
            let memtable = Arc::new(Memtable::create(self.next, region, published).map_err(WriteError::Memory)?);
            self.next += 1;
            self.memtables.insert(0, Arc::clone(&memtable));
            newest.set_memtables(&self.memtables);
            self.active = Some(Inserter::new(memtable));
        }
        let Some(active) = &mut self.active else { return Ok(Replayed::Skipped) };
        match active.insert(batch, first, &room) {
            Ok(()) => {}
            Err(InsertError::Memory(error)) => return Err(WriteError::Memory(error)),
            Err(InsertError::Corrupt(corruption)) => return Err(WriteError::Corrupt(corruption)),
        }
        let published = active.table().published();
        active.table().publish(last.max(published));
        Ok(Replayed::Applied)
    }

    /// Makes batches of the log readable beside `newest`. Up to the first that does not follow, and then says so: what is
    /// missing is in tables of a newer manifest.
    pub(super) fn apply_all(&mut self, newest: &Contents, logged: Vec<Logged>) -> Result<bool, WriteError> {
        for Logged { first, batch } in logged {
            if first > newest.sequence() + 1 {
                return Ok(false);
            }
            self.apply(newest, first, &batch)?;
        }
        Ok(true)
    }

    /// What `next`, which takes the place of `before`, does not hold, beside it. This stays as it is: see
    /// [`Fresh::give_way`].
    pub(super) fn beside(&self, before: &ManifestInfo, next: &Contents) -> Fresh {
        let stays = |memtable: &&Arc<Memtable>| {
            before.epoch == next.info.epoch && memtable.published() > next.info.last_sequence
        };
        let memtables: Vec<_> = self.memtables.iter().filter(stays).map(Arc::clone).collect();
        next.set_memtables(&memtables);
        Fresh { heights: Heights::new(next.info.number), active: None, memtables, next: self.next }
    }

    /// Is `next` from now on.
    pub(super) fn give_way(&mut self, next: Fresh) {
        let before = std::mem::replace(self, next);
        let goes_on =
            |active: &Inserter| self.memtables.first().is_some_and(|newest| Arc::ptr_eq(newest, active.table()));
        if self.active.is_none() {
            self.active = before.active.filter(goes_on);
        }
    }
}

//! The writer's side of a memtable.
//!
//! Heights are drawn first, so that a batch knows exactly how many bytes it needs before its first byte is written; a
//! batch that does not fit leaves the memtable as it was. Where the last insertion happened is remembered: keys that
//! come in order (rows of a COPY) cost no search.

use std::cmp::Ordering;
use std::io;
use std::sync::Arc;

use super::arena::{HEAD, MAX_HEIGHT, node_bytes};
use super::{Memtable, ranges};
use crate::batch::{Batch, Write};
use crate::error::Corruption;
use crate::key::{self, tag};

pub(crate) struct Inserter {
    table: Arc<Memtable>,
    /// On each level the nodes between which the last insertion happened.
    before: [u32; MAX_HEIGHT as usize],
    after: [u32; MAX_HEIGHT as usize],
}

/// The room a batch needs: the heights of its nodes, and bytes.
pub(crate) struct Room {
    heights: Vec<u8>,
    pub(crate) bytes: usize,
}

/// Draws tower heights. Any sequence is correct; only speed depends on it.
pub(crate) struct Heights(u64);

impl Heights {
    pub(crate) fn new(seed: u64) -> Heights {
        Heights(seed | 1)
    }

    fn draw(&mut self) -> u8 {
        // xorshift64
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        let quarters = (self.0 >> 20).trailing_zeros() / 2;
        (1 + quarters.min(MAX_HEIGHT - 1)) as u8
    }

    pub(crate) fn room(&mut self, batch: &Batch) -> Room {
        let mut room = Room { heights: Vec::with_capacity(batch.len().min(1 << 20)), bytes: 0 };
        for write in batch.iter() {
            let height = self.draw();
            room.heights.push(height);
            room.bytes += bytes_of(&write, u32::from(height));
        }
        room
    }
}

/// Bytes of the node of a write.
fn bytes_of(write: &Write<'_>, height: u32) -> usize {
    let value = match write {
        Write::DeleteRange { to, .. } => ranges::value_len(to.len()),
        _ => write.value().len(),
    };
    node_bytes(height, write.key().len(), value)
}

/// What a batch takes whatever heights are drawn.
pub(crate) fn most_bytes(batch: &Batch) -> usize {
    batch.iter().map(|write| bytes_of(&write, MAX_HEIGHT)).sum()
}

/// Capacity of a memtable that holds just this.
pub(crate) fn capacity_for(bytes: usize) -> usize {
    (super::arena::FIRST + bytes).next_multiple_of(kriya_region::ALIGNMENT)
}

/// Why an insertion did not happen.
pub(crate) enum InsertError {
    Memory(io::Error),
    Corrupt(Corruption),
}

impl From<Corruption> for InsertError {
    fn from(corruption: Corruption) -> Self {
        InsertError::Corrupt(corruption)
    }
}

impl Inserter {
    pub(crate) fn new(table: Arc<Memtable>) -> Inserter {
        Inserter { table, before: [HEAD; MAX_HEIGHT as usize], after: [0; MAX_HEIGHT as usize] }
    }

    pub(crate) fn table(&self) -> &Arc<Memtable> {
        &self.table
    }

    /// Whether so many bytes are free.
    pub(crate) fn has(&self, bytes: usize) -> bool {
        self.table.arena.fits(bytes)
    }

    /// Inserts the writes of a batch at `first`, `first + 1`, ... Nothing is published. A version that is already
    /// there (a log replayed twice) is passed over. `room` is the batch's, and must fit.
    pub(crate) fn insert(&mut self, batch: &Batch, first: u64, room: &Room) -> Result<(), InsertError> {
        self.table.arena.commit(room.bytes).map_err(InsertError::Memory)?;
        for ((write, &height), sequence) in batch.iter().zip(&room.heights).zip(first..) {
            let tag = tag(sequence, write.kind());
            if let Write::DeleteRange { from, to } = write {
                let value = ranges::value(self.table.arena.ranges().1, to);
                if let Some(unit) = self.insert_one(tag, from, &value, u32::from(height))? {
                    self.table.arena.add_range(unit);
                }
                continue;
            }
            self.insert_one(tag, write.key(), write.value(), u32::from(height))?;
        }
        Ok(())
    }

    /// The new node, or none if the version is there already.
    fn insert_one(&mut self, tag: u64, key: &[u8], value: &[u8], height: u32) -> Result<Option<u32>, InsertError> {
        let table = Arc::clone(&self.table);
        let arena = &table.arena;
        if !self.brackets(key, tag)? {
            self.find(key, tag)?;
        }
        if self.after[0] != 0 {
            let next = arena.node(self.after[0])?;
            if next.key == key && next.tag == tag {
                return Ok(None);
            }
        }
        let unit = arena.push(tag, key, value, height).map_err(InsertError::Memory)?;
        for level in 0..height {
            arena.set_next(unit, level, self.after[level as usize])?;
        }
        for level in 0..height {
            arena.set_next(self.before[level as usize], level, unit)?;
            self.before[level as usize] = unit;
        }
        Ok(Some(unit))
    }

    fn less(&self, unit: u32, key: &[u8], tag: u64) -> Result<bool, Corruption> {
        let node = self.table.arena.node(unit)?;
        Ok(key::compare((node.key, node.tag), (key, tag)) == Ordering::Less)
    }

    /// Whether (key, tag) goes where the last insertion went. The gap on level 0 lies within those above, so it decides.
    fn brackets(&self, key: &[u8], tag: u64) -> Result<bool, Corruption> {
        let (before, after) = (self.before[0], self.after[0]);
        Ok((before == HEAD || self.less(before, key, tag)?) && (after == 0 || !self.less(after, key, tag)?))
    }

    fn find(&mut self, key: &[u8], tag: u64) -> Result<(), Corruption> {
        let mut at = HEAD;
        let mut bound = 0;
        for level in (0..MAX_HEIGHT).rev() {
            loop {
                let next = self.table.arena.next(at, level)?;
                if level > 0 {
                    self.table.arena.prefetch(self.table.arena.next(at, level - 1)?);
                }
                if next == 0 || next == bound || !self.less(next, key, tag)? {
                    self.before[level as usize] = at;
                    self.after[level as usize] = next;
                    bound = next;
                    break;
                }
                at = next;
            }
        }
        Ok(())
    }
}

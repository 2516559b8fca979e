//! The range deletions of a memtable.
//!
//! Each is a node of the skip list like any other version: key, the begin of the range; kind, [`DELETE_RANGE`], which
//! readers of that one key take for a deletion of it; value, `the range deletion before it u32 (its offset in units of 8
//! bytes, 0 for none) | the end of the range`. So they are a chain too, newest first, whose head is in the header.
//!
//! A process that reads keeps what it has found in memory of its own, as a set that is made anew when enough have come;
//! what came since is looked at one by one. Nothing is shared but the chain, and a memtable without range deletions costs
//! its readers one look at the header.
//!
//! # Invariants
//! * The header names a node only when that is linked, before its number is published.
//! * The chain leads towards smaller offsets, so it ends.

use std::sync::PoisonError;

use super::Memtable;
use super::arena::Node;
use crate::error::Corruption;
use crate::key::{DELETE_RANGE, kind_of, sequence_of};
use crate::ranges::{RangeDeletion, Ranges};

/// Bytes before the end of the range in a node's value.
const BEFORE: usize = 4;

/// Bytes of the value of a range deletion's node.
pub(super) fn value_len(to: usize) -> usize {
    BEFORE + to
}

/// The value of a range deletion's node.
pub(super) fn value(before: u32, to: &[u8]) -> Vec<u8> {
    [&before.to_le_bytes(), to].concat()
}

/// The end of the range, from the value of a range deletion's node.
pub(crate) fn end_of(value: &[u8]) -> &[u8] {
    value.get(BEFORE..).unwrap_or(&[])
}

/// What a process has found of a memtable's range deletions.
#[derive(Default)]
pub(super) struct Known {
    /// How many it has found, and the newest of them.
    count: u32,
    unit: u32,
    set: Ranges,
    /// Those that are not in the set yet.
    tail: Vec<RangeDeletion>,
}

impl Known {
    fn newest(&self, key: &[u8], sequence: u64) -> u64 {
        let covers = |one: &&RangeDeletion| one.sequence <= sequence && &one.from[..] <= key && key < &one.to[..];
        let tail = self.tail.iter().filter(covers).map(|one| one.sequence).max().unwrap_or(0);
        tail.max(self.set.newest(key, sequence))
    }

    /// Takes in what came up to `unit`, the `count`th.
    fn catch_up(&mut self, table: &Memtable, count: u32, unit: u32) -> Result<(), Corruption> {
        let mut at = unit;
        let mut found = Vec::new();
        while at != self.unit {
            let node = table.arena.node(at)?;
            let (before, deletion) = parse(&node).ok_or_else(|| table.arena.bad(at, "this is no range deletion"))?;
            if before >= at {
                return Err(table.arena.circle(at));
            }
            found.push(deletion);
            at = before;
        }
        (self.count, self.unit) = (count, unit);
        self.tail.append(&mut found);
        // Making the set anew each time would be quadratic, and a long tail slow to look at.
        if self.tail.len() > 16 + self.set.len().isqrt() {
            let mut all = std::mem::take(&mut self.set).into_vec();
            all.append(&mut self.tail);
            self.set = Ranges::new(all);
        }
        Ok(())
    }
}

fn parse(node: &Node<'_>) -> Option<(u32, RangeDeletion)> {
    let before = u32::from_le_bytes(node.value.get(..BEFORE)?.try_into().ok()?);
    let (from, to) = (node.key.to_vec(), end_of(node.value).to_vec());
    let valid = kind_of(node.tag) == DELETE_RANGE && from < to;
    valid.then(|| (before, RangeDeletion { from, to, sequence: sequence_of(node.tag) }))
}

impl Memtable {
    /// Whether it has any by now.
    #[inline]
    pub(crate) fn has_ranges(&self) -> bool {
        self.arena.ranges().0 > 0
    }

    /// The number of the newest one at or below `sequence` that deletes `key`; 0 if none does.
    #[inline]
    pub(crate) fn newest_range(&self, key: &[u8], sequence: u64) -> Result<u64, Corruption> {
        match self.arena.ranges() {
            (0, _) => Ok(0),
            (count, unit) => self.find_range(key, sequence, count, unit),
        }
    }

    #[cold]
    fn find_range(&self, key: &[u8], sequence: u64, count: u32, unit: u32) -> Result<u64, Corruption> {
        {
            let known = self.ranges.read().unwrap_or_else(PoisonError::into_inner);
            if known.count >= count {
                return Ok(known.newest(key, sequence));
            }
        }
        let mut known = self.ranges.write().unwrap_or_else(PoisonError::into_inner);
        if known.count < count {
            known.catch_up(self, count, unit)?;
        }
        Ok(known.newest(key, sequence))
    }
}

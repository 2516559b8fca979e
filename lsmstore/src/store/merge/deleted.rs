//! The range deletions of a merge: what they delete of its inputs is not written, and they themselves are written only as
//! far as there may be something older for them to delete.
//!
//! An output has the pieces of them that lie between the last key of the output before and its own last key. So the outputs
//! do not overlap, and what one of them deletes lies within its bounds.

use std::sync::Arc;

use crate::ranges::{RangeDeletion, Ranges, behind};
use crate::sstable::read::Table;
use crate::sstable::write::TableWriter;
use crate::store::merge::pick::Choice;

/// The range deletions of one part of a merge.
pub(super) struct Deleted {
    /// All of the inputs, as readers at the floor and above need them.
    all: Arc<Ranges>,
    /// Those of this part that are not written yet, or not to their end.
    left: Vec<RangeDeletion>,
    floor: u64,
    /// Tables that may hold something older than they are.
    elsewhere: Vec<Arc<Table>>,
    /// The last key that was read, whether it was kept or not.
    passed: Vec<u8>,
}

impl Deleted {
    /// `bounds` are the first key of the part and the first behind it; no range reaches over them.
    pub(super) fn new(all: &Arc<Ranges>, choice: &Choice, bounds: &[Option<Vec<u8>>], floor: u64) -> Deleted {
        let begins = |one: &&RangeDeletion| {
            bounds[0].as_ref().is_none_or(|from| one.from >= *from)
                && bounds[1].as_ref().is_none_or(|until| one.from < *until)
        };
        let left: Vec<_> = all.iter().filter(begins).cloned().collect();
        let elsewhere = if left.is_empty() {
            Vec::new()
        } else {
            let below = choice.below.iter().flat_map(|run| run.iter());
            below.chain(&choice.older).map(Arc::clone).collect()
        };
        Deleted { all: Arc::clone(all), left, floor, elsewhere, passed: Vec::new() }
    }

    /// Whether any are to be written yet.
    pub(super) fn left(&self) -> bool {
        !self.left.is_empty()
    }

    /// Whether no reader at the floor or above can see this version of a key.
    #[inline]
    pub(super) fn deletes(&self, key: &[u8], sequence: u64) -> bool {
        !self.all.is_empty() && self.all.newest(key, self.floor) > sequence
    }

    /// Notes that a key was read.
    #[inline]
    pub(super) fn pass(&mut self, key: &[u8]) {
        if !self.left.is_empty() {
            self.passed.clear();
            self.passed.extend_from_slice(key);
        }
    }

    /// Writes them up to the last key that was read, or to their end if this is the `last` output. Returns how many pieces
    /// were not needed any more.
    pub(super) fn write(&mut self, writer: &mut TableWriter<'_>, last: bool) -> u64 {
        if self.left.is_empty() {
            return 0;
        }
        let end = (!last).then(|| behind(&self.passed));
        let (mut dropped, mut rest) = (0, Vec::new());
        for one in std::mem::take(&mut self.left) {
            rest.extend(end.as_ref().and_then(|end| one.within(Some(end), None)));
            let Some(piece) = one.within(None, end.as_deref()) else { continue };
            if piece.sequence > self.floor || self.elsewhere.iter().any(|table| may_need(table, &piece)) {
                writer.add_range(piece);
            } else {
                dropped += 1;
            }
        }
        self.left = rest;
        dropped
    }
}

/// Whether a table may hold something that a range deletion deletes.
fn may_need(table: &Table, one: &RangeDeletion) -> bool {
    let info = &table.info;
    info.min_sequence < one.sequence && info.min_key < one.to && info.max_key >= one.from
}

//! Walks the row versions of a table in a view, both ways.
//!
//! A row and its deletion mark are neighbours in the order of keys. The cursor remembers the number it returned last, so
//! that a change of direction starts from there.

use kriya_engine::keys;
use lsmstore::{Iter, View};

use super::tid;
use super::version::Version;
use crate::error::OrRaise;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Before,
    /// At this row; `true` if the iterator stands right behind it.
    At(u64, bool),
    After,
}

/// Position in the rows `low..high` of a table.
pub struct Cursor {
    iter: Iter,
    table: u64,
    low: u64,
    high: u64,
    place: Place,
}

impl Cursor {
    /// Over all rows of a table, as of now.
    pub fn new(view: &View, table: u64) -> Cursor {
        let iter = view.iter(view.read_sequence()).or_raise();
        Cursor { iter, table, low: 0, high: tid::LIMIT, place: Place::Before }
    }

    /// Starts over with the rows `low..high`.
    pub fn restrict(&mut self, low: u64, high: u64) {
        (self.low, self.high, self.place) = (low, high, Place::Before);
    }

    /// The next version in ascending order.
    pub fn next(&mut self) -> Option<Version<'_>> {
        match self.place {
            Place::At(_, true) => {}
            Place::After => return None,
            Place::Before => {
                self.iter.seek(&keys::row(self.table, self.low)).or_raise();
            }
            Place::At(last, false) => {
                self.iter.seek(&keys::row(self.table, last + 1)).or_raise();
            }
        }
        loop {
            let Some(number) = self.here() else {
                self.place = Place::After;
                return None;
            };
            if keys::is_mark(self.iter.key()) {
                self.iter.next().or_raise();
                continue;
            }
            // SAFETY: values are slices of memtables and mapped tables, which the iterator of this cursor keeps alive.
            let row = unsafe { lengthen(self.iter.value()) };
            self.iter.next().or_raise();
            let mut mark = None;
            if self.here() == Some(number) {
                // SAFETY: as above.
                mark = Some(unsafe { lengthen(self.iter.value()) });
                self.iter.next().or_raise();
            }
            self.place = Place::At(number, true);
            return Some(Version::parse(number, row, mark));
        }
    }

    /// The next version in descending order.
    pub fn previous(&mut self) -> Option<Version<'_>> {
        let below = match self.place {
            Place::Before | Place::After => self.high,
            Place::At(last, _) => last,
        };
        let mut mark = None;
        if below > self.low {
            self.iter.seek_for_prev(&keys::mark(self.table, below - 1)).or_raise();
            while let Some(number) = self.here() {
                // SAFETY: as in `next`.
                let value = unsafe { lengthen(self.iter.value()) };
                if keys::is_mark(self.iter.key()) {
                    mark = Some((number, value));
                    self.iter.prev().or_raise();
                    continue;
                }
                self.place = Place::At(number, false);
                let mark = mark.filter(|&(of, _)| of == number).map(|(_, bytes)| bytes);
                return Some(Version::parse(number, value, mark));
            }
        }
        self.place = Place::Before;
        None
    }

    /// Number of the row or mark under the iterator, if it is within the bounds.
    fn here(&self) -> Option<u64> {
        if !self.iter.valid() {
            return None;
        }
        let (table, number, _) = keys::parse_row(self.iter.key())?;
        (table == self.table && (self.low..self.high).contains(&number)).then_some(number)
    }
}

/// # Safety
/// What the slice lies in outlives every use of the result.
unsafe fn lengthen<'a>(slice: &[u8]) -> &'a [u8] {
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts(slice.as_ptr(), slice.len()) }
}

/// One more than the largest row number in a view; 0 for an empty table.
pub fn high_water(view: &View, table: u64) -> u64 {
    let mut cursor = Cursor::new(view, table);
    cursor.previous().map_or(0, |version| version.number + 1)
}

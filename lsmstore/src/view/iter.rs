//! Walks a view in key order, in both directions, showing the newest readable version of each key.
//!
//! Each source has a cursor over its versions; a heap of them gives the next one. Going forward the newest version of a
//! key comes first; going backward it comes last, so the walk remembers where the best one so far stands until the key
//! changes. Turning round means a seek in every source.

use std::cmp::Ordering;
use std::sync::Arc;

use crate::error::{Corruption, ReadError};
use crate::key::{self, PUT, kind_of, newest_at, sequence_of};
use crate::memtable;
use crate::sstable::cursor::{RunCursor, ValueAt};
use crate::sstable::fault::Fault;
use crate::view::View;
use crate::view::cover::Covers;

enum Source {
    Memtable(memtable::Cursor),
    Run(RunCursor),
}

/// Where the current value stands.
#[derive(Clone, Copy)]
enum Place {
    Node(u32),
    Run(ValueAt),
}

impl Source {
    #[inline]
    fn valid(&self) -> bool {
        match self {
            Source::Memtable(cursor) => cursor.valid(),
            Source::Run(cursor) => cursor.valid(),
        }
    }

    #[inline]
    fn entry(&self) -> Result<(&[u8], u64), Corruption> {
        match self {
            Source::Memtable(cursor) => cursor.entry(),
            Source::Run(cursor) => Ok(cursor.entry()),
        }
    }

    #[inline]
    fn place(&self) -> Place {
        match self {
            Source::Memtable(cursor) => Place::Node(cursor.unit()),
            Source::Run(cursor) => Place::Run(cursor.value()),
        }
    }

    #[inline]
    fn step(&mut self, forward: bool) -> Result<(), Fault> {
        match (self, forward) {
            (Source::Memtable(cursor), true) => Ok(cursor.next()?),
            (Source::Memtable(cursor), false) => Ok(cursor.prev()?),
            (Source::Run(cursor), true) => cursor.next(),
            (Source::Run(cursor), false) => cursor.prev(),
        }
    }

    fn seek(&mut self, target: Option<(&[u8], u64)>) -> Result<(), Fault> {
        match (self, target) {
            (Source::Memtable(cursor), Some((key, tag))) => Ok(cursor.seek(key, tag)?),
            (Source::Memtable(cursor), None) => Ok(cursor.first()?),
            (Source::Run(cursor), Some((key, tag))) => cursor.seek(key, tag),
            (Source::Run(cursor), None) => cursor.first(),
        }
    }

    fn seek_before(&mut self, target: Option<(&[u8], u64)>) -> Result<(), Fault> {
        match self {
            Source::Memtable(cursor) => Ok(cursor.seek_before(target)?),
            Source::Run(cursor) => cursor.seek_before(target),
        }
    }
}

/// A cursor over the keys of a view; made by [`View::iter`]. It stands nowhere until it is moved. Every move says
/// whether it stands on a key now; after an error it stands nowhere.
pub struct Iter {
    sources: Vec<Source>,
    /// Numbers of the sources that stand on something; the root is the next in the direction of the walk.
    heap: Vec<u32>,
    covers: Covers,
    sequence: u64,
    forward: bool,
    valid: bool,
    key: Vec<u8>,
    /// The last move came by `key` without standing on it; whether that is decided, so that it goes on behind it.
    passed: Option<bool>,
    source: u32,
    place: Place,
}

impl std::fmt::Debug for Iter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Iter").field("sequence", &self.sequence).field("valid", &self.valid).finish()
    }
}

impl Iter {
    pub(super) fn new(view: &View, sequence: u64) -> Iter {
        let runs = view.l0.iter().chain(&view.levels).filter(|run| !run.is_empty());
        let memtables = view.memtables.iter();
        let sources = memtables
            .map(|memtable| Source::Memtable(memtable::Cursor::new(Arc::clone(memtable))))
            .chain(runs.map(|run| Source::Run(RunCursor::new(Arc::clone(run)))))
            .collect();
        Iter {
            sources,
            heap: Vec::new(),
            covers: Covers::of(view, sequence),
            sequence,
            forward: true,
            valid: false,
            key: Vec::new(),
            passed: None,
            source: 0,
            place: Place::Node(0),
        }
    }

    /// For each run that is not empty the number of the table and of the block where its cursor stands.
    pub(crate) fn places(&self) -> impl Iterator<Item = Option<(usize, usize)>> {
        self.sources.iter().filter_map(|source| match source {
            Source::Memtable(_) => None,
            Source::Run(cursor) => Some(cursor.place()),
        })
    }

    /// How far the last move had come when it failed: a key that it came by, and whether it goes on behind that, or has to
    /// look at it again. None if it had not come by any.
    pub(crate) fn reached(&self) -> Option<(&[u8], bool)> {
        self.passed.filter(|_| !self.valid).map(|decided| (&self.key[..], decided))
    }

    /// The sequence number it reads at.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Whether it stands on a key.
    pub fn valid(&self) -> bool {
        self.valid
    }

    /// The current key; empty when it stands nowhere.
    pub fn key(&self) -> &[u8] {
        if self.valid { &self.key } else { &[] }
    }

    /// The current value; empty when it stands nowhere.
    pub fn value(&self) -> &[u8] {
        if !self.valid {
            return &[];
        }
        match (self.sources.get(self.source as usize), self.place) {
            // The node was read when the walk stood on it, and nodes do not change.
            (Some(Source::Memtable(cursor)), Place::Node(unit)) => cursor.value_at(unit).unwrap_or(&[]),
            (Some(Source::Run(cursor)), Place::Run(at)) => cursor.value_at(at),
            _ => &[],
        }
    }

    /// To the first key.
    ///
    /// # Errors
    /// Damaged bytes; so for all moves.
    pub fn seek_first(&mut self) -> Result<bool, ReadError> {
        self.start(true, |source| source.seek(None))?;
        self.settle_forward(false)
    }

    /// To the first key that is not below `key`.
    ///
    /// # Errors
    /// Damaged bytes.
    pub fn seek(&mut self, key: &[u8]) -> Result<bool, ReadError> {
        let target = (key, newest_at(self.sequence));
        self.start(true, |source| source.seek(Some(target)))?;
        self.settle_forward(false)
    }

    /// To the last key.
    ///
    /// # Errors
    /// Damaged bytes.
    pub fn seek_last(&mut self) -> Result<bool, ReadError> {
        self.start(false, |source| source.seek_before(None))?;
        self.settle_backward()
    }

    /// To the last key that is not above `key`.
    ///
    /// # Errors
    /// Damaged bytes.
    pub fn seek_for_prev(&mut self, key: &[u8]) -> Result<bool, ReadError> {
        // The key's own versions lie before (key + 0 byte, newest).
        let behind = [key, &[0]].concat();
        self.start(false, |source| source.seek_before(Some((&behind, u64::MAX))))?;
        self.settle_backward()
    }

    /// To the next key. Standing nowhere it stays there.
    ///
    /// # Errors
    /// Damaged bytes.
    #[allow(clippy::should_implement_trait, reason = "a cursor's move, named as in every other engine")]
    pub fn next(&mut self) -> Result<bool, ReadError> {
        if !self.valid {
            return Ok(false);
        }
        if !self.forward {
            let behind = [&self.key[..], &[0]].concat();
            let target = (&behind[..], newest_at(self.sequence));
            self.start(true, |source| source.seek(Some(target)))?;
            return self.settle_forward(false);
        }
        self.settle_forward(true)
    }

    /// To the key before. Standing nowhere it stays there.
    ///
    /// # Errors
    /// Damaged bytes.
    pub fn prev(&mut self) -> Result<bool, ReadError> {
        if !self.valid {
            return Ok(false);
        }
        if self.forward {
            let key = std::mem::take(&mut self.key);
            self.start(false, |source| source.seek_before(Some((&key, u64::MAX))))?;
        }
        self.settle_backward()
    }

    /// To the last key below `key`.
    pub(crate) fn seek_below(&mut self, key: &[u8]) -> Result<bool, ReadError> {
        self.start(false, |source| source.seek_before(Some((key, u64::MAX))))?;
        self.settle_backward()
    }

    /// Moves every source and builds the heap.
    fn start(
        &mut self,
        forward: bool,
        mut seek: impl FnMut(&mut Source) -> Result<(), Fault>,
    ) -> Result<(), ReadError> {
        self.valid = false;
        self.passed = None;
        self.forward = forward;
        self.heap.clear();
        for (number, source) in self.sources.iter_mut().enumerate() {
            seek(source)?;
            if source.valid() {
                self.heap.push(number as u32);
            }
        }
        for at in (0..self.heap.len() / 2).rev() {
            self.sift(at)?;
        }
        Ok(())
    }

    /// Whether source `a` comes before source `b` in the direction of the walk.
    #[inline]
    fn before(&self, a: u32, b: u32) -> Result<bool, Corruption> {
        let order = key::compare(self.sources[a as usize].entry()?, self.sources[b as usize].entry()?);
        Ok(order == if self.forward { Ordering::Less } else { Ordering::Greater })
    }

    #[inline]
    fn sift(&mut self, mut at: usize) -> Result<(), Corruption> {
        loop {
            let mut child = 2 * at + 1;
            if child >= self.heap.len() {
                return Ok(());
            }
            if child + 1 < self.heap.len() && self.before(self.heap[child + 1], self.heap[child])? {
                child += 1;
            }
            if !self.before(self.heap[child], self.heap[at])? {
                return Ok(());
            }
            self.heap.swap(at, child);
            at = child;
        }
    }

    /// Moves the root's source one version on.
    #[inline]
    fn advance(&mut self) -> Result<(), Fault> {
        let root = self.heap[0] as usize;
        self.sources[root].step(self.forward)?;
        if !self.sources[root].valid() {
            self.heap.swap_remove(0);
        }
        Ok(self.sift(0)?)
    }

    /// To the next key with a readable value, from the root on; passes over versions of the current key if told to.
    fn settle_forward(&mut self, mut pass: bool) -> Result<bool, ReadError> {
        self.valid = false;
        self.passed = None;
        while let Some(&root) = self.heap.first() {
            let (key, tag) = self.sources[root as usize].entry()?;
            if sequence_of(tag) <= self.sequence && !(pass && key == self.key) {
                self.key.clear();
                self.key.extend_from_slice(key);
                self.passed = Some(false);
                if self.shows(tag)? {
                    self.source = root;
                    self.place = self.sources[root as usize].place();
                    self.valid = true;
                    return Ok(true);
                }
                pass = true;
                self.passed = Some(true);
            }
            self.advance()?;
        }
        Ok(false)
    }

    /// To the next key going backward: its newest readable version is the last one met.
    fn settle_backward(&mut self) -> Result<bool, ReadError> {
        self.valid = false;
        self.passed = None;
        let mut best: Option<(u64, u32, Place)> = None;
        while let Some(&root) = self.heap.first() {
            let (key, tag) = self.sources[root as usize].entry()?;
            if let Some((newest, ..)) = best
                && key != self.key
            {
                if self.shows(newest)? {
                    break;
                }
                // A deleted key is no key.
                best = None;
            }
            if sequence_of(tag) <= self.sequence {
                if best.is_none() {
                    self.key.clear();
                    self.key.extend_from_slice(key);
                    self.passed = Some(false);
                }
                best = Some((tag, root, self.sources[root as usize].place()));
            }
            self.advance()?;
        }
        if let Some((tag, source, place)) = best
            && self.shows(tag)?
        {
            (self.source, self.place, self.valid) = (source, place, true);
        }
        Ok(self.valid)
    }

    /// Whether the newest readable version of the key is a value, and no deletion of a range is newer.
    #[inline]
    fn shows(&self, tag: u64) -> Result<bool, Fault> {
        if kind_of(tag) != PUT {
            return Ok(false);
        }
        Ok(self.covers.is_empty() || !self.covers.hide(&self.key, sequence_of(tag), self.sequence)?)
    }
}

/// A key and its value.
pub type KeyValue<'a> = (&'a [u8], &'a [u8]);

/// The keys with one prefix, in order; made by [`View::scan_prefix`].
#[derive(Debug)]
pub struct Scan {
    iter: Iter,
    prefix: Vec<u8>,
    started: bool,
}

impl Scan {
    pub(super) fn new(iter: Iter, prefix: &[u8]) -> Scan {
        Scan { iter, prefix: prefix.to_vec(), started: false }
    }

    /// The next key and value, none at the end.
    ///
    /// # Errors
    /// Damaged bytes.
    #[allow(clippy::should_implement_trait, reason = "what it returns borrows from it")]
    pub fn next(&mut self) -> Result<Option<KeyValue<'_>>, ReadError> {
        let found = if self.started { self.iter.next()? } else { self.iter.seek(&self.prefix)? };
        self.started = true;
        Ok((found && self.iter.key().starts_with(&self.prefix)).then(|| (self.iter.key(), self.iter.value())))
    }
}

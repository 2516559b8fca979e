//! A place in a run of tables, moved in both directions. Shows every version.
//!
//! A run is a list of tables whose user keys ascend without overlap: a level, or one table of L0. The cursor owns what
//! it walks and keeps offsets only; the key is rebuilt in one buffer, values stay where they are.

use std::cmp::Ordering;
use std::sync::Arc;

use crate::error::Corruption;
use crate::key;
use crate::sstable::block::Block;
use crate::sstable::read::{Table, seek_restart_number};

/// Tables whose user keys ascend without overlap.
pub(crate) type Run = Arc<[Arc<Table>]>;

pub(crate) struct RunCursor {
    run: Run,
    /// Number of the table; the length of the run when it stands nowhere.
    table: usize,
    block: usize,
    /// The current block: where its payload starts in the file, its length, its entries' end, its restarts.
    start: usize,
    length: usize,
    entries: usize,
    restarts: usize,
    /// Offset of the current entry in the payload, and of the one behind it.
    at: usize,
    next: usize,
    key: Vec<u8>,
    tag: u64,
    value: (usize, usize),
}

/// Where a value stands in a run.
#[derive(Clone, Copy, Default)]
pub(crate) struct ValueAt {
    table: usize,
    start: usize,
    end: usize,
}

impl RunCursor {
    pub(crate) fn new(run: Run) -> RunCursor {
        RunCursor {
            table: run.len(),
            run,
            block: 0,
            start: 0,
            length: 0,
            entries: 0,
            restarts: 0,
            at: 0,
            next: 0,
            key: Vec::new(),
            tag: 0,
            value: (0, 0),
        }
    }

    #[inline]
    pub(crate) fn valid(&self) -> bool {
        self.table < self.run.len()
    }

    /// Key and tag of the current version.
    #[inline]
    pub(crate) fn entry(&self) -> (&[u8], u64) {
        (&self.key, self.tag)
    }

    /// Bytes of the current version's key and value.
    pub(crate) fn bytes(&self) -> u64 {
        (self.key.len() + self.value.1 - self.value.0) as u64
    }

    #[inline]
    pub(crate) fn value(&self) -> ValueAt {
        ValueAt { table: self.table, start: self.start + self.value.0, end: self.start + self.value.1 }
    }

    #[inline]
    pub(crate) fn value_at(&self, at: ValueAt) -> &[u8] {
        self.run.get(at.table).and_then(|table| table.bytes().get(at.start..at.end)).unwrap_or(&[])
    }

    fn nowhere(&mut self) {
        self.table = self.run.len();
    }

    fn load(&mut self, table: usize, block: usize) -> Result<(), Corruption> {
        let (loaded, start) = self.run[table].block(block)?;
        (self.length, self.entries, self.restarts) = (loaded.len(), loaded.entries, loaded.restarts);
        self.start = start;
        self.table = table;
        self.block = block;
        self.at = 0;
        self.next = 0;
        self.key.clear();
        Ok(())
    }

    #[inline]
    fn current(run: &Run, (table, start, length, entries, restarts): (usize, usize, usize, usize, usize)) -> Block<'_> {
        let payload = run[table].bytes().get(start..start + length).unwrap_or(&[]);
        Block::known(payload, entries, restarts)
    }

    fn shape(&self) -> (usize, usize, usize, usize, usize) {
        (self.table, self.start, self.length, self.entries, self.restarts)
    }

    #[cold]
    fn cut(&self) -> Corruption {
        self.run[self.table].bad((self.start + self.at) as u64, "an entry of a block makes no sense")
    }

    /// Reads the entry at `self.next`, which continues the key in the buffer.
    #[inline]
    fn step(&mut self) -> Result<(), Corruption> {
        let shape = self.shape();
        let block = RunCursor::current(&self.run, shape);
        let Some(entry) = block.entry(self.next).filter(|entry| entry.shared <= self.key.len()) else {
            return Err(self.cut());
        };
        self.key.truncate(entry.shared);
        self.key.extend_from_slice(block.bytes(entry.suffix));
        self.tag = entry.tag;
        self.value = entry.value;
        self.at = self.next;
        self.next = entry.value.1;
        Ok(())
    }

    /// To the first entry behind the current block, or nowhere.
    fn next_block(&mut self) -> Result<(), Corruption> {
        loop {
            let (mut table, mut block) = (self.table, self.block + 1);
            if block >= self.run[table].layout.blocks {
                (table, block) = (table + 1, 0);
            }
            if table >= self.run.len() {
                self.nowhere();
                return Ok(());
            }
            self.load(table, block)?;
            if self.entries > 0 {
                return self.step();
            }
        }
    }

    #[inline]
    pub(crate) fn next(&mut self) -> Result<(), Corruption> {
        if !self.valid() {
            return Ok(());
        }
        if self.next < self.entries { self.step() } else { self.next_block() }
    }

    pub(crate) fn first(&mut self) -> Result<(), Corruption> {
        if self.run.is_empty() {
            return Ok(());
        }
        self.load(0, 0)?;
        if self.entries > 0 { self.step() } else { self.next_block() }
    }

    pub(crate) fn last(&mut self) -> Result<(), Corruption> {
        let Some(table) = self.run.len().checked_sub(1) else { return Ok(()) };
        self.last_of(table, self.run[table].layout.blocks - 1)
    }

    fn last_of(&mut self, table: usize, block: usize) -> Result<(), Corruption> {
        self.load(table, block)?;
        let end = self.entries;
        self.entry_before(end)
    }

    /// To the entry of the current block that ends at `end`.
    fn entry_before(&mut self, end: usize) -> Result<(), Corruption> {
        let block = RunCursor::current(&self.run, self.shape());
        let (mut low, mut high) = (0, self.restarts);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            match block.restart(middle) {
                Some(at) if at < end => low = middle,
                Some(_) => high = middle,
                None => return Err(self.cut()),
            }
        }
        let Some(restart) = block.restart(low) else { return Err(self.cut()) };
        self.next = restart;
        self.key.clear();
        loop {
            if self.next >= end {
                return Err(self.cut());
            }
            self.step()?;
            if self.next == end {
                return Ok(());
            }
        }
    }

    pub(crate) fn prev(&mut self) -> Result<(), Corruption> {
        if !self.valid() {
            return Ok(());
        }
        if self.at > 0 {
            return self.entry_before(self.at);
        }
        if self.block > 0 {
            return self.last_of(self.table, self.block - 1);
        }
        match self.table.checked_sub(1) {
            Some(table) => self.last_of(table, self.run[table].layout.blocks - 1),
            None => {
                self.nowhere();
                Ok(())
            }
        }
    }

    /// To the first version at or behind (key, tag).
    pub(crate) fn seek(&mut self, key: &[u8], tag: u64) -> Result<(), Corruption> {
        let table = self.run.partition_point(|table| table.info.max_key[..] < *key);
        if table >= self.run.len() {
            self.nowhere();
            return Ok(());
        }
        let block = self.run[table].find(key)?;
        if block >= self.run[table].layout.blocks {
            // Behind its last entry there are only deleted ranges.
            if table + 1 == self.run.len() {
                self.nowhere();
                return Ok(());
            }
            self.load(table + 1, 0)?;
            return if self.entries > 0 { self.step() } else { self.next_block() };
        }
        self.load(table, block)?;
        let loaded = RunCursor::current(&self.run, self.shape());
        let restart = seek_restart_number(&loaded, key, tag).and_then(|n| loaded.restart(n));
        self.next = restart.ok_or_else(|| self.cut())?;
        loop {
            self.next()?;
            if !self.valid() || key::compare((&self.key, self.tag), (key, tag)) != Ordering::Less {
                return Ok(());
            }
        }
    }

    /// To the last version before (key, tag), or to the last of all.
    pub(crate) fn seek_before(&mut self, target: Option<(&[u8], u64)>) -> Result<(), Corruption> {
        let Some((key, tag)) = target else { return self.last() };
        self.seek(key, tag)?;
        if self.valid() { self.prev() } else { self.last() }
    }
}

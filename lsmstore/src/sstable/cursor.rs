//! A place in a run of tables, moved in both directions. Shows every version.
//!
//! A run is a list of tables whose user keys ascend without overlap: a level, or one table of L0. The cursor owns what
//! it walks and keeps offsets only; the key is rebuilt in one buffer, values stay where they are. A move that needs a block
//! which is not at hand fails; the cursor is to be sought to a place again when it is there.

use std::cmp::Ordering;
use std::sync::Arc;

use crate::error::Corruption;
use crate::key;
use crate::sstable::block::Block;
use crate::sstable::fault::Fault;
use crate::sstable::read::{Table, seek_restart_number};

/// Tables whose user keys ascend without overlap.
pub(crate) type Run = Arc<[Arc<Table>]>;

pub(crate) struct RunCursor {
    run: Run,
    /// Number of the table; the length of the run when it stands nowhere.
    table: usize,
    block: usize,
    /// The current block: where its payload starts for the table, its length, its entries' end, its restarts.
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
    table: u32,
    block: u32,
    start: usize,
    end: usize,
}

/// The current block of a cursor.
#[derive(Clone, Copy)]
struct Shape {
    table: usize,
    block: usize,
    start: usize,
    length: usize,
    entries: usize,
    restarts: usize,
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

    /// The table and the block where it stands.
    pub(crate) fn place(&self) -> Option<(usize, usize)> {
        self.valid().then_some((self.table, self.block))
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
        let (table, block) = (self.table as u32, self.block as u32);
        ValueAt { table, block, start: self.start + self.value.0, end: self.start + self.value.1 }
    }

    #[inline]
    pub(crate) fn value_at(&self, at: ValueAt) -> &[u8] {
        self.run.get(at.table as usize).map_or(&[], |table| table.slice(at.block as usize, at.start, at.end))
    }

    fn nowhere(&mut self) {
        self.table = self.run.len();
    }

    fn load(&mut self, table: usize, block: usize) -> Result<(), Fault> {
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
    fn current(run: &Run, shape: Shape) -> Block<'_> {
        let payload = run[shape.table].slice(shape.block, shape.start, shape.start + shape.length);
        Block::known(payload, shape.entries, shape.restarts)
    }

    #[inline]
    fn shape(&self) -> Shape {
        let RunCursor { table, block, start, length, entries, restarts, .. } = *self;
        Shape { table, block, start, length, entries, restarts }
    }

    #[cold]
    fn cut(&self) -> Corruption {
        self.run[self.table].bad(self.block, self.start + self.at, "an entry of a block makes no sense")
    }

    /// Reads the entry at `self.next`, which continues the key in the buffer.
    #[inline]
    fn step(&mut self) -> Result<(), Fault> {
        let shape = self.shape();
        let block = RunCursor::current(&self.run, shape);
        let Some(entry) = block.entry(self.next).filter(|entry| entry.shared <= self.key.len()) else {
            return Err(self.cut().into());
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
    fn next_block(&mut self) -> Result<(), Fault> {
        loop {
            let (mut table, mut block) = (self.table, self.block + 1);
            if block >= self.run[table].blocks()? {
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
    pub(crate) fn next(&mut self) -> Result<(), Fault> {
        if !self.valid() {
            return Ok(());
        }
        if self.next < self.entries { self.step() } else { self.next_block() }
    }

    pub(crate) fn first(&mut self) -> Result<(), Fault> {
        if self.run.is_empty() {
            return Ok(());
        }
        self.load(0, 0)?;
        if self.entries > 0 { self.step() } else { self.next_block() }
    }

    pub(crate) fn last(&mut self) -> Result<(), Fault> {
        let Some(table) = self.run.len().checked_sub(1) else { return Ok(()) };
        self.last_of(table, self.run[table].blocks()? - 1)
    }

    fn last_of(&mut self, table: usize, block: usize) -> Result<(), Fault> {
        self.load(table, block)?;
        let end = self.entries;
        self.entry_before(end)
    }

    /// To the entry of the current block that ends at `end`.
    fn entry_before(&mut self, end: usize) -> Result<(), Fault> {
        let block = RunCursor::current(&self.run, self.shape());
        let (mut low, mut high) = (0, self.restarts);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            match block.restart(middle) {
                Some(at) if at < end => low = middle,
                Some(_) => high = middle,
                None => return Err(self.cut().into()),
            }
        }
        let Some(restart) = block.restart(low) else { return Err(self.cut().into()) };
        self.next = restart;
        self.key.clear();
        loop {
            if self.next >= end {
                return Err(self.cut().into());
            }
            self.step()?;
            if self.next == end {
                return Ok(());
            }
        }
    }

    pub(crate) fn prev(&mut self) -> Result<(), Fault> {
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
            Some(table) => self.last_of(table, self.run[table].blocks()? - 1),
            None => {
                self.nowhere();
                Ok(())
            }
        }
    }

    /// To the first version at or behind (key, tag).
    pub(crate) fn seek(&mut self, key: &[u8], tag: u64) -> Result<(), Fault> {
        let table = self.run.partition_point(|table| table.info.max_key[..] < *key);
        if table >= self.run.len() {
            self.nowhere();
            return Ok(());
        }
        let block = self.run[table].find(key)?;
        if block >= self.run[table].blocks()? {
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
    pub(crate) fn seek_before(&mut self, target: Option<(&[u8], u64)>) -> Result<(), Fault> {
        let Some((key, tag)) = target else { return self.last() };
        self.seek(key, tag)?;
        if self.valid() { self.prev() } else { self.last() }
    }
}

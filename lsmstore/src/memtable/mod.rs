//! A memtable: the newest writes, in a skip list in a region, one writer and lock-free readers in any process.
//!
//! The writer ([`insert::Inserter`]) fills it and then publishes a sequence number; readers ([`Memtable::get`],
//! [`Cursor`]) see versions up to the number they took. Bytes and memory order are in [`arena`].
//!
//! # Invariants
//! * A reader's walk is bounded by the number of nodes that can exist, and each step is checked.
//! * What a reader got stays valid as long as the memtable: nodes are never moved or freed.

mod arena;
pub(crate) mod insert;
pub(crate) mod ranges;

use std::cmp::Ordering;
use std::io;
use std::sync::{Arc, RwLock};

use kriya_region::Region;

use crate::error::Corruption;
use crate::key::{self, sequence_of};
use arena::{Arena, HEAD, MAX_HEIGHT, Node};

pub(crate) struct Memtable {
    arena: Arena,
    /// What this process knows of its range deletions.
    ranges: RwLock<ranges::Known>,
}

impl std::fmt::Debug for Memtable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Memtable").field("id", &self.id()).field("published", &self.published()).finish()
    }
}

/// A version found in a memtable.
pub(crate) struct Version<'a> {
    pub(crate) tag: u64,
    pub(crate) value: &'a [u8],
}

impl Memtable {
    /// A new memtable in a fresh region; readers of it start at sequence `published`.
    pub(crate) fn create(id: u64, region: Arc<Region>, published: u64) -> io::Result<Memtable> {
        Ok(Memtable { arena: Arena::create(id, region, published)?, ranges: RwLock::default() })
    }

    /// A memtable that another process writes.
    pub(crate) fn open(id: u64, region: Arc<Region>) -> Result<Memtable, Corruption> {
        Ok(Memtable { arena: Arena::open(id, region)?, ranges: RwLock::default() })
    }

    pub(crate) fn id(&self) -> u64 {
        self.arena.id()
    }

    pub(crate) fn region(&self) -> &Arc<Region> {
        self.arena.region()
    }

    pub(crate) fn capacity(&self) -> usize {
        self.arena.capacity()
    }

    /// Bytes in use.
    pub(crate) fn used(&self) -> usize {
        self.arena.used()
    }

    pub(crate) fn entries(&self) -> u64 {
        self.arena.entries()
    }

    /// The newest sequence number that readers may read at.
    #[inline]
    pub(crate) fn published(&self) -> u64 {
        self.arena.published()
    }

    pub(crate) fn publish(&self, sequence: u64) {
        self.arena.publish(sequence);
    }

    /// The newest version of `key` at or below `sequence`.
    pub(crate) fn get(&self, key: &[u8], sequence: u64) -> Result<Option<Version<'_>>, Corruption> {
        let unit = self.seek(key, key::newest_at(sequence))?;
        if unit == 0 {
            return Ok(None);
        }
        let node = self.arena.node(unit)?;
        if node.key != key || sequence_of(node.tag) > sequence {
            return Ok(None);
        }
        Ok(Some(Version { tag: node.tag, value: node.value }))
    }

    /// First node at or behind (key, tag), 0 if none.
    fn seek(&self, key: &[u8], tag: u64) -> Result<u32, Corruption> {
        let mut at = HEAD;
        let mut level = MAX_HEIGHT - 1;
        let mut bound = 0;
        let (mut hops, mut limit) = (0, self.arena.hop_limit());
        loop {
            let next = self.arena.next(at, level)?;
            if next != 0 && next != bound {
                if level > 0 {
                    // Mostly the way leads down, and comparing waits for memory: both at once.
                    self.arena.prefetch(self.arena.next(at, level - 1)?);
                }
                let node = self.tower(next, level)?;
                if key::compare((node.key, node.tag), (key, tag)) == Ordering::Less {
                    at = next;
                    hops += 1;
                    if hops > limit {
                        // The table may have grown since the last look; more steps than nodes can exist now is a circle.
                        limit = self.arena.hop_limit();
                        if hops > limit {
                            return Err(self.arena.circle(next));
                        }
                    }
                    continue;
                }
            }
            if level == 0 {
                return Ok(next);
            }
            bound = next;
            level -= 1;
        }
    }

    /// Last node before (key, tag), or the last of all without a target; 0 if none.
    fn seek_before(&self, target: Option<(&[u8], u64)>) -> Result<u32, Corruption> {
        let mut at = HEAD;
        let mut level = MAX_HEIGHT - 1;
        let (mut hops, mut limit) = (0, self.arena.hop_limit());
        loop {
            let next = self.arena.next(at, level)?;
            if next != 0 {
                let node = self.tower(next, level)?;
                if target.is_none_or(|target| key::compare((node.key, node.tag), target) == Ordering::Less) {
                    at = next;
                    hops += 1;
                    if hops > limit {
                        // The table may have grown since the last look; more steps than nodes can exist now is a circle.
                        limit = self.arena.hop_limit();
                        if hops > limit {
                            return Err(self.arena.circle(next));
                        }
                    }
                    continue;
                }
            }
            if level == 0 {
                return Ok(if at == HEAD { 0 } else { at });
            }
            level -= 1;
        }
    }

    /// A node reached on `level`: its tower must reach so high.
    #[inline]
    fn tower(&self, unit: u32, level: u32) -> Result<Node<'_>, Corruption> {
        let node = self.arena.node(unit)?;
        if node.height <= level {
            return Err(self.arena.circle(unit));
        }
        Ok(node)
    }
}

/// A place in a memtable, moved in both directions. Knows nothing of sequences: it shows every version.
pub(crate) struct Cursor {
    table: Arc<Memtable>,
    /// 0 when it stands nowhere.
    at: u32,
    /// Steps forward since the last seek, and how many there can be at most.
    steps: usize,
    limit: usize,
}

impl Cursor {
    pub(crate) fn new(table: Arc<Memtable>) -> Cursor {
        Cursor { table, at: 0, steps: 0, limit: 0 }
    }

    pub(crate) fn valid(&self) -> bool {
        self.at != 0
    }

    /// Offset of the current node; [`Cursor::value_at`] finds its value again. 0 when it stands nowhere.
    pub(crate) fn unit(&self) -> u32 {
        self.at
    }

    /// Key and tag of the current version.
    #[inline]
    pub(crate) fn entry(&self) -> Result<(&[u8], u64), Corruption> {
        let node = self.table.arena.node(self.at)?;
        Ok((node.key, node.tag))
    }

    /// The value of a node where some cursor of this table stood.
    pub(crate) fn value_at(&self, unit: u32) -> Result<&[u8], Corruption> {
        Ok(self.table.arena.node(unit)?.value)
    }

    fn moved(&mut self, at: u32) {
        self.at = at;
        self.steps = 0;
    }

    pub(crate) fn seek(&mut self, key: &[u8], tag: u64) -> Result<(), Corruption> {
        let at = self.table.seek(key, tag)?;
        self.moved(at);
        Ok(())
    }

    /// To the last version before (key, tag), or to the last of all.
    pub(crate) fn seek_before(&mut self, target: Option<(&[u8], u64)>) -> Result<(), Corruption> {
        let at = self.table.seek_before(target)?;
        self.moved(at);
        Ok(())
    }

    pub(crate) fn first(&mut self) -> Result<(), Corruption> {
        let at = self.table.arena.next(HEAD, 0)?;
        self.moved(at);
        Ok(())
    }

    #[inline]
    pub(crate) fn next(&mut self) -> Result<(), Corruption> {
        if self.at == 0 {
            return Ok(());
        }
        self.steps += 1;
        // The table may have grown since the last look; only more steps than nodes can exist now is a circle.
        if self.steps > self.limit {
            self.limit = self.table.arena.hop_limit();
            if self.steps > self.limit {
                return Err(self.table.arena.circle(self.at));
            }
        }
        self.at = self.table.arena.next(self.at, 0)?;
        Ok(())
    }

    pub(crate) fn prev(&mut self) -> Result<(), Corruption> {
        if self.at == 0 {
            return Ok(());
        }
        let before = {
            let node = self.table.arena.node(self.at)?;
            self.table.seek_before(Some((node.key, node.tag)))?
        };
        self.moved(before);
        Ok(())
    }
}

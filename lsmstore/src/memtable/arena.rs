//! The bytes of a memtable: a header, then nodes of a skip list, in a region that other processes may map.
//!
//! ```text
//! header   0  magic "LSMMEMT1"     8  version u32     12  tallest tower u32   16  capacity u64
//!         24  used u64 (atomic)   32  published u64 (atomic)   40  entries u64 (atomic)   48  id u64
//!         56  range deletions u64 (atomic): offset of the newest u32, count u32
//! node     0  tag u64   8  key length u32   12  value length u32   16  height u32   20  next u32 x height
//!             then key, then value, padded to 8 bytes
//! ```
//! The head is a node of the tallest tower with empty key at byte 64. Links are offsets in units of 8 bytes, 0 is none.
//!
//! # Invariants
//! * One writer. A node's bytes are written once, before the first link to it is stored with Release; `used` covers
//!   the node before that. So whoever loads a link with Acquire may read the node plainly.
//! * Memory below `used` is committed before `used` covers it.
//! * A reader believes nothing: each offset and length is checked against `used` before it is followed. (A writer that
//!   changes bytes under a reader on purpose is beyond this: whoever may write the region is trusted not to race.)

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use kriya_region::Region;

use crate::error::Corruption;

const MAGIC: u64 = u64::from_le_bytes(*b"LSMMEMT1");
const VERSION: u32 = 2;
/// Tallest tower; a quarter of the nodes of a level reach the next, so this is enough for 16 million.
pub(super) const MAX_HEIGHT: u32 = 12;
pub(super) const HEAD: u32 = 8;
const FIXED: usize = 20;
const USED: usize = 24;
const PUBLISHED: usize = 32;
const ENTRIES: usize = 40;
const RANGES: usize = 56;
/// First byte behind the head.
pub(super) const FIRST: usize = (64 + FIXED + 4 * MAX_HEIGHT as usize).next_multiple_of(8);

pub(super) struct Arena {
    region: Arc<Region>,
    base: *const u8,
    capacity: usize,
    id: u64,
}

// SAFETY: `base` points into the region, which lives as long as self; shared words are accessed as atomics only and the
// rest is written once before it is published (module invariants).
unsafe impl Send for Arena {}
// SAFETY: as above.
unsafe impl Sync for Arena {}

/// A node whose bounds were checked.
#[derive(Clone, Copy)]
pub(super) struct Node<'a> {
    pub(super) key: &'a [u8],
    pub(super) value: &'a [u8],
    pub(super) tag: u64,
    pub(super) height: u32,
}

/// Bytes that a node takes.
pub(super) fn node_bytes(height: u32, key: usize, value: usize) -> usize {
    (FIXED + 4 * height as usize + key + value).next_multiple_of(8)
}

impl Arena {
    /// Writes the header and the head into a fresh (zeroed) region.
    pub(super) fn create(id: u64, region: Arc<Region>, published: u64) -> io::Result<Arena> {
        let capacity = region.capacity();
        if capacity < FIRST || capacity > (u32::MAX as usize) * 8 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("a memtable of {capacity} bytes")));
        }
        let Some(base) = region.as_mut_ptr() else {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the region of a new memtable is read-only"));
        };
        region.commit(FIRST)?;
        let arena = Arena { base, capacity, id, region };
        // SAFETY: FIRST bytes are committed and within the capacity, the region starts on a page, and nobody else has
        // the region yet.
        unsafe {
            base.cast::<u64>().write(MAGIC);
            base.add(8).cast::<u32>().write(VERSION);
            base.add(12).cast::<u32>().write(MAX_HEIGHT);
            base.add(16).cast::<u64>().write(capacity as u64);
            base.add(48).cast::<u64>().write(id);
            base.add(64 + 16).cast::<u32>().write(MAX_HEIGHT);
        }
        arena.word(PUBLISHED).store(published, Ordering::Release);
        arena.word(USED).store(FIRST as u64, Ordering::Release);
        Ok(arena)
    }

    /// Checks the header of a region that somebody else writes.
    pub(super) fn open(id: u64, region: Arc<Region>) -> Result<Arena, Corruption> {
        let bad = |at: u64, what: String| Corruption::new(format!("memtable {id}"), at, what);
        let capacity = region.capacity();
        if capacity < FIRST || capacity > (u32::MAX as usize) * 8 {
            return Err(bad(0, format!("{capacity} bytes cannot be a memtable")));
        }
        let arena = Arena { base: region.as_ptr(), capacity, id, region };
        // SAFETY: the region has at least FIRST bytes, committed by the writer before it gave the region away; these
        // words were written before that and never change.
        let (magic, version, height, stored, stored_id, head) = unsafe {
            (
                arena.base.cast::<u64>().read(),
                arena.base.add(8).cast::<u32>().read(),
                arena.base.add(12).cast::<u32>().read(),
                arena.base.add(16).cast::<u64>().read(),
                arena.base.add(48).cast::<u64>().read(),
                arena.base.add(64 + 16).cast::<u32>().read(),
            )
        };
        if magic != MAGIC {
            return Err(bad(0, format!("magic is {magic:#x}, expected {MAGIC:#x}")));
        }
        if version != VERSION {
            return Err(bad(8, format!("version is {version}, this build reads {VERSION}")));
        }
        if height != MAX_HEIGHT || head != MAX_HEIGHT {
            return Err(bad(12, format!("tallest tower is {height} (head {head}), expected {MAX_HEIGHT}")));
        }
        if stored != capacity as u64 {
            return Err(bad(16, format!("capacity is {stored}, the region has {capacity} bytes")));
        }
        if stored_id != id {
            return Err(bad(48, format!("id is {stored_id}, expected {id}")));
        }
        Ok(arena)
    }

    fn word(&self, at: usize) -> &AtomicU64 {
        debug_assert!(at.is_multiple_of(8) && at < 64);
        // SAFETY: the first FIRST bytes exist and are committed; `at` is one of the constants above, aligned to 8 in a
        // page-aligned region; the word is only ever accessed as an atomic.
        unsafe { &*self.base.add(at).cast::<AtomicU64>() }
    }

    pub(super) fn region(&self) -> &Arc<Region> {
        &self.region
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }

    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Bytes that may be read, whatever the header says.
    #[inline]
    pub(super) fn used(&self) -> usize {
        usize::try_from(self.word(USED).load(Ordering::Acquire)).unwrap_or(0).min(self.capacity)
    }

    #[inline]
    pub(super) fn published(&self) -> u64 {
        self.word(PUBLISHED).load(Ordering::Acquire)
    }

    pub(super) fn publish(&self, sequence: u64) {
        self.word(PUBLISHED).fetch_max(sequence, Ordering::Release);
    }

    pub(super) fn entries(&self) -> u64 {
        self.word(ENTRIES).load(Ordering::Acquire)
    }

    /// More steps than nodes could exist: whoever takes so many walks in a circle.
    pub(super) fn hop_limit(&self) -> usize {
        self.used() / node_bytes(1, 0, 0) + 2 * MAX_HEIGHT as usize
    }

    /// How many range deletions there are, and the offset of the newest.
    #[inline]
    pub(super) fn ranges(&self) -> (u32, u32) {
        let word = self.word(RANGES).load(Ordering::Acquire);
        ((word >> 32) as u32, word as u32)
    }

    /// Makes a node that is linked the newest range deletion. Writer only.
    pub(super) fn add_range(&self, unit: u32) {
        let count = u64::from(self.ranges().0) + 1;
        self.word(RANGES).store(count << 32 | u64::from(unit), Ordering::Release);
    }

    #[cold]
    pub(super) fn bad(&self, unit: u32, what: impl Into<String>) -> Corruption {
        Corruption::new(format!("memtable {}", self.id), u64::from(unit) * 8, what)
    }

    pub(super) fn circle(&self, unit: u32) -> Corruption {
        self.bad(unit, "links lead in a circle")
    }

    /// The node at an offset read from a link.
    #[inline]
    pub(super) fn node(&self, unit: u32) -> Result<Node<'_>, Corruption> {
        let at = unit as usize * 8;
        let used = self.used();
        if at < FIRST || at + FIXED > used {
            return Err(self.bad(unit, format!("a link leads outside the {used} bytes in use")));
        }
        // SAFETY: `at + FIXED <= used <= capacity`, memory below `used` is committed, `at` is a multiple of 8; the node
        // was complete before the link to it was stored (Release), and we loaded the link with Acquire.
        let (tag, key, value, height) = unsafe {
            let node = self.base.add(at);
            (
                node.cast::<u64>().read(),
                node.add(8).cast::<u32>().read() as usize,
                node.add(12).cast::<u32>().read() as usize,
                node.add(16).cast::<u32>().read(),
            )
        };
        if height == 0 || height > MAX_HEIGHT {
            return Err(self.bad(unit, format!("tower of height {height}, expected 1 to {MAX_HEIGHT}")));
        }
        let start = at + FIXED + 4 * height as usize;
        if start + key + value > used {
            return Err(self.bad(unit, format!("key of {key} and value of {value} bytes exceed the {used} in use")));
        }
        // SAFETY: `start + key + value <= used`, see above; these bytes never change once linked, and the slices
        // borrow self, which keeps the region.
        let (key, value) = unsafe {
            (
                std::slice::from_raw_parts(self.base.add(start), key),
                std::slice::from_raw_parts(self.base.add(start + key), value),
            )
        };
        Ok(Node { key, value, tag, height })
    }

    /// The link of a node (or of the head) on a level below its height.
    #[inline]
    pub(super) fn next(&self, unit: u32, level: u32) -> Result<u32, Corruption> {
        Ok(self.link(unit, level)?.load(Ordering::Acquire))
    }

    #[inline]
    fn link(&self, unit: u32, level: u32) -> Result<&AtomicU32, Corruption> {
        let at = unit as usize * 8 + FIXED + 4 * level as usize;
        if unit < HEAD || at + 4 > self.used() {
            return Err(self.bad(unit, "a link stands outside the bytes in use"));
        }
        // SAFETY: within the committed bytes, aligned to 4. For a level below the node's height this word is accessed
        // as an atomic only; callers compare the level with the height of the node they came from.
        Ok(unsafe { &*self.base.add(at).cast::<AtomicU32>() })
    }

    /// Asks for a node's memory ahead of its use. Any offset will do: nothing is read.
    #[inline]
    pub(super) fn prefetch(&self, unit: u32) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a prefetch is a hint that never faults, whatever the address.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T0>(self.base.wrapping_add(unit as usize * 8).cast());
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = unit;
    }

    /// Whether `bytes` more fit.
    pub(super) fn fits(&self, bytes: usize) -> bool {
        self.capacity - self.used() >= bytes
    }

    /// Commits memory for `bytes` more behind those in use. Writer only.
    pub(super) fn commit(&self, bytes: usize) -> io::Result<()> {
        self.region.commit(self.used() + bytes)
    }

    /// Writes a node at the end of the bytes in use and covers it; returns its offset. It is linked to nothing yet.
    /// Writer only; the bytes must have been committed.
    pub(super) fn push(&self, tag: u64, key: &[u8], value: &[u8], height: u32) -> io::Result<u32> {
        let at = self.used();
        let bytes = node_bytes(height, key.len(), value.len());
        let (Some(base), true) = (self.region.as_mut_ptr(), self.capacity - at >= bytes) else {
            return Err(io::Error::other("a node was written beyond the room reserved for it"));
        };
        let (Ok(key_len), Ok(value_len)) = (u32::try_from(key.len()), u32::try_from(value.len())) else {
            return Err(io::Error::other("a node is larger than the format allows"));
        };
        // SAFETY: `at + bytes <= capacity`; the caller committed them; `at` is a multiple of 8; nobody reads beyond
        // `used`, and we are the only writer.
        unsafe {
            let node = base.add(at);
            node.cast::<u64>().write(tag);
            node.add(8).cast::<u32>().write(key_len);
            node.add(12).cast::<u32>().write(value_len);
            node.add(16).cast::<u32>().write(height);
            let start = FIXED + 4 * height as usize;
            std::ptr::copy_nonoverlapping(key.as_ptr(), node.add(start), key.len());
            std::ptr::copy_nonoverlapping(value.as_ptr(), node.add(start + key.len()), value.len());
        }
        self.word(USED).store((at + bytes) as u64, Ordering::Release);
        self.word(ENTRIES).fetch_add(1, Ordering::Release);
        Ok((at / 8) as u32)
    }

    /// Stores a link. Writer only.
    pub(super) fn set_next(&self, unit: u32, level: u32, to: u32) -> Result<(), Corruption> {
        self.link(unit, level)?.store(to, Ordering::Release);
        Ok(())
    }
}

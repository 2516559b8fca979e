//! What was fetched of a table's object: its meta blocks, and data blocks, decompressed, in a slot each.
//!
//! Readers find what is there and wait for nothing; whoever fetches puts it in. A slot is filled once and never emptied: a
//! table that holds too much is replaced in the next view by another one that shares the blocks that stay
//! ([`Lazy::without`]), so that whoever reads this one keeps all that he has found.
//!
//! What readers call is marked as cold, so that those of mapped tables pay nothing for it.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};

use crate::error::Corruption;
use crate::ranges::Ranges;
use crate::sstable::TableId;
use crate::sstable::block::{Block, Handle};
use crate::sstable::fault::{Absent, Fault};
use crate::sstable::layout::Layout;

/// Memory that is counted until it is dropped.
pub(crate) type Charge = Box<dyn std::any::Any + Send + Sync>;

/// The meta blocks of a table.
pub(crate) struct Meta {
    bytes: Vec<u8>,
    layout: Layout,
    memory: u64,
    _charge: Charge,
}

impl Meta {
    /// `charge` is asked for so many bytes.
    pub(crate) fn new(bytes: Vec<u8>, layout: Layout, charge: impl FnOnce(u64) -> Charge) -> Meta {
        let memory = (bytes.len() + layout.blocks * size_of::<Slot>()) as u64;
        Meta { bytes, layout, memory, _charge: charge(memory) }
    }

    /// Bytes that it takes, with the slots of the blocks.
    pub(crate) fn memory(&self) -> u64 {
        self.memory
    }
}

/// A data block's payload, decompressed.
pub(crate) struct Loaded {
    /// Not a byte more than is counted: what decompresses leaves room.
    payload: Box<[u8]>,
    entries: usize,
    restarts: usize,
    _charge: Charge,
}

impl Loaded {
    /// None if the tail of the payload makes no sense.
    pub(crate) fn new(payload: Vec<u8>, charge: impl FnOnce(u64) -> Charge) -> Option<Loaded> {
        let Block { entries, restarts, .. } = Block::new(&payload)?;
        let charge = charge(payload.len() as u64);
        Some(Loaded { payload: payload.into_boxed_slice(), entries, restarts, _charge: charge })
    }

    /// Bytes of the payload.
    pub(crate) fn len(&self) -> usize {
        self.payload.len()
    }
}

#[derive(Default)]
struct Slot {
    block: OnceLock<Arc<Loaded>>,
    /// How soon it may be given up.
    age: AtomicU8,
}

/// Ages of a block: it was not read for a while, it was read, it was fetched for somebody who has not read it yet.
const COLD: u8 = 0;
const READ: u8 = 1;
const FRESH: u8 = 2;

struct Opened {
    meta: Arc<Meta>,
    slots: Box<[Slot]>,
}

/// What was fetched of a table's object.
#[derive(Default)]
pub(crate) struct Lazy {
    opened: OnceLock<Opened>,
}

/// Nothing is deleted.
static NO_RANGES: Ranges = Ranges::none();

impl Lazy {
    #[cold]
    #[inline(never)]
    pub(super) fn layout(&self, table: TableId) -> Result<(&Layout, &[u8]), Fault> {
        match self.opened.get() {
            Some(opened) => Ok((&opened.meta.layout, &opened.meta.bytes)),
            None => Err(Absent { table, block: None }.into()),
        }
    }

    #[inline]
    fn loaded(&self, n: usize) -> Option<&Arc<Loaded>> {
        self.opened.get()?.slots.get(n)?.block.get()
    }

    #[cold]
    #[inline(never)]
    pub(super) fn block(&self, table: TableId, n: usize) -> Result<Block<'_>, Fault> {
        let opened = self.opened.get().ok_or(Absent { table, block: None })?;
        let slot = opened.slots.get(n).ok_or(Absent { table, block: Some(n) })?;
        let loaded = slot.block.get().ok_or(Absent { table, block: Some(n) })?;
        if slot.age.load(Ordering::Relaxed) != READ {
            slot.age.store(READ, Ordering::Relaxed);
        }
        Ok(Block::known(&loaded.payload, loaded.entries, loaded.restarts))
    }

    #[cold]
    #[inline(never)]
    pub(super) fn payload(&self, n: usize) -> &[u8] {
        self.loaded(n).map_or(&[], |loaded| &loaded.payload)
    }

    pub(super) fn ranges(&self) -> &Ranges {
        self.opened.get().map_or(&NO_RANGES, |opened| &opened.meta.layout.ranges)
    }

    /// The meta blocks, if they are there.
    pub(crate) fn meta(&self) -> Option<&Arc<Meta>> {
        self.opened.get().map(|opened| &opened.meta)
    }

    /// Puts the meta blocks in. False if they are there already.
    pub(crate) fn open(&self, meta: Arc<Meta>) -> bool {
        let slots = (0..meta.layout.blocks).map(|_| Slot::default()).collect();
        self.opened.set(Opened { meta, slots }).is_ok()
    }

    /// Whether block `n` is there.
    pub(crate) fn has(&self, n: usize) -> bool {
        self.loaded(n).is_some()
    }

    /// Puts a block in. False if it is there already, or the meta blocks are not.
    pub(crate) fn put(&self, n: usize, block: Arc<Loaded>) -> bool {
        let Some(slot) = self.opened.get().and_then(|opened| opened.slots.get(n)) else { return false };
        slot.age.store(FRESH, Ordering::Relaxed);
        slot.block.set(block).is_ok()
    }

    /// A block that is there.
    pub(crate) fn get(&self, n: usize) -> Option<Arc<Loaded>> {
        self.loaded(n).map(Arc::clone)
    }

    /// Where block `n` stands in the object.
    pub(crate) fn handle(&self, name: &str, n: usize) -> Option<Result<Handle, Corruption>> {
        let Meta { layout, bytes, .. } = &**self.meta()?;
        Some(layout.block(bytes, n).map(|(_, handle)| handle).ok_or_else(|| layout.bad_index(name)))
    }

    /// The blocks that are there.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = (usize, &Loaded)> {
        let slots = self.opened.get().map_or(&[][..], |opened| &opened.slots);
        slots.iter().enumerate().filter_map(|(n, slot)| Some((n, &**slot.block.get()?)))
    }

    /// Whether a block is cold. One that is not becomes older.
    pub(crate) fn cool(&self, n: usize) -> bool {
        let Some(slot) = self.opened.get().and_then(|opened| opened.slots.get(n)) else { return true };
        let age = slot.age.load(Ordering::Relaxed);
        // Somebody who reads it meanwhile may be overlooked.
        slot.age.store(age.saturating_sub(1), Ordering::Relaxed);
        age == COLD
    }

    /// Bytes of the meta blocks and of the slots.
    pub(crate) fn meta_bytes(&self) -> u64 {
        self.opened.get().map_or(0, |opened| opened.meta.memory())
    }

    /// The same without some blocks.
    pub(crate) fn without(&self, dropped: &[usize]) -> Lazy {
        let Some(opened) = self.opened.get() else { return Lazy::default() };
        let keep = |(n, slot): (usize, &Slot)| {
            let fresh = Slot { age: AtomicU8::new(slot.age.load(Ordering::Relaxed)), ..Slot::default() };
            if let (Some(block), Err(_)) = (slot.block.get(), dropped.binary_search(&n)) {
                // The slot is new, so it is empty.
                let _ = fresh.block.set(Arc::clone(block));
            }
            fresh
        };
        let slots = opened.slots.iter().enumerate().map(keep).collect();
        Lazy { opened: OnceLock::from(Opened { meta: Arc::clone(&opened.meta), slots }) }
    }
}

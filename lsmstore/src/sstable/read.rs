//! Reads a table: point reads, and blocks for cursors, over a mapped mirror file or what was fetched of an object.
//!
//! Of a mapped file, footer and meta blocks are verified when it is mapped, data blocks when they are first read after that:
//! what a disk changed meanwhile is found by every process that reads it, and costs each of them one pass over what it reads.
//! Of an object, everything is verified as it comes; what has not come yet is [`Absent`](crate::error::Absent), which no
//! reader here waits for.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use kriya_region::Region;

use crate::env::Env;
use crate::error::Corruption;
use crate::in_use::Held;
use crate::key::{self, sequence_of};
use crate::memtable::Version;
use crate::prefetch::{LINE, prefetch};
use crate::ranges::Ranges;
use crate::sstable::block::{self, Block, Piece, RAW};
use crate::sstable::fault::Fault;
use crate::sstable::layout::Layout;
use crate::sstable::lazy::Lazy;
use crate::sstable::{TableRef, filter};

/// The file of a mapped table, in the store that it belongs to.
pub(crate) struct MirrorFile {
    pub(crate) env: Arc<dyn Env>,
    pub(crate) path: PathBuf,
    pub(crate) _held: Held,
}

/// A table that is read. Dropped by its last holder after it became obsolete, one with a mirror removes its file.
pub(crate) struct Table {
    pub(crate) info: TableRef,
    name: String,
    body: Body,
    /// Length of its object, 0 while it has none: `info` says what was known when the table was opened.
    object_len: AtomicU64,
    obsolete: AtomicBool,
}

/// Where its bytes are.
#[allow(clippy::large_enum_variant, reason = "a box would be one more place in memory for each read of a mirror")]
enum Body {
    Mapped(Mapped),
    Lazy(Lazy),
}

struct Mapped {
    region: Arc<Region>,
    layout: Layout,
    /// A bit for each block whose checksum was found right since the file was mapped.
    verified: Box<[AtomicU64]>,
    file: Option<MirrorFile>,
}

impl Mapped {
    #[inline]
    fn bytes(&self) -> &[u8] {
        // `Table::open` refused regions without file bytes.
        self.region.file_bytes().unwrap_or(&[])
    }
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Table").field("info", &self.info).finish()
    }
}

impl Table {
    /// A table in a mapped mirror file. `file` is given by the store that owns the file.
    pub(crate) fn open(info: TableRef, region: Arc<Region>, file: Option<MirrorFile>) -> Result<Table, Corruption> {
        let name = info.mirror_name();
        let Some(bytes) = region.file_bytes() else {
            return Err(Corruption::new(name, 0, "the region of a table is not a mapped file"));
        };
        if bytes.len() as u64 != info.mirror_len {
            let what = format!("the mirror file has {} bytes, expected {}", bytes.len(), info.mirror_len);
            return Err(Corruption::new(name, 0, what));
        }
        let layout = Layout::read(&name, info.id, bytes)?;
        layout.check(&name, &info, bytes.len() as u64)?;
        let verified = (0..layout.blocks.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        Ok(Table::new(info, name, Body::Mapped(Mapped { region, layout, verified, file })))
    }

    /// A table in an object called `name`, of which there is what `lazy` holds.
    pub(crate) fn of_object(info: TableRef, name: String, lazy: Lazy) -> Table {
        Table::new(info, name, Body::Lazy(lazy))
    }

    fn new(info: TableRef, name: String, body: Body) -> Table {
        Table { object_len: AtomicU64::new(info.object_len), obsolete: AtomicBool::new(false), info, name, body }
    }

    /// What was fetched of it, if it is not mapped.
    pub(crate) fn lazy(&self) -> Option<&Lazy> {
        match &self.body {
            Body::Mapped(_) => None,
            Body::Lazy(lazy) => Some(lazy),
        }
    }

    /// Its file, or its object.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Every block was found right a moment ago: none is verified again.
    pub(crate) fn trust(&self) {
        if let Body::Mapped(mapped) = &self.body {
            mapped.verified.iter().for_each(|bits| bits.store(u64::MAX, Ordering::Relaxed));
        }
    }

    /// Whether it is the table that this tells of. Whether that knew of an object does not matter.
    pub(crate) fn is(&self, info: &TableRef) -> bool {
        TableRef { object_len: 0, ..self.info.clone() } == TableRef { object_len: 0, ..info.clone() }
    }

    /// Length of its object; 0 if it has none that is known.
    pub(crate) fn object_len(&self) -> u64 {
        self.object_len.load(Ordering::Acquire)
    }

    /// Its object is in the store.
    pub(crate) fn set_object_len(&self, bytes: u64) {
        self.object_len.store(bytes, Ordering::Release);
    }

    /// Where its mirror is, for people.
    pub(crate) fn place(&self) -> String {
        match &self.body {
            Body::Mapped(Mapped { file: Some(file), .. }) => file.path.display().to_string(),
            _ => self.name.clone(),
        }
    }

    /// No view made from now on will name it.
    pub(crate) fn retire(&self) {
        self.obsolete.store(true, Ordering::Release);
    }

    /// The whole mirror file; nothing of a table that has none.
    pub(crate) fn bytes(&self) -> &[u8] {
        match &self.body {
            Body::Mapped(mapped) => mapped.bytes(),
            Body::Lazy(_) => &[],
        }
    }

    /// Its layout, and the bytes that this tells the places of.
    #[inline]
    pub(crate) fn layout(&self) -> Result<(&Layout, &[u8]), Fault> {
        match &self.body {
            Body::Mapped(mapped) => Ok((&mapped.layout, mapped.bytes())),
            Body::Lazy(lazy) => lazy.layout(self.info.id),
        }
    }

    /// Number of its data blocks.
    #[inline]
    pub(crate) fn blocks(&self) -> Result<usize, Fault> {
        Ok(self.layout()?.0.blocks)
    }

    /// Part of a block's payload that [`Table::block`] found, or of all that follows it in a mirror file.
    #[inline]
    pub(crate) fn slice(&self, block: usize, start: usize, end: usize) -> &[u8] {
        let bytes = match &self.body {
            Body::Mapped(mapped) => mapped.bytes(),
            Body::Lazy(lazy) => lazy.payload(block),
        };
        bytes.get(start..end).unwrap_or(&[])
    }

    /// The error for what stands at a place that [`Table::slice`] knows.
    #[cold]
    pub(crate) fn bad(&self, block: usize, at: usize, what: &str) -> Corruption {
        let begin = match &self.body {
            Body::Mapped(_) => 0,
            Body::Lazy(_) => {
                let handle = self.layout().ok().and_then(|(layout, bytes)| layout.block(bytes, block));
                handle.map_or(0, |(_, handle)| handle.offset)
            }
        };
        Corruption::new(self.name.clone(), begin + at as u64, what)
    }

    /// Whether versions of a key with this hash may be here.
    #[inline]
    pub(crate) fn may_hold(&self, hash: u64) -> Result<bool, Fault> {
        let (layout, bytes) = self.layout()?;
        Ok(filter::may_hold(bytes.get(layout.filter.0..layout.filter.1).unwrap_or(&[]), hash))
    }

    /// Whether it is at hand that there are no versions of a key with this hash.
    #[inline]
    pub(crate) fn rules_out(&self, hash: u64) -> bool {
        matches!(self.may_hold(hash), Ok(false))
    }

    /// Asks for the memory that [`Table::may_hold`] will read: seldom at hand, and other tables are asked as well.
    #[inline]
    pub(crate) fn prefetch_filter(&self, hash: u64) {
        let Ok((layout, bytes)) = self.layout() else { return };
        let filter = bytes.get(layout.filter.0..layout.filter.1).unwrap_or(&[]);
        let at = filter::place_of(filter, hash);
        prefetch(filter, at);
        // A line of the filter is not one of memory: the header shifts it.
        prefetch(filter, at + LINE - 1);
    }

    /// The n-th data block and where it begins for [`Table::slice`]. In a mirror its checksum is verified when it is asked
    /// for first.
    #[inline]
    pub(crate) fn block(&self, n: usize) -> Result<(Block<'_>, usize), Fault> {
        let mapped = match &self.body {
            Body::Mapped(mapped) => mapped,
            Body::Lazy(lazy) => return Ok((lazy.block(self.info.id, n)?, 0)),
        };
        let file = mapped.bytes();
        let Some((_, handle)) = mapped.layout.block(file, n) else {
            return Err(mapped.layout.bad_index(&self.name).into());
        };
        let bit = 1 << (n % 64);
        let known = mapped.verified.get(n / 64).is_some_and(|bits| bits.load(Ordering::Relaxed) & bit != 0);
        if !known {
            block::verified(&self.name, self.info.id, file, handle)?;
            if let Some(bits) = mapped.verified.get(n / 64) {
                bits.fetch_or(bit, Ordering::Relaxed);
            }
        }
        let bad = |what: &str| Corruption::new(self.name.clone(), handle.offset, what);
        match block::unframe(Piece::from(file), handle) {
            Some((payload, RAW, _)) => match Block::new(payload) {
                Some(block) => Ok((block, handle.offset as usize)),
                None => Err(bad("the tail of a block makes no sense").into()),
            },
            Some(_) => Err(bad("a block of a mirror is compressed").into()),
            None => Err(bad("a block reaches beyond the file").into()),
        }
    }

    /// The first block that can hold versions of `key` or of keys behind it; the number of blocks if there is none.
    pub(crate) fn find(&self, key: &[u8]) -> Result<usize, Fault> {
        let (layout, bytes) = self.layout()?;
        layout.find(bytes, key).ok_or_else(|| layout.bad_index(&self.name).into())
    }

    /// Its range deletions.
    #[inline]
    pub(crate) fn known_ranges(&self) -> Result<&Ranges, Fault> {
        Ok(&self.layout()?.0.ranges)
    }

    /// The range deletions of a mapped table; those of another are not asked for in this way.
    #[inline]
    pub(crate) fn ranges(&self) -> &Ranges {
        match &self.body {
            Body::Mapped(mapped) => &mapped.layout.ranges,
            Body::Lazy(lazy) => lazy.ranges(),
        }
    }

    /// The newest version of `key` at or below `sequence`; range deletions are not looked at.
    pub(crate) fn get(&self, key: &[u8], sequence: u64) -> Result<Option<Version<'_>>, Fault> {
        let tag = key::newest_at(sequence);
        let mut scratch = Vec::with_capacity(key.len() + 32);
        for n in self.find(key)?..self.blocks()? {
            let (block, offset) = self.block(n)?;
            let cut = || self.bad(n, offset, "an entry of a block makes no sense");
            let mut at = seek_restart(&block, key, tag).ok_or_else(cut)?;
            scratch.clear();
            while at < block.entries {
                let entry = block.entry(at).ok_or_else(cut)?;
                if entry.shared > scratch.len() {
                    return Err(cut().into());
                }
                scratch.truncate(entry.shared);
                scratch.extend_from_slice(block.bytes(entry.suffix));
                if key::compare((&scratch, entry.tag), (key, tag)) != std::cmp::Ordering::Less {
                    if scratch != key || sequence_of(entry.tag) > sequence {
                        return Ok(None);
                    }
                    return Ok(Some(Version { tag: entry.tag, value: block.bytes(entry.value) }));
                }
                at = entry.value.1;
            }
            let (layout, bytes) = self.layout()?;
            if layout.block(bytes, n).is_some_and(|(separator, _)| separator > key) {
                // The next block begins behind the separator.
                return Ok(None);
            }
        }
        Ok(None)
    }
}

/// Offset of the last restart before (key, tag), or of the first one.
pub(crate) fn seek_restart(block: &Block<'_>, key: &[u8], tag: u64) -> Option<usize> {
    let at = block.restart(seek_restart_number(block, key, tag)?)?;
    // The entries behind it are walked from line to line.
    (1..AHEAD).for_each(|n| block.prefetch(at + n * LINE));
    Some(at)
}

/// Restarts of a block up to which all of them are asked for ahead of a search.
const AHEAD: usize = 16;

/// Number of the last restart before (key, tag), or zero.
pub(crate) fn seek_restart_number(block: &Block<'_>, key: &[u8], tag: u64) -> Option<usize> {
    let (mut low, mut high) = (0, block.restarts);
    if block.restarts <= AHEAD {
        // Where the halves begin is known now, and what stands there is read one after the other.
        (1..block.restarts).filter_map(|n| block.restart(n)).for_each(|at| block.prefetch(at));
    }
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        let entry = block.entry(block.restart(middle)?)?;
        if entry.shared != 0 {
            return None;
        }
        if key::compare((block.bytes(entry.suffix), entry.tag), (key, tag)) == std::cmp::Ordering::Less {
            low = middle;
        } else {
            high = middle;
        }
    }
    Some(low)
}

impl Drop for Table {
    fn drop(&mut self) {
        if self.obsolete.load(Ordering::Acquire)
            && let Body::Mapped(Mapped { file: Some(file), .. }) = &self.body
        {
            // A file that cannot be removed now is removed when the store is opened next.
            let _ = file.env.remove(&file.path);
        }
    }
}

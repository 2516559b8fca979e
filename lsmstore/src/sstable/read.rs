//! Reads a table: point reads and the index, over the bytes of a mapped mirror file.
//!
//! Footer and meta blocks are verified when the file is mapped, data blocks when they are first read after that: what a
//! disk changed meanwhile is found by every process that reads it, and costs each of them one pass over what it reads.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use kriya_region::Region;

use crate::codec::{Reader, u32_at};
use crate::env::Env;
use crate::error::Corruption;
use crate::in_use::Held;
use crate::key::{self, sequence_of};
use crate::memtable::Version;
use crate::prefetch::{LINE, prefetch};
use crate::ranges::Ranges;
use crate::sstable::block::{self, Block, Handle, RAW};
use crate::sstable::footer::{Footer, Properties};
use crate::sstable::{TableId, TableRef, filter};

/// The parts of a table's bytes, checked once. Borrows nothing: offsets only.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub(crate) filter: (usize, usize),
    pub(crate) index: (usize, usize),
    pub(crate) blocks: usize,
    /// End of the data blocks.
    pub(crate) meta: usize,
    pub(crate) properties: Properties,
    pub(crate) ranges: Ranges,
    /// The encoded properties, which later versions may have made longer.
    pub(crate) properties_at: (usize, usize),
}

impl Layout {
    /// Reads footer and meta blocks of table `id`, checking their CRCs.
    pub(crate) fn read(name: &str, id: TableId, file: &[u8]) -> Result<Layout, Corruption> {
        let footer = Footer::decode(name, id, file)?;
        let bad = |at: u64, what: &str| Corruption::new(name, at, what);
        let part = |handle: Handle| {
            let (payload, codec) = block::verified(name, id, file, handle)?;
            if codec != RAW {
                return Err(bad(handle.offset, "a meta block is compressed"));
            }
            Ok((handle.offset as usize, handle.offset as usize + payload.len()))
        };
        let (filter, index, properties_at) = (part(footer.filter)?, part(footer.index)?, part(footer.properties)?);
        if !filter::check(&file[filter.0..filter.1]) {
            return Err(bad(footer.filter.offset, "the filter is of an unknown kind or length"));
        }
        let properties = Properties::decode(&file[properties_at.0..properties_at.1])
            .ok_or_else(|| bad(footer.properties.offset, "the properties are cut off"))?;
        let payload = &file[index.0..index.1];
        let blocks = payload
            .len()
            .checked_sub(4)
            .and_then(|tail| {
                let blocks = u32_at(payload, tail)? as usize;
                (blocks > 0 && blocks.checked_mul(4)? <= tail).then_some(blocks)
            })
            .ok_or_else(|| bad(footer.index.offset, "the index is empty or cut off"))?;
        let ranges = match footer.ranges {
            Some(handle) => {
                let (start, end) = part(handle)?;
                Ranges::decode(&file[start..end])
                    .ok_or_else(|| bad(handle.offset, "the range deletions make no sense"))?
            }
            None => Ranges::default(),
        };
        let meta = usize::try_from(footer.meta).ok().filter(|&meta| meta <= filter.0);
        let meta = meta.ok_or_else(|| bad(footer.meta, "the meta blocks begin behind the filter"))?;
        Ok(Layout { filter, index, blocks, meta, properties, ranges, properties_at })
    }

    /// Separator and place of the n-th block; `None` if the index makes no sense there.
    #[inline]
    pub(crate) fn block<'a>(&self, file: &'a [u8], n: usize) -> Option<(&'a [u8], Handle)> {
        let index = file.get(self.index.0..self.index.1)?;
        let offsets = index.len().checked_sub(4 + 4 * self.blocks)?;
        if n >= self.blocks {
            return None;
        }
        let at = u32_at(index, offsets + 4 * n)? as usize;
        let mut reader = Reader::new(index.get(at..offsets)?);
        let separator = reader.bytes()?;
        Some((separator, Handle { offset: reader.u64()?, len: reader.u32()? }))
    }

    /// The first block that can hold versions of `key` or of keys behind it; `blocks` if there is none.
    #[inline]
    pub(crate) fn find(&self, file: &[u8], key: &[u8]) -> Option<usize> {
        let (mut low, mut high) = (0, self.blocks);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.block(file, middle)?.0 < key {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Some(low)
    }
}

/// The file of a mapped table, in the store that it belongs to.
pub(crate) struct MirrorFile {
    pub(crate) env: Arc<dyn Env>,
    pub(crate) path: PathBuf,
    pub(crate) _held: Held,
}

/// A mapped table. Dropped by its last holder after it became obsolete, it removes its file.
pub(crate) struct Table {
    pub(crate) info: TableRef,
    name: String,
    region: Arc<Region>,
    pub(crate) layout: Layout,
    /// Length of its object, 0 while it has none: `info` says what was known when the table was opened.
    object_len: AtomicU64,
    obsolete: AtomicBool,
    /// A bit for each block whose checksum was found right since the file was mapped.
    verified: Box<[AtomicU64]>,
    file: Option<MirrorFile>,
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
        let found = &layout.properties;
        if found.min_key != info.min_key
            || found.max_key != info.max_key
            || (found.min_sequence, found.max_sequence) != (info.min_sequence, info.max_sequence)
            || (found.entries, found.deletions) != (info.entries, info.deletions)
        {
            return Err(Corruption::new(
                name,
                layout.meta as u64,
                "the properties are not those that the manifest names",
            ));
        }
        let object_len = AtomicU64::new(info.object_len);
        let verified = (0..layout.blocks.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        Ok(Table { info, name, region, layout, object_len, obsolete: AtomicBool::new(false), verified, file })
    }

    /// Every block was found right a moment ago: none is verified again.
    pub(crate) fn trust(&self) {
        self.verified.iter().for_each(|bits| bits.store(u64::MAX, Ordering::Relaxed));
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
        self.file.as_ref().map_or_else(|| self.name.clone(), |file| file.path.display().to_string())
    }

    /// No view made from now on will name it.
    pub(crate) fn retire(&self) {
        self.obsolete.store(true, Ordering::Release);
    }

    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        // `open` refused regions without file bytes.
        self.region.file_bytes().unwrap_or(&[])
    }

    #[cold]
    pub(crate) fn bad(&self, at: u64, what: &str) -> Corruption {
        Corruption::new(self.name.clone(), at, what)
    }

    fn filter(&self) -> &[u8] {
        let (start, end) = self.layout.filter;
        self.bytes().get(start..end).unwrap_or(&[])
    }

    /// Whether versions of a key with this hash may be here.
    #[inline]
    pub(crate) fn may_hold(&self, hash: u64) -> bool {
        filter::may_hold(self.filter(), hash)
    }

    /// Asks for the memory that [`Table::may_hold`] will read: seldom at hand, and other tables are asked as well.
    #[inline]
    pub(crate) fn prefetch_filter(&self, hash: u64) {
        let filter = self.filter();
        let at = filter::place_of(filter, hash);
        prefetch(filter, at);
        // A line of the filter is not one of memory: the header shifts it.
        prefetch(filter, at + LINE - 1);
    }

    /// The n-th data block and where it stands. Its checksum is verified when it is asked for first.
    #[inline]
    pub(crate) fn block(&self, n: usize) -> Result<(Block<'_>, usize), Corruption> {
        let file = self.bytes();
        let Some((_, handle)) = self.layout.block(file, n) else {
            return Err(self.bad(self.layout.index.0 as u64, "an entry of the index makes no sense"));
        };
        let bit = 1 << (n % 64);
        let known = self.verified.get(n / 64).is_some_and(|bits| bits.load(Ordering::Relaxed) & bit != 0);
        if !known {
            block::verified(&self.name, self.info.id, file, handle)?;
            if let Some(bits) = self.verified.get(n / 64) {
                bits.fetch_or(bit, Ordering::Relaxed);
            }
        }
        match block::unframe(file, handle) {
            Some((payload, RAW, _)) => match Block::new(payload) {
                Some(block) => Ok((block, handle.offset as usize)),
                None => Err(self.bad(handle.offset, "the tail of a block makes no sense")),
            },
            Some(_) => Err(self.bad(handle.offset, "a block of a mirror is compressed")),
            None => Err(self.bad(handle.offset, "a block reaches beyond the file")),
        }
    }

    pub(crate) fn find(&self, key: &[u8]) -> Result<usize, Corruption> {
        let found = self.layout.find(self.bytes(), key);
        found.ok_or_else(|| self.bad(self.layout.index.0 as u64, "an entry of the index makes no sense"))
    }

    /// Its range deletions.
    #[inline]
    pub(crate) fn ranges(&self) -> &Ranges {
        &self.layout.ranges
    }

    /// The newest version of `key` at or below `sequence`; range deletions are not looked at.
    pub(crate) fn get(&self, key: &[u8], sequence: u64) -> Result<Option<Version<'_>>, Corruption> {
        let tag = key::newest_at(sequence);
        let mut scratch = Vec::with_capacity(key.len() + 32);
        for n in self.find(key)?..self.layout.blocks {
            let (block, offset) = self.block(n)?;
            let cut = || self.bad(offset as u64, "an entry of a block makes no sense");
            let mut at = seek_restart(&block, key, tag).ok_or_else(cut)?;
            scratch.clear();
            while at < block.entries {
                let entry = block.entry(at).ok_or_else(cut)?;
                if entry.shared > scratch.len() {
                    return Err(cut());
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
            && let Some(file) = &self.file
        {
            // A file that cannot be removed now is removed when the store is opened next.
            let _ = file.env.remove(&file.path);
        }
    }
}

//! Where the parts of a table stand: footer and meta blocks, read once, and the index.

use crate::codec::{Reader, u32_at};
use crate::error::Corruption;
use crate::ranges::Ranges;
use crate::sstable::block::{self, Handle, Piece, RAW};
use crate::sstable::footer::{Footer, Properties};
use crate::sstable::{TableId, TableRef, filter};

/// The parts of a table's bytes, checked once. Borrows nothing: places in the bytes that it was read from, which are the
/// whole file or its end.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub(crate) filter: (usize, usize),
    pub(crate) index: (usize, usize),
    pub(crate) blocks: usize,
    /// End of the data blocks in the file.
    pub(crate) meta: u64,
    /// Where the index begins in the file.
    pub(crate) index_at: u64,
    pub(crate) properties: Properties,
    pub(crate) ranges: Ranges,
    /// The encoded properties, which later versions may have made longer.
    pub(crate) properties_at: (usize, usize),
}

impl Layout {
    /// Reads footer and meta blocks of table `id`, checking their CRCs. `file` must reach to the end of the file, and from
    /// the begin of the meta blocks at least.
    pub(crate) fn read<'a>(name: &str, id: TableId, file: impl Into<Piece<'a>>) -> Result<Layout, Corruption> {
        let file = file.into();
        let footer = Footer::decode(name, id, file)?;
        let bad = |at: u64, what: &str| Corruption::new(name, at, what);
        let part = |handle: Handle| {
            let (payload, codec) = block::verified(name, id, file, handle)?;
            if codec != RAW {
                return Err(bad(handle.offset, "a meta block is compressed"));
            }
            // It was found there, so it does not begin before the piece.
            let start = (handle.offset - file.offset) as usize;
            Ok((start, start + payload.len()))
        };
        let file = file.bytes;
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
        if footer.meta > footer.filter.offset {
            return Err(bad(footer.meta, "the meta blocks begin behind the filter"));
        }
        Ok(Layout {
            filter,
            index,
            blocks,
            meta: footer.meta,
            index_at: footer.index.offset,
            properties,
            ranges,
            properties_at,
        })
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

    /// Checks that a table of `length` bytes with this layout is the one that a manifest names.
    pub(crate) fn check(&self, name: &str, info: &TableRef, length: u64) -> Result<(), Corruption> {
        let found = &self.properties;
        if found.min_key != info.min_key
            || found.max_key != info.max_key
            || (found.min_sequence, found.max_sequence) != (info.min_sequence, info.max_sequence)
            || (found.entries, found.deletions, self.ranges.len() as u64) != (info.entries, info.deletions, info.ranges)
            || length.checked_sub(self.meta) != Some(info.meta_len)
        {
            return Err(Corruption::new(name, self.meta, "the properties are not those that the manifest names"));
        }
        Ok(())
    }

    /// The error for an index that makes no sense.
    #[cold]
    pub(crate) fn bad_index(&self, name: &str) -> Corruption {
        Corruption::new(name, self.index_at, "an entry of the index makes no sense")
    }
}

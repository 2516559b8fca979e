//! The one home of the bytes: headers and layouts of rows and graphs, live or sealed.
//!
//! Both start with a header page; a sealed file ends in a checksum table. Native little-endian throughout: on another
//! byte order the magic does not match and the file is refused.
//!
//! ```text
//! header   0 magic            8 bytes, written last
//!          8 version          u32          12 flags      u32, bit 0 = sealed
//!         16 length           u64, bytes of the whole structure, trailer included
//!         24 pair             u64, the same in the two sealed files that belong together; 0 while live
//!         32 checksums at     u64, 0 while live           40 chunk u32, bytes covered by one checksum
//! rows    64 element type     u32          68 metric     u32      72 dimensions u32   76 stride u32, bytes
//!         80 capacity         u32, rows    88 sides at   u64      96 rows at    u64
//!            1 = f32, 2 = f16, 3 = bf16, side: norm f32
//!            5 = f32 in halves: all upper ones, then all lower ones (kernel::halves), side: norm f32
//!            4 = i8 codes plus 128, side: norm f32, scale f32, squared length f32, sum of the codes i32
//!            6 = i8 codes 16 h + l, up to 119: two parts of n bytes, first of h + 8, then of l + 8, a byte of which has that of
//!            component j in its lower four bits and that of n + j in its upper ones, side: norm f32, scale f32, squared
//!            length f32, scale of 16 h alone f32
//!        256 length           u32, atomic: released after a row is complete
//! graph   64 m                u32          68 ef_construction u32 72 seed       u64
//!         80 capacity         u32, nodes   84 upper capacity  u32, rows of m links above level 0
//!         88 towers at        u64          96 labels at  u64     104 upper at  u64  112 level 0 at u64
//!        256 linked           u32, atomic: every id below it is linked
//!        320 entry            u64, atomic: level << 32 | id, all ones when empty
//!        384 upper used       u32, atomic
//!       4092 checksum         u32, CRC32C of the bytes before it; 0 while live
//! rows file:   header | sides x capacity | rows, stride x capacity | trailer
//! graph file:  header | towers u32 x capacity (level << 27 | first upper row) | labels [u64; 2] x capacity |
//!              upper links u32 x m x upper capacity | level 0 links u32 x 2m x capacity | trailer
//! one file:    header | rows file | graph file | perhaps a rows file of exact rows, each followed by zeros up to a
//!              multiple of 4096
//!              16 length         u64, bytes of the file
//!              24 pair           u64, that of its parts
//!              48 parts          u32, 2 or 3
//!              64 table of parts, each: kind u32 (1 rows, 2 graph, 3 exact rows) | 0 u32 | offset u64 | length u64
//! link:        a node, or u32::MAX for none, or on level 0 2^31 + the node's twin (the next node with an equal row)
//! encoded row: side | dimensions x element, or the parts one after the other, without padding (of element type 6, the first
//!              bytes of each part, as many as there are dimensions and at most n); not in a file of this crate, but wherever a row is kept alone
//! trailer:     CRC32C of each chunk after the header, u32 each | CRC32C of that table | "KVSEAL01"
//! ```
//! Sections start at multiples of 64 bytes. What is not named is zero and reserved.
//!
//! # Invariants
//! Offsets are not believed: a reader computes the layout from the sizes and refuses a header that says otherwise, so
//! that every later access is bounded by sizes checked against the region once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use kriya_region::Region;

use crate::error::{CreateError, OpenError};

pub(crate) const HEADER: usize = 4096;
pub(crate) const VERSION: u32 = 1;
pub(crate) const SEALED: u32 = 1;
pub(crate) const CHUNK: usize = 1 << 20;
pub(crate) const ROWS_MAGIC: [u8; 8] = *b"KVROWS01";
pub(crate) const GRAPH_MAGIC: [u8; 8] = *b"KVGRAF01";
pub(crate) const FILE_MAGIC: [u8; 8] = *b"KVFILE01";
pub(crate) const TRAILER_MAGIC: [u8; 8] = *b"KVSEAL01";
/// Ids take 31 bits, for a search keeps a mark beside them.
pub(crate) const MAX_ROWS: u32 = i32::MAX as u32;
/// More than any embedding has; a row is then at most 1 MiB.
pub(crate) const MAX_DIM: usize = 262_144;
/// Bits of a tower word that name the first upper row.
pub(crate) const TOWER_BITS: u32 = 27;
pub(crate) const MAX_LEVEL: u32 = 15;

pub(crate) mod at {
    pub const MAGIC: usize = 0;
    pub const VERSION: usize = 8;
    pub const FLAGS: usize = 12;
    pub const LENGTH: usize = 16;
    pub const PAIR: usize = 24;
    pub const CHECKSUMS: usize = 32;
    pub const CHUNK: usize = 40;
    pub const PARTS: usize = 48;
    pub const TABLE: usize = 64;
    pub const ELEMENT: usize = 64;
    pub const METRIC: usize = 68;
    pub const DIM: usize = 72;
    pub const STRIDE: usize = 76;
    pub const CAPACITY: usize = 80;
    pub const SIDES: usize = 88;
    pub const ROWS: usize = 96;
    pub const M: usize = 64;
    pub const EF: usize = 68;
    pub const SEED: usize = 72;
    pub const UPPER_CAPACITY: usize = 84;
    pub const TOWERS: usize = 88;
    pub const LABELS: usize = 96;
    pub const UPPER: usize = 104;
    pub const LEVEL0: usize = 112;
    pub const LEN: usize = 256;
    pub const LINKED: usize = 256;
    pub const ENTRY: usize = 320;
    pub const UPPER_USED: usize = 384;
    pub const HEADER_CRC: usize = 4092;
}

/// Where the parts of a rows structure lie. `end` is without trailer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RowsLayout {
    pub stride: usize,
    pub sides: usize,
    pub rows: usize,
    pub end: usize,
}

impl RowsLayout {
    /// For elements of `element` bytes and `side` bytes of what else is known of a row.
    pub(crate) fn of(dim: usize, capacity: u32, element: usize, side: usize) -> Option<RowsLayout> {
        let stride = dim.checked_mul(element)?.checked_next_multiple_of(64)?;
        let capacity = capacity as usize;
        let sides = HEADER;
        let rows = capacity.checked_mul(side)?.checked_add(sides)?.checked_next_multiple_of(64)?;
        let end = capacity.checked_mul(stride)?.checked_add(rows)?;
        Some(RowsLayout { stride, sides, rows, end })
    }
}

/// Where the parts of a graph lie. `end` is without trailer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GraphLayout {
    pub towers: usize,
    pub labels: usize,
    pub upper: usize,
    pub level0: usize,
    pub end: usize,
}

impl GraphLayout {
    pub(crate) fn of(m: usize, capacity: u32, upper_capacity: u32) -> Option<GraphLayout> {
        let capacity = capacity as usize;
        let towers = HEADER;
        let labels = capacity.checked_mul(4)?.checked_add(towers)?.checked_next_multiple_of(64)?;
        let upper = capacity.checked_mul(16)?.checked_add(labels)?.checked_next_multiple_of(64)?;
        let level0 = (upper_capacity as usize)
            .checked_mul(m)?
            .checked_mul(4)?
            .checked_add(upper)?
            .checked_next_multiple_of(64)?;
        let end = capacity.checked_mul(m)?.checked_mul(8)?.checked_add(level0)?;
        Some(GraphLayout { towers, labels, upper, level0, end })
    }
}

/// Bytes of the trailer of a sealed structure that ends (without it) at `end`.
pub(crate) fn trailer_bytes(end: usize) -> usize {
    (end - HEADER).div_ceil(CHUNK) * 4 + 4 + 8
}

/// Fields of a region by offset. Every access is checked against the region's capacity, so a wrong offset is a panic
/// of this crate's own making (offsets are constants), never a stray access.
#[derive(Debug, Clone)]
pub(crate) struct Fields {
    region: Arc<Region>,
}

impl Fields {
    /// `None` for a region that cannot hold a header.
    pub(crate) fn of(region: &Arc<Region>) -> Option<Fields> {
        (region.capacity() >= HEADER).then(|| Fields { region: region.clone() })
    }

    pub(crate) fn word(&self, at: usize) -> &AtomicU32 {
        assert!(at.is_multiple_of(4) && at + 4 <= HEADER);
        // SAFETY: within the header, which `of` found inside the region; regions start on a page, so it is aligned;
        // the map lives as long as `self.region`. Header words are only ever accessed as atomics while others may write
        // them, and loads of this size are plain loads, which a read-only map allows.
        unsafe { AtomicU32::from_ptr(self.region.as_ptr().cast_mut().add(at).cast()) }
    }

    pub(crate) fn long(&self, at: usize) -> &AtomicU64 {
        assert!(at.is_multiple_of(8) && at + 8 <= HEADER);
        // SAFETY: as in `word`.
        unsafe { AtomicU64::from_ptr(self.region.as_ptr().cast_mut().add(at).cast()) }
    }

    pub(crate) fn u32(&self, at: usize) -> u32 {
        self.word(at).load(Ordering::Relaxed)
    }

    pub(crate) fn u64(&self, at: usize) -> u64 {
        self.long(at).load(Ordering::Relaxed)
    }

    pub(crate) fn magic(&self) -> [u8; 8] {
        self.long(at::MAGIC).load(Ordering::Acquire).to_ne_bytes()
    }

    /// Copies the header page.
    pub(crate) fn page(&self) -> Vec<u8> {
        let mut page = Vec::with_capacity(HEADER);
        for at in (0..HEADER).step_by(4) {
            page.extend_from_slice(&self.u32(at).to_ne_bytes());
        }
        page
    }
}

/// Checks that `region` can take a new structure of `needed` bytes and hands out its header for writing.
pub(crate) fn claim(region: &Arc<Region>, needed: usize, commit: usize) -> Result<Fields, CreateError> {
    if region.capacity() < needed {
        return Err(CreateError::TooSmall { got: region.capacity(), expected: needed });
    }
    if region.as_mut_ptr().is_none() {
        return Err(CreateError::ReadOnly);
    }
    region.commit(commit).map_err(CreateError::Memory)?;
    let fields =
        Fields::of(region).ok_or(CreateError::TooSmall { got: region.capacity(), expected: HEADER.max(needed) })?;
    // The version doubles as the claim: of two creators of one region the second finds it taken.
    fields
        .word(at::VERSION)
        .compare_exchange(0, VERSION, Ordering::AcqRel, Ordering::Acquire)
        .map_err(|_| CreateError::NotEmpty)?;
    Ok(fields)
}

/// What the two kinds of header have in common, checked.
pub(crate) struct Common {
    pub fields: Fields,
    pub sealed: bool,
    pub pair: u64,
}

/// Checks magic, version and, of a sealed structure, the header's checksum.
pub(crate) fn open_common(region: &Arc<Region>, magic: [u8; 8], what: &'static str) -> Result<Common, OpenError> {
    let Some(fields) = Fields::of(region) else {
        return Err(OpenError::Length { what, got: region.capacity() as u64, expected: HEADER as u64 });
    };
    let got = fields.magic();
    if got != magic {
        return Err(OpenError::Magic { what, got, expected: magic });
    }
    let version = fields.u32(at::VERSION);
    if version != VERSION {
        return Err(OpenError::Version { what, got: version, expected: VERSION });
    }
    let flags = fields.u32(at::FLAGS);
    if flags & !SEALED != 0 {
        return Err(OpenError::Field { what, field: "flags", got: flags.into(), expected: "0 or 1".into() });
    }
    let sealed = flags & SEALED != 0;
    if region.file_bytes().is_some() && !sealed {
        return Err(OpenError::NotSealed);
    }
    if sealed {
        check_header(&fields, what)?;
    }
    Ok(Common { sealed, pair: fields.u64(at::PAIR), fields })
}

/// Checks the checksum of a header that does not change any more.
pub(crate) fn check_header(fields: &Fields, what: &'static str) -> Result<(), OpenError> {
    let (got, expected) = (crc32c::crc32c(&fields.page()[..at::HEADER_CRC]), fields.u32(at::HEADER_CRC));
    if got != expected {
        let (part, offset, length) = ("the header", 0, HEADER as u64);
        return Err(OpenError::Checksum { what, part, offset, length, got, expected });
    }
    Ok(())
}

/// Checks the total length that a header declares against the layout and the region.
pub(crate) fn check_length(
    common: &Common,
    region: &Region,
    end: Option<usize>,
    what: &'static str,
) -> Result<(), OpenError> {
    let declared = common.fields.u64(at::LENGTH);
    let have = region.capacity() as u64;
    let expected = end.map(|end| if common.sealed { end + trailer_bytes(end) } else { end } as u64);
    if expected != Some(declared) {
        let expected = expected.map_or("sizes that can be addressed".into(), |e| e.to_string());
        return Err(OpenError::Field { what, field: "length", got: declared, expected });
    }
    // A live region may be larger than what was laid out in it; a file has exactly its length.
    if have < declared || (common.sealed && have != declared) {
        return Err(OpenError::Length { what, got: have, expected: declared });
    }
    Ok(())
}

/// Compares one field of a header with what it must be.
pub(crate) fn expect(what: &'static str, field: &'static str, got: u64, expected: u64) -> Result<(), OpenError> {
    if got == expected {
        return Ok(());
    }
    Err(OpenError::Field { what, field, got, expected: expected.to_string() })
}

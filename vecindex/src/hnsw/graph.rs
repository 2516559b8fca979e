//! The graph's bytes in a region: links of level 0, towers of links above it, a label per node. Drawn in `format`.
//!
//! A row of links has a fixed number of slots; an empty slot is `u32::MAX` and does not end the row. Slots are changed one
//! by one, so a reader may miss a neighbour that comes or goes but never meets half an id. Where rows are linked one by one, what
//! stays keeps its slot, and no reader misses it; a batch writes the rows that it changes anew, nearest first, and who reads one
//! just then may miss what moves. On level 0 one slot may be marked: it names the node's twin (see `twins`), and since no id is as
//! large, whoever follows links passes over it.
//!
//! # Invariants
//! * Tower and label of a node are written before the number of rows covers it, its empty link rows too.
//! * Nothing read from the region is believed: ids and tower offsets are checked against sizes that were checked against
//!   the region when it was opened, so a damaged file leads to wrong neighbours at worst.
//! * Only the value made by `create` writes; its locks live on its own heap and are unknown to readers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use kriya_region::Region;

use super::HnswParams;
use super::writer::Writer;
use crate::error::{CreateError, OpenError, PushError};
use crate::format::{self, Fields, GRAPH_MAGIC, GraphLayout, MAX_LEVEL, MAX_ROWS, TOWER_BITS, at};
use crate::kernel::prefetch_line;

/// What [`Hnsw::label`](super::Hnsw::label) gives for an id that is not a row.
pub const NO_LABEL: [u64; 2] = [u64::MAX; 2];

/// An empty slot in a row of links.
pub(crate) const EMPTY: u32 = u32::MAX;
/// Added to the id in a slot that names a twin.
pub(crate) const TWIN: u32 = 1 << 31;

const NO_ENTRY: u64 = u64::MAX;

/// The twin that a slot names, if it does not hold a link or nothing.
pub(crate) fn twin_in(slot: u32) -> Option<u32> {
    (slot >= TWIN && slot != EMPTY).then_some(slot & !TWIN)
}

/// The links between rows, in a region.
#[derive(Debug)]
pub struct Graph {
    region: Arc<Region>,
    fields: Fields,
    layout: GraphLayout,
    params: HnswParams,
    capacity: u32,
    upper_capacity: u32,
    sealed: bool,
    pair: u64,
    writer: Option<Writer>,
}

impl Graph {
    /// Bytes that a region needs for a graph of `capacity` nodes with `m` links each (2 `m` on level 0).
    ///
    /// # Errors
    /// `m` other than 2 to 100, a capacity of 0 or over 2^31 - 1, or a size that cannot be addressed.
    pub fn bytes_needed(capacity: u32, m: usize) -> Result<usize, CreateError> {
        let params = HnswParams { m, ef_construction: 1000, ..HnswParams::default() };
        params.check()?;
        Ok(Self::layout(m, capacity)?.1.end)
    }

    /// Upper rows that are set aside, and the layout. Levels are drawn so that there are 1/(m-1) upper rows a node; a
    /// quarter more and a constant keep the chance of running out negligible, and then towers just stay lower.
    fn layout(m: usize, capacity: u32) -> Result<(u32, GraphLayout), CreateError> {
        let bad = CreateError::Parameter { what: "the capacity", got: capacity.into(), min: 1, max: MAX_ROWS.into() };
        if capacity == 0 || capacity > MAX_ROWS {
            return Err(bad);
        }
        let upper = u64::from(capacity) * 5 / (4 * (m as u64 - 1)) + 64;
        let upper = upper.min((1 << TOWER_BITS) - 1) as u32;
        Ok((upper, GraphLayout::of(m, capacity, upper).ok_or(bad)?))
    }

    /// Lays out room for `capacity` nodes in a zeroed region that this process writes. Links of level 0, the bulk, are
    /// committed as nodes come.
    ///
    /// # Errors
    /// Parameters out of range, a region that is too small, read-only or in use, no memory.
    pub fn create(region: Arc<Region>, params: HnswParams, capacity: u32) -> Result<Graph, CreateError> {
        params.check()?;
        let (upper_capacity, layout) = Self::layout(params.m, capacity)?;
        let fields = format::claim(&region, layout.end, layout.level0)?;
        let word = |at: usize, value: u32| fields.word(at).store(value, Ordering::Relaxed);
        let long = |at: usize, value: u64| fields.long(at).store(value, Ordering::Relaxed);
        long(at::LENGTH, layout.end as u64);
        word(at::CHUNK, format::CHUNK as u32);
        word(at::M, params.m as u32);
        word(at::EF, params.ef_construction as u32);
        long(at::SEED, params.seed);
        word(at::CAPACITY, capacity);
        word(at::UPPER_CAPACITY, upper_capacity);
        long(at::TOWERS, layout.towers as u64);
        long(at::LABELS, layout.labels as u64);
        long(at::UPPER, layout.upper as u64);
        long(at::LEVEL0, layout.level0 as u64);
        long(at::ENTRY, NO_ENTRY);
        fields.long(at::MAGIC).store(u64::from_ne_bytes(GRAPH_MAGIC), Ordering::Release);
        let writer = Some(Writer::new(capacity, params.m));
        Ok(Graph { region, fields, layout, params, capacity, upper_capacity, sealed: false, pair: 0, writer })
    }

    /// Opens a graph for reading: shared memory that another process links in, or a sealed file. Only the header is read.
    ///
    /// # Errors
    /// Anything in the header that cannot be, with what was found and what was expected.
    pub fn open(region: Arc<Region>) -> Result<Graph, OpenError> {
        const WHAT: &str = "graph";
        let common = format::open_common(&region, GRAPH_MAGIC, WHAT)?;
        let fields = common.fields.clone();
        let params = HnswParams {
            m: fields.u32(at::M) as usize,
            ef_construction: fields.u32(at::EF) as usize,
            seed: fields.u64(at::SEED),
        };
        if let Err(e) = params.check() {
            let field = "m or ef_construction";
            return Err(OpenError::Field { what: WHAT, field, got: params.m as u64, expected: e.to_string() });
        }
        let (capacity, upper_capacity) = (fields.u32(at::CAPACITY), fields.u32(at::UPPER_CAPACITY));
        if capacity > MAX_ROWS || upper_capacity >> TOWER_BITS != 0 {
            let expected = format!("at most {MAX_ROWS}");
            return Err(OpenError::Field { what: WHAT, field: "capacity", got: capacity.into(), expected });
        }
        let layout = GraphLayout::of(params.m, capacity, upper_capacity);
        format::check_length(&common, &region, layout.map(|l| l.end), WHAT)?;
        let Some(layout) = layout else {
            return Err(OpenError::Length { what: WHAT, got: region.capacity() as u64, expected: u64::MAX });
        };
        format::expect(WHAT, "offset of the towers", fields.u64(at::TOWERS), layout.towers as u64)?;
        format::expect(WHAT, "offset of the labels", fields.u64(at::LABELS), layout.labels as u64)?;
        format::expect(WHAT, "offset of the upper links", fields.u64(at::UPPER), layout.upper as u64)?;
        format::expect(WHAT, "offset of level 0", fields.u64(at::LEVEL0), layout.level0 as u64)?;
        if common.sealed {
            format::expect(WHAT, "number of linked rows", fields.u32(at::LINKED).into(), capacity.into())?;
        }
        let (sealed, pair) = (common.sealed, common.pair);
        Ok(Graph { region, fields, layout, params, capacity, upper_capacity, sealed, pair, writer: None })
    }

    /// Nodes there is room for.
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// What the graph is built with.
    pub fn params(&self) -> HnswParams {
        self.params
    }

    /// Whether this is a sealed file, which never changes.
    pub fn is_sealed(&self) -> bool {
        self.sealed
    }

    pub(crate) fn pair(&self) -> u64 {
        self.pair
    }

    pub(crate) fn linked(&self) -> u32 {
        self.fields.word(at::LINKED).load(Ordering::Acquire).min(self.capacity)
    }

    pub(crate) fn writer(&self) -> Option<&Writer> {
        self.writer.as_ref()
    }

    /// Makes a graph whose links are in memory of its own one that is written again.
    pub(crate) fn set_writer(&mut self, writer: Writer) {
        self.writer = Some(writer);
    }

    pub(crate) fn upper_used(&self) -> u32 {
        self.fields.word(at::UPPER_USED).load(Ordering::Acquire).min(self.upper_capacity)
    }

    /// Top level and the node to start from; `None` while nothing is linked, or if what stands there cannot be.
    pub(crate) fn entry(&self) -> Option<(u32, u32)> {
        let entry = self.fields.long(at::ENTRY).load(Ordering::Acquire);
        let (level, id) = ((entry >> 32) as u32, entry as u32);
        (level <= MAX_LEVEL && id < self.capacity).then_some((level, id))
    }

    pub(crate) fn set_entry(&self, level: u32, id: u32) {
        self.fields.long(at::ENTRY).store(u64::from(level) << 32 | u64::from(id), Ordering::Release);
    }

    /// The number of links in a row of a level.
    pub(crate) fn degree(&self, level: u32) -> usize {
        if level == 0 { 2 * self.params.m } else { self.params.m }
    }

    fn words(&self, offset: usize, count: usize) -> &[AtomicU32] {
        // The layout was checked against the region, and callers stay within a section of it.
        debug_assert!(offset.is_multiple_of(4) && offset + 4 * count <= self.layout.end);
        // SAFETY: the range lies in a section (towers, upper links, level 0), all of which lie in the region; it is aligned;
        // these words are only ever accessed as atomics once readers can reach them; loads of this size are plain loads,
        // which a read-only map allows; the map lives as long as self.
        unsafe { std::slice::from_raw_parts(self.region.as_ptr().wrapping_add(offset).cast(), count) }
    }

    pub(crate) fn tower(&self, id: u32) -> u32 {
        if id >= self.capacity {
            return 0;
        }
        self.words(self.layout.towers + 4 * id as usize, 1)[0].load(Ordering::Relaxed)
    }

    /// The highest level a node is on.
    pub(crate) fn level(&self, id: u32) -> u32 {
        (self.tower(id) >> TOWER_BITS).min(MAX_LEVEL)
    }

    /// A node's slots on a level; none where the node does not reach or the offset cannot be. `id` below the number of rows.
    #[inline]
    pub(crate) fn links(&self, id: u32, level: u32) -> &[AtomicU32] {
        if id >= self.capacity {
            return &[];
        }
        let degree = self.degree(level);
        if level == 0 {
            return self.words(self.layout.level0 + id as usize * degree * 4, degree);
        }
        let tower = self.tower(id);
        if level > tower >> TOWER_BITS {
            return &[];
        }
        let row = (tower & ((1 << TOWER_BITS) - 1)) + level - 1;
        if row >= self.upper_capacity {
            return &[];
        }
        self.words(self.layout.upper + row as usize * degree * 4, degree)
    }

    /// The next of the nodes that have the same row as this one. An acquire: it is a row by the time this returns, unless
    /// the file is damaged.
    pub(crate) fn twin(&self, id: u32) -> Option<u32> {
        self.links(id, 0).iter().find_map(|slot| twin_in(slot.load(Ordering::Acquire)))
    }

    /// Asks for a node's links of level 0.
    #[inline]
    pub(crate) fn prefetch(&self, id: u32) {
        let bytes = self.params.m * 8;
        let row = self.region.as_ptr().wrapping_add(self.layout.level0 + id as usize * bytes);
        for line in 0..bytes.div_ceil(64) {
            prefetch_line(row.wrapping_add(64 * line));
        }
    }

    /// The label of a node below the number of rows the caller has acquired.
    pub(crate) fn label(&self, id: u32) -> [u64; 2] {
        assert!(id < self.capacity);
        let at = self.region.as_ptr().wrapping_add(self.layout.labels + 16 * id as usize);
        // SAFETY: inside the section, aligned to 16, written before the number of rows covered it and never again.
        unsafe { at.cast::<[u64; 2]>().read() }
    }

    /// Writes what must be there before the number of rows covers node `id`: label, tower, empty links. Returns the upper
    /// rows used so far, to be confirmed by [`Graph::confirm`] once the row is stored. One caller at a time.
    pub(crate) fn prepare(&self, id: u32, label: [u64; 2]) -> Result<u32, PushError> {
        self.prepare_level(id, label, self.params.level_of(id))
    }

    /// Adds a node, which nothing links to yet, to a graph that nobody else has. It stays lower where towers have no room.
    pub(crate) fn add(&self, id: u32, label: [u64; 2], level: u32) -> Result<(), PushError> {
        self.confirm(self.prepare_level(id, label, level)?);
        Ok(())
    }

    fn prepare_level(&self, id: u32, label: [u64; 2], level: u32) -> Result<u32, PushError> {
        if self.writer.is_none() {
            return Err(PushError::ReadOnly);
        }
        let Some(start) = self.region.as_mut_ptr() else { return Err(PushError::ReadOnly) };
        if id >= self.capacity {
            return Err(PushError::Full { capacity: self.capacity });
        }
        let row = 8 * self.params.m;
        self.region.commit(self.layout.level0 + (id as usize + 1) * row).map_err(PushError::Memory)?;
        let used = self.upper_used();
        let level = level.min(self.upper_capacity - used);
        // SAFETY: inside the labels' section of a region this process writes; nobody reads the label before the number of
        // rows covers it, and callers take turns.
        unsafe { start.add(self.layout.labels + 16 * id as usize).cast::<[u64; 2]>().write(label) };
        self.words(self.layout.towers + 4 * id as usize, 1)[0].store(level << TOWER_BITS | used, Ordering::Relaxed);
        for level in 0..=level {
            for slot in self.links(id, level) {
                slot.store(EMPTY, Ordering::Relaxed);
            }
        }
        Ok(used + level)
    }

    pub(crate) fn confirm(&self, upper_used: u32) {
        self.fields.word(at::UPPER_USED).store(upper_used, Ordering::Release);
    }

    /// Every node below is linked.
    pub(crate) fn set_linked(&self, linked: u32) {
        self.fields.word(at::LINKED).store(linked, Ordering::Release);
    }
}

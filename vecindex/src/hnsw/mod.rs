//! HNSW (Malkov and Yashunin, 2016) over any [`VectorStorage`]: appending, linking, searching.
//!
//! Reading: a search descends the upper levels greedily, then keeps a pool of the nearest rows on level 0 (`search`,
//! `queue`, `visited`); a cursor resumes it (`cursor`). Writing: rows are appended under a lock and linked by any number of
//! threads (`insert`, `prune`), each holding one node's lock at a time. Rows are deleted by leaving
//! them out, of searches (`filter`) and of copies (`order`, `delete`); two indexes become one by linking the rows of one into a copy of the
//! other (`merge`).
//!
//! Every linked row is reached: nodes by a spanning tree whose edges are never given up (`tree`), rows that are equal to
//! another one through that one (`twins`).
//!
//! # Hazards
//! * A search beside a writer may meet a row of links half replaced; it may then miss a neighbour that it would have met a
//!   moment later. It never meets an unfinished row.
//! * Rows are linked out of order by several threads. `linked` counts only those without a gap below them; a search compares
//!   everything from there on exactly, and drops from the graph's results what that part covers.

mod bulk;
mod cursor;
mod delete;
mod filter;
#[allow(unsafe_code)] // links are atomics in raw memory
mod graph;
mod insert;
mod left;
mod merge;
mod order;
mod over;
mod prune;
mod queue;
mod search;
mod tree;
mod twins;
mod visited;
mod writer;

pub use bulk::BuildOn;
pub use cursor::SearchCursor;
pub use filter::FilteredSearch;
pub(crate) use graph::{EMPTY, TWIN, twin_in};
pub use graph::{Graph, NO_LABEL};
pub use insert::BuildContext;
pub use merge::MergeError;
pub use order::OrderError;
pub(crate) use queue::{Key, Pool};

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use kriya_region::Region;
pub(crate) use writer::Writer;

use crate::error::{CreateError, LinkError, OpenError, PushError, SearchError};
use crate::format::MAX_LEVEL;
use crate::metric::{Metric, Neighbour};
use crate::storage::{AppendVectors, Encoding, F32Rows, Rows, VectorStorage};

/// How a graph is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HnswParams {
    /// Links of a node on each level above 0, and half of those on level 0: 2 to 100.
    pub m: usize,
    /// Rows kept in view while a node is linked: 4 to 1000, at least 2 `m`. More makes a better graph, slower.
    pub ef_construction: usize,
    /// Levels are drawn from a hash of (seed, id), so that a build can be repeated.
    pub seed: u64,
}

impl Default for HnswParams {
    fn default() -> Self {
        HnswParams { m: 16, ef_construction: 200, seed: 0x6b72_6979_6100_0001 }
    }
}

impl HnswParams {
    /// Checks the ranges.
    ///
    /// # Errors
    /// The first parameter that is out of its range.
    pub fn check(&self) -> Result<(), CreateError> {
        let within = |what, got: usize, min: usize, max: usize| {
            let (got64, min64, max64) = (got as u64, min as u64, max as u64);
            let bad = CreateError::Parameter { what, got: got64, min: min64, max: max64 };
            if (min..=max).contains(&got) { Ok(()) } else { Err(bad) }
        };
        within("m", self.m, 2, 100)?;
        within("ef_construction", self.ef_construction, (2 * self.m).max(4), 1000)
    }

    /// A number of chance for a row, always the same.
    fn draw(&self, id: u32) -> u64 {
        // SplitMix64's finaliser, a good mix of few bits.
        let mut z = self.seed ^ (u64::from(id).wrapping_add(1)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// The level of a node: at least l with probability m^-l.
    fn level_of(&self, id: u32) -> u32 {
        let z = self.draw(id);
        let m = self.m as u64;
        let (mut level, mut bound) = (0, u64::MAX / m);
        while z < bound && level < MAX_LEVEL {
            level += 1;
            bound /= m;
        }
        level
    }
}

/// Rows that are worth being linked in batches: at least so many, and one for so many that are linked.
const MANY: u32 = 256;
const MANY_OF: u32 = 64;

/// Tells indexes of a process apart, so that a cursor notices when it is handed another one.
static NEXT_INSTANCE: AtomicU64 = AtomicU64::new(1);

/// An index: rows and the graph over them.
#[derive(Debug)]
pub struct Hnsw<S: VectorStorage = F32Rows> {
    storage: S,
    graph: Graph,
    append: Mutex<()>,
    instance: u64,
}

impl<S: VectorStorage> Hnsw<S> {
    /// Joins rows and graph, both new, both opened, or both sealed. See [`Hnsw::over`] for a new graph over rows that are there.
    ///
    /// # Errors
    /// `Mismatch` if more rows are linked than there are, the rows have more than the graph can hold, or the graph is new and
    /// the rows are not.
    pub fn new(storage: S, graph: Graph) -> Result<Hnsw<S>, CreateError> {
        let len = storage.len();
        if len > 0 && graph.writer().is_some() && graph.linked() == 0 && graph.entry().is_none() {
            let why = format!("the graph is new, but there are {len} rows already, which `Hnsw::over` takes");
            return Err(CreateError::Mismatch(why));
        }
        Self::join(storage, graph)
    }

    fn join(storage: S, graph: Graph) -> Result<Hnsw<S>, CreateError> {
        // Linked first: it follows the number of rows.
        let (linked, len) = (graph.linked(), storage.len());
        if linked > len {
            return Err(CreateError::Mismatch(format!("{linked} rows are linked, but there are {len}")));
        }
        if len > graph.capacity() {
            let nodes = graph.capacity();
            return Err(CreateError::Mismatch(format!("there are {len} rows, but room for {nodes} nodes")));
        }
        let instance = NEXT_INSTANCE.fetch_add(1, Ordering::Relaxed);
        Ok(Hnsw { storage, graph, append: Mutex::new(()), instance })
    }

    /// Number of rows, pending ones included.
    pub fn len(&self) -> u32 {
        self.storage.len().min(self.graph.capacity())
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Every row below this is linked; the rest is pending and searched exactly.
    pub fn linked(&self) -> u32 {
        self.graph.linked()
    }

    /// The two numbers that were given with the row; [`NO_LABEL`] if there is no such row.
    pub fn label(&self, id: u32) -> [u64; 2] {
        if id < self.len() { self.graph.label(id) } else { NO_LABEL }
    }

    /// What the graph is built with.
    pub fn params(&self) -> HnswParams {
        self.graph.params()
    }

    /// Dimensions of the rows.
    pub fn dim(&self) -> usize {
        self.storage.dim()
    }

    /// How rows are compared.
    pub fn metric(&self) -> Metric {
        self.storage.metric()
    }

    /// Rows there is room for.
    pub fn capacity(&self) -> u32 {
        self.graph.capacity()
    }

    /// The rows.
    pub fn storage(&self) -> &S {
        &self.storage
    }

    /// The links.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Appends a row with its label and returns its id. It is found by searches of any process from now on, and pending
    /// until it is linked. Appenders take turns.
    ///
    /// # Errors
    /// No room, no memory, a vector that cannot be stored, an index opened for reading. Nothing is appended then.
    pub fn append(&self, row: &[f32], label: [u64; 2]) -> Result<u32, PushError>
    where
        S: AppendVectors,
    {
        self.append_as(label, || self.storage.push(row))
    }

    /// As [`Hnsw::append`], by a function that appends a row to the storage.
    fn append_as(&self, label: [u64; 2], push: impl FnOnce() -> Result<u32, PushError>) -> Result<u32, PushError> {
        let _one = self.append.lock().unwrap_or_else(PoisonError::into_inner);
        let expected = self.storage.len();
        let upper_used = self.graph.prepare(expected, label)?;
        let got = push()?;
        if got != expected {
            return Err(PushError::Order { got, expected });
        }
        self.graph.confirm(upper_used);
        Ok(got)
    }

    /// Links one pending row, beside searches in any process and other rows being linked by other threads. A row that is
    /// linked already, or is being linked by another thread, is left alone. While [`Hnsw::link_pending`] links in batches, this
    /// returns at once, and the row is linked at the end of that (or stays pending, if that is given up).
    ///
    /// # Errors
    /// No such row, or a graph opened for reading.
    pub fn link(&self, id: u32, context: &mut BuildContext<S>) -> Result<(), LinkError> {
        let Some(writer) = self.graph.writer() else { return Err(LinkError::ReadOnly) };
        let len = self.len();
        if id >= len {
            return Err(LinkError::Unknown { id, len });
        }
        if writer.claim(id) {
            self.link_claimed(writer, id, context);
        }
        Ok(())
    }

    /// Links everything that is pending when it starts, on all threads of the current rayon pool (call it inside
    /// `ThreadPool::install` to choose another). Rows that other threads are linking at the same time may not be finished
    /// when this returns.
    ///
    /// Many rows, or those of an index in which nothing is linked, are linked in batches: that is faster, [`Hnsw::linked`] rises
    /// at the end only ([`Hnsw::progress`] rises meanwhile), rows that come in later are linked after that, and the graph is
    /// the same whatever the number of threads, as long as the same rows are linked by the same calls. See `hnsw::bulk`.
    ///
    /// # Errors
    /// A graph opened for reading.
    pub fn link_pending(&self) -> Result<(), LinkError> {
        self.link_pending_while(|| true)
    }

    /// As [`Hnsw::link_pending`], asking `go_on` now and then; once it says no, the rest stays pending.
    ///
    /// # Errors
    /// A graph opened for reading.
    pub fn link_pending_while(&self, go_on: impl Fn() -> bool + Sync) -> Result<(), LinkError> {
        self.link_pending_on(BuildOn::default(), go_on)
    }

    /// As [`Hnsw::link_pending_while`], choosing what is compared if there are so many rows that they are linked in batches.
    ///
    /// # Errors
    /// A graph opened for reading.
    pub fn link_pending_on(&self, on: BuildOn, go_on: impl Fn() -> bool + Sync) -> Result<(), LinkError> {
        let Some(writer) = self.graph.writer() else { return Err(LinkError::ReadOnly) };
        let end = self.len();
        let (linked, pending) = (self.linked(), end.saturating_sub(self.linked()));
        let many = linked == 0 || (pending >= MANY && pending >= linked / MANY_OF);
        if pending > 0 && many && self.link_in_batches(writer, end, on, &go_on) {
            return Ok(());
        }
        // Rows are handed out in order, so that `linked` follows closely and no thread starts far from the others.
        let next = AtomicU32::new(linked);
        let work = || {
            let mut context = BuildContext::default();
            while go_on() {
                let id = next.fetch_add(1, Ordering::Relaxed);
                if id >= end || self.link(id, &mut context).is_err() {
                    break;
                }
            }
        };
        rayon::scope(|scope| {
            for _ in 0..rayon::current_num_threads() {
                scope.spawn(|_| work());
            }
        });
        Ok(())
    }

    /// Links everything that is pending, for the only one who links: the graph is the same whatever the number of threads,
    /// however few rows there are.
    pub(crate) fn link_alone(&self) -> Result<(), LinkError> {
        let Some(writer) = self.graph.writer() else { return Err(LinkError::ReadOnly) };
        let (linked, end) = (self.linked(), self.len());
        let many = linked == 0 || end.saturating_sub(linked) >= MANY;
        if linked < end && many && self.link_in_batches(writer, end, BuildOn::default(), &|| true) {
            return Ok(());
        }
        let mut context = BuildContext::default();
        (linked..end).try_for_each(|id| self.link(id, &mut context))
    }

    /// Links what is pending below `end`. False if somebody else is linking rows.
    fn link_in_batches(&self, writer: &Writer, end: u32, on: BuildOn, go_on: &(impl Fn() -> bool + Sync)) -> bool {
        let Some(alone) = writer.enter_alone() else { return false };
        let claimed: Vec<u32> = (self.linked()..end).filter(|id| writer.claim(*id)).collect();
        bulk::link(self, writer, &claimed, on, go_on);
        drop(alone);
        self.link_all_left(writer, go_on);
        true
    }

    /// How many rows are linked, those included that [`Hnsw::linked`] does not count because an earlier one is not.
    pub fn progress(&self) -> u32 {
        self.graph.writer().map_or(0, Writer::progress).max(self.linked())
    }

    /// Linked rows that no walk along the links of level 0 meets from where searches start: there are none. For checks.
    pub fn unreached(&self) -> Vec<u32> {
        let (linked, len) = (self.linked(), self.len());
        let mut visited = visited::Visited::default();
        visited.reset(len);
        let mut found: Vec<u32> = self.graph.entry().map(|(_, id)| id).into_iter().filter(|id| *id < len).collect();
        found.retain(|id| visited.insert(*id));
        while let Some(id) = found.pop() {
            let slots = self.graph.links(id, 0).iter().map(|slot| slot.load(Ordering::Acquire));
            let next = slots.map(|slot| twin_in(slot).unwrap_or(slot));
            found.extend(next.filter(|id| *id < len && visited.insert(*id)));
        }
        visited.missing(linked)
    }

    /// The `k` nearest rows by one search with a pool of `max(ef, k)`; the cursor keeps its memory for the next one.
    ///
    /// # Errors
    /// A query that the storage refuses.
    pub fn search(
        &self,
        query: &[f32],
        k: usize,
        ef: usize,
        cursor: &mut SearchCursor<S>,
    ) -> Result<Vec<Neighbour>, SearchError> {
        // More than there are is as good as all.
        let k = k.min(self.len() as usize);
        cursor.start(self, query, ef.max(k))?;
        cursor.expect(k);
        let mut found = Vec::with_capacity(k.min(self.len() as usize));
        while found.len() < k {
            let Some(neighbour) = cursor.next(self) else { break };
            found.push(neighbour);
        }
        Ok(found)
    }
}

impl<E: Encoding> Hnsw<Rows<E>> {
    /// Opens the two files that [`seal`](crate::seal) wrote. Only the headers are read: [`verify`](crate::verify) checks
    /// everything else, once, where the files are written or fetched.
    ///
    /// # Errors
    /// Headers that cannot be, or two files that do not belong together.
    pub fn open_sealed(rows: Arc<Region>, graph: Arc<Region>) -> Result<Hnsw<Rows<E>>, OpenError> {
        let (rows, graph) = (Rows::open(rows)?, Graph::open(graph)?);
        if !rows.is_sealed() || !graph.is_sealed() {
            return Err(OpenError::NotSealed);
        }
        if rows.pair() != graph.pair() || rows.capacity() != graph.capacity() {
            return Err(OpenError::Mismatch(format!(
                "{} rows of seal {:016x}, {} nodes of seal {:016x}",
                rows.capacity(),
                rows.pair(),
                graph.capacity(),
                graph.pair()
            )));
        }
        Hnsw::new(rows, graph).map_err(|e| OpenError::Mismatch(e.to_string()))
    }
}

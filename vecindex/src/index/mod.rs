//! [`Index`]: an index that owns its memory, grows, and knows its rows by keys.
//!
//! Adding: a row is stored, linked, and found from then on. Where there is no room left, everything is copied to a place with twice
//! as much. Removing marks a row, which searches walk through and leave out; its memory comes back with
//! [`Index::consolidate`], and whenever the index is copied anyhow. So an index never has a slot whose row changes.
//!
//! Whoever changes an index needs it alone (`&mut`), searches share it (`&`): wrap it in an `RwLock` for both at once, or
//! use [`Hnsw`](crate::Hnsw), on which this is built and which is appended to and linked beside searches in any process.
//!
//! # Invariants
//! * Every row is linked between two calls. Exact rows, if they are kept, are as many and in the same order.
//! * `keys` has exactly the rows that are not in `gone`.

mod add;
mod builder;
mod error;
mod files;
mod remove;
mod search;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

pub use builder::IndexBuilder;
pub use error::{AddError, SaveError};
pub use search::{Hit, Search, SearchContext, Selection};

use kriya_region::Region;

use crate::error::CreateError;
use crate::hnsw::{BuildContext, Graph, Hnsw, HnswParams, Writer};
use crate::ids::IdSet;
use crate::metric::Metric;
use crate::storage::{Encoding, F32, F32Rows, Rows, VectorStorage};

/// Tells what an index was from what it is, and from all others: selections of rows are of one of them.
static NEXT_VERSION: AtomicU64 = AtomicU64::new(1);

fn next_version() -> u64 {
    NEXT_VERSION.fetch_add(1, Ordering::Relaxed)
}

/// Nearest neighbours among rows with keys, in memory of its own. `E` is how rows are stored: [`F32`],
/// [`SplitF32`](crate::SplitF32), [`F16`](crate::F16), [`Bf16`](crate::Bf16), [`I8`](crate::I8) or
/// [`SplitI8`](crate::SplitI8).
///
/// ```
/// use vecindex::{Index, Metric};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut index: Index = Index::builder(2, Metric::L2).build()?;
/// index.add(7, &[0.0, 1.0])?;
/// index.extend([(8, [1.0, 1.0]), (9, [5.0, 1.0])])?;
/// index.remove(8);
/// let nearest = index.search(&[1.0, 1.0], 2)?;
/// assert_eq!(nearest.iter().map(|hit| hit.key).collect::<Vec<_>>(), [7, 9]);
/// # Ok(()) }
/// ```
pub struct Index<E: Encoding = F32> {
    hnsw: Hnsw<Rows<E>>,
    /// Beside codes: the rows as they were given.
    exact: Option<F32Rows>,
    /// The row of each key; made when it is first asked for, where an index came from a file.
    keys: OnceLock<HashMap<u64, u32>>,
    /// Rows that were removed.
    gone: IdSet,
    version: u64,
    building: BuildContext<Rows<E>>,
    /// Memory of searches that are over.
    contexts: Mutex<Vec<SearchContext<E>>>,
}

/// What an index takes, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Memory {
    /// Rows as they are searched, removed ones included.
    pub rows: usize,
    /// Links and keys beside the rows.
    pub graph: usize,
    /// The rows as they were given, for reranking.
    pub exact: usize,
    /// From key to row, and what is removed; about.
    pub keys: usize,
    /// What adding rows needs to know, in an index that rows were added to: which are equal, who leads to whom; about.
    pub adding: usize,
}

impl Memory {
    /// All of it, but for what is kept to be used again by later searches and additions: a few bits a row and some thousand
    /// bytes for each thread that was searching at once.
    pub fn total(&self) -> usize {
        self.rows + self.graph + self.exact + self.keys + self.adding
    }
}

impl<E: Encoding> Index<E> {
    /// Begins to make an index of rows of `dim` dimensions.
    pub fn builder(dim: usize, metric: Metric) -> IndexBuilder<E> {
        IndexBuilder::new(dim, metric)
    }

    fn of(hnsw: Hnsw<Rows<E>>, exact: Option<F32Rows>, keys: OnceLock<HashMap<u64, u32>>) -> Index<E> {
        let (gone, building, contexts) = (IdSet::new(), BuildContext::default(), Mutex::default());
        Index { hnsw, exact, keys, gone, version: next_version(), building, contexts }
    }

    /// Rows in the index.
    pub fn len(&self) -> usize {
        self.hnsw.len() as usize - self.gone.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Rows that were removed and still take memory, until [`Index::consolidate`].
    pub fn removed(&self) -> usize {
        self.gone.len()
    }

    /// Dimensions of every row.
    pub fn dim(&self) -> usize {
        self.hnsw.dim()
    }

    /// How rows are compared.
    pub fn metric(&self) -> Metric {
        self.hnsw.metric()
    }

    /// What the graph is built with.
    pub fn params(&self) -> HnswParams {
        self.hnsw.params()
    }

    /// Whether there is a row of this key.
    pub fn contains(&self, key: u64) -> bool {
        self.keys().contains_key(&key)
    }

    /// The row of a key: as it was given if exact rows are kept or rows are stored as floats of 32 bits, else rounded.
    pub fn get(&self, key: u64) -> Option<Vec<f32>> {
        let id = *self.keys().get(&key)?;
        let mut row = vec![0.0; self.dim()];
        match &self.exact {
            Some(exact) => exact.read(id, &mut row),
            None => self.hnsw.storage().read(id, &mut row),
        }
        Some(row)
    }

    /// All keys, in no order.
    pub fn all_keys(&self) -> impl Iterator<Item = u64> + '_ {
        self.ids().map(|id| self.key(id))
    }

    /// What the index takes of memory. Room that no row has used yet takes next to none.
    pub fn memory(&self) -> Memory {
        let len = self.hnsw.len().max(1);
        let rows = Rows::<E>::bytes_needed(self.dim(), len).unwrap_or(0);
        let graph = Graph::bytes_needed(len, self.params().m).unwrap_or(0);
        let exact = self.exact.as_ref().and_then(|_| F32Rows::bytes_needed(self.dim(), len).ok()).unwrap_or(0);
        let entries = self.keys.get().map_or(0, HashMap::capacity);
        // A byte beside each entry, and one of eight left free.
        let keys = entries * (size_of::<(u64, u32)>() + 1) * 8 / 7 + self.gone.bytes();
        let adding = self.hnsw.graph().writer().map_or(0, Writer::bytes);
        Memory { rows, graph, exact, keys, adding }
    }

    fn key(&self, id: u32) -> u64 {
        self.hnsw.label(id)[0]
    }

    /// Rows that were not removed.
    fn ids(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.hnsw.len()).filter(|id| !self.gone.contains(*id))
    }

    fn keys(&self) -> &HashMap<u64, u32> {
        self.keys.get_or_init(|| self.ids().map(|id| (self.key(id), id)).collect())
    }

    fn keys_mut(&mut self) -> &mut HashMap<u64, u32> {
        self.keys();
        match self.keys.get_mut() {
            Some(keys) => keys,
            None => unreachable!("they were made one line above"),
        }
    }
}

impl<E: Encoding> fmt::Debug for Index<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Index");
        shown.field("len", &self.len()).field("removed", &self.removed()).field("dim", &self.dim());
        shown.field("metric", &self.metric()).finish_non_exhaustive()
    }
}

/// Rows on the heap.
fn rows<E: Encoding>(metric: Metric, dim: usize, capacity: u32) -> Result<Rows<E>, CreateError> {
    let region = Region::heap(Rows::<E>::bytes_needed(dim, capacity)?).map_err(CreateError::Memory)?;
    Rows::create(Arc::new(region), metric, dim, capacity)
}

//! What a graph needs to know of the vectors it is built over.
//!
//! A graph never sees elements, encodings or instruction sets, only distances: one call per expanded node, for all of its
//! neighbours, so that prefetching and the kernel live in one function and the call costs nothing that counts.

#[allow(unsafe_code)] // kernels are called
mod codes;
mod element;
#[allow(unsafe_code)] // kernels are called
mod encoding;
#[allow(unsafe_code)] // kernels are called
mod nibbles;
#[allow(unsafe_code)] // rows are raw memory
mod rows;
#[allow(unsafe_code)] // kernels are called
mod split;

pub use codes::I8;
pub use element::ElementType;
pub use encoding::{Bf16, Encoding, F16, F32};
pub use nibbles::SplitI8;
pub use rows::{F32Rows, Rows};
pub use split::SplitF32;

use crate::error::{PushError, RerankError, VectorError};
use crate::metric::{Metric, Neighbour};

/// Rows that a graph is searched over. Rows `0..len` are complete and never change; `len` only grows.
///
/// Distances are *internal* ones: smaller is nearer; [`Metric::to_user`] makes the user's number of them. They are the
/// squared distance (L2), 1 - cosine, or the negative inner product.
///
/// [`Rows`] is the storage of this crate. Another one is searched by the same code, without dynamic dispatch. This one has
/// counts of up to 255, a byte each, and compares them as they are:
///
/// ```
/// use std::sync::{Arc, OnceLock};
/// use std::sync::atomic::{AtomicU32, Ordering};
///
/// use vecindex::{
///     AppendVectors, Graph, Hnsw, HnswParams, Metric, PushError, Region, SearchCursor, VectorError, VectorStorage,
/// };
///
/// struct Histograms<const BINS: usize> {
///     rows: Box<[OnceLock<[u8; BINS]>]>,
///     len: AtomicU32,
/// }
///
/// impl<const BINS: usize> Histograms<BINS> {
///     fn row(&self, id: u32) -> &[u8; BINS] {
///         self.rows[id as usize].get().expect("ids below `len` are rows")
///     }
/// }
///
/// fn square(a: f32, b: f32) -> f32 {
///     (a - b) * (a - b)
/// }
///
/// impl<const BINS: usize> VectorStorage for Histograms<BINS> {
///     type Query = Vec<f32>;
///
///     fn metric(&self) -> Metric {
///         Metric::L2
///     }
///
///     fn dim(&self) -> usize {
///         BINS
///     }
///
///     fn len(&self) -> u32 {
///         self.len.load(Ordering::Acquire)
///     }
///
///     fn prepare(&self, raw: &[f32], query: &mut Vec<f32>) -> Result<(), VectorError> {
///         if raw.len() != BINS {
///             return Err(VectorError::Dimension { got: raw.len(), expected: BINS });
///         }
///         if let Some((at, value)) = raw.iter().enumerate().find(|(_, x)| !x.is_finite()) {
///             return Err(VectorError::NotFinite { at, value: *value });
///         }
///         raw.clone_into(query);
///         Ok(())
///     }
///
///     fn prepare_row(&self, id: u32, query: &mut Vec<f32>) {
///         query.clear();
///         query.extend(self.row(id).iter().map(|count| f32::from(*count)));
///     }
///
///     fn distances(&self, query: &Vec<f32>, ids: &[u32], out: &mut [f32]) {
///         for (id, out) in ids.iter().zip(out) {
///             *out = self.row(*id).iter().zip(query).map(|(count, x)| square(f32::from(*count), *x)).sum();
///         }
///     }
///
///     fn distance_between(&self, a: u32, b: u32) -> f32 {
///         self.row(a).iter().zip(self.row(b)).map(|(a, b)| square(f32::from(*a), f32::from(*b))).sum()
///     }
///
///     fn read(&self, id: u32, out: &mut [f32]) {
///         out.iter_mut().zip(self.row(id)).for_each(|(out, count)| *out = f32::from(*count));
///     }
/// }
///
/// impl<const BINS: usize> AppendVectors for Histograms<BINS> {
///     fn push(&self, raw: &[f32]) -> Result<u32, PushError> {
///         let id = self.len();
///         let Some(slot) = self.rows.get(id as usize) else {
///             return Err(PushError::Full { capacity: self.rows.len() as u32 });
///         };
///         self.prepare(raw, &mut Vec::new())?;
///         let mut row = [0; BINS];
///         for (at, (count, value)) in row.iter_mut().zip(raw).enumerate() {
///             if !(0.0..=255.0).contains(value) {
///                 return Err(PushError::Vector(VectorError::OutOfRange { at, value: *value }));
///             }
///             *count = value.round() as u8;
///         }
///         // Appenders take turns: `Hnsw::append` sees to it.
///         slot.set(row).expect("nobody else appends");
///         self.len.store(id + 1, Ordering::Release);
///         Ok(id)
///     }
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let params = HnswParams::default();
/// let rows = Histograms::<3> { rows: (0..1000).map(|_| OnceLock::new()).collect(), len: AtomicU32::new(0) };
/// let graph = Arc::new(Region::heap(Graph::bytes_needed(1000, params.m)?)?);
/// let index = Hnsw::new(rows, Graph::create(graph, params, 1000)?)?;
/// for i in 0..1000u64 {
///     index.append(&[(i % 10) as f32, (i / 10 % 10) as f32, (i / 100) as f32], [i, 0])?;
/// }
/// index.link_pending()?;
/// let found = index.search(&[7.2, 4.9, 2.0], 1, 32, &mut SearchCursor::default())?;
/// assert_eq!(index.label(found[0].id), [257, 0]);
/// # Ok(()) }
/// ```
pub trait VectorStorage: Send + Sync {
    /// What `prepare` makes of a query (padded, aligned, perhaps quantised); kept by the search and reused.
    type Query: Default + Send + Sync;

    /// How rows are compared.
    fn metric(&self) -> Metric;

    /// Dimensions of every row.
    fn dim(&self) -> usize;

    /// Number of rows. An acquire: everything about the rows below it is visible to this thread afterwards.
    fn len(&self) -> u32;

    /// Whether there are no rows.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Makes a query of `dim` floats ready for comparing.
    ///
    /// # Errors
    /// A wrong dimension, a component that is not finite, a length that would overflow distances.
    fn prepare(&self, raw: &[f32], query: &mut Self::Query) -> Result<(), VectorError>;

    /// Makes a stored row a query, without decoding it. `id < len`.
    fn prepare_row(&self, id: u32, query: &mut Self::Query);

    /// The hot loop: `out[i]` becomes the distance from the query to row `ids[i]`. All ids are below `len`, and `out` is
    /// as long as `ids`; a caller that breaks this gets a panic at worst.
    fn distances(&self, query: &Self::Query, ids: &[u32], out: &mut [f32]);

    /// Whether [`VectorStorage::distances`] only come near the true ones, which [`VectorStorage::exact_distances`] are: a search
    /// then walks by the former and hands out by the latter.
    fn is_coarse(&self) -> bool {
        false
    }

    /// As [`VectorStorage::distances`], as exact as the storage knows them.
    fn exact_distances(&self, query: &Self::Query, ids: &[u32], out: &mut [f32]) {
        self.distances(query, ids, out);
    }

    /// The distance of two rows, both below `len`. For pruning, which stops early and so asks one pair at a time.
    fn distance_between(&self, a: u32, b: u32) -> f32;

    /// A number that equal rows share and others hardly do. `id < len`.
    ///
    /// By default it is one of what [`VectorStorage::read`] gives.
    fn digest(&self, id: u32) -> u64 {
        // FNV-1a, by words. Zeros of either sign are one number.
        let step = |hash: u64, x: &f32| (hash ^ u64::from((x + 0.0).to_bits())).wrapping_mul(0x0000_0100_0000_01b3);
        read_row(self, id).iter().fold(0xcbf2_9ce4_8422_2325, step)
    }

    /// Whether two rows, both below `len`, are equal: at the same distance from whatever query. Rows that are equal and said
    /// not to be make searches slower, others that are said to be give wrong answers.
    ///
    /// By default they are if [`VectorStorage::read`] gives the same of both: storage that reads rows differently from how
    /// it compares them says it better.
    fn same(&self, a: u32, b: u32) -> bool {
        a == b || read_row(self, a) == read_row(self, b)
    }

    /// Row `id < len`, as it was given up to rounding, into `out` of `dim` floats.
    fn read(&self, id: u32, out: &mut [f32]);

    /// Bytes of memory that comparing with a row reads, all of it. Default: those of floats.
    fn row_bytes(&self) -> usize {
        4 * self.dim()
    }

    /// A hint that row `id` will be compared soon.
    fn prefetch(&self, _id: u32) {}
}

fn read_row<S: VectorStorage + ?Sized>(storage: &S, id: u32) -> Vec<f32> {
    let mut row = vec![0.0; storage.dim()];
    storage.read(id, &mut row);
    row
}

/// Storage that grows: one appender at a time, readers beside it.
pub trait AppendVectors: VectorStorage {
    /// Appends a row of `dim` floats and returns its id. The row is complete before `len` covers it.
    ///
    /// # Errors
    /// No room, no memory, a vector that cannot be stored, or a storage that is read-only here. Nothing is appended then.
    fn push(&self, raw: &[f32]) -> Result<u32, PushError>;
}

/// Exact distances for the head of a result list. The rows may be elsewhere (another file, a table), so this may fail; it
/// is called once per list.
pub trait Rerank: Send + Sync {
    /// Replaces every distance by the exact one (in the user's terms) and sorts by (distance, id).
    ///
    /// # Errors
    /// A bad query, an unknown row, or what reading the rows ran into.
    fn rerank(&self, query: &[f32], found: &mut [Neighbour]) -> Result<(), RerankError>;
}

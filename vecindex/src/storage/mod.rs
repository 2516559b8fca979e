//! What a graph needs to know of the vectors it is built over.
//!
//! A graph never sees elements, encodings or instruction sets, only distances: one call per expanded node, for all of its
//! neighbours, so that prefetching and the kernel live in one function and the call costs nothing that counts.

#[allow(unsafe_code)] // kernels are called
mod codes;
#[allow(unsafe_code)] // kernels are called
mod encoding;
#[allow(unsafe_code)] // rows are raw memory
mod rows;

pub use codes::I8;
pub use encoding::{Bf16, Encoding, F16, F32};
pub use rows::{F32Rows, Rows};

use crate::error::{PushError, RerankError, VectorError};
use crate::metric::{Metric, Neighbour};

/// Rows that a graph is searched over. Rows `0..len` are complete and never change; `len` only grows.
///
/// Distances are *internal* ones: smaller is nearer; [`Metric::to_user`] makes the user's number of them.
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

    /// The distance of two rows, both below `len`. For pruning, which stops early and so asks one pair at a time.
    fn distance_between(&self, a: u32, b: u32) -> f32;

    /// A number that equal rows share and others hardly do. `id < len`.
    fn digest(&self, id: u32) -> u64;

    /// Whether two rows, both below `len`, are equal: at the same distance from whatever query.
    fn same(&self, a: u32, b: u32) -> bool;

    /// Row `id < len`, as it was given up to rounding, into `out` of `dim` floats.
    fn read(&self, id: u32, out: &mut [f32]);

    /// A hint that row `id` will be compared soon.
    fn prefetch(&self, _id: u32) {}
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

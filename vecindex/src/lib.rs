//! Nearest-neighbour search inside a process: HNSW over rows that are owned, shared with other processes, or mapped.
//!
//! [`Index`] is what most programs want: it owns its memory, grows, knows rows by keys, removes and merges them, searches
//! among all or some, for one query or many, and is saved to a file and opened in place.
//!
//! ```
//! use vecindex::{I8, Index, Metric, Search, SearchContext};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // A byte a component, and the rows as they were given beside, for comparing exactly what was found.
//! let mut index = Index::<I8>::builder(3, Metric::Cosine).build()?;
//! index.extend((0..1000).map(|key| (key, [(key as f32 / 9.0).sin(), (key as f32 / 7.0).cos(), 0.5])))?;
//! index.remove(500);
//! let odd = |key| key % 2 == 1;
//! let how = Search::new().ef(100).filter(&odd);
//! let hits = index.search_with(&[0.3, 0.4, 0.5], 10, &how, &mut SearchContext::default())?;
//! assert!(hits.len() == 10 && hits.iter().all(|hit| hit.key % 2 == 1));
//! # Ok(()) }
//! ```
//!
//! Below it, for those who bring their own memory, processes or rows:
//!
//! Two structures stand side by side, each in a [`Region`] of its own: the rows ([`Rows`], encoded as [`F32`], [`SplitF32`],
//! [`F16`], [`Bf16`], [`I8`] or [`SplitI8`]) and the graph over them ([`Graph`]); [`Hnsw`] joins them. Their layout is the same in a heap build, in
//! shared memory that grows while other processes search it, and in a file that is mapped ([`snapshot`]), so there is one
//! search. It asks of its rows no more than [`VectorStorage`] says, which others can implement.
//!
//! # Writing
//! [`Hnsw::append`] makes a row readable at once: it is *pending*, and every search compares it exactly.
//! [`Hnsw::link`] or [`Hnsw::link_pending`] moves pending rows into the graph, from several threads if need be.
//!
//! # Searching
//! A [`SearchCursor`] is started on a query and asked for the next nearest row as often as the caller likes: it resumes
//! where it stopped until every row has come out exactly once. [`Hnsw::search_filtered`] searches among the rows that a [`Filter`]
//! allows. [`exact`] compares every row, and [`recall()`] says what share of the truth was found.
//!
//! # Deleting
//! A deleted row is left out by searches ([`Without`]); [`Hnsw::without`] copies an index without deleted rows and links
//! their neighbours with each other. [`Hnsw::merged`] makes one index of two.
//!
//! # Concurrency
//! One process writes; any number of threads and processes read the same regions without a lock and without writing a
//! byte. A row, its label and its level are written before the number of rows is released; links to it come after.
//! A reader skips every id that is not below the number of rows it has acquired, which is both the bounds check and
//! the ordering. Rows are never changed and slots never reused.
//!
//! ```
//! use std::sync::Arc;
//! use vecindex::{F32Rows, Graph, Hnsw, HnswParams, Metric, Region, SearchCursor};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let params = HnswParams::default();
//! let rows = Arc::new(Region::heap(F32Rows::bytes_needed(2, 100)?)?);
//! let graph = Arc::new(Region::heap(Graph::bytes_needed(100, params.m)?)?);
//! let index = Hnsw::new(F32Rows::create(rows, Metric::L2, 2, 100)?, Graph::create(graph, params, 100)?)?;
//! for x in 0..10 {
//!     index.append(&[x as f32, 0.0], [x, 0])?;
//! }
//! index.link_pending()?;
//!
//! let mut cursor = SearchCursor::default();
//! cursor.start(&index, &[3.1, 0.0], 64)?;
//! let nearest = cursor.next(&index).unwrap();
//! assert_eq!(index.label(nearest.id), [3, 0]);
//! # Ok(()) }
//! ```
#![deny(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used))]

mod error;
mod flat;
#[allow(unsafe_code)] // raw bytes of a region become fields
mod format;
mod hnsw;
mod ids;
mod index;
#[allow(unsafe_code)] // intrinsics and raw rows
pub mod kernel;
mod metric;
mod sealed;
pub mod snapshot;
mod storage;

/// Where rows and graphs lie: private memory, shared memory, a file.
pub use kriya_region::Region;

pub use error::{CreateError, LinkError, OpenError, PushError, RerankError, SealError, SearchError, VectorError};
pub use flat::{exact, exact_among, exact_many, recall};
pub use hnsw::{
    BuildContext, BuildOn, FilteredSearch, Graph, Hnsw, HnswParams, MergeError, NO_LABEL, OrderError, SearchCursor,
};
pub use ids::{Filter, IdSet, Passing, Without};
pub use index::{AddError, Hit, Index, IndexBuilder, Memory, SaveError, Search, SearchContext, Selection};
pub use kernel::{cosine_distance, dot, l2_squared};
pub use metric::{Metric, Neighbour};
pub use sealed::{Sealed, seal, verify};
pub use storage::{
    AppendVectors, Bf16, ElementType, Encoding, F16, F32, F32Rows, I8, Rerank, Rows, SplitF32, SplitI8, VectorStorage,
};

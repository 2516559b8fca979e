//! Vector spaces: rows that are kept in a store, and searched by [`vecindex`].
//!
//! A [`Space`] is named by a prefix and a number and says what its rows are: dimension, metric, encoding.
//! [`LsmVectors`] is the space opened: a slab of rows in memory, of which the store is the log. A search reads the slab alone and
//! is the one that `vecindex` runs over any of its storages; a row is appended to the store first, and to the slab once it
//! is as durable as was asked for. Opening reads the rows back, bit by bit as they were, so that an index built over them
//! answers as it did before.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::sync::Arc;
//! use lsmstore::vectors::{LsmVectors, Space};
//! use lsmstore::{Config, Durability, LogChoice, Store, SystemEnv, objects};
//! use vecindex::{AppendVectors, F32, Graph, Hnsw, HnswParams, Metric, Region, SearchCursor};
//!
//! # let dir = tempfile::tempdir()?;
//! let runtime = tokio::runtime::Runtime::new()?;
//! let env = Arc::new(SystemEnv::on(runtime.handle().clone()));
//! let store = runtime.block_on(Store::open(Config::new(dir.path(), "demo"), objects::memory(), env, LogChoice::Own))?;
//! let space = Space::new::<F32>(b"points/", 1, 2, Metric::L2);
//! let points = LsmVectors::<F32>::open(store, space, 1000, Durability::Local)?;
//! points.extend((0..100).map(|x| [x as f32, 0.0]))?;
//!
//! let params = HnswParams::default();
//! let graph = Arc::new(Region::heap(Graph::bytes_needed(1000, params.m)?)?);
//! let index = Hnsw::over(points, Graph::create(graph, params, 1000)?, |id| [u64::from(id), 0])?;
//! index.link_pending()?;
//! assert_eq!(index.search(&[41.2, 0.0], 1, 32, &mut SearchCursor::default())?[0].id, 41);
//! # Ok(()) }
//! ```
//!
//! # Format
//! Keys are the prefix, the number of the space (u32, big-endian), and a byte: `s` for the space itself, `r` and the row's
//! id (u32, big-endian) for a row. Values are little-endian:
//!
//! ```text
//! space    0 version u8 = 1 | encoding u8 | metric u8 | 0 u8 | dimension u32
//! row      0 version u8 = 1 | encoding u8 | metric u8 | normalized u8 | space u32 | dimension u32
//!         12 side: norm f32, the length that the row was given with;
//!            of bytes with a scale also: scale f32 | squared length of the decoded row f32 | sum of the codes i32,
//!            or, if they are split: scale of the upper bits f32
//!            elements: dimension x (f32 | f16 | bf16 | code i8 + 128 as u8);
//!            of split f32: dimension x upper u16, dimension x lower u16; of split i8: as `vecindex` draws it
//! encoding   1 f32, 2 f16, 3 bf16, 4 i8 with a scale, 5 split f32, 6 split i8     metric   1 L2, 2 cosine, 3 inner product
//! normalized 1 if the elements are of length one (cosine)
//! ```
//! Side and elements are those of [`vecindex`], so a row that is read back is the row that was stored.
//!
//! # Invariants
//! * Rows have the ids 0, 1, 2 ... without a gap; ids are given out in the order of the log.
//! * A row is in the store before the slab has it. One that the store took and a crash kept from the slab is there after the
//!   next start.
//! * There is one writer of a space: the value that [`LsmVectors::open`] gave. Two of them would give out the same ids.

mod error;
mod payload;
mod rows;
mod space;

pub use error::VectorsError;
pub use rows::LsmVectors;
pub use space::Space;

//! Readers of the public formats that vectors and their true neighbours come in, exact ground truth, and recall.
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use kriya_datasets::{Metric, exact, ids, recall, vectors};
//! let base = vectors("datasets/tiny/sift128/base.u8bin".as_ref())?;
//! let queries = vectors("datasets/tiny/sift128/query.fvecs".as_ref())?;
//! let truth = ids("datasets/tiny/sift128/gt-l2.ibin".as_ref())?;
//! let found = exact(Metric::L2, &base, &queries, 10)?;
//! let first = found.ids.iter().map(|ids| ids.iter().map(|id| i64::from(*id)).collect()).collect::<Vec<Vec<i64>>>();
//! assert_eq!(recall(&first, &truth, 10), 1.0);
//! # Ok(())
//! # }
//! ```
//!
//! Files come from outside: every header is checked against the bytes that are really there before anything is
//! allocated by it.
#![forbid(unsafe_code)]

mod catalogue;
mod error;
mod format;
#[cfg_attr(not(feature = "hdf5"), path = "hdf5_missing.rs")]
mod hdf5;
mod matrix;
mod read;
mod truth;
mod write;

pub use catalogue::{CATALOGUE, Checksum, PublicFile, PublicSet, public_set};
pub use error::Error;
pub use matrix::Matrix;
pub use read::{bytes, ids, vectors};
pub use truth::{Metric, Truth, distance, exact, exact_telling, recall};
pub use write::{write_f16bin, write_fbin, write_ibin, write_text};

//! An index in one file, which is mapped and searched in place.
//!
//! [`save`] writes it beside its final name, syncs and renames it, so that the name leads to a whole file at any time.
//! [`open`] maps the file and reads the headers only, whatever its size: the index that it gives belongs to nobody's
//! lifetime, is read-only, and answers as the one that was saved did, in any process. [`Snapshot`] tells what is in a file
//! of any encoding, and hands out the exact rows that may stand beside codes.
//!
//! ```
//! use std::sync::Arc;
//! use vecindex::{F32, F32Rows, Graph, Hnsw, HnswParams, Metric, Region, SearchCursor, snapshot};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("points.kv");
//! # let params = HnswParams::default();
//! # let rows = F32Rows::create(Arc::new(Region::heap(F32Rows::bytes_needed(2, 100)?)?), Metric::L2, 2, 100)?;
//! # let graph = Graph::create(Arc::new(Region::heap(Graph::bytes_needed(100, params.m)?)?), params, 100)?;
//! # let index = Hnsw::new(rows, graph)?;
//! # for x in 0..10 {
//! #     index.append(&[x as f32, 0.0], [x, 0])?;
//! # }
//! # index.link_pending()?;
//! snapshot::save(&index, &path)?;
//! snapshot::verify(&path)?;
//! let opened = snapshot::open::<F32>(&path)?;
//! let found = opened.search(&[3.1, 0.0], 1, 64, &mut SearchCursor::default())?;
//! assert_eq!(found[0].id, 3);
//! # Ok(()) }
//! ```
//!
//! # Damage
//! Opening refuses a file that is cut, of another kind, or whose headers cannot be. Everything else is found by [`verify`],
//! which whoever wrote or fetched a file calls once: it checks every checksum, that every link leads to a row, and that
//! what means nothing is zero. A search in a damaged file that nobody verified may find wrong neighbours; it ends, and
//! reads no byte outside of the map.
//!
//! # Hazards
//! A file is never changed, only replaced by a rename, and what is mapped stays as it was. Whoever truncates it, or writes
//! into it, in spite of that ends (by SIGBUS) or misleads the processes that have it mapped.

mod error;
mod info;
mod open;
mod save;

pub use error::SnapshotError;
pub use info::{AnyIndex, Info};
pub use open::{Snapshot, open, verify};
pub use save::{save, save_with_exact, write};

/// What is in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Rows,
    Graph,
    Exact,
}

impl Kind {
    fn code(self) -> u32 {
        match self {
            Kind::Rows => 1,
            Kind::Graph => 2,
            Kind::Exact => 3,
        }
    }

    /// Its place in the table of parts.
    fn position(self) -> usize {
        self as usize
    }

    fn name(self) -> &'static str {
        match self {
            Kind::Rows => "rows",
            Kind::Graph => "graph",
            Kind::Exact => "exact rows",
        }
    }
}

/// Bytes of a part in the table of parts.
const ENTRY: usize = 24;
/// Parts begin, and the file ends, at a multiple of this.
const PAGE: usize = kriya_region::ALIGNMENT;

//! Sealing: an index written to two files that are opened in place, and the check of such files.
//!
//! The files are compacted copies of the live structures with a checksum per mebibyte (see `format`). Whoever writes or
//! fetches a file verifies it once; opening reads the header only, and a search stays in bounds whatever the bytes are.
//! One file that has both is a [`snapshot`](crate::snapshot).

mod page;
mod verify;
mod write;

use std::io::Write;

pub(crate) use page::Page;
pub use verify::verify;
pub(crate) use write::{Plan, sealed_bytes, too_large, write_rows};
#[cfg(test)]
pub(crate) use write::{graph_header, rows_header};

use crate::error::SealError;
use crate::hnsw::Hnsw;
use crate::storage::{Encoding, Rows};

/// What [`seal`] wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sealed {
    /// Rows in the index.
    pub rows: u32,
    /// Bytes of the file of rows.
    pub rows_bytes: u64,
    /// Bytes of the file of links and labels.
    pub graph_bytes: u64,
    /// The number that both headers carry.
    pub pair: u64,
}

/// Writes an index, all of whose rows are linked, to two files. Rows appended meanwhile are not in them. The caller sees to
/// temporary names, syncing and renaming.
///
/// # Errors
/// `Pending` if rows are not linked, else what a writer says.
pub fn seal<E: Encoding>(
    hnsw: &Hnsw<Rows<E>>,
    rows: &mut impl Write,
    graph: &mut impl Write,
) -> Result<Sealed, SealError> {
    let plan = Plan::of(hnsw)?;
    plan.write_rows(rows)?;
    plan.write_graph(graph)?;
    let (rows_bytes, graph_bytes) = (plan.rows_bytes(), plan.graph_bytes());
    Ok(Sealed { rows: plan.len, rows_bytes, graph_bytes, pair: plan.pair })
}

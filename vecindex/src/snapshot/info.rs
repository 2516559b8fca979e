//! What a file holds, for those who do not know.

use crate::error::SearchError;
use crate::hnsw::{Hnsw, HnswParams, SearchCursor};
use crate::metric::{Metric, Neighbour};
use crate::storage::{Bf16, ElementType, F16, F32, I8, Rows, SplitF32, SplitI8};

/// What the headers of a snapshot say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Info {
    /// How rows are encoded.
    pub element: ElementType,
    /// How rows are compared.
    pub metric: Metric,
    /// Dimensions of the rows.
    pub dim: usize,
    /// Number of rows.
    pub rows: u32,
    /// What the graph was built with.
    pub params: HnswParams,
    /// Whether there are exact rows beside those that are searched.
    pub exact: bool,
    /// Bytes of the file.
    pub bytes: u64,
}

/// An opened index of whatever encoding.
#[derive(Debug)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the encodings are documented")]
pub enum AnyIndex {
    F32(Hnsw<Rows<F32>>),
    F16(Hnsw<Rows<F16>>),
    Bf16(Hnsw<Rows<Bf16>>),
    I8(Hnsw<Rows<I8>>),
    SplitF32(Hnsw<Rows<SplitF32>>),
    SplitI8(Hnsw<Rows<SplitI8>>),
}

impl AnyIndex {
    /// As [`Hnsw::search`], with a cursor of its own: who searches often matches on the encoding and keeps one.
    ///
    /// # Errors
    /// A query that the storage refuses.
    pub fn search(&self, query: &[f32], k: usize, ef: usize) -> Result<Vec<Neighbour>, SearchError> {
        match self {
            AnyIndex::F32(index) => index.search(query, k, ef, &mut SearchCursor::default()),
            AnyIndex::F16(index) => index.search(query, k, ef, &mut SearchCursor::default()),
            AnyIndex::Bf16(index) => index.search(query, k, ef, &mut SearchCursor::default()),
            AnyIndex::I8(index) => index.search(query, k, ef, &mut SearchCursor::default()),
            AnyIndex::SplitF32(index) => index.search(query, k, ef, &mut SearchCursor::default()),
            AnyIndex::SplitI8(index) => index.search(query, k, ef, &mut SearchCursor::default()),
        }
    }

    /// As [`Hnsw::label`].
    pub fn label(&self, id: u32) -> [u64; 2] {
        match self {
            AnyIndex::F32(index) => index.label(id),
            AnyIndex::F16(index) => index.label(id),
            AnyIndex::Bf16(index) => index.label(id),
            AnyIndex::I8(index) => index.label(id),
            AnyIndex::SplitF32(index) => index.label(id),
            AnyIndex::SplitI8(index) => index.label(id),
        }
    }
}

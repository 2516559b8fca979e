//! A vector index as those see it who write entries and who search: the entries of a batch, and a reader over segments.

use std::sync::Arc;

use lsmstore::Batch;
use vecindex::{F32Rows, Hnsw};

use crate::catalogue::IndexEntry;
use crate::error::FormatError;
use crate::keys;
use crate::protocol::EntryHead;

pub use vecindex::Metric;

/// The metric of [`IndexDescription::metric`](crate::catalogue::IndexDescription::metric).
///
/// # Errors
/// A number that names none.
pub fn metric_of(code: u8) -> Result<Metric, FormatError> {
    match code {
        0 => Ok(Metric::L2),
        1 => Ok(Metric::Cosine),
        2 => Ok(Metric::InnerProduct),
        other => Err(FormatError::new("metric", format!("expected 0 to 2, got {other}"))),
    }
}

/// The number of a metric in [`IndexDescription::metric`](crate::catalogue::IndexDescription::metric).
pub fn metric_code(metric: Metric) -> u8 {
    match metric {
        Metric::L2 => 0,
        Metric::Cosine => 1,
        Metric::InnerProduct => 2,
    }
}

/// An index entry to be made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NewEntry<'a> {
    /// Row that the entry leads to; opaque to the engine unless the vector is in that row.
    pub tid: u64,
    /// Its vector.
    pub vector: VectorRef<'a>,
}

/// Where the vector of an entry is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum VectorRef<'a> {
    /// Here.
    Inline(&'a [f32]),
    /// In the row (table, tid) of the store, which was written before.
    InRow {
        /// The table.
        table: u64,
        /// Where its floats begin in the row's value, in bytes.
        offset: u32,
        /// How many there are.
        dim: u16,
    },
}

impl NewEntry<'_> {
    pub(crate) fn dim(&self) -> usize {
        match self.vector {
            VectorRef::Inline(vector) => vector.len(),
            VectorRef::InRow { dim, .. } => dim.into(),
        }
    }

    pub(crate) fn head(&self, floats: &mut Vec<u8>) -> EntryHead {
        match self.vector {
            VectorRef::Inline(vector) => {
                vector.iter().for_each(|value| floats.extend_from_slice(&value.to_le_bytes()));
                EntryHead { tid: self.tid, in_row: None }
            }
            VectorRef::InRow { table, offset, .. } => EntryHead { tid: self.tid, in_row: Some((table, offset)) },
        }
    }
}

/// What new entries put into the store: both sides make it, so that it need not be sent back.
///
/// # Errors
/// More dimensions than a format can hold.
pub(crate) fn index_batch(index: u64, first_entry: u64, entries: &[NewEntry<'_>]) -> Result<Batch, FormatError> {
    let mut batch = Batch::new();
    let mut value = Vec::new();
    for (number, entry) in (first_entry..).zip(entries) {
        value.clear();
        match entry.vector {
            VectorRef::Inline(vector) => IndexEntry::encode_inline(entry.tid, vector, &mut value)?,
            VectorRef::InRow { table, offset, dim } => {
                IndexEntry::encode_in_row(entry.tid, table, offset, dim, &mut value);
            }
        }
        batch.put(&keys::entry(index, number), &value);
    }
    Ok(batch)
}

/// What deletions of entries put into the store.
pub(crate) fn delete_batch(index: u64, entries: &[u64]) -> Batch {
    let mut batch = Batch::new();
    for entry in entries {
        batch.put(&keys::deleted(index, *entry), &[]);
    }
    batch
}

/// An index in one view: its segments, ready to be searched by an [`IndexCursor`](crate::IndexCursor).
#[derive(Debug)]
pub struct IndexReader {
    pub(crate) id: u64,
    pub(crate) metric: Metric,
    /// Sealed ones first, then active ones.
    pub(crate) segments: Vec<Arc<Hnsw<F32Rows>>>,
    pub(crate) sealed: usize,
}

impl IndexReader {
    /// Its id.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// How distances are measured.
    pub fn metric(&self) -> Metric {
        self.metric
    }

    /// Dimensions, or `None` while the index is empty and takes any.
    pub fn dim(&self) -> Option<usize> {
        self.segments.first().map(|segment| segment.dim())
    }

    /// Entries, deleted ones included; grows while the active segment does.
    pub fn rows(&self) -> u64 {
        self.segments.iter().map(|segment| u64::from(segment.len())).sum()
    }

    /// Sealed segments and active ones.
    pub fn segments(&self) -> (usize, usize) {
        (self.sealed, self.segments.len() - self.sealed)
    }

    /// Entry number and row of every entry, deleted ones included: for vacuum, which then deletes by entry number.
    pub fn entries(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.segments.iter().flat_map(|segment| {
            (0..segment.len()).map(move |id| {
                let [entry, tid] = segment.label(id);
                (entry, tid)
            })
        })
    }
}

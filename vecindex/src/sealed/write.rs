//! Writing the two sealed structures.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::io::{self, Write};
use std::sync::atomic::Ordering;

use super::page::{Chunks, Page};
use crate::error::SealError;
use crate::format::{GRAPH_MAGIC, GraphLayout, HEADER, ROWS_MAGIC, RowsLayout, at, trailer_bytes};
use crate::hnsw::{EMPTY, Graph, Hnsw, HnswParams, TWIN, twin_in};
use crate::metric::Metric;
use crate::storage::{Encoding, Rows, VectorStorage};

/// A number that two indexes hardly share: checksums of all labels and of the first rows.
fn pair_of<E: Encoding>(hnsw: &Hnsw<Rows<E>>, len: u32) -> u64 {
    let labels = (0..len).fold(len, |crc, id| crc32c::crc32c_append(crc, &label_bytes(hnsw.label(id))));
    let rows = (0..len.min(256)).fold(1, |crc, id| crc32c::crc32c_append(crc, hnsw.storage().stored(id).0));
    u64::from(labels) << 32 | u64::from(rows)
}

fn label_bytes(label: [u64; 2]) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&label[0].to_ne_bytes());
    bytes[8..].copy_from_slice(&label[1].to_ne_bytes());
    bytes
}

/// What is written of an index: its first rows, all of them linked. Rows that come later are left out.
pub(crate) struct Plan<'a, E: Encoding> {
    hnsw: &'a Hnsw<Rows<E>>,
    pub(crate) len: u32,
    pub(crate) pair: u64,
    rows: RowsLayout,
    upper: u32,
    graph: GraphLayout,
}

impl<'a, E: Encoding> Plan<'a, E> {
    /// # Errors
    /// `Pending` if rows are not linked.
    pub(crate) fn of(hnsw: &'a Hnsw<Rows<E>>) -> Result<Self, SealError> {
        let len = hnsw.len();
        let linked = hnsw.linked();
        if linked < len {
            return Err(SealError::Pending { linked, len });
        }
        let rows = Rows::<E>::layout_of(hnsw.dim(), len).ok_or_else(too_large)?;
        // Towers take upper rows in the order of ids, so those of the first `len` nodes are the first ones.
        let upper = (0..len).map(|id| hnsw.graph().level(id)).sum::<u32>();
        let graph = GraphLayout::of(hnsw.params().m, len, upper).ok_or_else(too_large)?;
        Ok(Plan { hnsw, len, pair: pair_of(hnsw, len), rows, upper, graph })
    }

    pub(crate) fn rows_bytes(&self) -> u64 {
        sealed_bytes(self.rows.end)
    }

    pub(crate) fn graph_bytes(&self) -> u64 {
        sealed_bytes(self.graph.end)
    }

    pub(crate) fn write_rows(&self, out: &mut impl Write) -> io::Result<()> {
        write_rows(self.hnsw.storage(), self.len, self.pair, &self.rows, out)
    }

    pub(crate) fn write_graph(&self, out: &mut impl Write) -> io::Result<()> {
        let (hnsw, graph, len) = (self.hnsw, self.hnsw.graph(), self.len);
        let mut out = Chunks::after_header(out, &self.graph_header())?;
        for id in 0..len {
            out.put(&graph.tower(id).to_ne_bytes())?;
        }
        out.pad_to(self.graph.labels)?;
        for id in 0..len {
            out.put(&label_bytes(hnsw.label(id)))?;
        }
        out.pad_to(self.graph.upper)?;
        for id in 0..len {
            for level in 1..=graph.level(id) {
                put_links(graph, id, level, len, &mut out)?;
            }
        }
        out.pad_to(self.graph.level0)?;
        for id in 0..len {
            put_links(graph, id, 0, len, &mut out)?;
        }
        out.finish()
    }

    fn graph_header(&self) -> [u8; HEADER] {
        let entry = entry_among(self.hnsw.graph(), self.len);
        graph_header(self.hnsw.params(), self.len, self.upper, &self.graph, self.pair, entry)
    }
}

/// Bytes of a sealed structure that ends, without its trailer, at `end`.
pub(crate) fn sealed_bytes(end: usize) -> u64 {
    (end + trailer_bytes(end)) as u64
}

pub(crate) fn graph_header(
    params: HnswParams,
    len: u32,
    upper: u32,
    layout: &GraphLayout,
    pair: u64,
    entry: Option<(u32, u32)>,
) -> [u8; HEADER] {
    let mut page = Page::sealed(GRAPH_MAGIC, layout.end, pair);
    page.word(at::M, params.m as u32);
    page.word(at::EF, params.ef_construction as u32);
    page.long(at::SEED, params.seed);
    page.word(at::CAPACITY, len);
    page.word(at::UPPER_CAPACITY, upper);
    page.long(at::TOWERS, layout.towers as u64);
    page.long(at::LABELS, layout.labels as u64);
    page.long(at::UPPER, layout.upper as u64);
    page.long(at::LEVEL0, layout.level0 as u64);
    page.word(at::LINKED, len);
    page.long(at::ENTRY, entry.map_or(u64::MAX, |(level, id)| u64::from(level) << 32 | u64::from(id)));
    page.word(at::UPPER_USED, upper);
    page.finish()
}

/// Writes the first `len` rows, laid out as `layout` says.
pub(crate) fn write_rows<E: Encoding>(
    rows: &Rows<E>,
    len: u32,
    pair: u64,
    layout: &RowsLayout,
    out: &mut impl Write,
) -> io::Result<()> {
    let mut out = Chunks::after_header(out, &rows_header::<E>(rows.metric(), rows.dim(), len, layout, pair))?;
    for id in 0..len {
        out.put(rows.stored(id).1)?;
    }
    out.pad_to(layout.rows)?;
    for id in 0..len {
        out.put(rows.stored(id).0)?;
    }
    out.finish()
}

pub(crate) fn rows_header<E: Encoding>(
    metric: Metric,
    dim: usize,
    len: u32,
    layout: &RowsLayout,
    pair: u64,
) -> [u8; HEADER] {
    let mut page = Page::sealed(ROWS_MAGIC, layout.end, pair);
    page.word(at::ELEMENT, E::CODE);
    page.word(at::METRIC, metric.code());
    page.word(at::DIM, dim as u32);
    page.word(at::STRIDE, layout.stride as u32);
    page.word(at::CAPACITY, len);
    page.word(at::LEN, len);
    page.long(at::SIDES, layout.sides as u64);
    page.long(at::ROWS, layout.rows as u64);
    page.finish()
}

/// Where searches of the first `len` nodes start: as in the live graph, or, if that is a newer node, at the highest of them
/// that is linked itself and not found through an equal one.
fn entry_among(graph: &Graph, len: u32) -> Option<(u32, u32)> {
    let highest = || {
        let twins: HashSet<u32> = (0..len).filter_map(|id| older_twin(graph, id, len)).collect();
        let nodes = (0..len).filter(|id| !twins.contains(id));
        nodes.map(|id| (graph.level(id), id)).max_by_key(|(level, id)| (*level, Reverse(*id)))
    };
    graph.entry().filter(|(_, id)| *id < len).or_else(highest)
}

/// The next twin of a node among the first `len`.
fn older_twin(graph: &Graph, id: u32, len: u32) -> Option<u32> {
    std::iter::successors(graph.twin(id), |twin| graph.twin(*twin)).find(|twin| *twin < len)
}

fn put_links<W: Write>(graph: &Graph, id: u32, level: u32, len: u32, out: &mut Chunks<'_, W>) -> io::Result<()> {
    for slot in graph.links(id, level) {
        let there = slot.load(Ordering::Relaxed);
        // Rows that came after the seal began are not in it.
        let kept = match twin_in(there) {
            Some(_) => older_twin(graph, id, len).map(|twin| TWIN | twin),
            None => (there < len).then_some(there),
        };
        out.put(&kept.unwrap_or(EMPTY).to_ne_bytes())?;
    }
    Ok(())
}

pub(crate) fn too_large() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "the index is too large to be addressed")
}

//! Sealing: an index written to two files that are opened in place, and the check of such files.
//!
//! The files are compacted copies of the live structures with a checksum per mebibyte (see `format`). Whoever writes or
//! fetches a file verifies it once; opening reads the header only, and a search stays in bounds whatever the bytes are.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use kriya_region::Region;

use crate::error::{OpenError, SealError};
use crate::format::{
    self, CHUNK, GRAPH_MAGIC, GraphLayout, HEADER, MAX_LEVEL, ROWS_MAGIC, SEALED, TOWER_BITS, TRAILER_MAGIC, VERSION,
    at, trailer_bytes,
};
use crate::hnsw::{EMPTY, Graph, Hnsw, TWIN, twin_in};
use crate::storage::{Bf16, Encoding, F16, F32, I8, Rows, VectorStorage};

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
    let len = hnsw.len();
    let linked = hnsw.linked();
    if linked < len {
        return Err(SealError::Pending { linked, len });
    }
    let pair = pair_of(hnsw, len);
    let rows_bytes = seal_rows(hnsw.storage(), len, pair, rows)?;
    let graph_bytes = seal_graph(hnsw, len, pair, graph)?;
    Ok(Sealed { rows: len, rows_bytes, graph_bytes, pair })
}

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

/// A header page under construction.
struct Page([u8; HEADER]);

impl Page {
    fn new(magic: [u8; 8], end: usize, pair: u64) -> Page {
        let mut page = Page([0; HEADER]);
        page.0[at::MAGIC..at::MAGIC + 8].copy_from_slice(&magic);
        page.word(at::VERSION, VERSION);
        page.word(at::FLAGS, SEALED);
        page.long(at::LENGTH, (end + trailer_bytes(end)) as u64);
        page.long(at::PAIR, pair);
        page.long(at::CHECKSUMS, end as u64);
        page.word(at::CHUNK, CHUNK as u32);
        page
    }

    fn word(&mut self, at: usize, value: u32) {
        self.0[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    }

    fn long(&mut self, at: usize, value: u64) {
        self.0[at..at + 8].copy_from_slice(&value.to_ne_bytes());
    }

    fn finish(mut self) -> [u8; HEADER] {
        let crc = crc32c::crc32c(&self.0[..at::HEADER_CRC]);
        self.word(at::HEADER_CRC, crc);
        self.0
    }
}

/// Passes bytes on in chunks, each with its checksum.
struct Chunks<'a, W> {
    out: &'a mut W,
    buffer: Vec<u8>,
    written: usize,
    checksums: Vec<u8>,
}

impl<'a, W: Write> Chunks<'a, W> {
    fn after_header(out: &'a mut W, header: &[u8; HEADER]) -> io::Result<Self> {
        out.write_all(header)?;
        Ok(Chunks { out, buffer: Vec::with_capacity(CHUNK), written: HEADER, checksums: Vec::new() })
    }

    fn put(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let n = bytes.len().min(CHUNK - self.buffer.len());
            self.buffer.extend_from_slice(&bytes[..n]);
            bytes = &bytes[n..];
            if self.buffer.len() == CHUNK {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.checksums.extend_from_slice(&crc32c::crc32c(&self.buffer).to_ne_bytes());
        self.out.write_all(&self.buffer)?;
        self.written += self.buffer.len();
        self.buffer.clear();
        Ok(())
    }

    /// Zeros up to an offset of the file.
    fn pad_to(&mut self, offset: usize) -> io::Result<()> {
        let at = self.written + self.buffer.len();
        let zeros = [0; 64];
        self.put(&zeros[..(offset.saturating_sub(at)).min(64)])
    }

    fn finish(mut self) -> io::Result<u64> {
        if !self.buffer.is_empty() {
            self.flush()?;
        }
        let table = crc32c::crc32c(&self.checksums);
        self.out.write_all(&self.checksums)?;
        self.out.write_all(&table.to_ne_bytes())?;
        self.out.write_all(&TRAILER_MAGIC)?;
        self.out.flush()?;
        Ok((self.written + self.checksums.len() + 4 + 8) as u64)
    }
}

fn seal_rows<E: Encoding>(rows: &Rows<E>, len: u32, pair: u64, out: &mut impl Write) -> Result<u64, SealError> {
    let layout = Rows::<E>::layout_of(rows.dim(), len).ok_or_else(too_large)?;
    let mut page = Page::new(ROWS_MAGIC, layout.end, pair);
    page.word(at::ELEMENT, E::CODE);
    page.word(at::METRIC, rows.metric().code());
    page.word(at::DIM, rows.dim() as u32);
    page.word(at::STRIDE, layout.stride as u32);
    page.word(at::CAPACITY, len);
    page.word(at::LEN, len);
    page.long(at::SIDES, layout.sides as u64);
    page.long(at::ROWS, layout.rows as u64);
    let mut out = Chunks::after_header(out, &page.finish())?;
    for id in 0..len {
        out.put(rows.stored(id).1)?;
    }
    out.pad_to(layout.rows)?;
    for id in 0..len {
        out.put(rows.stored(id).0)?;
    }
    Ok(out.finish()?)
}

fn seal_graph<E: Encoding>(hnsw: &Hnsw<Rows<E>>, len: u32, pair: u64, out: &mut impl Write) -> Result<u64, SealError> {
    let graph = hnsw.graph();
    let params = graph.params();
    // Towers take upper rows in the order of ids, so those of the first `len` nodes are the first ones.
    let upper = (0..len).map(|id| graph.level(id)).sum::<u32>();
    let layout = GraphLayout::of(params.m, len, upper).ok_or_else(too_large)?;
    let mut page = Page::new(GRAPH_MAGIC, layout.end, pair);
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
    page.long(
        at::ENTRY,
        entry_among(graph, len).map_or(u64::MAX, |(level, id)| u64::from(level) << 32 | u64::from(id)),
    );
    page.word(at::UPPER_USED, upper);
    let mut out = Chunks::after_header(out, &page.finish())?;
    for id in 0..len {
        out.put(&graph.tower(id).to_ne_bytes())?;
    }
    out.pad_to(layout.labels)?;
    for id in 0..len {
        out.put(&label_bytes(hnsw.label(id)))?;
    }
    out.pad_to(layout.upper)?;
    for id in 0..len {
        for level in 1..=graph.level(id) {
            put_links(graph, id, level, len, &mut out)?;
        }
    }
    out.pad_to(layout.level0)?;
    for id in 0..len {
        put_links(graph, id, 0, len, &mut out)?;
    }
    Ok(out.finish()?)
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

fn too_large() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "the index is too large to be addressed")
}

/// Checks a sealed file through and through, rows or graph: every checksum, and that every link leads to a row. To be done
/// once by whoever wrote or fetched it.
///
/// # Errors
/// The first thing that is wrong, with its place in the file.
pub fn verify(region: &Arc<Region>) -> Result<(), OpenError> {
    let Some(bytes) = region.file_bytes() else { return Err(OpenError::NotSealed) };
    if bytes.starts_with(&GRAPH_MAGIC) {
        let graph = Graph::open(region.clone())?;
        if !graph.is_sealed() {
            return Err(OpenError::NotSealed);
        }
        verify_checksums(bytes, "graph")?;
        return verify_links(&graph);
    }
    let element = format::Fields::of(region).map(|fields| fields.u32(at::ELEMENT));
    let sealed = match element {
        Some(F16::CODE) => Rows::<F16>::open(region.clone())?.is_sealed(),
        Some(Bf16::CODE) => Rows::<Bf16>::open(region.clone())?.is_sealed(),
        Some(I8::CODE) => Rows::<I8>::open(region.clone())?.is_sealed(),
        _ => Rows::<F32>::open(region.clone())?.is_sealed(),
    };
    if !sealed {
        return Err(OpenError::NotSealed);
    }
    verify_checksums(bytes, "rows")
}

/// Header and total length are known to be right.
fn verify_checksums(bytes: &[u8], what: &'static str) -> Result<(), OpenError> {
    let length = bytes.len() as u64;
    let cut = |part| OpenError::Checksum { what, part, offset: 0, length };
    let declared = bytes.get(at::CHECKSUMS..at::CHECKSUMS + 8).and_then(|b| b.try_into().ok()).map(u64::from_ne_bytes);
    let end = declared.and_then(|e| usize::try_from(e).ok()).filter(|e| (HEADER..=bytes.len()).contains(e));
    let (Some(end), Some(declared)) = (end, declared) else { return Err(cut("the offset of the checksums")) };
    let (body, trailer) = (&bytes[HEADER..end], &bytes[end..]);
    if trailer.len() != trailer_bytes(end) {
        return Err(OpenError::Length { what, got: trailer.len() as u64, expected: trailer_bytes(end) as u64 });
    }
    let (table, rest) = trailer.split_at(trailer.len() - 12);
    let bad = |part| Err(OpenError::Checksum { what, part, offset: declared, length: trailer.len() as u64 });
    if rest[4..] != TRAILER_MAGIC {
        return bad("the end of the file");
    }
    if crc32c::crc32c(table).to_ne_bytes() != rest[..4] {
        return bad("the table of checksums");
    }
    for (i, (chunk, recorded)) in body.chunks(CHUNK).zip(table.chunks(4)).enumerate() {
        if crc32c::crc32c(chunk).to_ne_bytes() != *recorded {
            let offset = (HEADER + i * CHUNK) as u64;
            return Err(OpenError::Checksum { what, part: "a chunk", offset, length: chunk.len() as u64 });
        }
    }
    Ok(())
}

/// A file whose checksums are right was still written by somebody.
fn verify_links(graph: &Graph) -> Result<(), OpenError> {
    let len = graph.capacity();
    let mut upper = 0;
    for id in 0..len {
        let tower = graph.tower(id);
        let (level, first) = (tower >> TOWER_BITS, tower & ((1 << TOWER_BITS) - 1));
        if level > MAX_LEVEL || (level > 0 && first != upper) {
            return Err(OpenError::Link { id, level, got: first, below: graph.upper_used() });
        }
        upper += level;
        for level in 0..=level {
            let slots = graph.links(id, level);
            if slots.is_empty() {
                return Err(OpenError::Link { id, level, got: first, below: graph.upper_used() });
            }
            for slot in slots {
                let slot = slot.load(Ordering::Relaxed);
                let got = twin_in(slot).filter(|_| level == 0).unwrap_or(slot);
                if got != EMPTY && got >= len {
                    return Err(OpenError::Link { id, level, got, below: len });
                }
            }
        }
    }
    match graph.entry() {
        Some((level, id)) if level != graph.level(id) => {
            Err(OpenError::Link { id, level, got: graph.level(id), below: MAX_LEVEL + 1 })
        }
        None if len > 0 => Err(OpenError::Link { id: 0, level: 0, got: EMPTY, below: len }),
        _ => Ok(()),
    }
}

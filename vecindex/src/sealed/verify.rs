//! The check of sealed structures: every checksum, every id, every byte that is nothing. To be done once, by whoever wrote
//! or fetched a file; a search stays in bounds whatever the bytes are, so what this prevents is wrong answers.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use kriya_region::Region;

use crate::error::OpenError;
use crate::format::{self, CHUNK, GRAPH_MAGIC, HEADER, MAX_LEVEL, TOWER_BITS, TRAILER_MAGIC, at, trailer_bytes};
use crate::hnsw::{EMPTY, Graph, twin_in};
use crate::ids::IdSet;
use crate::storage::{Bf16, Encoding, F16, F32, I8, Rows, SplitF32, SplitI8};

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
        verify_links(&graph)?;
        return verify_twins(&graph);
    }
    let element = format::Fields::of(region).map(|fields| fields.u32(at::ELEMENT));
    let sealed = match element {
        Some(F16::CODE) => Rows::<F16>::open(region.clone())?.is_sealed(),
        Some(Bf16::CODE) => Rows::<Bf16>::open(region.clone())?.is_sealed(),
        Some(SplitF32::CODE) => Rows::<SplitF32>::open(region.clone())?.is_sealed(),
        Some(SplitI8::CODE) => Rows::<SplitI8>::open(region.clone())?.is_sealed(),
        Some(I8::CODE) => Rows::<I8>::open(region.clone())?.is_sealed(),
        _ => Rows::<F32>::open(region.clone())?.is_sealed(),
    };
    if !sealed {
        return Err(OpenError::NotSealed);
    }
    verify_checksums(bytes, "file of rows")
}

/// Header and total length are known to be right.
fn verify_checksums(bytes: &[u8], what: &'static str) -> Result<(), OpenError> {
    let length = bytes.len() as u64;
    let declared = bytes.get(at::CHECKSUMS..at::CHECKSUMS + 8).and_then(|b| b.try_into().ok()).map(u64::from_ne_bytes);
    let end = declared.and_then(|end| usize::try_from(end).ok()).filter(|end| (HEADER..=bytes.len()).contains(end));
    let Some(end) = end else {
        let (field, got) = ("offset of the checksums", declared.unwrap_or(0));
        return Err(OpenError::Field { what, field, got, expected: format!("{HEADER} to {length}") });
    };
    let (body, trailer) = (&bytes[HEADER..end], &bytes[end..]);
    if trailer.len() != trailer_bytes(end) {
        return Err(OpenError::Length { what, got: length, expected: (end + trailer_bytes(end)) as u64 });
    }
    let (table, rest) = trailer.split_at(trailer.len() - 12);
    let (recorded, magic) = rest.split_at(4);
    if magic != TRAILER_MAGIC {
        let (part, offset) = ("the end", length - 8);
        let (got, expected) = (crc32c::crc32c(magic), crc32c::crc32c(&TRAILER_MAGIC));
        return Err(OpenError::Checksum { what, part, offset, length: 8, got, expected });
    }
    compare(what, "the table of checksums", end, &trailer[..trailer.len() - 8], table, recorded)?;
    for (i, (chunk, recorded)) in body.chunks(CHUNK).zip(table.chunks(4)).enumerate() {
        compare(what, "a chunk", HEADER + i * CHUNK, chunk, chunk, recorded)?;
    }
    Ok(())
}

/// Compares the checksum of `bytes` with the recorded one. If they differ, the fault is somewhere in `range`, at `offset`.
fn compare(
    what: &'static str,
    part: &'static str,
    offset: usize,
    range: &[u8],
    bytes: &[u8],
    recorded: &[u8],
) -> Result<(), OpenError> {
    let got = crc32c::crc32c(bytes);
    if got.to_ne_bytes() == *recorded {
        return Ok(());
    }
    let expected = recorded.try_into().map_or(0, u32::from_ne_bytes);
    let (offset, length) = (offset as u64, range.len() as u64);
    Err(OpenError::Checksum { what, part, offset, length, got, expected })
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

/// That equal rows make lists: each row names one other at most, is named once at most, and none leads back to itself.
fn verify_twins(graph: &Graph) -> Result<(), OpenError> {
    let mut named = IdSet::new();
    for id in 0..graph.capacity() {
        let twins = graph.links(id, 0).iter().filter_map(|slot| twin_in(slot.load(Ordering::Relaxed)));
        for (at, twin) in twins.enumerate() {
            if at > 0 || !named.insert(twin) {
                return Err(OpenError::Twin { id, got: twin });
            }
        }
    }
    // No list branches, so what no list leads to is a ring.
    let mut left = named.clone();
    for head in (0..graph.capacity()).filter(|id| !named.contains(*id)) {
        let mut row = head;
        while let Some(twin) = graph.twin(row) {
            left.remove(twin);
            row = twin;
        }
    }
    match left.iter().next() {
        Some(id) => Err(OpenError::Twin { id, got: graph.twin(id).unwrap_or(EMPTY) }),
        None => Ok(()),
    }
}

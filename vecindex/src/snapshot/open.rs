//! Opening and verifying a snapshot.
//!
//! # Invariants
//! Offsets are not believed: where each part begins follows from the lengths of those before it, and these lengths
//! must add up to that of the file.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kriya_region::Region;

use super::{AnyIndex, ENTRY, Info, Kind, PAGE, SnapshotError};
use crate::error::OpenError;
use crate::format::{self, FILE_MAGIC, Fields, HEADER, SEALED, VERSION, at};
use crate::hnsw::{Graph, Hnsw};
use crate::storage::{Bf16, ElementType, Encoding, F16, F32, F32Rows, I8, Rows, SplitF32, SplitI8, VectorStorage};

const WHAT: &str = "snapshot";

/// Opens the index in a file of rows encoded as `E`.
///
/// # Errors
/// A file that cannot be mapped, is no snapshot, is cut, has impossible headers, or holds rows of another encoding.
pub fn open<E: Encoding>(path: impl AsRef<Path>) -> Result<Hnsw<Rows<E>>, SnapshotError> {
    Snapshot::open(path)?.index()
}

/// Opens a file and verifies it: see [`Snapshot::verify`].
///
/// # Errors
/// The first thing that is wrong.
pub fn verify(path: impl AsRef<Path>) -> Result<(), SnapshotError> {
    Snapshot::open(path)?.verify()
}

/// A mapped snapshot whose headers are as they should be.
#[derive(Debug)]
pub struct Snapshot {
    region: Arc<Region>,
    path: Option<PathBuf>,
    parts: Parts,
    info: Info,
}

#[derive(Debug)]
struct Parts {
    rows: Part,
    graph: Part,
    exact: Option<Part>,
}

impl Parts {
    fn all(&self) -> impl Iterator<Item = &Part> {
        [&self.rows, &self.graph].into_iter().chain(&self.exact)
    }
}

#[derive(Debug)]
struct Part {
    kind: Kind,
    /// First byte in the file.
    start: u64,
    region: Arc<Region>,
}

impl Part {
    fn bad(&self) -> impl Fn(OpenError) -> SnapshotError {
        let (name, start) = (self.kind.name(), self.start);
        move |problem| SnapshotError::in_part(name, start, problem)
    }
}

impl Snapshot {
    /// Maps a file and reads its headers.
    ///
    /// # Errors
    /// A file that cannot be mapped, is no snapshot, is cut, or has impossible headers.
    pub fn open(path: impl AsRef<Path>) -> Result<Snapshot, SnapshotError> {
        let path = path.as_ref();
        let mapped = File::open(path).and_then(|file| Region::open_file(&file));
        let region = mapped.map_err(|e| SnapshotError::in_file(OpenError::Io(e)).at(Some(path)))?;
        let mut snapshot = Snapshot::of(Arc::new(region)).map_err(|e| e.at(Some(path)))?;
        snapshot.path = Some(path.to_owned());
        Ok(snapshot)
    }

    /// Reads the headers of a file that is mapped already.
    ///
    /// # Errors
    /// As [`Snapshot::open`].
    pub fn of(region: Arc<Region>) -> Result<Snapshot, SnapshotError> {
        let parts = parts_of(&region).map_err(SnapshotError::in_file)?;
        let info = info_of(&region, &parts)?;
        Ok(Snapshot { region, path: None, parts, info })
    }

    /// What is in it.
    pub fn info(&self) -> Info {
        self.info
    }

    /// The index, if its rows are encoded as `E`.
    ///
    /// # Errors
    /// Rows of another encoding.
    pub fn index<E: Encoding>(&self) -> Result<Hnsw<Rows<E>>, SnapshotError> {
        index_of(&self.parts).map_err(|e| e.at(self.path.as_deref()))
    }

    /// The index, whatever the encoding of its rows.
    ///
    /// # Errors
    /// As [`Snapshot::open`].
    pub fn any(&self) -> Result<AnyIndex, SnapshotError> {
        Ok(match self.info.element {
            ElementType::F32 => AnyIndex::F32(self.index()?),
            ElementType::F16 => AnyIndex::F16(self.index()?),
            ElementType::Bf16 => AnyIndex::Bf16(self.index()?),
            ElementType::I8 => AnyIndex::I8(self.index()?),
            ElementType::SplitF32 => AnyIndex::SplitF32(self.index()?),
            ElementType::SplitI8 => AnyIndex::SplitI8(self.index()?),
        })
    }

    /// The exact rows, for [reranking](crate::Rerank), if the file has them.
    ///
    /// # Errors
    /// As [`Snapshot::open`].
    pub fn exact(&self) -> Result<Option<F32Rows>, SnapshotError> {
        let Some(part) = &self.parts.exact else { return Ok(None) };
        F32Rows::open(part.region.clone()).map(Some).map_err(part.bad()).map_err(|e| e.at(self.path.as_deref()))
    }

    /// Checks every byte: all checksums, that every link leads to a row, and that what means nothing is zero. To be done
    /// once by whoever wrote or fetched the file.
    ///
    /// # Errors
    /// The first thing that is wrong, with its place.
    pub fn verify(&self) -> Result<(), SnapshotError> {
        for part in self.parts.all() {
            crate::sealed::verify(&part.region).map_err(part.bad()).map_err(|e| e.at(self.path.as_deref()))?;
        }
        let bytes = self.region.file_bytes().unwrap_or_default();
        for part in self.parts.all() {
            let end = part.start as usize + part.region.capacity();
            let padding = bytes.get(end..end.next_multiple_of(PAGE)).unwrap_or_default();
            if let Some((at, got)) = padding.iter().enumerate().find(|(_, byte)| **byte != 0) {
                let problem = OpenError::Padding { what: WHAT, offset: (end + at) as u64, got: *got };
                return Err(SnapshotError::in_file(problem).at(self.path.as_deref()));
            }
        }
        Ok(())
    }
}

/// The parts that the header of the file names.
fn parts_of(region: &Arc<Region>) -> Result<Parts, OpenError> {
    let have = region.capacity() as u64;
    let Some(fields) = Fields::of(region).filter(|_| region.file_bytes().is_some()) else {
        return Err(OpenError::Length { what: WHAT, got: have, expected: HEADER as u64 });
    };
    let got = fields.magic();
    if got != FILE_MAGIC {
        return Err(OpenError::Magic { what: WHAT, got, expected: FILE_MAGIC });
    }
    let version = fields.u32(at::VERSION);
    if version != VERSION {
        return Err(OpenError::Version { what: WHAT, got: version, expected: VERSION });
    }
    format::check_header(&fields, WHAT)?;
    format::expect(WHAT, "flags", fields.u32(at::FLAGS).into(), SEALED.into())?;
    let length = fields.u64(at::LENGTH);
    if have != length {
        return Err(OpenError::Length { what: WHAT, got: have, expected: length });
    }
    let count = fields.u32(at::PARTS);
    if !(2..=3).contains(&count) {
        let expected = "2 or 3".to_owned();
        return Err(OpenError::Field { what: WHAT, field: "number of parts", got: count.into(), expected });
    }
    let mut start = HEADER as u64;
    let mut next = |kind: Kind| {
        let entry = at::TABLE + kind.position() * ENTRY;
        format::expect(WHAT, "kind of a part", fields.u32(entry).into(), kind.code().into())?;
        format::expect(WHAT, "offset of a part", fields.u64(entry + 8), start)?;
        let bytes = fields.u64(entry + 16);
        let Some(end) = start.checked_add(bytes).filter(|end| *end <= length && bytes > 0) else {
            let expected = format!("1 to {}", length - start);
            return Err(OpenError::Field { what: WHAT, field: "length of a part", got: bytes, expected });
        };
        // Neither is larger than the map.
        let part = region.part(start as usize, bytes as usize).map_err(OpenError::Io)?;
        let part = Part { kind, start, region: Arc::new(part) };
        start = end.next_multiple_of(PAGE as u64).min(length);
        Ok(part)
    };
    let (rows, graph) = (next(Kind::Rows)?, next(Kind::Graph)?);
    let exact = if count > 2 { Some(next(Kind::Exact)?) } else { None };
    format::expect(WHAT, "length", length, start)?;
    Ok(Parts { rows, graph, exact })
}

fn info_of(region: &Region, parts: &Parts) -> Result<Info, SnapshotError> {
    let code = Fields::of(&parts.rows.region).map_or(0, |fields| fields.u32(at::ELEMENT));
    let element = ElementType::from_code(code);
    let (metric, dim, rows, params) = match element {
        Some(ElementType::F16) => check::<F16>(region, parts)?,
        Some(ElementType::Bf16) => check::<Bf16>(region, parts)?,
        Some(ElementType::I8) => check::<I8>(region, parts)?,
        Some(ElementType::SplitF32) => check::<SplitF32>(region, parts)?,
        Some(ElementType::SplitI8) => check::<SplitI8>(region, parts)?,
        // If it is none of them this says so, unless something else is wrong.
        Some(ElementType::F32) | None => check::<F32>(region, parts)?,
    };
    let (element, exact) = (element.unwrap_or(ElementType::F32), parts.exact.is_some());
    Ok(Info { element, metric, dim, rows, params, exact, bytes: region.capacity() as u64 })
}

type Checked = (crate::Metric, usize, u32, crate::HnswParams);

/// Opens everything once.
fn check<E: Encoding>(region: &Region, parts: &Parts) -> Result<Checked, SnapshotError> {
    let index = index_of::<E>(parts)?;
    let pair = index.storage().pair();
    if let Some(part) = &parts.exact {
        let exact = F32Rows::open(part.region.clone()).map_err(part.bad())?;
        let found = (exact.pair(), exact.metric(), exact.dim(), exact.capacity(), exact.is_sealed());
        let expected = (pair, index.metric(), index.dim(), index.capacity(), true);
        if found != expected {
            let why =
                format!("exact rows are {found:?}, expected {expected:?} (seal, metric, dimension, rows, sealed)");
            return Err(part.bad()(OpenError::Mismatch(why)));
        }
    }
    let of_file = region.file_bytes().and_then(|bytes| bytes.get(at::PAIR..at::PAIR + 8)).unwrap_or_default();
    if of_file != pair.to_ne_bytes() {
        return Err(SnapshotError::in_file(OpenError::Mismatch(format!("the file is not of seal {pair:016x}"))));
    }
    Ok((index.metric(), index.dim(), index.len(), index.params()))
}

fn index_of<E: Encoding>(parts: &Parts) -> Result<Hnsw<Rows<E>>, SnapshotError> {
    let Parts { rows, graph, .. } = parts;
    // Each for itself first, so that an error names its part.
    Rows::<E>::open(rows.region.clone()).map_err(rows.bad())?;
    Graph::open(graph.region.clone()).map_err(graph.bad())?;
    Hnsw::open_sealed(rows.region.clone(), graph.region.clone()).map_err(SnapshotError::in_file)
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, SeekFrom, Write};
    use std::time::{Duration, Instant};

    use super::*;
    use crate::format::{GraphLayout, RowsLayout};
    use crate::sealed::{graph_header, rows_header, sealed_bytes};
    use crate::snapshot::save::header;
    use crate::{HnswParams, Metric};

    /// A file of 60,000 rows of 784 whose headers alone are written; all else is a hole.
    fn large() -> File {
        let (len, dim, params) = (60_000, 784, HnswParams::default());
        let rows = RowsLayout::of(dim, len, 4, 4).unwrap();
        let graph = GraphLayout::of(params.m, len, 4000).unwrap();
        let parts = [(Kind::Rows, sealed_bytes(rows.end)), (Kind::Graph, sealed_bytes(graph.end))];
        let (page, length) = header(&parts, 7).unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.set_len(length).unwrap();
        file.write_all(&page).unwrap();
        file.write_all(&rows_header::<F32>(Metric::L2, dim, len, &rows, 7)).unwrap();
        let start = (HEADER as u64 + parts[0].1).next_multiple_of(PAGE as u64);
        file.seek(SeekFrom::Start(start)).unwrap();
        file.write_all(&graph_header(params, len, 4000, &graph, 7, Some((0, 0)))).unwrap();
        file
    }

    /// Bytes that are in memory of the map that begins at `start`.
    fn resident(start: *const u8) -> u64 {
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let after = maps.split(&format!("\n{:x}-", start as usize)).nth(1).unwrap();
        let line = after.lines().find(|line| line.starts_with("Rss:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
    }

    #[test]
    fn opening_reads_headers_only_and_takes_less_than_ten_milliseconds() {
        let file = large();
        let mut fastest = Duration::MAX;
        for _ in 0..20 {
            let begin = Instant::now();
            let region = Arc::new(Region::open_file(&file).unwrap());
            let snapshot = Snapshot::of(region.clone()).unwrap();
            let index = snapshot.index::<F32>().unwrap();
            fastest = fastest.min(begin.elapsed());
            assert_eq!((index.len(), index.dim(), region.capacity() > 190_000_000), (60_000, 784, true));
            // The kernel brings a few pages around each one that is touched.
            let read = resident(region.as_ptr());
            assert!(read <= 1 << 20, "{read} bytes of the file were touched");
        }
        assert!(fastest < Duration::from_millis(10), "{fastest:?}");
        println!("opened in {fastest:?}");
    }
}

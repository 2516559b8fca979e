//! Reading: the bytes (unpacked if gzipped), their header checked against them, then the values.
//!
//! Nothing is allocated by what a header says: a file's bytes are at hand before its header is believed, and what they
//! unpack to is bounded, so that a small file cannot ask for all memory.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use flate2::read::MultiGzDecoder;
use half::f16;

use crate::error::Error;
use crate::format::{Element, Format, Layout};
use crate::hdf5;
use crate::matrix::Matrix;

/// What a file may unpack to: 8 GiB, far above every set that these readers are for.
pub const UNPACKED_LIMIT: u64 = 8 << 30;

/// Bytes of the longest header: an IDX file of four extents.
const LONGEST_HEADER: u64 = 20;

/// Reads vectors of any format as f32: f16 is widened, bytes are counted, integers of `ibin` and `ivecs` are refused
/// (they are ids, see [`ids`]).
///
/// # Errors
/// [`Error::Io`], [`Error::UnknownFormat`] or [`Error::Malformed`]; [`Error::NotSupported`] for HDF5 in a build without it.
pub fn vectors(path: &Path) -> Result<Matrix<f32>, Error> {
    if let Some((file, table)) = hdf5::named(path) {
        return hdf5::vectors(&file, &table);
    }
    let (format, body) = body(path)?;
    let values = match format.element {
        Element::F32 => body.values.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        Element::F16 => body.values.as_chunks::<2>().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
        Element::U8 => body.values.iter().map(|b| f32::from(*b)).collect(),
        Element::I8 => body.values.iter().map(|b| f32::from(b.cast_signed())).collect(),
        Element::I32 => return Err(malformed(path, "it holds integers (ids), where vectors were expected".to_owned())),
    };
    matrix(path, values, body.dim)
}

/// Reads the ids of true neighbours, one row per query, nearest first.
///
/// # Errors
/// As [`vectors`]; [`Error::Malformed`] also if an id is negative.
pub fn ids(path: &Path) -> Result<Matrix<u32>, Error> {
    if let Some((file, table)) = hdf5::named(path) {
        return hdf5::ids(&file, &table);
    }
    let (format, body) = body(path)?;
    if format.element != Element::I32 {
        return Err(malformed(path, "it holds vectors, where ids were expected".to_owned()));
    }
    let read = body.values.as_chunks::<4>().0.iter().map(|b| u32::try_from(i32::from_le_bytes(*b)));
    let values = read.collect::<Result<_, _>>().map_err(|_| malformed(path, "it holds a negative id".to_owned()))?;
    matrix(path, values, body.dim)
}

/// Reads a whole file, unpacked if its name ends in `.gz`.
///
/// # Errors
/// [`Error::Io`], also if it unpacks to more than 8 GiB.
pub fn bytes(path: &Path) -> Result<Vec<u8>, Error> {
    bytes_while(path, |_| None)
}

/// As [`bytes`], but not much beyond the length that `length` makes of the first bytes: a file that unpacks to more than its
/// header says is wrong anyway, however much more it is.
fn bytes_while(path: &Path, length: impl Fn(&[u8]) -> Option<u64>) -> Result<Vec<u8>, Error> {
    let failed = |source| Error::Io { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let mut all = Vec::new();
    let gzipped = path.extension().is_some_and(|e| e == "gz");
    let from: &mut dyn Read = if gzipped { &mut MultiGzDecoder::new(io::BufReader::new(file)) } else { &mut { file } };
    from.take(LONGEST_HEADER).read_to_end(&mut all).map_err(failed)?;
    let limit = length(&all).map_or(UNPACKED_LIMIT, |length| length.min(UNPACKED_LIMIT));
    // One more tells that there are more.
    from.take((limit + 1).saturating_sub(all.len() as u64)).read_to_end(&mut all).map_err(failed)?;
    if all.len() as u64 > UNPACKED_LIMIT {
        return Err(failed(io::Error::other(format!("it holds more than {UNPACKED_LIMIT} bytes"))));
    }
    Ok(all)
}

/// The values' bytes, without any header; their number is a multiple of `dim` times the element's size.
struct Body {
    values: Vec<u8>,
    dim: usize,
}

fn body(path: &Path) -> Result<(Format, Body), Error> {
    let format = Format::of(path).ok_or_else(|| Error::UnknownFormat { path: path.to_owned() })?;
    let all = bytes_while(path, |header| match format.layout {
        Layout::Bin => extents(header.get(..8)?, u32::from_le_bytes, 0, format.element.size()),
        Layout::Idx => extents(header.get(4..4 + 4 * usize::from(*header.get(3)?))?, u32::from_be_bytes, 4, 1),
        Layout::Vecs => None,
    })?;
    let body = match format.layout {
        Layout::Bin => bin(all, format.element),
        Layout::Vecs => vecs(&all, format.element),
        Layout::Idx => idx(all),
    };
    body.map(|body| (format, body)).map_err(|why| malformed(path, why))
}

/// How long a file is whose header ends with these extents, after `before` other bytes.
fn extents(header: &[u8], number: fn([u8; 4]) -> u32, before: u64, size: usize) -> Option<u64> {
    let mut values = header.as_chunks::<4>().0.iter().map(|b| u64::from(number(*b)));
    let values = values.try_fold(size as u64, u64::checked_mul)?;
    values.checked_add(before + header.len() as u64)
}

/// The error of a file that is not what its name says.
pub fn malformed(path: &Path, why: String) -> Error {
    Error::Malformed { path: path.to_owned(), why }
}

/// Values as rows.
pub fn matrix<T>(path: &Path, values: Vec<T>, dim: usize) -> Result<Matrix<T>, Error> {
    Matrix::new(values, dim).ok_or_else(|| malformed(path, "its rows have no values".to_owned()))
}

/// Checks that after `header` bytes come exactly `count` times `size` more, and returns those.
fn exactly(mut all: Vec<u8>, header: usize, extents: &[u32], size: usize) -> Result<Vec<u8>, String> {
    let expected = extents.iter().try_fold(size, |product, extent| product.checked_mul(*extent as usize));
    let there = all.len().saturating_sub(header);
    if expected != Some(there) {
        let said = extents.iter().map(u32::to_string).collect::<Vec<_>>().join(" x ");
        return Err(format!("its header says {said} values of {size} bytes, but {there} bytes follow it"));
    }
    all.drain(..header);
    Ok(all)
}

fn bin(all: Vec<u8>, element: Element) -> Result<Body, String> {
    let Some((header, _)) = all.split_first_chunk::<8>() else {
        return Err(format!("it has {} bytes, a header has 8", all.len()));
    };
    let [a, b, c, d, e, f, g, h] = *header;
    let (rows, dim) = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]));
    if dim == 0 {
        return Err("its header says that rows have 0 dimensions".to_owned());
    }
    Ok(Body { values: exactly(all, 8, &[rows, dim], element.size())?, dim: dim as usize })
}

fn vecs(all: &[u8], element: Element) -> Result<Body, String> {
    let first = all.first_chunk::<4>().ok_or_else(|| format!("it has {} bytes, a row has at least 4", all.len()))?;
    let dim = usize::try_from(i32::from_le_bytes(*first)).ok().filter(|dim| *dim != 0);
    let dim = dim.ok_or_else(|| format!("its first row says {} dimensions", i32::from_le_bytes(*first)))?;
    let stride = dim.checked_mul(element.size()).and_then(|bytes| bytes.checked_add(4));
    let stride = stride.filter(|stride| all.len().is_multiple_of(*stride)).ok_or_else(|| {
        format!("its first row says {dim} dimensions, and {} bytes are not a number of such rows", all.len())
    })?;
    let mut values = Vec::with_capacity(all.len());
    for (i, row) in all.chunks_exact(stride).enumerate() {
        let (head, rest) = row.split_at(4);
        if head != first {
            return Err(format!("row {i} does not have the {dim} dimensions of the first"));
        }
        values.extend_from_slice(rest);
    }
    Ok(Body { values, dim })
}

fn idx(all: Vec<u8>) -> Result<Body, String> {
    let Some([0, 0, 8, count @ 1..=4]) = all.first_chunk::<4>().copied() else {
        return Err("it does not begin as an IDX file of bytes does (0 0 8, then 1 to 4 extents)".to_owned());
    };
    let header = 4 + 4 * usize::from(count);
    let Some(numbers) = all.get(4..header) else {
        return Err(format!("it has {} bytes, its header alone has {header}", all.len()));
    };
    let extents: Vec<u32> = numbers.as_chunks::<4>().0.iter().map(|b| u32::from_be_bytes(*b)).collect();
    let dim = extents[1..].iter().try_fold(1_usize, |product, extent| product.checked_mul(*extent as usize));
    let dim = dim.filter(|dim| *dim != 0).ok_or_else(|| format!("its header says extents {extents:?}"))?;
    Ok(Body { values: exactly(all, header, &extents, 1)?, dim })
}

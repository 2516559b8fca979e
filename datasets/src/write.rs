//! Writing the big-ann formats (see `format`), for cuts of data sets and for ground truth.

use std::fs;
use std::path::Path;

use flate2::{Compression, GzBuilder};
use half::f16;

use crate::error::Error;
use crate::matrix::Matrix;

/// Writes f32 rows as `fbin`, gzipped if the name ends in `.gz`.
///
/// # Errors
/// [`Error::Io`], or [`Error::Malformed`] if there are too many rows for the header.
pub fn write_fbin(path: &Path, rows: &Matrix<f32>) -> Result<(), Error> {
    write(path, rows, |value, out| out.extend_from_slice(&value.to_le_bytes()))
}

/// Writes rows as `f16bin`, rounding each value to the nearest half, gzipped if the name ends in `.gz`.
///
/// # Errors
/// As [`write_fbin`].
pub fn write_f16bin(path: &Path, rows: &Matrix<f32>) -> Result<(), Error> {
    write(path, rows, |value, out| out.extend_from_slice(&f16::from_f32(*value).to_le_bytes()))
}

/// Writes ids as `ibin`, gzipped if the name ends in `.gz`.
///
/// # Errors
/// As [`write_fbin`]; also [`Error::Malformed`] if an id is above 2^31 - 1.
pub fn write_ibin(path: &Path, rows: &Matrix<u32>) -> Result<(), Error> {
    if let Some(id) = rows.values().iter().find(|id| i32::try_from(**id).is_err()) {
        return Err(Error::Malformed { path: path.to_owned(), why: format!("the id {id} does not fit 31 bits") });
    }
    write(path, rows, |value, out| out.extend_from_slice(&value.to_le_bytes()))
}

fn write<T>(path: &Path, rows: &Matrix<T>, put: impl Fn(&T, &mut Vec<u8>)) -> Result<(), Error> {
    let extent = |n: usize| {
        let why = format!("{n} rows or dimensions do not fit 32 bits");
        u32::try_from(n).map_err(|_| Error::Malformed { path: path.to_owned(), why })
    };
    let mut out = Vec::new();
    out.extend_from_slice(&extent(rows.len())?.to_le_bytes());
    out.extend_from_slice(&extent(rows.dim())?.to_le_bytes());
    rows.values().iter().for_each(|value| put(value, &mut out));
    write_bytes(path, &out)
}

/// Writes bytes, gzipped if the name ends in `.gz`, always the same way: no time and no name in the gzip header.
fn write_bytes(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let failed = |source| Error::Io { path: path.to_owned(), source };
    if path.extension().is_none_or(|e| e != "gz") {
        return fs::write(path, bytes).map_err(failed);
    }
    let mut out = GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
    std::io::Write::write_all(&mut out, bytes).map_err(failed)?;
    fs::write(path, out.finish().map_err(failed)?).map_err(failed)
}

/// Writes text, gzipped if the name ends in `.gz`.
///
/// # Errors
/// [`Error::Io`].
pub fn write_text(path: &Path, text: &str) -> Result<(), Error> {
    write_bytes(path, text.as_bytes())
}

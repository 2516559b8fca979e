//! Tables of HDF5 files, as ann-benchmarks makes them: `train`, `test`, `neighbors`, `distances`. Which one is meant is
//! said after a colon: `sift-128-euclidean.hdf5:train`.
//!
//! The format itself is the crate `hdf5-reader`'s trade. What a table claims to hold is compared with the size of the file
//! before it is believed: a table without any data reads as zeros, however large it says it is.

use std::fs;
use std::path::{Path, PathBuf};

use half::f16;
use hdf5_reader::messages::datatype::Datatype;
use hdf5_reader::{Dataset, Hdf5File, OpenOptions};

use crate::error::Error;
use crate::matrix::Matrix;
use crate::read::{UNPACKED_LIMIT, bytes, malformed, matrix};

/// How much larger than its file a table may be: its chunks can be compressed, but vectors do not shrink like that.
const RATIO: u64 = 64;

/// The file and the table that `path` names, if it names an HDF5 file; the table is empty if none is named.
pub fn named(path: &Path) -> Option<(PathBuf, String)> {
    let name = path.file_name()?.to_str()?;
    let (file, table) = name.rsplit_once(':').unwrap_or((name, ""));
    let plain = file.strip_suffix(".gz").unwrap_or(file);
    let hdf5 = plain.ends_with(".hdf5") || plain.ends_with(".h5");
    hdf5.then(|| (path.with_file_name(file), table.to_owned()))
}

/// Reads a table of numbers as f32.
pub fn vectors(path: &Path, table: &str) -> Result<Matrix<f32>, Error> {
    let table = Table::open(path, table)?;
    let values = match table.data.dtype() {
        Datatype::FloatingPoint { size: 4, .. } => {
            let mut values = vec![0.0_f32; table.values];
            table.data.read_into(&mut values).map_err(|e| table.malformed(&e))?;
            values
        }
        Datatype::FloatingPoint { size: 8, .. } => table.convert(|b: [u8; 8]| f64::from_ne_bytes(b) as f32)?,
        Datatype::FloatingPoint { size: 2, .. } => table.convert(|b: [u8; 2]| f16::from_ne_bytes(b).to_f32())?,
        Datatype::FixedPoint { size: 1, signed: false, .. } => table.convert(|[b]: [u8; 1]| f32::from(b))?,
        Datatype::FixedPoint { size: 1, signed: true, .. } => {
            table.convert(|[b]: [u8; 1]| f32::from(b.cast_signed()))?
        }
        other => return Err(table.unexpected(other, "vectors of f64, f32, f16, i8 or u8")),
    };
    matrix(path, values, table.dim)
}

/// Reads a table of ids.
pub fn ids(path: &Path, table: &str) -> Result<Matrix<u32>, Error> {
    let table = Table::open(path, table)?;
    let values: Vec<Option<u32>> = match table.data.dtype() {
        Datatype::FixedPoint { size: 4, signed: true, .. } => {
            table.convert(|b: [u8; 4]| u32::try_from(i32::from_ne_bytes(b)).ok())?
        }
        Datatype::FixedPoint { size: 4, signed: false, .. } => {
            table.convert(|b: [u8; 4]| Some(u32::from_ne_bytes(b)))?
        }
        Datatype::FixedPoint { size: 8, .. } => {
            table.convert(|b: [u8; 8]| u32::try_from(i64::from_ne_bytes(b)).ok())?
        }
        other => return Err(table.unexpected(other, "ids of 32 or 64 bits")),
    };
    let values = values.into_iter().collect::<Option<Vec<u32>>>();
    let values = values.ok_or_else(|| malformed(path, "it holds an id that is negative or too large".to_owned()))?;
    matrix(path, values, table.dim)
}

/// An open table whose extent was checked.
struct Table<'a> {
    path: &'a Path,
    name: &'a str,
    data: Dataset,
    values: usize,
    dim: usize,
}

impl<'a> Table<'a> {
    fn open(path: &'a Path, name: &'a str) -> Result<Table<'a>, Error> {
        let gzipped = path.extension().is_some_and(|e| e == "gz");
        let (file, size) = if gzipped {
            let all = bytes(path)?;
            let size = all.len() as u64;
            (Hdf5File::from_vec(all), size)
        } else {
            let size = fs::metadata(path).map_err(|source| Error::Io { path: path.to_owned(), source })?.len();
            (Hdf5File::open_with_options(path, OpenOptions::default()), size)
        };
        let file = file.map_err(|e| malformed(path, format!("it is not an HDF5 file that can be read: {e}")))?;
        if name.is_empty() {
            let what = "name one of its tables after a colon, for example";
            let base = path.display();
            return Err(malformed(path, format!("{what} {base}:train, {base}:test or {base}:neighbors")));
        }
        let data =
            file.dataset(name).map_err(|e| malformed(path, format!("its table {name:?} cannot be read: {e}")))?;
        let shape = data.shape().to_vec();
        let [rows, dim] = shape[..] else {
            return Err(malformed(path, format!("its table {name:?} has {} extents, expected 2", shape.len())));
        };
        let claimed = data.raw_element_size().ok().and_then(|size| rows.checked_mul(dim)?.checked_mul(size as u64));
        let limit = size.saturating_mul(RATIO).min(UNPACKED_LIMIT);
        if claimed.is_none_or(|claimed| claimed > limit) {
            return Err(malformed(
                path,
                format!(
                    "its table {name:?} says it holds {rows} x {dim} values, more than {size} bytes can be read as"
                ),
            ));
        }
        // Both fit: their product does.
        Ok(Table { path, name, data, values: (rows * dim) as usize, dim: dim as usize })
    }

    fn convert<T, const N: usize>(&self, one: impl Fn([u8; N]) -> T) -> Result<Vec<T>, Error> {
        let all = self.data.read_native_bytes().map_err(|e| self.malformed(&e))?;
        Ok(all.as_chunks::<N>().0.iter().map(|b| one(*b)).collect())
    }

    fn malformed(&self, e: &hdf5_reader::error::Error) -> Error {
        malformed(self.path, format!("its table {:?} cannot be read: {e}", self.name))
    }

    fn unexpected(&self, found: &Datatype, expected: &str) -> Error {
        malformed(self.path, format!("its table {:?} holds {found:?}, where {expected} were expected", self.name))
    }
}

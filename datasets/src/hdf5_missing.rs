//! In a build without the feature `hdf5`: such files are recognised, and refused by name.

use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::matrix::Matrix;

/// The file that `path` names, if it names an HDF5 file.
pub fn named(path: &Path) -> Option<(PathBuf, String)> {
    let name = path.file_name()?.to_str()?;
    let file = name.rsplit_once(':').map_or(name, |(file, _)| file);
    let plain = file.strip_suffix(".gz").unwrap_or(file);
    (plain.ends_with(".hdf5") || plain.ends_with(".h5")).then(|| (path.with_file_name(file), String::new()))
}

/// Refuses.
pub fn vectors(path: &Path, _: &str) -> Result<Matrix<f32>, Error> {
    Err(refused(path))
}

/// Refuses.
pub fn ids(path: &Path, _: &str) -> Result<Matrix<u32>, Error> {
    Err(refused(path))
}

fn refused(path: &Path) -> Error {
    Error::NotSupported { path: path.to_owned(), what: "HDF5 in a build without the feature `hdf5`".to_owned() }
}

//! What can be wrong with a file of vectors, in sentences with what was found and what was expected.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// A file that cannot be read as what its name says, or data that do not fit each other.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The file cannot be opened, read, unpacked or written.
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The name ends in nothing that is known here.
    UnknownFormat {
        /// Which file.
        path: PathBuf,
    },
    /// The bytes are not what the format demands.
    Malformed {
        /// Which file.
        path: PathBuf,
        /// What was found and what was expected, where.
        why: String,
    },
    /// The format is known, but not to this build or not in this form.
    NotSupported {
        /// Which file.
        path: PathBuf,
        /// What is not supported.
        what: String,
    },
    /// Rows of different dimension were to be compared.
    DimensionMismatch {
        /// Dimension of the base.
        base: usize,
        /// Dimension of the queries.
        queries: usize,
    },
    /// More neighbours were asked for than there are rows.
    TooFewRows {
        /// How many were asked for.
        wanted: usize,
        /// How many there are.
        rows: usize,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Io { path, source } => write!(f, "{}: {source}", path.display()),
            Error::UnknownFormat { path } => write!(
                f,
                "{}: known endings are fbin, f16bin, u8bin, i8bin, ibin, fvecs, bvecs, ivecs, idx3-ubyte and hdf5, each \
                 alone or followed by .gz",
                path.display()
            ),
            Error::Malformed { path, why } => write!(f, "{}: {why}", path.display()),
            Error::NotSupported { path, what } => write!(f, "{}: {what} is not supported yet", path.display()),
            Error::DimensionMismatch { base, queries } => {
                write!(f, "the base has {base} dimensions, the queries have {queries}")
            }
            Error::TooFewRows { wanted, rows } => {
                write!(f, "{wanted} neighbours were asked for, there are {rows} rows")
            }
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}

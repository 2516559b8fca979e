//! One error type per operation; each says what it got, what it expected and where.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::kernel::IsaError;

/// A vector that cannot be stored or searched for.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum VectorError {
    /// The number of dimensions differs from the storage's.
    Dimension {
        /// Dimensions of the vector.
        got: usize,
        /// Dimensions of the storage.
        expected: usize,
    },
    /// A component is NaN or infinite.
    NotFinite {
        /// Its position, from 0.
        at: usize,
        /// What stands there.
        value: f32,
    },
    /// A component is beyond what the encoding can hold.
    OutOfRange {
        /// Its position, from 0.
        at: usize,
        /// What stands there.
        value: f32,
    },
    /// A vector of length zero has no direction and cannot be stored under cosine.
    Zero,
    /// The vector is so long that distances would overflow an f32.
    TooLong {
        /// Its Euclidean length.
        norm: f64,
    },
}

impl fmt::Display for VectorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            VectorError::Dimension { got, expected } => {
                write!(f, "the vector has {got} dimensions, expected {expected}")
            }
            VectorError::NotFinite { at, value } => {
                write!(f, "component {at} of the vector is {value}, expected a finite number")
            }
            VectorError::OutOfRange { at, value } => {
                write!(f, "component {at} of the vector is {value}, which the encoding of the rows cannot hold")
            }
            VectorError::Zero => f.write_str("a vector of length zero has no cosine distance and cannot be stored"),
            VectorError::TooLong { norm } => {
                write!(f, "the vector's length is {norm:e}, so that distances to it would overflow")
            }
        }
    }
}

impl Error for VectorError {}

/// Why rows or a graph could not be laid out in a region.
#[derive(Debug)]
#[non_exhaustive]
pub enum CreateError {
    /// A parameter is out of its range.
    Parameter {
        /// Its name.
        what: &'static str,
        /// Its value.
        got: u64,
        /// Smallest allowed value.
        min: u64,
        /// Largest allowed value.
        max: u64,
    },
    /// The region is smaller than `bytes_needed` says.
    TooSmall {
        /// Bytes of the region.
        got: usize,
        /// Bytes needed.
        expected: usize,
    },
    /// The region cannot be written by this process.
    ReadOnly,
    /// The region already holds something.
    NotEmpty,
    /// Rows and graph do not fit together; the sentence says why.
    Mismatch(String),
    /// The system has no memory for it.
    Memory(io::Error),
    /// The kernels asked for by VECINDEX_ISA are not available.
    Isa(IsaError),
}

impl fmt::Display for CreateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CreateError::Parameter { what, got, min, max } => {
                write!(f, "{what} is {got}, expected {min} to {max}")
            }
            CreateError::TooSmall { got, expected } => write!(f, "the region has {got} bytes, expected {expected}"),
            CreateError::ReadOnly => f.write_str("the region is mapped read-only and cannot be written"),
            CreateError::NotEmpty => f.write_str("the region is in use already, expected zeroed memory"),
            CreateError::Mismatch(why) => write!(f, "rows and graph do not fit together: {why}"),
            CreateError::Memory(e) => write!(f, "no memory for the index: {e}"),
            CreateError::Isa(e) => e.fmt(f),
        }
    }
}

impl Error for CreateError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            CreateError::Memory(e) => Some(e),
            CreateError::Isa(e) => Some(e),
            _ => None,
        }
    }
}

/// Why a region or file cannot be used as rows or as a graph.
#[derive(Debug)]
#[non_exhaustive]
pub enum OpenError {
    /// There are fewer or more bytes than the header declares.
    Length {
        /// What was opened ("file of rows", "graph", "snapshot").
        what: &'static str,
        /// Bytes there are.
        got: u64,
        /// Bytes the header asks for.
        expected: u64,
    },
    /// The first bytes are not those of this format.
    Magic {
        /// What was opened.
        what: &'static str,
        /// The bytes found.
        got: [u8; 8],
        /// The bytes that stand there in this format.
        expected: [u8; 8],
    },
    /// A version that this crate does not know.
    Version {
        /// What was opened.
        what: &'static str,
        /// The version found.
        got: u32,
        /// The newest known one.
        expected: u32,
    },
    /// A field of the header is impossible.
    Field {
        /// What was opened.
        what: &'static str,
        /// The field.
        field: &'static str,
        /// Its value.
        got: u64,
        /// What it should be, in words.
        expected: String,
    },
    /// Bytes do not have the checksum that was recorded for them.
    Checksum {
        /// What was read.
        what: &'static str,
        /// The part of it.
        part: &'static str,
        /// First byte of the bad range in the file.
        offset: u64,
        /// Bytes of the bad range.
        length: u64,
        /// Their CRC32C.
        got: u32,
        /// The one that was recorded.
        expected: u32,
    },
    /// A byte that means nothing is not zero.
    Padding {
        /// What was read.
        what: &'static str,
        /// Its place in the file.
        offset: u64,
        /// The byte.
        got: u8,
    },
    /// A link or tower that leads out of the graph.
    Link {
        /// The row it belongs to.
        id: u32,
        /// The level.
        level: u32,
        /// The value found.
        got: u32,
        /// Everything valid is below this.
        below: u32,
    },
    /// Equal rows that make no list: a row names two others, is named twice, or leads back to itself.
    Twin {
        /// The row.
        id: u32,
        /// The row that it names.
        got: u32,
    },
    /// A file that is not sealed was given where only a sealed one has checksums.
    NotSealed,
    /// Rows and graph do not belong together; the sentence says why.
    Mismatch(String),
    /// The kernels asked for by VECINDEX_ISA are not available.
    Isa(IsaError),
    /// The file could not be opened or mapped.
    Io(io::Error),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::Length { what, got, expected } => {
                write!(f, "the {what} has {got} bytes, expected {expected}")
            }
            OpenError::Magic { what, got, expected } => {
                let (got, expected) = (got.escape_ascii(), expected.escape_ascii());
                write!(f, "this is no {what}: it starts with \"{got}\", expected \"{expected}\"")
            }
            OpenError::Version { what, got, expected } => {
                write!(f, "the {what} is of format version {got}, expected at most {expected}")
            }
            OpenError::Field { what, field, got, expected } => {
                write!(f, "{field} in the header of the {what} is {got}, expected {expected}")
            }
            OpenError::Checksum { what, part, offset, length, got, expected } => {
                let end = offset + length;
                write!(f, "the {what} is damaged: {part} at bytes {offset}..{end} ")?;
                write!(f, "has the checksum {got:08x}, expected {expected:08x}")
            }
            OpenError::Padding { what, offset, got } => {
                write!(f, "the {what} is damaged: byte {offset} is {got}, expected 0, for it means nothing")
            }
            OpenError::Link { id, level, got, below } => {
                write!(f, "row {id} links to {got} on level {level}, expected an id below {below}")
            }
            OpenError::Twin { id, got } => {
                write!(f, "row {id} names row {got} as the next of those equal to it, expected a list that ends")
            }
            OpenError::NotSealed => f.write_str("only a sealed file carries checksums; this is not sealed"),
            OpenError::Mismatch(why) => write!(f, "rows and graph do not belong together: {why}"),
            OpenError::Isa(e) => e.fmt(f),
            OpenError::Io(e) => write!(f, "it cannot be read: {e}"),
        }
    }
}

impl Error for OpenError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            OpenError::Isa(e) => Some(e),
            OpenError::Io(e) => Some(e),
            _ => None,
        }
    }
}

/// Why a row was not appended. Nothing of it is visible then.
#[derive(Debug)]
#[non_exhaustive]
pub enum PushError {
    /// There is room for no more rows.
    Full {
        /// Rows there is room for.
        capacity: u32,
    },
    /// The vector itself is at fault.
    Vector(VectorError),
    /// This process may only read here.
    ReadOnly,
    /// Another appender got in between, past the index: a row was stored under an unexpected id, without a label.
    Order {
        /// The id the row got.
        got: u32,
        /// The id it should have got.
        expected: u32,
    },
    /// The system has no memory for the row.
    Memory(io::Error),
    /// The bytes of an encoded row are too few or too many.
    Encoded {
        /// How many they are.
        got: usize,
        /// Bytes of an encoded row.
        expected: usize,
    },
    /// The storage keeps its rows elsewhere as well, and that place did not take this one.
    Log(Box<dyn Error + Send + Sync>),
}

impl fmt::Display for PushError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PushError::Full { capacity } => write!(f, "all {capacity} slots for rows are taken"),
            PushError::Vector(e) => e.fmt(f),
            PushError::ReadOnly => f.write_str("the index was opened for reading and cannot be appended to"),
            PushError::Order { got, expected } => {
                write!(f, "the row was stored as {got}, expected {expected}: rows were appended beside the index")
            }
            PushError::Memory(e) => write!(f, "no memory for another row: {e}"),
            PushError::Encoded { got, expected } => {
                write!(f, "the encoded row has {got} bytes, expected {expected}")
            }
            PushError::Log(e) => write!(f, "the row was not logged: {e}"),
        }
    }
}

impl Error for PushError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            PushError::Vector(e) => Some(e),
            PushError::Memory(e) => Some(e),
            PushError::Log(e) => Some(e.as_ref()),
            _ => None,
        }
    }
}

impl From<VectorError> for PushError {
    fn from(e: VectorError) -> Self {
        PushError::Vector(e)
    }
}

/// Why a row was not linked.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LinkError {
    /// There is no such row.
    Unknown {
        /// The id asked for.
        id: u32,
        /// Number of rows.
        len: u32,
    },
    /// This process may only read here.
    ReadOnly,
}

impl fmt::Display for LinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LinkError::Unknown { id, len } => write!(f, "row {id} cannot be linked: there are {len} rows"),
            LinkError::ReadOnly => f.write_str("the graph was opened for reading and cannot be linked"),
        }
    }
}

impl Error for LinkError {}

/// Why a search was not started.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum SearchError {
    /// The query vector is at fault.
    Vector(VectorError),
    /// The rows to search among were selected in another index, or before it changed.
    Stale,
}

impl fmt::Display for SearchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SearchError::Vector(e) => e.fmt(f),
            SearchError::Stale => f.write_str("the rows to search among were selected before the index changed"),
        }
    }
}

impl Error for SearchError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            SearchError::Vector(e) => Some(e),
            SearchError::Stale => None,
        }
    }
}

impl From<VectorError> for SearchError {
    fn from(e: VectorError) -> Self {
        SearchError::Vector(e)
    }
}

/// Why exact distances could not be had for a result list.
#[derive(Debug)]
#[non_exhaustive]
pub enum RerankError {
    /// The query vector is at fault.
    Vector(VectorError),
    /// A row of the list does not exist.
    Unknown {
        /// Its id.
        id: u32,
        /// Number of rows.
        len: u32,
    },
    /// The place that holds the exact rows could not be read, or the work was cancelled.
    Read(Box<dyn Error + Send + Sync>),
}

impl fmt::Display for RerankError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RerankError::Vector(e) => e.fmt(f),
            RerankError::Unknown { id, len } => write!(f, "row {id} cannot be compared: there are {len} rows"),
            RerankError::Read(e) => write!(f, "the exact rows cannot be read: {e}"),
        }
    }
}

impl Error for RerankError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            RerankError::Vector(e) => Some(e),
            RerankError::Unknown { .. } => None,
            RerankError::Read(e) => Some(e.as_ref()),
        }
    }
}

/// Why an index could not be sealed.
#[derive(Debug)]
#[non_exhaustive]
pub enum SealError {
    /// Rows are not linked yet; a sealed graph covers all its rows.
    Pending {
        /// Rows that are linked.
        linked: u32,
        /// Rows there are.
        len: u32,
    },
    /// The exact rows do not belong to the index; the sentence says why.
    Mismatch(String),
    /// The writer that was given failed.
    Write(io::Error),
    /// The file could not be written.
    File {
        /// Its path.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

impl fmt::Display for SealError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SealError::Pending { linked, len } => {
                write!(f, "{linked} of {len} rows are linked; all must be before the index is sealed")
            }
            SealError::Mismatch(why) => write!(f, "the exact rows do not belong to the index: {why}"),
            SealError::Write(e) => write!(f, "the sealed index could not be written: {e}"),
            SealError::File { path, source } => write!(f, "{} could not be written: {source}", path.display()),
        }
    }
}

impl Error for SealError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            SealError::Pending { .. } | SealError::Mismatch(_) => None,
            SealError::Write(e) | SealError::File { source: e, .. } => Some(e),
        }
    }
}

impl From<io::Error> for SealError {
    fn from(e: io::Error) -> Self {
        SealError::Write(e)
    }
}

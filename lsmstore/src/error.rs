//! Errors, one type per operation, as sentences that say what was got, what was expected and where.

use std::error::Error;
use std::fmt::{self, Display, Formatter};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use uuid::Uuid;

use crate::batch::MAX_BATCH_BYTES;
use crate::checkpoint::CheckpointError;
use crate::key::{MAX_KEY_BYTES, MAX_VALUE_BYTES};
use crate::manifest::LeftBehind;
use crate::sstable::fault::Absent;

/// Bytes that are not what this crate wrote: flipped, cut, of another version, or of another store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Corruption {
    /// The object, file or region.
    pub object: String,
    /// Where in it, in bytes.
    pub offset: u64,
    /// What was expected and what was found.
    pub what: String,
}

impl Corruption {
    pub(crate) fn new(object: impl Into<String>, offset: u64, what: impl Into<String>) -> Corruption {
        Corruption { object: object.into(), offset, what: what.into() }
    }
}

impl Display for Corruption {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} is damaged at byte {}: {}", self.object, self.offset, self.what)
    }
}

impl Error for Corruption {}

/// Why a store refuses everything from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unusable {
    /// Another writer has taken over the bucket.
    Fenced {
        /// Our epoch.
        epoch: u64,
        /// The manifest that the other one wrote.
        manifest: u64,
    },
    /// An operation failed in a way after which nothing can be believed (a failed fsync).
    Poisoned {
        /// What happened.
        what: String,
    },
    /// The store was closed.
    Closed,
}

impl Display for Unusable {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Unusable::Fenced { epoch, manifest } => write!(
                f,
                "this store (epoch {epoch}) was fenced: another writer published manifest {manifest} and owns the \
                 bucket now"
            ),
            Unusable::Poisoned { what } => write!(f, "the store stopped and must be reopened: {what}"),
            Unusable::Closed => f.write_str("the store is closed"),
        }
    }
}

impl Error for Unusable {}

/// A batch that cannot be read or is over the limits.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BatchError {
    /// The encoded form makes no sense.
    Malformed {
        /// Byte in the encoded form.
        offset: usize,
        /// What is wrong there.
        what: String,
    },
    /// A key over [`MAX_KEY_BYTES`].
    KeyTooLarge {
        /// Its length.
        bytes: usize,
    },
    /// A value over [`MAX_VALUE_BYTES`].
    ValueTooLarge {
        /// Its length.
        bytes: usize,
    },
    /// A range deletion that ends before it begins.
    InvertedRange {
        /// Its begin.
        from: Vec<u8>,
        /// Its end.
        to: Vec<u8>,
    },
    /// An encoded form over [`MAX_BATCH_BYTES`].
    BatchTooLarge {
        /// Its length.
        bytes: usize,
    },
}

impl Display for BatchError {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            BatchError::Malformed { offset, what } => write!(f, "batch is malformed at byte {offset}: {what}"),
            BatchError::KeyTooLarge { bytes } => {
                write!(f, "key has {bytes} bytes, at most {MAX_KEY_BYTES} are allowed")
            }
            BatchError::ValueTooLarge { bytes } => {
                write!(f, "value has {bytes} bytes, at most {MAX_VALUE_BYTES} are allowed")
            }
            BatchError::InvertedRange { from, to } => {
                write!(
                    f,
                    "a range to be deleted ends at {} before it begins at {}",
                    to.escape_ascii(),
                    from.escape_ascii()
                )
            }
            BatchError::BatchTooLarge { bytes } => {
                write!(f, "batch has {bytes} bytes, at most {MAX_BATCH_BYTES} are allowed")
            }
        }
    }
}

impl Error for BatchError {}

/// What an external log says when it cannot do as asked.
#[derive(Debug)]
pub struct LogError {
    message: String,
}

impl LogError {
    /// An error with this sentence.
    pub fn new(message: impl Into<String>) -> LogError {
        LogError { message: message.into() }
    }
}

impl Display for LogError {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for LogError {}

/// Declares an error enum's `Display`, `Error::source` and `From`s from one table.
macro_rules! sources {
    ($type:ty { $($variant:ident($source:ty)),* $(,)? }) => {
        impl Error for $type {
            fn source(&self) -> Option<&(dyn Error + 'static)> {
                match self {
                    $(Self::$variant(source) => Some(source),)*
                    #[allow(unreachable_patterns)]
                    _ => None,
                }
            }
        }
        $(impl From<$source> for $type {
            fn from(source: $source) -> Self {
                Self::$variant(source)
            }
        })*
    };
}

/// A read that cannot be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReadError {
    /// Damaged bytes.
    Corrupt(Corruption),
    /// The view no longer holds what was visible then.
    SequenceTooOld {
        /// The sequence number asked for.
        asked: u64,
        /// The lowest one that this view can answer.
        floor: u64,
    },
    /// The store refuses everything.
    Unusable(Unusable),
    /// Has to be fetched; whoever reads through a [`Snapshot`](crate::Snapshot) does not see it.
    #[doc(hidden)]
    Absent(Absent),
}

impl Display for ReadError {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            ReadError::Absent(absent) => absent.fmt(f),
            ReadError::Corrupt(corruption) => corruption.fmt(f),
            ReadError::Unusable(why) => why.fmt(f),
            ReadError::SequenceTooOld { asked, floor } => {
                write!(
                    f,
                    "read at sequence {asked}, but versions before {floor} were merged away; use a view taken then"
                )
            }
        }
    }
}

sources!(ReadError { Corrupt(Corruption), Unusable(Unusable), Absent(Absent) });

/// A view that cannot be opened from its description.
#[derive(Debug)]
#[non_exhaustive]
pub enum ViewError {
    /// Damaged bytes, or a region that is not what the description says.
    Corrupt(Corruption),
    /// A region or file could not be mapped.
    Map {
        /// Which one.
        what: String,
        /// Why.
        source: io::Error,
    },
}

impl Display for ViewError {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            ViewError::Corrupt(corruption) => corruption.fmt(f),
            ViewError::Map { what, source } => write!(f, "cannot map {what}: {source}"),
        }
    }
}

sources!(ViewError { Corrupt(Corruption) });

/// A write that was not applied.
#[derive(Debug)]
#[non_exhaustive]
pub enum WriteError {
    /// Too many memtables wait for a flush. Wait for one and try again.
    Full {
        /// How many wait.
        frozen: usize,
    },
    /// Too much waits for the object store, tables or the log. Wait until some of it is there and try again.
    Behind {
        /// Bytes that wait.
        bytes: u64,
        /// Bytes that may.
        limit: u64,
    },
    /// The batch is over the limits.
    Batch(BatchError),
    /// No memory for a memtable.
    Memory(io::Error),
    /// The sequence numbers cannot be used.
    Sequence {
        /// What was asked for.
        first: u64,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The call does not fit who keeps the log.
    WrongLog {
        /// What to call instead.
        instead: &'static str,
    },
    /// Damaged memory of a memtable.
    Corrupt(Corruption),
    /// The flush that would have made room failed.
    Flush(Box<FlushError>),
    /// The store refuses everything.
    Unusable(Unusable),
}

impl Display for WriteError {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            WriteError::Full { frozen } => {
                write!(f, "{frozen} full memtables wait for a flush; try again when one is done")
            }
            WriteError::Behind { bytes, limit } => {
                write!(f, "{bytes} bytes wait for the object store, at most {limit} may")
            }
            WriteError::Batch(error) => error.fmt(f),
            WriteError::Memory(error) => write!(f, "no memory for a memtable: {error}"),
            WriteError::Sequence { first, what } => write!(f, "cannot write at sequence {first}: {what}"),
            WriteError::WrongLog { instead } => write!(f, "this store's log is kept otherwise; use {instead}"),
            WriteError::Corrupt(error) => error.fmt(f),
            WriteError::Flush(error) => write!(f, "no room for a write: {error}"),
            WriteError::Unusable(error) => error.fmt(f),
        }
    }
}

sources!(WriteError {
    Batch(BatchError),
    Memory(io::Error),
    Corrupt(Corruption),
    Flush(Box<FlushError>),
    Unusable(Unusable),
});

/// Something that the object store or the local disk refused, or that was found damaged there.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum StorageError {
    /// The object store failed.
    Object {
        /// What was being done, with the object's name.
        what: String,
        /// Its answer.
        source: Arc<object_store::Error>,
    },
    /// The local disk failed.
    Local {
        /// The file or folder.
        path: PathBuf,
        /// The system's answer.
        source: Arc<io::Error>,
    },
    /// Damaged bytes.
    Corrupt(Corruption),
    /// An object that a manifest names is not there: data is lost.
    Missing {
        /// The object.
        object: String,
    },
    /// A background job ended without a result (a panic, or the runtime is shutting down).
    JobLost,
}

impl StorageError {
    pub(crate) fn local(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> StorageError {
        let path = path.into();
        move |source| StorageError::Local { path, source: Arc::new(source) }
    }

    pub(crate) fn object(what: impl Into<String>) -> impl FnOnce(object_store::Error) -> StorageError {
        let what = what.into();
        move |source| StorageError::Object { what, source: Arc::new(source) }
    }
}

impl From<crate::env::JobLost> for StorageError {
    fn from(_: crate::env::JobLost) -> StorageError {
        StorageError::JobLost
    }
}

impl Display for StorageError {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            StorageError::Object { what, source } => write!(f, "object store failed: {what}: {source}"),
            StorageError::Local { path, source } => write!(f, "local disk failed: {}: {source}", path.display()),
            StorageError::Corrupt(corruption) => corruption.fmt(f),
            StorageError::Missing { object } => {
                write!(f, "object {object} is named by the manifest but is not in the object store: data is lost")
            }
            StorageError::JobLost => f.write_str("a background job ended without a result"),
        }
    }
}

impl Error for StorageError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            StorageError::Object { source, .. } => Some(&**source),
            StorageError::Local { source, .. } => Some(&**source),
            StorageError::Corrupt(source) => Some(source),
            StorageError::Missing { .. } | StorageError::JobLost => None,
        }
    }
}

impl From<Corruption> for StorageError {
    fn from(source: Corruption) -> StorageError {
        StorageError::Corrupt(source)
    }
}

/// A store that cannot be opened.
#[derive(Debug)]
#[non_exhaustive]
pub enum OpenError {
    /// Object store or local disk.
    Storage(StorageError),
    /// Another store in this or another process uses the local folder, and did not give it up within a second.
    InUse {
        /// The folder.
        local_dir: PathBuf,
    },
    /// Other writers keep opening the same bucket at the same time.
    Contended {
        /// How often we tried.
        attempts: u32,
    },
    /// The bucket was last written with a log kept elsewhere, and not stopped cleanly.
    LogElsewhere {
        /// The bucket's last epoch.
        epoch: u64,
    },
    /// The local folder holds records of another store.
    ForeignLog {
        /// The store that the records belong to.
        found: Uuid,
        /// The store in the bucket, none if the bucket is empty.
        expected: Option<Uuid>,
        /// The segment.
        path: PathBuf,
    },
    /// The bucket was written with another kind of log.
    WrongLog {
        /// What the manifest says.
        found: &'static str,
        /// What was asked for.
        expected: &'static str,
    },
    /// The external log failed.
    Log(LogError),
    /// Replaying our own log into memtables failed.
    Replay(WriteError),
    /// A flush that became necessary while opening failed.
    ReplayFlush(Box<FlushError>),
    /// The local folder belongs to another store than the bucket, or to one whose bucket is empty now.
    LeftBehind(LeftBehind),
    /// The object store creates what is there already: it cannot keep two writers apart.
    Unconditional {
        /// The object store.
        objects: String,
    },
    /// The manifest that the store was to go on with cannot be held.
    Base(CheckpointError),
    /// The local folder holds records that were acknowledged, but the bucket was taken over without them.
    OrphanedLog {
        /// The folder of the segments.
        path: PathBuf,
        /// The bucket's epoch.
        epoch: u64,
    },
}

impl Display for OpenError {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::Storage(error) => error.fmt(f),
            OpenError::InUse { local_dir } => {
                write!(f, "the folder {} is in use by another open store", local_dir.display())
            }
            OpenError::Contended { attempts } => {
                write!(f, "gave up after {attempts} attempts: other writers keep opening this bucket")
            }
            OpenError::LogElsewhere { epoch } => write!(
                f,
                "the bucket's last writer (epoch {epoch}) did not stop cleanly and keeps its log in another folder; open \
                 it there, or accept the loss of its unflushed writes"
            ),
            OpenError::ForeignLog { found, expected: Some(expected), path } => write!(
                f,
                "the log segment {} belongs to store {found}, but the bucket holds store {expected}",
                path.display()
            ),
            OpenError::ForeignLog { found, expected: None, path } => {
                write!(f, "the log segment {} belongs to store {found}, but the bucket is empty", path.display())
            }
            OpenError::WrongLog { found, expected } => write!(
                f,
                "the bucket holds writes that only a log kept by {found} can bring back; it was opened with a log kept by \
                 {expected}"
            ),
            OpenError::Log(error) => write!(f, "the external log failed: {error}"),
            OpenError::Replay(error) => write!(f, "replaying the log failed: {error}"),
            OpenError::ReplayFlush(error) => write!(f, "flushing while opening failed: {error}"),
            OpenError::Unconditional { objects } => write!(
                f,
                "{objects} does not honour create-if-absent (a PUT with If-None-Match), so that two writers could destroy \
                 each other's data there; use another object store, or Config::unsafe_single_writer"
            ),
            OpenError::Base(error) => write!(f, "the manifest to go on with cannot be held: {error}"),
            OpenError::LeftBehind(left) => write!(f, "the bucket does not hold the store of this folder: {left}"),
            OpenError::OrphanedLog { path, epoch } => write!(
                f,
                "{} holds acknowledged writes, but the bucket was taken over without them (epoch {epoch}); keep a copy of \
                 the folder and accept their loss, or open the store where it was taken over",
                path.display()
            ),
        }
    }
}

sources!(OpenError { Storage(StorageError), Log(LogError), Replay(WriteError), Base(CheckpointError) });

/// A flush or merge that did not take effect (unless it says otherwise). Nothing is lost; the next one tries again.
#[derive(Debug)]
#[non_exhaustive]
pub enum FlushError {
    /// Object store or local disk.
    Storage(StorageError),
    /// The external log failed before the manifest was written.
    Log(LogError),
    /// The manifest is durable and in use, but the external log could not be told; it is told again by the next flush.
    NotAnnounced(LogError),
    /// No memory for a memtable.
    Memory(io::Error),
    /// The store refuses everything.
    Unusable(Unusable),
}

impl Display for FlushError {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            FlushError::Storage(error) => error.fmt(f),
            FlushError::Log(error) => write!(f, "the external log failed: {error}"),
            FlushError::NotAnnounced(error) => {
                write!(f, "flushed, but the external log could not be told: {error}")
            }
            FlushError::Memory(error) => write!(f, "no memory for a memtable: {error}"),
            FlushError::Unusable(error) => error.fmt(f),
        }
    }
}

impl Error for FlushError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            FlushError::Storage(source) => Some(source),
            FlushError::Log(source) | FlushError::NotAnnounced(source) => Some(source),
            FlushError::Memory(source) => Some(source),
            FlushError::Unusable(source) => Some(source),
        }
    }
}

impl From<StorageError> for FlushError {
    fn from(source: StorageError) -> Self {
        FlushError::Storage(source)
    }
}

impl From<Unusable> for FlushError {
    fn from(source: Unusable) -> Self {
        FlushError::Unusable(source)
    }
}

//! Why a session could not do what it was asked.

use std::fmt;
use std::io;

use lsmstore::ViewError;

use crate::error::FormatError;

/// The caller's [`Wait`](crate::Wait) gave up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interrupted;

/// Why a request failed. After most of these the session is broken ([`Session::alive`](crate::Session::alive) says so).
#[derive(Debug)]
#[non_exhaustive]
pub enum ClientError {
    /// No worker serves now: it is starting or stopping, or has no room. Try again later.
    NotServing(String),
    /// The worker cannot use its bucket.
    Refused {
        /// Why.
        message: String,
        /// What to do about it.
        hint: String,
    },
    /// The worker cannot use its bucket now, and tries again by itself.
    Unavailable {
        /// Why.
        message: String,
        /// What to do about it.
        hint: String,
    },
    /// Worker and session come from different builds, as after an upgrade on disk: restart the server.
    OtherVersion {
        /// Protocol and layout of this process.
        mine: (u32, u32),
        /// Those of the worker.
        worker: (u32, u32),
    },
    /// The caller's wait gave up.
    Interrupted,
    /// The session was broken by an earlier failure.
    Broken,
    /// The worker went away.
    Gone,
    /// The request belongs to a generation of the worker that has ended.
    Generation {
        /// Generation of the worker that serves.
        current: u64,
    },
    /// The worker is stopping and begins no new writing transaction.
    Stopping,
    /// There is no such index, or it was dropped.
    NoSuchIndex(u64),
    /// The worker tried and failed.
    Worker {
        /// Why.
        message: String,
        /// What to do about it; may be empty.
        hint: String,
    },
    /// An answer that makes no sense.
    Format(FormatError),
    /// Memory or a file of the store cannot be mapped.
    View(ViewError),
    /// Memory or a file of an index cannot be mapped.
    Index {
        /// The index.
        index: u64,
        /// What is wrong, and where.
        message: String,
    },
    /// The socket failed.
    Io(io::Error),
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientError::NotServing(why) => write!(f, "the storage worker does not serve now: {why}"),
            ClientError::Refused { message, .. } | ClientError::Unavailable { message, .. } => f.write_str(message),
            ClientError::OtherVersion { mine, worker } => write!(
                f,
                "the storage worker speaks version {}.{}, this session {}.{}: restart the server",
                worker.0, worker.1, mine.0, mine.1
            ),
            ClientError::Interrupted => f.write_str("waiting for the storage worker was interrupted"),
            ClientError::Broken => f.write_str("the session with the storage worker is broken"),
            ClientError::Gone => f.write_str("the storage worker went away"),
            ClientError::Generation { current } => {
                write!(f, "the storage worker was restarted (its generation is {current} now)")
            }
            ClientError::Stopping => f.write_str("the storage worker is stopping"),
            ClientError::NoSuchIndex(index) => write!(f, "the store has no index {index}"),
            ClientError::Worker { message, .. } => f.write_str(message),
            ClientError::Format(error) => error.fmt(f),
            ClientError::View(error) => error.fmt(f),
            ClientError::Index { index, message } => write!(f, "index {index} cannot be read: {message}"),
            ClientError::Io(error) => write!(f, "talking to the storage worker failed: {error}"),
        }
    }
}

impl std::error::Error for ClientError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ClientError::Format(error) => Some(error),
            ClientError::View(error) => Some(error),
            ClientError::Io(error) => Some(error),
            _ => None,
        }
    }
}

impl From<Interrupted> for ClientError {
    fn from(_: Interrupted) -> ClientError {
        ClientError::Interrupted
    }
}

impl From<FormatError> for ClientError {
    fn from(error: FormatError) -> ClientError {
        ClientError::Format(error)
    }
}

impl From<ViewError> for ClientError {
    fn from(error: ViewError) -> ClientError {
        ClientError::View(error)
    }
}

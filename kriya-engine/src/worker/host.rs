//! What the worker needs of the process that it lives in: the log, the transactions, a place to report to.
//!
//! The engine's threads make these calls; the owner hops to its own thread (in Postgres the only one that may call server
//! functions) and lets the caller wait. Any of them may fail; nothing is lost then, and what needed it is tried again or
//! refused.

use std::fmt;

/// What the host says when it cannot do as asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostError {
    message: String,
    gone: bool,
}

impl HostError {
    /// An error with this sentence.
    pub fn new(message: impl Into<String>) -> HostError {
        HostError { message: message.into(), gone: false }
    }

    /// An error that will not pass: the log that was asked for is not there, or is damaged.
    pub fn gone(message: impl Into<String>) -> HostError {
        HostError { message: message.into(), gone: true }
    }

    /// Whether the log that was asked for is not there.
    pub fn is_gone(&self) -> bool {
        self.gone
    }
}

impl fmt::Display for HostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for HostError {}

/// Who the host is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// Identifies the database cluster.
    pub system_identifier: u64,
    /// Its timeline.
    pub timeline: u32,
    /// The next full transaction id to be given out.
    pub next_xid: u64,
}

/// Where records were put in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogRange {
    /// Start of the first record.
    pub start: u64,
    /// End of the last one.
    pub end: u64,
}

/// A record that was read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRecord {
    /// Where it starts.
    pub start: u64,
    /// Where it ends.
    pub end: u64,
    /// What was logged.
    pub payload: Vec<u8>,
}

/// A part of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogChunk {
    /// The records that begin with [`record::MAGIC`](crate::record::MAGIC), in order.
    pub records: Vec<LogRecord>,
    /// Where to go on reading.
    pub next: u64,
    /// The position asked for was reached.
    pub end_reached: bool,
}

/// What became of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XidState {
    /// It runs.
    InProgress,
    /// It committed.
    Committed,
    /// It did not.
    Aborted,
}

/// How much of the log is kept for the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KeptLog {
    /// From where on it is kept; none if nothing is kept.
    pub from: Option<u64>,
    /// It was to be kept, but the host gave that up: more had piled up than it allows.
    pub lost: bool,
}

/// How loud a report is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// For whoever looks for it.
    Log,
    /// Somebody should do something.
    Warning,
}

/// The process that the worker lives in; see the module's documentation.
pub trait Host: Send + Sync + 'static {
    /// Who it is, and how far its transactions have come.
    ///
    /// # Errors
    /// [`HostError`]; so for all methods here.
    fn facts(&self) -> Result<Facts, HostError>;

    /// Where the next record would start. Everything logged before was acknowledged before.
    fn position(&self) -> Result<u64, HostError>;

    /// From where on the server itself would read the log after a crash; 0 where that is not known.
    fn redo(&self) -> Result<u64, HostError>;

    /// Logs records, in this order; with `flush` they are durable when this returns.
    fn log(&self, records: Vec<Vec<u8>>, flush: bool) -> Result<LogRange, HostError>;

    /// Reads our records from `from` on, about `max_bytes` of them. Anything that stops it before `upto` is an error.
    fn read_log(&self, from: u64, upto: u64, max_bytes: usize) -> Result<LogChunk, HostError>;

    /// Makes sure that the log from `position` on is there and stays. More of it that is kept already is not let go.
    fn ensure_slot(&self, position: u64) -> Result<(), HostError>;

    /// The log before `position` is not needed any more. What was given up meanwhile is kept from there on again.
    fn advance_slot(&self, position: u64) -> Result<(), HostError>;

    /// How much of the log is kept.
    fn kept(&self) -> Result<KeptLog, HostError>;

    /// What became of transactions, one answer for each.
    fn resolve(&self, xids: &[u64]) -> Result<Vec<XidState>, HostError>;

    /// Waits until every transaction that passed its check of the generation before has ended.
    fn barrier(&self) -> Result<(), HostError>;

    /// A line in the server's log.
    fn report(&self, level: Level, message: &str);
}

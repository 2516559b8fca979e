//! KriyaDB's tables and vector indexes, without Postgres.
//!
//! One worker process owns a store (`lsmstore`) and the index segments (`vecindex`); any number of sessions in other
//! processes read both through shared memory and mapped files, and ask the worker only to write. This crate has the
//! formats of what is stored, logged and sent, the worker's side and the session's side. Postgres comes in through
//! traits that the owner implements: the host of the worker (its log, its transactions) and the wait of a session.
#![deny(clippy::unwrap_used)]

mod answers;
pub mod catalogue;
mod check;
mod client;
mod client_error;
pub mod codec;
mod control;
mod cursor;
mod error;
mod index;
pub mod keys;
mod line;
mod locking;
pub mod locks;
mod protocol;
mod reader;
pub mod record;
pub mod row;
mod socket;
pub mod worker;

pub use answers::{Built, Changed, IndexDefinition, IndexDeleted, IndexWritten, Locked, Progress, Written};
pub use check::check_store;
pub use client::Session;
pub use client_error::{ClientError, Interrupted};
pub use cursor::{CursorError, Found, IndexCursor, SearchMemory, Step};
pub use error::FormatError;
pub use index::{IndexReader, Metric, NewEntry, VectorRef, metric_code, metric_of};
pub use line::{PollWait, Wait};
pub use protocol::{
    Check, CheckLine, FlushReport, IndexStatus, LAYOUT_VERSION, LevelStatus, PROTOCOL_VERSION, SegmentStatus, Status,
};

//! What sessions and the worker say to each other. Frames are those of [`crate::socket`].
//!
//! The first frame of a session is a [`Hello`] of fixed form, so that two different builds understand at least that they
//! differ. Then the session asks ([`Request`], bulk bytes behind it) and the worker answers ([`Reply`]) in order; only
//! [`Request::TransactionEnded`] and [`Request::SubtransactionsEnded`] have no answer, and [`Reply::Progress`] and [`Reply::Regions`] come before the final one.

use bincode::{Decode, Encode};

use crate::catalogue::IndexDescription;
use crate::error::{FormatError, array};
use crate::locks::{Change, Claim, LockMode, Marked};

/// Version of the messages.
pub const PROTOCOL_VERSION: u32 = 2;
/// Version of everything that both sides read in shared memory and mirror files.
pub const LAYOUT_VERSION: u32 = 1;

pub(crate) const HELLO: u8 = 1;
pub(crate) const REQUEST: u8 = 2;
pub(crate) const REPLY: u8 = 3;

/// The first frame of a session: `"KRIYA" | 0 0 0 | protocol u32 | layout u32 | pid u32`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hello {
    pub protocol: u32,
    pub layout: u32,
    pub pid: u32,
}

const HELLO_MAGIC: [u8; 8] = *b"KRIYA\0\0\0";

impl Hello {
    pub(crate) fn encode(&self) -> [u8; 20] {
        let mut bytes = [0; 20];
        bytes[..8].copy_from_slice(&HELLO_MAGIC);
        bytes[8..12].copy_from_slice(&self.protocol.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.layout.to_le_bytes());
        bytes[16..].copy_from_slice(&self.pid.to_le_bytes());
        bytes
    }

    pub(crate) fn parse(bytes: &[u8]) -> Result<Hello, FormatError> {
        if bytes.len() != 20 || bytes[..8] != HELLO_MAGIC {
            return Err(FormatError::new("hello", "it is not the greeting of a session"));
        }
        Ok(Hello {
            protocol: u32::from_le_bytes(array("hello", bytes, 8)?),
            layout: u32::from_le_bytes(array("hello", bytes, 12)?),
            pid: u32::from_le_bytes(array("hello", bytes, 16)?),
        })
    }
}

/// A condition of a write: the current value of `key` must be `expected` (`None`: there is none).
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Check {
    /// The key to look at.
    pub key: Vec<u8>,
    /// The value that it must have.
    pub expected: Option<Vec<u8>>,
}

/// An index entry to be made, but for a vector that follows as raw floats.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct EntryHead {
    pub tid: u64,
    /// Table and offset where the vector is in a row.
    pub in_row: Option<(u64, u32)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) enum Request {
    NewId {
        generation: u64,
    },
    LeaseTids {
        generation: u64,
        table: u64,
        count: u32,
    },
    /// Raw: the encoded batch.
    Write {
        generation: u64,
        checks: Vec<Check>,
        /// The row whose mark is written, if locks may be in the way.
        change: Option<Change>,
    },
    /// All of these versions, or none; all must be marked as said.
    Lock {
        generation: u64,
        claim: Claim,
        versions: Vec<Marked>,
    },
    /// Which locks of the row the transaction holds.
    Held {
        table: u64,
        tid: u64,
        transaction: u64,
    },
    /// Who is in the way of a claim, without making it: always answered by [`Reply::InTheWay`].
    Ask {
        claim: Claim,
        tid: u64,
    },
    /// Answered when nothing is on its way any more that was sent before, by whomever.
    Fence,
    /// Raw: `dim` floats for each entry that has its vector here.
    IndexInsert {
        generation: u64,
        index: u64,
        dim: u16,
        entries: Vec<EntryHead>,
    },
    IndexDelete {
        generation: u64,
        index: u64,
        entries: Vec<u64>,
    },
    TransactionEnded,
    /// These rolled back: their locks are free.
    SubtransactionsEnded {
        xids: Vec<u64>,
    },
    /// The regions that the session still has mapped are not sent again.
    View {
        known: Vec<u64>,
    },
    /// Of the view that the session was handed last.
    Index {
        view: u64,
        index: u64,
        known: Vec<u64>,
    },
    BuildBegin {
        generation: u64,
        index: u64,
        description: IndexDescription,
        estimated_rows: u64,
    },
    /// Raw: `count` tids, then `count * dim` floats.
    BuildRows {
        count: u32,
        dim: u16,
    },
    BuildEnd,
    BuildAbort,
    Flush,
    Status,
    /// After [`Reply::Refused`]: to take the bucket over.
    TakeOver {
        accept_loss: bool,
    },
    /// Also of a session that was not let in.
    Check,
}

/// A sealed segment as a session opens it: two files of the mirror.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct SealedRef {
    pub segment: u64,
    pub rows_file: String,
    pub graph_file: String,
}

/// An active segment as a session opens it: two regions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub(crate) struct ActiveRef {
    pub rows_region: u64,
    pub graph_region: u64,
}

#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub(crate) enum Reply {
    Welcome {
        generation: u64,
        incarnation: u32,
        slot: u32,
        mirror: String,
        segments: String,
    },
    /// The bucket cannot be used.
    Refused {
        message: String,
        hint: String,
    },
    /// Not now: starting, stopping, or too many sessions.
    NotServing {
        message: String,
    },
    OtherVersion {
        protocol: u32,
        layout: u32,
    },
    Id(u64),
    Tids {
        first: u64,
        count: u32,
    },
    Written {
        first: u64,
    },
    Lost,
    Locked,
    /// Locks of these transactions are in the way.
    InTheWay {
        xids: Vec<u64>,
        member: bool,
    },
    Held(Vec<(u64, LockMode)>),
    Busy,
    IndexWritten {
        first_entry: u64,
        first: u64,
    },
    Dimension {
        expected: u32,
        got: u32,
    },
    /// Ids and capacities of the regions whose descriptors come with this frame, in this order.
    Regions(Vec<(u64, u64)>),
    /// Raw: the description of the store's view.
    View {
        number: u64,
    },
    Index {
        metric: u8,
        sealed: Vec<SealedRef>,
        active: Vec<ActiveRef>,
    },
    NoSuchIndex,
    /// The session no longer holds that view.
    ViewMoved,
    Progress {
        done: u64,
        total: u64,
    },
    Done,
    /// Raw: the encoded batch that was put into the store.
    Built {
        first: u64,
    },
    Flushed(FlushReport),
    Status(Box<Status>),
    /// The request belongs to another generation.
    Generation {
        current: u64,
    },
    Stopping,
    /// What a takeover came to.
    TookOver {
        sentence: String,
    },
    Failed {
        message: String,
        hint: String,
    },
    /// The bucket cannot be used now; the worker tries again.
    Unavailable {
        message: String,
        hint: String,
    },
    Checked(Vec<CheckLine>),
}

/// What became of one thing that the worker needs of its object store.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct CheckLine {
    /// What was tried.
    pub operation: String,
    /// Whether it can be done.
    pub ok: bool,
    /// Why not, or something worth knowing; may be empty.
    pub detail: String,
}

/// What a flush did.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct FlushReport {
    /// Number of the newest manifest.
    pub manifest: u64,
    /// Position in the log from which replay would start now.
    pub position: u64,
    /// Last sequence number in the manifest.
    pub sequence: u64,
}

/// What the worker says about itself.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub struct Status {
    /// Version of the worker's build.
    pub version: String,
    /// Kind of object store: "local", "memory" or a URL without credentials.
    pub endpoint: String,
    /// Id of the store, as text.
    pub store_id: String,
    /// Generation of the worker.
    pub generation: u64,
    /// Incarnation of the store.
    pub incarnation: u32,
    /// Epoch of the store's writer.
    pub epoch: u64,
    /// Number of the newest manifest.
    pub manifest: u64,
    /// Last sequence number given out.
    pub sequence: u64,
    /// Bytes in memtables.
    pub memtable_bytes: u64,
    /// Full memtables that wait to be flushed.
    pub frozen_memtables: u64,
    /// Bytes of tables that are on the local disk and not in the object store yet.
    pub pending_bytes: u64,
    /// Per level: number of tables and their bytes.
    pub levels: Vec<LevelStatus>,
    /// Sessions connected.
    pub sessions: u32,
    /// Every index.
    pub indexes: Vec<IndexStatus>,
    /// What last went wrong in the background, if anything.
    pub last_error: Option<String>,
    /// Where objects are: bucket and prefix.
    pub place: String,
    /// Settings that were asked for and wait for a restart.
    pub pending_change: Option<String>,
    /// How much of the log is kept for the store, or that it was lost.
    pub kept_log: String,
    /// Bytes that mirrors of tables and index segments take on the local disk.
    pub cache_bytes: u64,
    /// Bytes that they should not exceed.
    pub cache_budget: u64,
}

/// A level of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct LevelStatus {
    /// Number of tables.
    pub tables: u64,
    /// Bytes of their objects.
    pub bytes: u64,
}

/// An index, as the worker keeps it.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub struct IndexStatus {
    /// Its id.
    pub id: u64,
    /// Its name when it was made.
    pub name: String,
    /// Dimensions, 0 while unknown.
    pub dim: u32,
    /// Rows and first and last entry covered of each sealed segment.
    pub segments: Vec<SegmentStatus>,
    /// Active segments, the newest last.
    pub actives: u32,
    /// Rows in active segments.
    pub active_rows: u64,
    /// Rows of those that are not linked into a graph yet and searched one by one.
    pub pending_rows: u64,
}

/// A sealed segment of an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct SegmentStatus {
    /// Its number.
    pub segment: u64,
    /// Rows in it.
    pub rows: u64,
    /// Bytes of its two files.
    pub bytes: u64,
    /// First entry number covered.
    pub first: u64,
    /// First entry number not covered.
    pub end: u64,
}

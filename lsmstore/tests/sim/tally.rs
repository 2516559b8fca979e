//! How often faults struck, over all seeds: a simulation in which they do not come proves nothing.

use std::sync::atomic::{AtomicU64, Ordering};

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Another machine opened the store.
    Takeover,
    /// A power cut that lost bytes or names.
    PowerLoss,
    /// A process that could change no file any more from some moment on.
    Fuse,
    /// A put or delete took effect, and whoever asked does not know.
    LostAnswer,
    /// A local disk that refused something, once.
    DiskFault,
    /// An opening that would have left a log behind, and nobody had agreed to that.
    Refused,
    /// One that nobody had to agree to, after an orderly stop elsewhere.
    Moved,
    /// One took effect after whoever asked was told that it failed.
    Late,
    /// A pass of garbage collection deleted something.
    Deletion,
    /// A crash took records of a log that the store's owner keeps.
    Unlogged,
    /// A batch of such a log was applied again.
    Replayed,
    /// A follower showed what a writer did, and was compared with it.
    Followed,
}

const ALL: [Event; 12] = [
    Event::Takeover,
    Event::PowerLoss,
    Event::Fuse,
    Event::LostAnswer,
    Event::DiskFault,
    Event::Refused,
    Event::Moved,
    Event::Late,
    Event::Deletion,
    Event::Unlogged,
    Event::Replayed,
    Event::Followed,
];

static COUNTS: [AtomicU64; ALL.len()] = [const { AtomicU64::new(0) }; ALL.len()];

pub fn count(event: Event) {
    COUNTS[event as usize].fetch_add(1, Ordering::Relaxed);
}

/// How often each came.
pub fn counts() -> Vec<(Event, u64)> {
    ALL.iter().map(|&event| (event, COUNTS[event as usize].load(Ordering::Relaxed))).collect()
}

//! Garbage collection: objects in the bucket that nobody can need any more.
//!
//! Two passes at least, and never by age alone. A manifest goes once it is neither among the newest nor was the newest one
//! lately, and no checkpoint keeps it. A table goes once no manifest that stays names it, nor the writer's local one. What
//! a pass finds is deleted by another one, a quarantine later by this process' monotonic clock; a process that starts begins
//! anew. The object store's clock decides only for how long a manifest is retained, by differences of its own times.
//!
//! Only the writer deletes. It may have been fenced without knowing; then what it deletes is garbage all the same, for what
//! later epochs name is what its newest manifest named, or theirs, and it touches neither.
//!
//! # A pass, in this order
//! 1. List manifests. One that another epoch made is the end of this writer. Read those that stay and are not known.
//! 2. Fence the epochs before ours; create the *boundary*, the lowest manifest that stays. What lies below must not be
//!    begun with any more, see `checkpoint`.
//! 3. List checkpoints; end those that nobody refreshed, and list again.
//! 4. List tables and the logs of writers, then look at the local manifest: an object is there only after the local manifest
//!    has named it, and what that names no more it never names again.
//! 5. List manifests again, from the newest on; delete manifests, then tables.
//!
//! # Numbers stay taken
//! A creation that is refused is what keeps two writers apart, but a name that was deleted can be created again. So a writer
//! that has created a manifest looks for the *fence* of its own epoch, which is there, for ever, before any manifest of a
//! later one goes: who finds it has created a name that was used before, and is fenced. One that takes over lists what is
//! behind the manifest that it made.
//!
//! # Invariants
//! * Before a manifest is deleted, a boundary above it was created, and every epoch before ours has its fence.
//! * The two highest boundaries stay: a list that is read while one comes and one goes shows the other.
//! * Of its own epoch a writer deletes only what it has uploaded or named: what a copy of its folder uploads under the same
//!   epoch it does not know. What a publication is to name counts as named from its beginning on, whatever comes of it.
//! * Fences of logs stay, see [`remote`](crate::wal::remote). Of a log goes what the newest manifest holds: nothing older is
//!   replayed.
//! * Names that are not ours stay.

mod pass;
mod report;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use object_store::ObjectStore;
use object_store::path::Path;

use crate::config::{Config, Retention};
use crate::env::Env;
use crate::manifest::Manifest;
use crate::object::Names;
use crate::sstable::TableId;
pub(crate) use pass::{Owner, Pass};
pub use report::{Garbage, GcError, GcKind, GcOptions, GcReport, Kept, KeptBecause};

/// What a pass over a bucket would find, for whoever does not own it. Nothing is deleted, and all of it waits: only the
/// writer deletes ([`Store::collect_garbage`](crate::Store::collect_garbage)).
///
/// # Errors
/// [`GcError::Storage`].
pub async fn garbage(config: &Config, objects: &Arc<dyn ObjectStore>, env: &Arc<dyn Env>) -> Result<GcReport, GcError> {
    let names = Names::new(&config.prefix);
    let known = std::sync::Mutex::new(Known::default());
    let pass = Pass {
        objects: &**objects,
        names: &names,
        env: &**env,
        retention: config.retention,
        known: &known,
        owner: None,
        dry_run: true,
    };
    pass.run(&mut Memory::default()).await
}

/// Which manifests name which tables, of those that were read or made.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// The highest manifest that names a table.
    last: HashMap<TableId, u64>,
    manifests: BTreeSet<u64>,
}

impl Known {
    /// Notes that a table has its object, if no manifest may ever name it.
    pub(crate) fn note_uploaded(&mut self, table: TableId) {
        self.last.entry(table).or_default();
    }

    /// Notes what a manifest names.
    pub(crate) fn note(&mut self, number: u64, manifest: &Manifest) {
        self.manifests.insert(number);
        for table in manifest.levels.iter().flatten() {
            let last = self.last.entry(table.id).or_default();
            *last = number.max(*last);
        }
    }
}

/// What passes of one process remember.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memory {
    /// The lowest manifest that was to stay, as each pass saw it, and when.
    boundaries: Vec<(Duration, u64)>,
    /// When something was first found useless.
    useless: HashMap<Path, Duration>,
    /// When a checkpoint, by its newest beat, was first found not refreshed in time.
    late: HashMap<Path, Duration>,
    /// All epochs before ours have their fences.
    fenced: bool,
    /// The newest time of the object store that was seen, in milliseconds, and when it was.
    clock: Option<(i64, Duration)>,
    /// Tables of manifests that checkpoints keep.
    kept: HashMap<u64, HashSet<TableId>>,
}

/// An object as it is listed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Listed {
    pub(crate) bytes: u64,
    /// By the object store's clock, in milliseconds.
    pub(crate) modified: i64,
}

impl Memory {
    /// The object store's time now, at the earliest, given the newest that it shows.
    fn server_now(&mut self, shown: i64, now: Duration) -> i64 {
        let known = self.clock.map(|(newest, seen)| newest + now.saturating_sub(seen).as_millis() as i64);
        if self.clock.is_none_or(|(newest, _)| shown > newest) {
            self.clock = Some((shown, now));
        }
        known.map_or(shown, |known| known.max(shown))
    }
}

/// The lowest of the manifests that stay: the newest, as many as are wanted, and those that had no successor `age` ago.
fn lowest_retained(manifests: &BTreeMap<u64, Listed>, retention: &Retention, server_now: i64) -> u64 {
    let age = i64::try_from(retention.age.as_millis()).unwrap_or(i64::MAX);
    let since = server_now.saturating_sub(age);
    let (mut lowest, mut replaced) = (0, i64::MAX);
    for (rank, (&number, listed)) in manifests.iter().rev().enumerate() {
        if rank >= retention.manifests.max(1) && replaced <= since {
            break;
        }
        (lowest, replaced) = (number, listed.modified);
    }
    lowest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifests(modified: &[i64]) -> BTreeMap<u64, Listed> {
        (1..).zip(modified.iter().map(|&modified| Listed { bytes: 1, modified })).collect()
    }

    fn retention(manifests: usize, seconds: u64) -> Retention {
        Retention { manifests, age: Duration::from_secs(seconds), quarantine: Duration::ZERO }
    }

    #[test]
    fn a_manifest_is_retained_from_the_moment_at_which_another_took_its_place() {
        let listed = manifests(&[0, 10_000, 20_000, 90_000]);
        // The third one was the newest until 90 s.
        assert_eq!(lowest_retained(&listed, &retention(1, 10), 95_000), 3);
        assert_eq!(lowest_retained(&listed, &retention(1, 10), 100_000), 4);
        assert_eq!(lowest_retained(&listed, &retention(1, 75), 95_000), 3);
        assert_eq!(lowest_retained(&listed, &retention(1, 76), 95_000), 2);
        assert_eq!(lowest_retained(&listed, &retention(3, 0), 95_000), 2);
        assert_eq!(lowest_retained(&listed, &retention(9, 0), 95_000), 1);
        assert_eq!(lowest_retained(&listed, &retention(1, u64::MAX), 95_000), 1);
        assert_eq!(lowest_retained(&manifests(&[]), &retention(1, 0), 0), 0);
    }

    #[test]
    fn the_object_stores_time_goes_on_by_our_clock_and_never_back() {
        let mut memory = Memory::default();
        let seconds = Duration::from_secs;
        assert_eq!(memory.server_now(1_000, seconds(5)), 1_000);
        assert_eq!(memory.server_now(1_000, seconds(9)), 5_000);
        assert_eq!(memory.server_now(2_000, seconds(10)), 6_000);
        assert_eq!(memory.server_now(9_000, seconds(10)), 9_000);
        assert_eq!(memory.server_now(0, seconds(11)), 10_000);
    }
}

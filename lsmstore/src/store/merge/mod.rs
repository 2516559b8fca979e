//! Leveled compaction: tables of one level are merged with those of the next that they overlap, and become tables of it.
//!
//! `pick` says what is due, `run` reads and writes, `claims` keeps those apart that go on at once: one of L0 or L1, and one
//! of deeper levels. Each is bounded by what it picks; `Store::merge` makes one, and its caller goes on while
//! [`Store::wants_merge`] says so. A second caller beside it keeps a deep merge from holding up L0.
//!
//! A merge that ends early, because the store is closed or the process dies, leaves its inputs in use. What it wrote is
//! named by no manifest: its files are removed then, or when the store is opened next.
//!
//! # Invariants
//! * R and S stay. Inputs that were never uploaded need not be any more.
//! * Versions of a key in a level are newer than those in the levels below it, but for what a replayed log brings back.

mod claims;
mod deleted;
mod limiter;
mod pick;
mod run;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures::future::join_all;

use crate::env::{blocking, to_its_end};
use crate::error::{FlushError, StorageError};
use crate::sstable::TableId;
use crate::sstable::read::Table;
use crate::store::flush::{New, retire};
use crate::store::jobs::{Ending, JobKind, Ticket, Work};
use crate::store::{Inner, Store};
pub(super) use claims::Claims;
use claims::{Claim, Claimed};
pub(super) use limiter::Limiter;
pub(super) use pick::overfull;
use pick::{Choice, Pick};
use run::Job;

/// What the owner of a store wants of a merge: which entries of his nobody can need any more.
///
/// Versions that newer ones or deletions hide from every reader at or above the merge's floor go in any case, and are not
/// shown to the policy. Readers of older numbers have views, which keep the tables that they read.
///
/// ```
/// use lsmstore::{MergeEntry, MergePolicy};
///
/// /// Entries end when the day in the first two bytes of their value is over.
/// struct Expired {
///     today: u16,
/// }
///
/// impl MergePolicy for Expired {
///     fn judge(&self, group: &[MergeEntry<'_>], _bottommost: bool, keep: &mut [bool]) {
///         for (entry, keep) in group.iter().zip(keep) {
///             let day = entry.value.and_then(|value| value.first_chunk()).map(|day| u16::from_be_bytes(*day));
///             *keep = day.is_none_or(|day| day >= self.today);
///         }
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use std::sync::Arc;
/// # use lsmstore::{Batch, Config, LogChoice, Store, SystemEnv, objects};
/// # let folder = tempfile::tempdir()?;
/// # let env = Arc::new(SystemEnv::new());
/// # let store = Store::open(Config::new(folder.path(), "demo"), objects::memory(), env, LogChoice::Nobody).await?;
/// store.apply(Batch::new().put(b"old", &[0, 6]).put(b"new", &[0, 7]))?;
/// store.flush().await?;
/// store.merge(Arc::new(Expired { today: 7 })).await?;
/// let view = store.view()?;
/// assert_eq!(view.get(b"old", view.read_sequence())?, None);
/// assert_eq!(view.get(b"new", view.read_sequence())?, Some(&[0, 7][..]));
/// # Ok(())
/// # }
/// ```
pub trait MergePolicy: Send + Sync {
    /// Length of the prefix of `key` that makes keys a group. What a merge reads of a group is judged together. Default: each
    /// key alone.
    fn group_len(&self, key: &[u8]) -> usize {
        key.len()
    }

    /// Clears `keep[i]` for each entry of the group that may go, whatever newer entries of the group say: those may be in
    /// tables above, which this merge does not read. What may go is dropped with all its older versions if
    /// `bottommost` (no older version can be anywhere else), and becomes a deletion otherwise. Default: all is kept.
    fn judge(&self, group: &[MergeEntry<'_>], bottommost: bool, keep: &mut [bool]) {
        let _ = (group, bottommost, keep);
    }

    /// Whether the merge goes on: asked before each group. One that does not leaves everything as it was. Default: it does.
    fn goes_on(&self) -> bool {
        true
    }
}

/// A policy that keeps everything.
#[derive(Clone, Copy, Debug, Default)]
pub struct KeepAll;

impl MergePolicy for KeepAll {}

/// The newest version of a key as a merge sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MergeEntry<'a> {
    /// The key.
    pub key: &'a [u8],
    /// When this version was written.
    pub sequence: u64,
    /// Its value, none for a deletion.
    pub value: Option<&'a [u8]>,
}

/// What a merge did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Merged {
    /// Tables that went in; zero if there was nothing to merge, or if the policy had it end early.
    pub inputs: usize,
    /// Tables that came out; those that went in, if they only changed their level.
    pub outputs: usize,
    /// Bytes of their mirrors that were written.
    pub bytes: u64,
    /// Versions that were dropped.
    pub dropped: u64,
}

impl Store {
    /// Merges what is most due: tables of L0 or of a level that is over its size, into the level below. If nothing is due,
    /// the tables of L0. Then publishes. Writes and flushes go on meanwhile, and so may one other merge: called while one is
    /// going on, this takes what does not meet it, or waits.
    ///
    /// # Errors
    /// [`FlushError`]; the inputs stay in use, unless only the publication failed.
    pub async fn merge(&self, policy: Arc<dyn MergePolicy>) -> Result<Merged, FlushError> {
        let merged = self.merge_local(policy).await?;
        if merged.inputs > 0 {
            self.publish().await?;
        }
        Ok(merged)
    }

    /// As [`Store::merge`], on the local disk only; [`Store::publish`] uploads. Once begun it is carried to its end, even
    /// if the caller gives up waiting.
    ///
    /// # Errors
    /// [`FlushError`]; the inputs stay in use.
    pub async fn merge_local(&self, policy: Arc<dyn MergePolicy>) -> Result<Merged, FlushError> {
        let merge = Arc::clone(&self.inner).merge(policy);
        let merged = to_its_end(&*self.inner.env, merge).await.map_err(StorageError::from)?;
        self.inner.counters.failed_merges.add(u64::from(merged.is_err()));
        merged
    }

    /// Takes tables out of use, unread, all keys of which are of no use to anybody any more: `dead` is asked with the smallest
    /// and the largest key of each table. Returns how many went. What was dropped as a whole is not written to any more, so
    /// merges would hardly come by it. On the local disk only; [`Store::publish`] follows. Views that somebody holds keep them.
    ///
    /// # Errors
    /// [`FlushError`]; all tables stay in use.
    pub async fn drop_tables(&self, dead: impl Fn(&[u8], &[u8]) -> bool + Send + 'static) -> Result<usize, FlushError> {
        let inner = Arc::clone(&self.inner);
        let drop = async move {
            let _alone = inner.claims.all().await;
            inner.usable()?;
            let floor = inner.settled.load(Ordering::Acquire);
            let view = inner.current();
            let dead = view.tables().filter(|table| dead(&table.min_key, &table.max_key));
            let dead: HashSet<TableId> = dead.map(|table| table.id).collect();
            if !dead.is_empty() {
                inner.take_away(&dead, floor).await?;
            }
            Ok(dead.len())
        };
        to_its_end(&*self.inner.env, drop).await.map_err(StorageError::from)?
    }

    /// Whether a merge is due: L0 has too many tables, a level too many bytes, a table is mostly deletions, or all of one is
    /// deleted by a range.
    pub fn wants_merge(&self) -> bool {
        let floor = self.inner.settled.load(Ordering::Acquire);
        pick::is_due(&self.inner.current(), &self.inner.config, floor)
    }
}

impl Inner {
    async fn merge(self: Arc<Inner>, policy: Arc<dyn MergePolicy>) -> Result<Merged, FlushError> {
        let mut job = self.jobs.queue(JobKind::Merge, self.env.reactor());
        let merged = self.merge_what_is_due(policy, &mut job).await;
        let ending = merged.as_ref().map(|merged| match merged.inputs {
            0 if job.has_begun() => Ending::GivenUp,
            0 => Ending::Nothing,
            _ => Ending::Done(merged.bytes),
        });
        job.end(ending);
        merged
    }

    async fn merge_what_is_due(
        self: &Arc<Inner>,
        policy: Arc<dyn MergePolicy>,
        job: &mut Ticket<'_>,
    ) -> Result<Merged, FlushError> {
        let inner = self;
        let (pick, floor, _claimed) = inner.begin(&*policy).await?;
        let choice = match pick {
            Pick::Merge(choice, _) => choice,
            Pick::Drop(covered) => {
                job.begin(None, None);
                let dropped = inner.take_away(&covered, floor).await?;
                return Ok(Merged { inputs: covered.len(), dropped, ..Merged::default() });
            }
            Pick::Wait | Pick::Nothing => return Ok(Merged::default()),
        };
        job.begin(Some(if choice.to <= 2 { Work::UpperMerge } else { Work::DeepMerge }), Some(choice.to));
        let began = inner.env.reactor().monotonic();
        let view = inner.current();
        let inputs: HashSet<TableId> = choice.tables().map(|table| table.info.id).collect();
        let own = choice.to.checked_sub(1).and_then(|to| view.levels.get(to));
        let own: HashSet<TableId> = own.into_iter().flat_map(|run| run.iter()).map(|table| table.info.id).collect();
        let (mut above, mut same) = (0, 0);
        for table in choice.tables() {
            *if own.contains(&table.info.id) { &mut same } else { &mut above } += table.info.mirror_len;
        }
        if choice.moves {
            inner.replace(&inputs, choice.to, None).await?;
            inner.counters.moved(choice.to, above);
            return Ok(Merged { inputs: inputs.len(), outputs: inputs.len(), ..Merged::default() });
        }
        let Some((outputs, dropped)) = inner.run(&choice, floor, policy).await? else { return Ok(Merged::default()) };
        let bytes = outputs.iter().map(|table| table.info.mirror_len).sum();
        let merged = Merged { inputs: inputs.len(), outputs: outputs.len(), bytes, dropped };
        inner.replace(&inputs, choice.to, Some((outputs, floor))).await?;
        let took = inner.env.reactor().monotonic().saturating_sub(began);
        inner.counters.merged(choice.to, took, (above, same), bytes);
        Ok(merged)
    }

    /// Chooses what to do and claims what it works on; waits if that must wait for a merge that is going on. With its floor.
    async fn begin(&self, policy: &dyn MergePolicy) -> Result<(Pick, u64, Option<Claimed<'_>>), FlushError> {
        let mut waited = false;
        loop {
            let mut given_up = std::pin::pin!(self.claims.given_up());
            given_up.as_mut().enable();
            self.usable()?;
            {
                let current = self.claims.current();
                // Before the view: what is in its tables may be newer.
                let floor = self.settled.load(Ordering::Acquire);
                let pick = pick::choose(&self.current(), &self.config, policy, &current, floor, !waited);
                let claim = match &pick {
                    Pick::Merge(_, claim) => Some(claim.clone()),
                    Pick::Drop(_) => Some(Claim::All),
                    Pick::Nothing => return Ok((pick, floor, None)),
                    Pick::Wait => None,
                };
                if let Some(claim) = claim {
                    return Ok((pick, floor, Some(current.claim(claim))));
                }
            }
            waited = true;
            given_up.await;
        }
    }

    /// Takes tables out of use, unread. Returns how many versions were in them.
    async fn take_away(&self, tables: &HashSet<TableId>, floor: u64) -> Result<u64, FlushError> {
        let view = self.current();
        let dropped = view.tables().filter(|table| tables.contains(&table.id)).map(|table| table.entries).sum();
        self.replace(tables, 0, Some((Vec::new(), floor))).await?;
        Ok(dropped)
    }

    /// Whether merges go on: not once the store is being closed.
    fn merges_go_on(&self) -> bool {
        !self.closing.load(Ordering::Acquire)
    }

    /// Writes the outputs of a merge, in parts side by side; nothing if it was not to go on.
    async fn run(
        self: &Arc<Inner>,
        choice: &Choice,
        floor: u64,
        policy: Arc<dyn MergePolicy>,
    ) -> Result<Option<(Vec<Arc<Table>>, u64)>, FlushError> {
        let jobs = Job::parts(self, choice, floor, policy);
        let parts = join_all(jobs.into_iter().map(|job| blocking(&*self.env, move || job.run()))).await;
        let (mut outputs, mut dropped, mut ended, mut failed) = (Vec::new(), 0, false, None);
        for part in parts {
            match part.map_err(StorageError::from).and_then(|part| part) {
                Ok(Some((tables, gone))) => {
                    outputs.extend(tables.into_iter().map(Arc::new));
                    dropped += gone;
                }
                Ok(None) => ended = true,
                Err(error) => failed = Some(error),
            }
        }
        if ended || failed.is_some() {
            retire(&outputs);
        }
        match failed {
            Some(error) => Err(error.into()),
            None => Ok((!ended).then_some((outputs, dropped))),
        }
    }

    /// Makes outputs that were written with a floor tables of level `to`, in the place of the inputs; without outputs the
    /// inputs themselves.
    async fn replace(
        &self,
        inputs: &HashSet<TableId>,
        to: usize,
        outputs: Option<(Vec<Arc<Table>>, u64)>,
    ) -> Result<(), FlushError> {
        let mut local = self.local.lock().await;
        let mut next = local.manifest.clone();
        let mut taken = Vec::new();
        for level in &mut next.levels {
            taken.extend(level.extract_if(.., |table| inputs.contains(&table.id)));
        }
        next.levels.resize(next.levels.len().max(to + 1), Vec::new());
        let new = match outputs {
            Some((tables, floor)) => {
                let unsent = inputs.iter().filter_map(|id| local.pending.get(id));
                let fresh = unsent.filter(|input| input.table.object_len() == 0).map(|input| input.fresh).sum();
                next.levels[to].extend(tables.iter().map(|table| table.info.clone()));
                next.floor = next.floor.max(floor);
                New { tables, fresh }
            }
            None => {
                next.levels[to].append(&mut taken);
                New { tables: Vec::new(), fresh: 0 }
            }
        };
        next.levels[to].sort_by(|a, b| a.min_key.cmp(&b.min_key));
        next.clean = false;
        let number = self.next_number();
        let born = match self.usable() {
            Ok(()) => self.give_birth(number, &mut next).await,
            Err(error) => Err(error.into()),
        };
        born.inspect_err(|_| retire(&new.tables))?;
        self.adopt(&mut local, number, next, new, &[]).await?;
        Ok(())
    }
}

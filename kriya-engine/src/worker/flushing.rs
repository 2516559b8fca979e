//! The threads that flush and merge, and finding out what became of transactions that made or dropped something.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use lsmstore::{Batch, FlushError, FlushOptions, MergeEntry, MergePolicy, View, fail};

use crate::catalogue::CatalogueEntry;
use crate::keys;
use crate::worker::cache::sweep;
use crate::worker::engine::{ApplyError, Engine, Signals};
use crate::worker::host::{HostError, XidState};
use crate::worker::publishing::{Failing, follow_the_local_disk};

/// Log that may pile up behind the newest position before a manifest is made for that reason alone.
const LOG_AHEAD: u64 = 256 << 20;
/// How often the flushing thread looks whether a checkpoint has passed the store's position.
const LOOK: Duration = Duration::from_secs(1);
/// How long the merging thread sleeps when nobody wakes it.
const IDLE: Duration = Duration::from_secs(60);
/// Pause after a failed flush, doubled up to the second.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// Flushes until the worker ends.
pub(crate) fn flush_forever(engine: &Engine) {
    let mut due = Instant::now() + engine.live.flush_interval();
    let mut failing: Option<Failing> = None;
    while engine.signals.working() {
        // The interval may have become shorter.
        due = due.min(Instant::now() + engine.live.flush_interval());
        let wait = match &failing {
            Some(failing) => failing.left(),
            None => due.saturating_duration_since(Instant::now()),
        };
        engine.signals.flushing.wait(wait.min(LOOK));
        if !engine.signals.working() {
            break;
        }
        engine.views.prune();
        // Each attempt logs a birth, and whoever waits for room wakes this thread all the time.
        if failing.as_ref().is_some_and(|failing| !failing.left().is_zero()) {
            continue;
        }
        let on_time = failing.is_some() || Instant::now() >= due;
        let flushed = {
            let _one = engine.flushing.lock().unwrap_or_else(PoisonError::into_inner);
            let now = engine.signals.flush_now.swap(false, Ordering::Relaxed);
            let position = engine.runtime.block_on(engine.store.local_manifest()).position;
            // The server goes on without the log before its redo position, and a base backup begins there.
            let passed = engine.host.redo().is_ok_and(|redo| redo > position);
            if !on_time && !now && !passed && !engine.store.wants_flush() {
                continue;
            }
            flush_once(engine, now || passed, position)
        };
        match flushed {
            Ok(()) => {
                failing = None;
                due = Instant::now() + engine.live.flush_interval();
                decide(engine);
                engine.signals.publishing.wake();
                engine.signals.merging.wake();
                follow_the_local_disk(engine);
                sweep(engine);
            }
            Err(error) => {
                let runs_out = engine.signals.log_runs_out.load(Ordering::SeqCst);
                engine.signals.flush_now.fetch_or(runs_out, Ordering::Relaxed);
                let message = format!("flushing the store failed: {error}");
                if matches!(error, FlushError::Unusable(_)) {
                    engine.complain(message);
                    engine.signals.ending.wake();
                    break;
                }
                Failing::note(&mut failing, engine, message, RETRY);
            }
        }
    }
}

/// Merges until the worker ends; apart from flushing, which must not wait for a long merge.
pub(crate) fn merge_forever(engine: &Engine) {
    while engine.signals.working() {
        engine.signals.merging.wait(IDLE);
        if engine.signals.working() {
            merge(engine);
        }
    }
}

fn flush_once(engine: &Engine, force: bool, position: u64) -> Result<(), FlushError> {
    // Without an answer a flush happens when something was written, which is soon enough.
    let behind = engine.host.position().is_ok_and(|now| now.saturating_sub(position) > LOG_AHEAD);
    let options = FlushOptions { clean: false, force: force || behind };
    engine.runtime.block_on(engine.store.flush_local(options))?;
    Ok(())
}

/// Takes tables away in which there is nothing but what was dropped, and merges while a merge is due.
fn merge(engine: &Engine) {
    let dropped = engine.signals.dropped.swap(false, Ordering::SeqCst);
    if !dropped && !engine.store.wants_merge() {
        return;
    }
    let dead = dead_objects(engine).unwrap_or_else(|error| {
        engine.complain(format!("finding dropped tables failed: {error}"));
        engine.signals.dropped.fetch_or(dropped, Ordering::SeqCst);
        HashSet::new()
    });
    let policy = Arc::new(DropDead { dead, signals: Arc::clone(&engine.signals) });
    let done = engine.runtime.block_on(async {
        if dropped && !policy.dead.is_empty() {
            let policy = Arc::clone(&policy);
            engine.store.drop_tables(move |low, high| policy.holds_nothing(low, high)).await?;
        }
        let merge = || async {
            while engine.signals.working() && engine.store.wants_merge() {
                if engine.store.merge_local(Arc::clone(&policy) as _).await?.inputs == 0 {
                    break;
                }
            }
            Ok::<_, FlushError>(())
        };
        // Two, so that a merge of deep levels does not hold up those that writers wait for.
        let (one, other) = tokio::join!(merge(), merge());
        one.and(other)
    });
    engine.signals.publishing.wake();
    if let Err(error) = done {
        engine.signals.dropped.fetch_or(dropped, Ordering::SeqCst);
        engine.complain(format!("merging tables of the store failed: {error}"));
    }
}

/// Drops rows, marks, index entries and segment records of objects that are gone. Catalogue entries, drop marks and
/// ceilings stay: they are small, and an id never means something else.
///
/// A stop does not wait for a merge: the next worker makes it.
struct DropDead {
    dead: HashSet<u64>,
    signals: Arc<Signals>,
}

impl DropDead {
    /// The dropped object that a key belongs to.
    fn dead(&self, key: &[u8]) -> Option<u64> {
        let of_object = matches!(key.first()?, &keys::ROW | &keys::ENTRY | &keys::DELETED | &keys::SEGMENT);
        let id = u64::from_be_bytes(key.get(1..9)?.try_into().ok()?);
        (of_object && self.dead.contains(&id)).then_some(id)
    }

    /// Whether all keys from one to another are of one kind and of one dropped object.
    fn holds_nothing(&self, low: &[u8], high: &[u8]) -> bool {
        low.first() == high.first() && self.dead(low).is_some_and(|id| self.dead(high) == Some(id))
    }
}

impl MergePolicy for DropDead {
    fn judge(&self, group: &[MergeEntry<'_>], _bottommost: bool, keep: &mut [bool]) {
        fail::point("during-merge");
        for (entry, keep) in group.iter().zip(keep) {
            if self.dead(entry.key).is_some() {
                *keep = false;
            }
        }
    }

    fn goes_on(&self) -> bool {
        self.signals.working()
    }
}

/// What the catalogue says of an object's life.
pub(crate) struct Fates {
    /// Made by a transaction that did not commit, or dropped by one that did.
    pub dead: HashSet<u64>,
    /// Not decided yet: (object, transaction, whether it drops it).
    pub undecided: Vec<(u64, u64, bool)>,
    /// The host cannot tell, now or any more: what they made is there, what they dropped too.
    pub unknown: Vec<(u64, u64, bool)>,
}

/// Looks at every catalogue entry and drop mark and asks what became of their transactions.
pub(crate) fn fates(engine: &Engine) -> Result<Fates, String> {
    let view = engine.store.view().map_err(|error| error.to_string())?;
    let sequence = view.read_sequence();
    let mut asked = Vec::new();
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let mut scan = view.scan_prefix(&[keys::CATALOGUE], sequence).map_err(|error| text(&error))?;
    while let Some((key, value)) = scan.next().map_err(|error| text(&error))? {
        let id = keys::parse_pair(keys::CATALOGUE, key).map_err(|error| text(&error))?;
        let entry = CatalogueEntry::parse(value).map_err(|error| text(&error))?;
        asked.push((id, entry.created_xid(), false));
    }
    let mut scan = view.scan_prefix(&[keys::DROP], sequence).map_err(|error| text(&error))?;
    while let Some((key, _)) = scan.next().map_err(|error| text(&error))? {
        let (id, xid) = keys::parse_triple(keys::DROP, key).map_err(|error| text(&error))?;
        asked.push((id, xid, true));
    }
    Ok(judge(engine, asked))
}

/// Whether the store has a table or an index that is not known to be gone.
pub(crate) fn holds_anything(engine: &Engine) -> Result<bool, String> {
    let dead = dead_objects(engine)?;
    let view = engine.store.view().map_err(|error| error.to_string())?;
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let mut scan = view.scan_prefix(&[keys::CATALOGUE], view.read_sequence()).map_err(|error| text(&error))?;
    while let Some((key, _)) = scan.next().map_err(|error| text(&error))? {
        if !dead.contains(&keys::parse_pair(keys::CATALOGUE, key).map_err(|error| text(&error))?) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Asks what became of transactions, and records what is decided: the host forgets old transactions. Id 0 is no
/// transaction: what it made or dropped is made or dropped for good.
fn judge(engine: &Engine, asked: Vec<(u64, u64, bool)>) -> Fates {
    let mut xids: Vec<u64> = asked.iter().map(|(_, xid, _)| *xid).filter(|xid| *xid != 0).collect();
    xids.sort_unstable();
    xids.dedup();
    let states = states_of(engine, &xids);
    let mut fates = Fates { dead: HashSet::new(), undecided: Vec::new(), unknown: Vec::new() };
    let mut decided = Vec::new();
    for (id, xid, drops) in asked {
        let state = match (xid, states.get(&xid)) {
            (0, _) => XidState::Committed,
            (_, Some(state)) => *state,
            (_, None) => {
                fates.unknown.push((id, xid, drops));
                continue;
            }
        };
        match state {
            XidState::InProgress => fates.undecided.push((id, xid, drops)),
            XidState::Committed if drops => drop(fates.dead.insert(id)),
            XidState::Aborted if !drops => drop(fates.dead.insert(id)),
            _ => {}
        }
        if xid != 0 && state != XidState::InProgress {
            decided.push((id, xid, drops, state == XidState::Committed));
        }
    }
    if let Err(error) = record_decisions(engine, &decided) {
        engine.complain(format!("recording what became of transactions failed: {error}"));
    }
    fates
}

/// What became of transactions, of those of which the host can tell: if it fails for all at once, each is asked for alone.
fn states_of(engine: &Engine, xids: &[u64]) -> HashMap<u64, XidState> {
    let ask = |some: &[u64]| match engine.host.resolve(some) {
        Ok(states) if states.len() == some.len() => Ok(states),
        Ok(states) => {
            Err(HostError::new(format!("{} transactions were asked for, {} answered", some.len(), states.len())))
        }
        Err(error) => Err(error),
    };
    if xids.is_empty() {
        return HashMap::new();
    }
    if let Ok(states) = ask(xids) {
        return xids.iter().copied().zip(states).collect();
    }
    let (mut known, mut failed) = (HashMap::new(), None);
    for xid in xids {
        match ask(&[*xid]) {
            Ok(states) => known.extend(states.first().map(|state| (*xid, *state))),
            Err(error) => failed = Some(error),
        }
    }
    if let Some(error) = failed {
        engine.complain(format!(
            "what became of {} old transactions is not known, what they made is taken to be there: {error}",
            xids.len() - known.len()
        ));
    }
    known
}

/// Replaces the transactions of catalogue entries and drop marks by what became of them. Not logged: before it is
/// durable, the log is flushed beyond the commits that it was derived from, and until then it can be asked again.
fn record_decisions(engine: &Engine, decided: &[(u64, u64, bool, bool)]) -> Result<(), String> {
    let view = engine.store.view().map_err(|error| error.to_string())?;
    for some in decided.chunks(256) {
        let mut batch = Batch::new();
        for &(id, xid, drops, committed) in some {
            match (drops, committed) {
                (false, true) => settle_creation(&view, id, &mut batch)?,
                (false, false) => {
                    batch.put(&keys::drop_mark(id, 0), &[]);
                    settle_creation(&view, id, &mut batch)?;
                }
                (true, false) => drop(batch.delete(&keys::drop_mark(id, xid))),
                (true, true) => drop(batch.put(&keys::drop_mark(id, 0), &[]).delete(&keys::drop_mark(id, xid))),
            }
        }
        match engine.apply(&batch) {
            Ok(_) | Err(ApplyError::Busy) => {}
            Err(ApplyError::Failed(why)) => return Err(why),
        }
    }
    Ok(())
}

/// The catalogue entry of an object without the transaction that made it: whether it is there is a drop mark's matter now.
fn settle_creation(view: &View, id: u64, batch: &mut Batch) -> Result<(), String> {
    let key = keys::catalogue(id);
    let Some(value) = view.get(&key, view.read_sequence()).map_err(|error| error.to_string())? else { return Ok(()) };
    let mut entry = CatalogueEntry::parse(value).map_err(|error| error.to_string())?;
    match &mut entry {
        CatalogueEntry::Table(table) => table.created_xid = 0,
        CatalogueEntry::Index(index) => index.created_xid = 0,
    }
    batch.put(&key, &entry.encode());
    Ok(())
}

fn dead_objects(engine: &Engine) -> Result<HashSet<u64>, String> {
    fates(engine).map(|fates| fates.dead)
}

/// Removes indexes whose transaction turned out to have dropped them, or never to have made them.
fn decide(engine: &Engine) {
    let asked = std::mem::take(&mut *engine.undecided.lock().unwrap_or_else(PoisonError::into_inner));
    if asked.is_empty() {
        return;
    }
    let fates = judge(engine, asked);
    fates.dead.iter().for_each(|id| engine.indexes.remove(*id));
    if !fates.dead.is_empty() {
        engine.signals.dropped.store(true, Ordering::SeqCst);
        engine.signals.merging.wake();
    }
    let mut undecided = engine.undecided.lock().unwrap_or_else(PoisonError::into_inner);
    undecided.extend(fates.undecided.into_iter().chain(fates.unknown));
}

impl Engine {
    /// Remembers to ask what became of a transaction that made or dropped an object.
    pub(crate) fn note_undecided(&self, id: u64, xid: u64, drops: bool) {
        self.undecided.lock().unwrap_or_else(PoisonError::into_inner).push((id, xid, drops));
    }
}

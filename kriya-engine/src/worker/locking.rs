//! Answers to requests that lock rows, or write where locks may be.

use std::sync::{MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lsmstore::Batch;

use crate::keys;
use crate::locks::{Change, Claim, Marked, Obstacle};
use crate::protocol::{Check, Reply};
use crate::worker::engine::{ApplyError, Engine};
use crate::worker::host::XidState;
use crate::worker::locks::LockTable;
use crate::worker::requests::{checks_hold, failed};

/// How often at most the server is asked about transactions that have lost their connection.
const SWEEP: Duration = Duration::from_secs(1);

/// Row locks, and when orphans were last asked about.
#[derive(Debug, Default)]
pub(crate) struct Locks {
    pub table: LockTable,
    swept: Option<Instant>,
}

impl Engine {
    pub(crate) fn locks(&self) -> MutexGuard<'_, Locks> {
        self.locks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What came of a write with conditions.
pub(crate) enum Conditional {
    Written(u64),
    Lost,
    InTheWay(Obstacle),
}

/// Applies a batch if the checks hold and no lock is in the way.
pub(crate) fn write_if(
    engine: &Engine,
    checks: &[Check],
    change: Option<&Change>,
    batch: &Batch,
) -> Result<Conditional, ApplyError> {
    let (mut wrong, mut obstacle, mut held) = (None, None, None);
    let applied = engine.apply_if(
        |view| {
            match checks_hold(view, checks) {
                Ok(true) => {}
                Ok(false) => return false,
                Err(error) => {
                    wrong = Some(error);
                    return false;
                }
            }
            let Some(change) = change else { return true };
            let mut locks = engine.locks();
            locks.table.end(&change.claim.ended);
            obstacle = locks.table.obstacle((change.claim.table, change.tid), &change.claim);
            // Held until the mark can be read: who asks for a lock meanwhile would look at the old one.
            held = Some(locks);
            obstacle.is_none()
        },
        batch,
    )?;
    match applied {
        Some(applied) => {
            if let (Some(change), Some(locks)) = (change, &mut held)
                && let Some(next) = change.next
            {
                locks.table.inherit((change.claim.table, change.tid), (change.claim.table, next));
            }
            Ok(Conditional::Written(applied.first))
        }
        None => match (wrong, obstacle) {
            (Some(error), _) => Err(ApplyError::Failed(error)),
            (None, Some(obstacle)) => Ok(Conditional::InTheWay(obstacle)),
            (None, None) => Ok(Conditional::Lost),
        },
    }
}

/// Locks all versions, or none.
pub(crate) fn lock(engine: &Engine, claim: &Claim, versions: &[Marked]) -> Reply {
    if versions.iter().any(|(tid, _)| *tid > keys::MAX_TID) {
        return failed("a row number is too large");
    }
    let mut locks = engine.locks();
    locks.table.end(&claim.ended);
    let marks: Vec<Check> = (versions.iter())
        .map(|(tid, mark)| Check { key: keys::mark(claim.table, *tid).to_vec(), expected: mark.clone() })
        .collect();
    // Marks appear while this table is locked, and it is: the newest view tells the truth.
    let current = match engine.store.view() {
        Ok(view) => checks_hold(&view, &marks),
        Err(why) => Err(why.to_string()),
    };
    match current {
        Ok(true) => {}
        Ok(false) => return Reply::Lost,
        Err(why) => return failed(why),
    }
    let rows = || versions.iter().map(|(tid, _)| (claim.table, *tid));
    let obstacles: Vec<Obstacle> = rows().filter_map(|row| locks.table.obstacle(row, claim)).collect();
    if !obstacles.is_empty() {
        let member = obstacles.iter().any(|obstacle| obstacle.member);
        let mut xids: Vec<u64> = obstacles.into_iter().flat_map(|obstacle| obstacle.xids).collect();
        xids.sort_unstable();
        xids.dedup();
        return Reply::InTheWay { xids, member };
    }
    if !locks.table.has_room(versions.len()) {
        return Reply::Failed {
            message: "too many row locks are held".into(),
            hint: "Lock fewer rows in one transaction.".into(),
        };
    }
    rows().for_each(|row| locks.table.grant(row, claim));
    Reply::Locked
}

/// The session of this transaction is gone. Its locks go when the transaction has ended, which may be later.
pub(crate) fn orphan(engine: &Engine, transaction: u64) {
    let mut locks = engine.locks();
    locks.table.orphan(transaction);
    locks.swept = None;
    drop(locks);
    sweep(engine);
}

/// Frees what ended transactions without a connection held, now and then.
pub(crate) fn sweep(engine: &Engine) {
    let orphans = {
        let mut locks = engine.locks();
        let orphans = locks.table.orphans();
        if orphans.is_empty() || !engine.signals.working() || locks.swept.is_some_and(|at| at.elapsed() < SWEEP) {
            return;
        }
        locks.swept = Some(Instant::now());
        orphans
    };
    // A server that does not answer is asked again later.
    let Ok(states) = engine.host.resolve(&orphans) else { return };
    let mut locks = engine.locks();
    for (transaction, _) in orphans.iter().zip(states).filter(|(_, state)| *state != XidState::InProgress) {
        locks.table.end_transaction(*transaction);
    }
}

//! Holding writers back, a little at first and more the deeper the store is in debt, so that they hardly ever meet a wall.
//!
//! Debts are memtables that wait for a flush, tables in L0, bytes that levels have over their limits, and bytes that wait
//! for the object store. Up to a free part nothing is held back; from there to the most that may be owed the rate of
//! writing falls from "any" to almost none ([`held_back`], a pure function). What is beyond the most is refused only where
//! memory or disk would run out: see [`WriteError::Full`](crate::WriteError::Full) and
//! [`Behind`](crate::WriteError::Behind).
//!
//! # Invariants
//! * A debt holds nobody back unless a job is running that pays it: waiting always ends.
//! * Nobody waits with a lock in hand that such a job needs.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::store::jobs::Work;
use crate::store::merge::overfull;
use crate::store::{Inner, Store, lock};

/// Bytes a second that are let through when half of what may be owed is owed.
const RATE: f64 = (16 << 20) as f64;
/// Bytes a second that are let through however much is owed.
const LEAST: f64 = (256 << 10) as f64;
/// A single write is not held back for longer.
const LONGEST: Duration = Duration::from_secs(1);
/// How often those who wait look whether they still have to.
const SLICE: Duration = Duration::from_millis(5);

/// Something that background work has to pay.
#[derive(Clone, Copy, Debug)]
pub(super) struct Debt {
    owed: f64,
    /// Up to here nobody is held back.
    free: f64,
    /// From here on hardly anything is let through.
    most: f64,
    /// A job is running that pays it.
    paid: bool,
}

/// How long a write of so many bytes is held back for these debts: the deepest one counts.
fn held_back(debts: &[Debt], bytes: u64) -> Duration {
    let depth = |debt: &Debt| if debt.paid { (debt.owed - debt.free) / (debt.most - debt.free) } else { 0.0 };
    let deepest = debts.iter().map(depth).fold(0.0, f64::max).min(1.0);
    if deepest <= 0.0 {
        return Duration::ZERO;
    }
    let rate = (RATE * (1.0 - deepest) / deepest).max(LEAST);
    Duration::from_secs_f64(bytes as f64 / rate).min(LONGEST)
}

impl Store {
    /// How long to wait before a batch of so many bytes is applied, so that flushes, merges and uploads keep up: nothing
    /// mostly, more the further they are behind, at most a second. [`Store::write`] waits by itself; callers of
    /// [`Store::apply`] are advised.
    pub fn write_delay(&self, bytes: usize) -> Duration {
        self.inner.write_delay(bytes)
    }
}

impl Inner {
    fn write_delay(&self, bytes: usize) -> Duration {
        let upper = self.jobs.any(Work::UpperMerge);
        let merging = upper || self.jobs.any(Work::DeepMerge);
        let (flushing, publishing) = (self.jobs.any(Work::Flush), self.jobs.any(Work::Publication));
        if !(merging || flushing || publishing) {
            return Duration::ZERO;
        }
        let (view, config) = (self.current(), &self.config);
        let memtables = {
            let writer = lock(&self.writer);
            let active = writer.active.table();
            writer.frozen.len() as f64 + active.used() as f64 / active.capacity() as f64
        };
        let frozen = config.max_frozen as f64;
        let trigger = config.l0_merge_trigger as f64;
        let level = config.level_bytes as f64;
        let pending = config.max_pending_bytes as f64;
        let backlog = self.backlog_bytes.load(Ordering::Acquire) as f64;
        let debts = [
            Debt { owed: memtables, free: frozen / 2.0, most: frozen + 1.0, paid: flushing },
            Debt { owed: view.l0.len() as f64, free: 2.0 * trigger, most: 5.0 * trigger, paid: upper },
            Debt { owed: overfull(&view, config) as f64, free: 4.0 * level, most: 40.0 * level, paid: merging },
            Debt { owed: backlog, free: pending / 2.0, most: pending, paid: publishing },
        ];
        held_back(&debts, bytes as u64)
    }

    /// Waits as long as a write of so many bytes is to be held back. For a thread that may block and holds no lock.
    pub(super) fn hold_back(&self, bytes: usize) {
        let (mut left, mut held) = (self.write_delay(bytes), Duration::ZERO);
        while !left.is_zero() && self.usable().is_ok() {
            let slice = left.min(SLICE);
            self.env.reactor().pause(slice);
            held += slice;
            left = left.saturating_sub(slice).min(self.write_delay(bytes));
        }
        if !held.is_zero() {
            self.counters.held_back.add(held);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn debt(owed: f64) -> Debt {
        Debt { owed, free: 10.0, most: 20.0, paid: true }
    }

    #[test]
    fn nobody_is_held_back_for_what_is_free_or_for_what_no_job_pays() {
        assert_eq!(held_back(&[], 1 << 30), Duration::ZERO);
        assert_eq!(held_back(&[debt(0.0), debt(10.0)], 1 << 30), Duration::ZERO);
        assert_eq!(held_back(&[Debt { paid: false, ..debt(30.0) }], 1 << 30), Duration::ZERO);
    }

    #[test]
    fn the_delay_grows_with_the_debt_without_a_step_and_with_the_bytes() {
        let mut before = Duration::ZERO;
        for step in 1..=1000 {
            let delay = held_back(&[debt(10.0 + f64::from(step) / 100.0)], 4096);
            assert!(delay > before || delay == held_back(&[debt(20.0)], 4096), "at step {step}: {delay:?}");
            // The first write that is held back is hardly, and none waits far longer than the one before it.
            assert!(delay < before * 2 + Duration::from_micros(10), "at step {step}: {before:?}, then {delay:?}");
            before = delay;
        }
        assert_eq!(held_back(&[debt(15.0)], 16 << 20), Duration::from_secs(1), "half of it is the rate");
        assert_eq!(held_back(&[debt(15.0)], 8 << 20) * 2, held_back(&[debt(15.0)], 16 << 20));
    }

    #[test]
    fn the_deepest_debt_counts_and_no_write_waits_for_more_than_the_longest() {
        let deep = held_back(&[debt(19.0)], 100);
        assert_eq!(held_back(&[debt(12.0), debt(19.0), debt(0.0)], 100), deep);
        assert_eq!(held_back(&[debt(1e9)], u64::MAX), LONGEST);
    }
}

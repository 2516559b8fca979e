//! Which merges go on at the same time.
//!
//! There are two slots: one for merges of L0 and of L1, one for those of deeper levels. So however long a deep merge takes,
//! L0 is emptied and L1 makes room for it. Each merge claims two levels and a range of keys there; one that would meet
//! another waits for it.
//!
//! # Invariants
//! * Tables of a level stay apart: no two merges that read or write keys of one range in one level go on at once.
//! * A claim is given up only after the view shows what the merge did, and views are looked at under the claims' lock.

use std::sync::{Mutex, MutexGuard};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::store::lock;
use crate::store::merge::pick::one_group;

/// What somebody works on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// All tables.
    All,
    /// Keys of two levels.
    Merge { from: usize, to: usize, low: Vec<u8>, high: Vec<u8> },
}

impl Claim {
    /// Whether two can be worked on at once. `group` is the length of a key's group.
    pub(super) fn meets(&self, other: &Claim, group: &dyn Fn(&[u8]) -> usize) -> bool {
        let (
            Claim::Merge { from: a, to: b, low, high },
            Claim::Merge { from: c, to: d, low: other_low, high: other_high },
        ) = (self, other)
        else {
            return true;
        };
        let before = |last: &[u8], first: &[u8]| last < first && !one_group(last, first, group);
        (a <= d && c <= b) && !before(high, other_low) && !before(other_high, low)
    }
}

/// Whether merges of a level use the slot of the upper levels.
pub(super) fn upper(from: usize) -> bool {
    from <= 1
}

/// What is being worked on.
#[derive(Debug, Default)]
pub(in crate::store) struct Claims {
    held: Mutex<Vec<(u64, Claim)>>,
    given_up: Notify,
}

/// The claims, held still.
pub(super) struct Current<'a> {
    held: MutexGuard<'a, Vec<(u64, Claim)>>,
    claims: &'a Claims,
}

impl Current<'_> {
    pub(super) fn iter(&self) -> impl Iterator<Item = &Claim> {
        self.held.iter().map(|(_, claim)| claim)
    }

    /// Whether the slot for merges of a level is taken.
    pub(super) fn taken(&self, from: usize) -> bool {
        self.iter().any(|claim| match claim {
            Claim::All => true,
            Claim::Merge { from: held, .. } => upper(*held) == upper(from),
        })
    }
}

impl<'a> Current<'a> {
    pub(super) fn claim(mut self, claim: Claim) -> Claimed<'a> {
        let number = self.held.iter().map(|(number, _)| number + 1).max().unwrap_or(0);
        self.held.push((number, claim));
        Claimed { number, claims: self.claims }
    }
}

/// A claim; given up when dropped.
pub(in crate::store) struct Claimed<'a> {
    number: u64,
    claims: &'a Claims,
}

impl Drop for Claimed<'_> {
    fn drop(&mut self) {
        lock(&self.claims.held).retain(|(number, _)| *number != self.number);
        self.claims.given_up.notify_waiters();
    }
}

impl Claims {
    pub(super) fn current(&self) -> Current<'_> {
        Current { held: lock(&self.held), claims: self }
    }

    /// Ends when a claim is given up; that counts from when it is enabled.
    pub(super) fn given_up(&self) -> Notified<'_> {
        self.given_up.notified()
    }

    /// Claims everything, when nobody works on anything.
    pub(in crate::store) async fn all(&self) -> Claimed<'_> {
        loop {
            let mut given_up = std::pin::pin!(self.given_up());
            given_up.as_mut().enable();
            {
                let current = self.current();
                if current.iter().next().is_none() {
                    return current.claim(Claim::All);
                }
            }
            given_up.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merge(from: usize, low: &str, high: &str) -> Claim {
        Claim::Merge { from, to: from + 1, low: low.into(), high: high.into() }
    }

    #[test]
    fn merges_meet_where_they_share_a_level_and_keys_of_one_group() {
        let alone: &dyn Fn(&[u8]) -> usize = &|key| key.len();
        let pairs: &dyn Fn(&[u8]) -> usize = &|key| key.len().min(1);
        assert!(merge(1, "b", "d").meets(&merge(2, "d", "e"), alone));
        assert!(!merge(1, "b", "d").meets(&merge(3, "b", "d"), alone), "no level in common");
        assert!(!merge(1, "b", "d1").meets(&merge(2, "d2", "e"), alone));
        assert!(merge(1, "b", "d1").meets(&merge(2, "d2", "e"), pairs), "one group");
        assert!(merge(2, "d2", "e").meets(&merge(1, "b", "d1"), pairs));
        assert!(Claim::All.meets(&merge(5, "a", "b"), alone));
    }

    #[test]
    fn a_deep_merge_leaves_the_slot_of_the_upper_levels_free() {
        let claims = Claims::default();
        let deep = claims.current().claim(merge(3, "a", "z"));
        assert!(!claims.current().taken(0) && !claims.current().taken(1) && claims.current().taken(2));
        let first = claims.current().claim(merge(0, "a", "z"));
        assert!(claims.current().taken(1));
        drop(deep);
        assert!(claims.current().taken(1) && !claims.current().taken(5));
        drop(first);
        assert!(!claims.current().taken(0));
    }
}

//! Row locks as sessions ask for them: the four modes of Postgres and which of them exclude each other.
//!
//! Locks live in the worker's memory alone. A lock is held by a transaction id (a subtransaction's where one took it)
//! and is void when that has ended, whether the worker has heard of it or not: so who is told of a lock in the way asks
//! Postgres about its holder, and names those that have ended when it asks again.

use bincode::{Decode, Encode};

/// How a row is locked, from the weakest to the strongest: a mode excludes whatever a weaker one does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub enum LockMode {
    /// Its key stays as it is: what a foreign key needs.
    KeyShare,
    /// Nothing of it changes.
    Share,
    /// About to be changed, but not in its key.
    NoKeyUpdate,
    /// About to be deleted, or changed in its key.
    Update,
}

impl LockMode {
    /// Whether two transactions cannot hold these two modes of one row at once.
    pub fn conflicts(self, other: LockMode) -> bool {
        use LockMode::{KeyShare, NoKeyUpdate, Update};
        match (self.min(other), self.max(other)) {
            (_, Update) => true,
            (KeyShare, _) => false,
            (_, stronger) => stronger == NoKeyUpdate,
        }
    }
}

/// Who wants a row, and how.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Claim {
    /// The table.
    pub table: u64,
    /// Full id of the top transaction: it never conflicts with itself.
    pub transaction: u64,
    /// Full id of the subtransaction that wants the lock, or of the transaction itself.
    pub xid: u64,
    /// How it is wanted.
    pub mode: LockMode,
    /// Transactions that the session knows to have ended.
    pub ended: Vec<u64>,
}

/// A change of a row, allowed if no lock is in its way.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Change {
    /// Who changes it; the mode says whether its key changes.
    pub claim: Claim,
    /// The version that gets the mark.
    pub tid: u64,
    /// The version that takes its place and inherits its locks.
    pub next: Option<u64>,
}

/// A version of a row and the value of its deletion mark as the session read it (`None`: it has none).
pub type Marked = (u64, Option<Vec<u8>>);

/// What is in the way of a lock or a change.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Obstacle {
    /// Holders of locks in the way.
    pub xids: Vec<u64>,
    /// The asking transaction holds a lock of the row itself, if too weak a one.
    pub member: bool,
}

#[cfg(test)]
mod tests {
    use super::LockMode::{self, KeyShare, NoKeyUpdate, Share, Update};

    #[test]
    fn modes_exclude_each_other_as_the_documentation_of_postgres_says() {
        let rows: [(LockMode, [bool; 4]); 4] = [
            (KeyShare, [false, false, false, true]),
            (Share, [false, false, true, true]),
            (NoKeyUpdate, [false, true, true, true]),
            (Update, [true, true, true, true]),
        ];
        for (mode, conflicts) in rows {
            assert_eq!(
                [KeyShare, Share, NoKeyUpdate, Update].map(|other| mode.conflicts(other)),
                conflicts,
                "{mode:?}"
            );
        }
    }
}

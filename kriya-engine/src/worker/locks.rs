//! The table of row locks.
//!
//! Everything here is memory of this generation: a transaction that locked fails before it commits if the worker was
//! replaced. A lock belongs to a row's chain of versions: who replaces a version takes its locks along, in the moment in
//! which the mark appears, and a lock asked on a version that was replaced is placed on the later ones too.
//!
//! The mutex of this table is taken under the store's writer lock by changes, and alone by locks; whoever holds it sees
//! marks and locks that belong together.

use std::collections::{HashMap, HashSet};

use crate::locks::{Claim, LockMode, Obstacle};

/// Locks of all transactions together, at most: about a GiB.
const MAX_LOCKS: usize = 1 << 23;

/// A version of a row: table and row number.
pub(crate) type Row = (u64, u64);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Held {
    transaction: u64,
    xid: u64,
    mode: LockMode,
}

#[derive(Debug)]
struct Holder {
    transaction: u64,
    rows: Vec<Row>,
}

/// All row locks.
#[derive(Debug, Default)]
pub(crate) struct LockTable {
    /// One entry for each xid that holds a row; nothing empty stays.
    rows: HashMap<Row, Vec<Held>>,
    holders: HashMap<u64, Holder>,
    /// Subtransactions that hold something, by their top transactions.
    transactions: HashMap<u64, Vec<u64>>,
    /// Transactions whose connection went away; their locks stay until they have ended.
    orphans: HashSet<u64>,
    count: usize,
}

impl LockTable {
    /// What keeps `claim` from row `row`, if anything does.
    pub(crate) fn obstacle(&self, row: Row, claim: &Claim) -> Option<Obstacle> {
        let xids = self.in_the_way(row, claim);
        (!xids.is_empty()).then(|| Obstacle { xids, member: !self.own(row, claim.transaction).is_empty() })
    }

    /// Holders of locks that keep `claim` from the row.
    pub(crate) fn in_the_way(&self, row: Row, claim: &Claim) -> Vec<u64> {
        let conflicts = |held: &&Held| held.transaction != claim.transaction && held.mode.conflicts(claim.mode);
        self.held(row).filter(conflicts).map(|held| held.xid).collect()
    }

    /// The locks of the row that the transaction holds, with the subtransactions that hold them.
    pub(crate) fn own(&self, row: Row, transaction: u64) -> Vec<(u64, LockMode)> {
        self.held(row).filter(|held| held.transaction == transaction).map(|held| (held.xid, held.mode)).collect()
    }

    fn held(&self, row: Row) -> impl Iterator<Item = &Held> {
        self.rows.get(&row).into_iter().flatten()
    }

    /// Whether `more` locks fit.
    pub(crate) fn has_room(&self, more: usize) -> bool {
        self.count.saturating_add(more) <= MAX_LOCKS
    }

    /// Gives the row to the claimant, whom nothing keeps from it.
    pub(crate) fn grant(&mut self, row: Row, claim: &Claim) {
        self.add(row, Held { transaction: claim.transaction, xid: claim.xid, mode: claim.mode });
    }

    fn add(&mut self, row: Row, new: Held) {
        // One that another subtransaction holds is not enough: that one may roll back.
        let held = self.rows.entry(row).or_insert_with(|| Vec::with_capacity(1));
        if let Some(old) = held.iter_mut().find(|old| old.xid == new.xid) {
            old.mode = old.mode.max(new.mode);
            return;
        }
        held.push(new);
        self.count += 1;
        let holder = self.holders.entry(new.xid).or_insert_with(|| {
            self.transactions.entry(new.transaction).or_default().push(new.xid);
            Holder { transaction: new.transaction, rows: Vec::new() }
        });
        holder.rows.push(row);
    }

    /// The version `to` has taken the place of `from`.
    pub(crate) fn inherit(&mut self, from: Row, to: Row) {
        for held in self.rows.get(&from).cloned().unwrap_or_default() {
            self.add(to, held);
        }
    }

    /// These have ended, subtransactions or whole transactions: what they held is free.
    pub(crate) fn end(&mut self, xids: &[u64]) {
        for xid in xids {
            let Some(holder) = self.holders.remove(xid) else { continue };
            for row in holder.rows {
                let Some(held) = self.rows.get_mut(&row) else { continue };
                let before = held.len();
                held.retain(|held| held.xid != *xid);
                self.count -= before - held.len();
                if held.is_empty() {
                    self.rows.remove(&row);
                }
            }
            if let Some(xids) = self.transactions.get_mut(&holder.transaction) {
                xids.retain(|other| other != xid);
                if xids.is_empty() {
                    self.transactions.remove(&holder.transaction);
                    self.orphans.remove(&holder.transaction);
                }
            }
        }
        if self.rows.is_empty() && self.rows.capacity() > 1 << 12 {
            self.rows = HashMap::new();
        }
    }

    /// The transaction has ended, and all its subtransactions with it.
    pub(crate) fn end_transaction(&mut self, transaction: u64) {
        let xids = self.transactions.get(&transaction).cloned().unwrap_or_default();
        self.end(&xids);
    }

    /// The connection is gone; the transaction may still run, and come back through another.
    pub(crate) fn orphan(&mut self, transaction: u64) {
        if self.transactions.contains_key(&transaction) {
            self.orphans.insert(transaction);
        }
    }

    /// Transactions without a connection that hold locks.
    pub(crate) fn orphans(&self) -> Vec<u64> {
        self.orphans.iter().copied().collect()
    }

    /// Number of locks.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.count
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use LockMode::{KeyShare, NoKeyUpdate, Share, Update};
    use proptest::prelude::*;

    fn claim(transaction: u64, xid: u64, mode: LockMode) -> Claim {
        Claim { table: 1, transaction, xid, mode, ended: Vec::new() }
    }

    /// Takes the lock if nothing is in the way.
    fn take(table: &mut LockTable, tid: u64, claim: &Claim) -> bool {
        let free = table.obstacle((1, tid), claim).is_none();
        if free {
            table.grant((1, tid), claim);
        }
        free
    }

    #[test]
    fn a_transaction_is_never_in_its_own_way() {
        let mut table = LockTable::default();
        assert!(take(&mut table, 5, &claim(10, 10, Update)));
        assert!(take(&mut table, 5, &claim(10, 11, Update)));
        assert!(take(&mut table, 5, &claim(10, 12, KeyShare)));
        let obstacle = table.obstacle((1, 5), &claim(20, 20, KeyShare)).unwrap();
        assert_eq!(obstacle, Obstacle { xids: vec![10, 11], member: false });
    }

    #[test]
    fn a_lock_made_stronger_in_a_subtransaction_falls_back_when_that_rolls_back() {
        let mut table = LockTable::default();
        assert!(take(&mut table, 5, &claim(10, 10, Share)));
        assert!(take(&mut table, 5, &claim(10, 11, Update)));
        assert!(!take(&mut table, 5, &claim(20, 20, Share)));
        table.end(&[11]);
        assert!(take(&mut table, 5, &claim(20, 20, Share)));
        let obstacle = table.obstacle((1, 5), &claim(20, 20, Update)).unwrap();
        assert_eq!(obstacle, Obstacle { xids: vec![10], member: true });
    }

    #[test]
    fn the_next_version_inherits_the_locks_of_all() {
        let mut table = LockTable::default();
        assert!(take(&mut table, 5, &claim(10, 10, KeyShare)));
        assert!(take(&mut table, 5, &claim(20, 20, KeyShare)));
        table.inherit((1, 5), (1, 6));
        assert_eq!(table.obstacle((1, 6), &claim(30, 30, Update)).unwrap().xids, [10, 20]);
        table.end_transaction(10);
        assert_eq!(table.obstacle((1, 6), &claim(20, 20, Update)), None);
        table.end_transaction(20);
        assert_eq!(table.len(), 0);
        assert!(table.rows.is_empty() && table.holders.is_empty() && table.transactions.is_empty());
    }

    #[test]
    fn locks_without_a_connection_stay_until_their_transaction_ends() {
        let mut table = LockTable::default();
        assert!(take(&mut table, 5, &claim(10, 11, Update)));
        table.orphan(10);
        table.orphan(99);
        assert_eq!(table.orphans(), [10]);
        assert!(!take(&mut table, 5, &claim(20, 20, KeyShare)));
        table.end_transaction(10);
        assert!(table.orphans().is_empty());
        assert!(take(&mut table, 5, &claim(20, 20, KeyShare)));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Take(u64, u64, LockMode),
        Inherit(u64, u64),
        End(u64),
        EndTransaction(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let mode = prop_oneof![Just(KeyShare), Just(Share), Just(NoKeyUpdate), Just(Update)];
        // Transaction t has the subtransactions 10 t .. 10 t + 2.
        let xid = (1u64..5, 0u64..3).prop_map(|(top, sub)| top * 10 + sub);
        let step = prop_oneof![
            6 => (0u64..6, xid.clone(), mode).prop_map(|(tid, xid, mode)| Step::Take(tid, xid, mode)),
            2 => (0u64..6, 0u64..6).prop_map(|(from, to)| Step::Inherit(from, to)),
            2 => xid.prop_map(Step::End),
            1 => (1u64..5).prop_map(|top| Step::EndTransaction(top * 10)),
        ];
        prop::collection::vec(step, 0..60)
    }

    /// The documentation's matrix, written out: what the second holds against what the first wants.
    fn excluded(mode: LockMode) -> &'static [LockMode] {
        match mode {
            KeyShare => &[Update],
            Share => &[NoKeyUpdate, Update],
            NoKeyUpdate => &[Share, NoKeyUpdate, Update],
            Update => &[KeyShare, Share, NoKeyUpdate, Update],
        }
    }

    proptest! {
        #[test]
        fn any_history_ends_as_with_a_plain_list_of_locks(steps in steps()) {
            let mut table = LockTable::default();
            let mut list: Vec<(u64, u64, LockMode)> = Vec::new();
            for step in steps {
                match step {
                    Step::Take(tid, xid, mode) => {
                        let mut wanted: Vec<u64> = list
                            .iter()
                            .filter(|(row, holder, held)| {
                                *row == tid && holder / 10 != xid / 10 && excluded(mode).contains(held)
                            })
                            .map(|(_, holder, _)| *holder)
                            .collect();
                        let claim = claim(xid / 10 * 10, xid, mode);
                        let mut got = table.obstacle((1, tid), &claim).unwrap_or_default().xids;
                        wanted.sort_unstable();
                        wanted.dedup();
                        got.sort_unstable();
                        prop_assert_eq!(&got, &wanted);
                        if wanted.is_empty() {
                            list.push((tid, xid, mode));
                            table.grant((1, tid), &claim);
                        }
                    }
                    Step::Inherit(from, to) => {
                        let copies: Vec<_> = list.iter().filter(|(row, ..)| *row == from).copied().collect();
                        list.extend(copies.into_iter().map(|(_, xid, mode)| (to, xid, mode)));
                        table.inherit((1, from), (1, to));
                    }
                    Step::End(xid) => {
                        list.retain(|(_, holder, _)| *holder != xid);
                        table.end(&[xid]);
                    }
                    Step::EndTransaction(top) => {
                        list.retain(|(_, holder, _)| holder / 10 * 10 != top);
                        table.end_transaction(top);
                    }
                }
            }
            let mut pairs: Vec<_> = list.iter().map(|(row, xid, _)| (*row, *xid)).collect();
            pairs.sort_unstable();
            pairs.dedup();
            prop_assert_eq!(table.len(), pairs.len());
            for top in 1..5 {
                table.end_transaction(top * 10);
            }
            prop_assert!(table.rows.is_empty() && table.holders.is_empty() && table.transactions.is_empty());
        }
    }
}

//! The requests of a session that have to do with row locks.

use lsmstore::Batch;

use crate::answers::{Changed, Locked};
use crate::client::{Session, unexpected};
use crate::client_error::ClientError;
use crate::line::Wait;
use crate::locks::{Change, Claim, LockMode, Marked, Obstacle};
use crate::protocol::{Check, Reply, Request};

impl Session {
    /// Writes a batch with the mark of a row, if the check holds and no lock is in the way; whoever holds the row keeps
    /// the version that takes its place. As [`Session::write`] otherwise.
    ///
    /// # Errors
    /// As [`Session::write`].
    pub fn change(
        &mut self,
        generation: u64,
        batch: &Batch,
        check: &Check,
        change: &Change,
        wait: &mut dyn Wait,
    ) -> Result<Changed, ClientError> {
        let request = Request::Write { generation, checks: vec![check.clone()], change: Some(change.clone()) };
        match self.call(&request, &[batch.as_bytes()], wait)? {
            Reply::Written { first } => Ok(Changed::At(first)),
            Reply::Lost => Ok(Changed::Lost),
            Reply::InTheWay { xids, member } => Ok(Changed::InTheWay(Obstacle { xids, member })),
            Reply::Busy => Ok(Changed::Busy),
            other => Err(unexpected(&other)),
        }
    }

    /// Locks versions of one row: the one that is wanted and those that have replaced it. All or none.
    ///
    /// # Errors
    /// As [`Session::write`].
    pub fn lock(
        &mut self,
        generation: u64,
        claim: &Claim,
        versions: &[Marked],
        wait: &mut dyn Wait,
    ) -> Result<Locked, ClientError> {
        let request = Request::Lock { generation, claim: claim.clone(), versions: versions.to_vec() };
        match self.call(&request, &[], wait)? {
            Reply::Locked => Ok(Locked::Granted),
            Reply::Lost => Ok(Locked::Lost),
            Reply::InTheWay { xids, member } => Ok(Locked::InTheWay(Obstacle { xids, member })),
            other => Err(unexpected(&other)),
        }
    }

    /// Who is in the way of a lock of one version, if anybody is, and whether the asking transaction holds any.
    ///
    /// # Errors
    /// As [`Session::new_id`].
    pub fn ask(&mut self, claim: &Claim, tid: u64, wait: &mut dyn Wait) -> Result<Obstacle, ClientError> {
        match self.call(&Request::Ask { claim: claim.clone(), tid }, &[], wait)? {
            Reply::InTheWay { xids, member } => Ok(Obstacle { xids, member }),
            other => Err(unexpected(&other)),
        }
    }

    /// The locks that a transaction holds of a row, each with the subtransaction that holds it.
    ///
    /// # Errors
    /// As [`Session::new_id`].
    pub fn held(
        &mut self,
        table: u64,
        tid: u64,
        transaction: u64,
        wait: &mut dyn Wait,
    ) -> Result<Vec<(u64, LockMode)>, ClientError> {
        match self.call(&Request::Held { table, tid, transaction }, &[], wait)? {
            Reply::Held(locks) => Ok(locks),
            other => Err(unexpected(&other)),
        }
    }

    /// Returns when no request is on its way any more that any session sent before: what a session that was cut short had
    /// sent has been applied or thrown away.
    ///
    /// # Errors
    /// As [`Session::new_id`].
    pub fn fence(&mut self, wait: &mut dyn Wait) -> Result<(), ClientError> {
        self.done(&Request::Fence, &[], wait)
    }
}

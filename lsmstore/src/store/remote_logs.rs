//! The logs in the object store of the writers before: what they hold is read, then they are fenced.

use crate::env::nonce;
use crate::error::{OpenError, StorageError};
use crate::manifest::Manifest;
use crate::store::open::Opening;
use crate::wal::recover::Logged;
use crate::wal::remote::Tail;
use uuid::Uuid;

/// The logs of the epochs that may not have ended.
pub(super) struct RemoteLogs {
    /// By epoch.
    tails: Vec<Tail>,
    /// They are replayed.
    replayed: bool,
}

impl RemoteLogs {
    /// Those that the newest manifest names, and those of the `base`, from where that has to be replayed. With an `older` base
    /// they are fenced and not replayed.
    pub(super) fn of(newest: Option<&Manifest>, base: &Manifest, older: bool) -> RemoteLogs {
        let mut tails: Vec<Tail> = base.remote.iter().map(|&(epoch, from)| Tail::new(epoch, from)).collect();
        for &(epoch, from) in newest.iter().flat_map(|newest| &newest.remote) {
            if !tails.iter().any(|tail| tail.epoch == epoch) {
                tails.push(Tail::new(epoch, from));
            }
        }
        tails.sort_by_key(|tail| tail.epoch);
        RemoteLogs { tails, replayed: !older }
    }

    /// Whether there is any.
    pub(super) fn any(&self) -> bool {
        !self.tails.is_empty()
    }

    /// What is there now.
    pub(super) async fn read(&mut self, opening: &Opening<'_>, store: Uuid) -> Result<Vec<Logged>, OpenError> {
        let mut logged = Vec::new();
        for tail in &mut self.tails {
            logged.extend(tail.read(&**opening.objects, opening.names, store).await?);
        }
        Ok(if self.replayed { logged } else { Vec::new() })
    }

    /// Ends them; what came since they were read.
    pub(super) async fn fence(&mut self, opening: &Opening<'_>, store: Uuid) -> Result<Vec<Logged>, OpenError> {
        let mut logged = Vec::new();
        for tail in &mut self.tails {
            let nonce = nonce(&**opening.env).map_err(StorageError::local("random bytes"))?;
            logged.extend(tail.fence(&**opening.objects, opening.names, store, nonce).await?);
        }
        Ok(if self.replayed { logged } else { Vec::new() })
    }
}

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
}

impl RemoteLogs {
    /// Those that the `base` names, which is the newest manifest or the local one ahead of that. With an `older` base those of
    /// the newest, which end where it says and are left behind.
    pub(super) fn of(newest: Option<&Manifest>, base: &Manifest, older: bool) -> RemoteLogs {
        let named = newest.filter(|_| older).unwrap_or(base);
        let tails = named.remote.iter().map(|&(epoch, from)| Tail::new(epoch, from, !older)).collect();
        RemoteLogs { tails }
    }

    /// Whether there is any.
    pub(super) fn any(&self) -> bool {
        !self.tails.is_empty()
    }

    /// What is there now.
    pub(super) async fn read(&mut self, opening: &Opening<'_>, store: Uuid) -> Result<Vec<Logged>, OpenError> {
        let mut logged = Vec::new();
        for tail in &mut self.tails {
            let read = tail.read(&**opening.objects, opening.names, store).await;
            logged.extend(read.map_err(told)?);
            tail.refuse_hole(&**opening.objects, opening.names).await.map_err(told)?;
        }
        Ok(logged)
    }

    /// Ends them; what came since they were read.
    pub(super) async fn fence(&mut self, opening: &Opening<'_>, store: Uuid) -> Result<Vec<Logged>, OpenError> {
        let mut logged = Vec::new();
        for tail in &mut self.tails {
            let nonce = nonce(&**opening.env).map_err(StorageError::local("random bytes"))?;
            logged.extend(tail.fence(&**opening.objects, opening.names, store, nonce).await?);
        }
        Ok(logged)
    }
}

/// Tells the way out of damage.
fn told(error: StorageError) -> StorageError {
    match error {
        StorageError::Corrupt(mut corruption) => {
            corruption.what += ". It holds acknowledged writes. Bring the object back (an older version of it, a copy of the \
                                bucket); or open the store with Config::base set to the nonce of its newest manifest and \
                                Config::accept_log_loss, which leaves behind what was written since";
            StorageError::Corrupt(corruption)
        }
        other => other,
    }
}

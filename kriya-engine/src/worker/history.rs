//! Which manifest a worker goes on with: one that belongs to this server's history.
//!
//! A manifest belongs to it if the log, read from the manifest's R, holds exactly the manifest's birth record. System
//! identifier and timeline do not tell a server from its copy; the record's nonce does. The local manifest comes first if
//! it is ahead of the bucket, then the bucket's newest one; when neither belongs the bucket is refused, and nothing is
//! written to it.
//!
//! A takeover is what a human asks for then. It looks for the newest older manifest that belongs: with the log behind it,
//! that one loses nothing this server ever had (a restored base backup, a standby that was promoted early). If there is
//! none, a manifest of an orderly stop is whole without a log (after pg_upgrade or pg_resetwal); any other one lacks what
//! was in its log, and that loss must be accepted.

use std::sync::Arc;

use lsmstore::{Candidates, ManifestInfo, StorageError};
use object_store::ObjectStore;

use crate::record::{self, Birth, Ceiling, Kind, RecordHead, frames};
use crate::worker::host::{Facts, Host, Level};
use crate::worker::owner::Owner;
use crate::worker::replay::{damaged, position, walk, whole};
use crate::worker::startup::StartError;

/// What the log behind a manifest says of those who wrote it.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct History {
    pub generation: u64,
    pub sequence_ceiling: u64,
}

/// A human's order to take a bucket over that is not this server's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Takeover {
    /// What the manifest does not hold may be lost.
    pub accept_loss: bool,
}

/// The manifest that the worker goes on with.
pub(crate) struct Chosen {
    /// The newest one in the bucket, after which the next is numbered.
    pub newest: ManifestInfo,
    pub manifest: ManifestInfo,
    pub owner: Owner,
    pub history: History,
    /// No log follows it: there is nothing to replay.
    pub unlogged: bool,
    /// Something that was acknowledged may be missing.
    pub lossy: bool,
}

/// Where the choice is made from.
pub(crate) struct Choice<'a> {
    pub host: &'a dyn Host,
    pub runtime: &'a tokio::runtime::Handle,
    pub objects: &'a Arc<dyn ObjectStore>,
    pub prefix: &'a str,
    pub facts: Facts,
}

impl Choice<'_> {
    /// Chooses among the local manifest and the bucket's newest; with a takeover also among all others.
    pub(crate) fn choose(&self, found: Candidates, takeover: Option<Takeover>) -> Result<Chosen, StartError> {
        let Candidates { newest, local, local_error, .. } = found;
        if let Some(error) = local_error {
            let message = format!("what was flushed to the local disk only cannot be used, the log is: {error}");
            self.host.report(Level::Warning, &message);
        }
        if let Some(local) = local {
            // The bucket's position first: until the local one is published, a crash may need the log from there.
            let kept = self.host.ensure_slot(newest.position);
            match self.belongs(&local, kept.is_err()) {
                Ok((owner, history)) => return Ok(chosen(newest, local, owner, history)),
                Err(StartError::Refused { .. }) => {}
                Err(failed) => return Err(failed),
            }
        }
        let refusal = match self.belongs(&newest, true) {
            Ok((owner, history)) => return Ok(chosen(newest.clone(), newest, owner, history)),
            Err(refusal @ StartError::Refused { .. }) => refusal,
            Err(failed) => return Err(failed),
        };
        match takeover {
            None => Err(refusal),
            Some(takeover) => self.take_over(newest, takeover),
        }
    }

    fn take_over(&self, newest: ManifestInfo, takeover: Takeover) -> Result<Chosen, StartError> {
        for number in (1..newest.number).rev() {
            let older = lsmstore::read_manifest(self.objects, self.prefix, number);
            let Some(older) = self.runtime.block_on(older)? else { break };
            match self.belongs(&older, true) {
                Ok((owner, history)) => return Ok(chosen(newest, older, owner, history)),
                Err(StartError::Refused { .. }) => {}
                Err(failed) => return Err(failed),
            }
        }
        let owner = owner_of(&newest)?;
        if owner.next_xid > self.facts.next_xid {
            return Err(StartError::refused(
                format!(
                    "the bucket knows transactions up to {}, this server has come to {} only",
                    owner.next_xid, self.facts.next_xid
                ),
                "Their ids would be given out again. Use the data directory that wrote the bucket, or another prefix; \
                 pg_resetwal can raise the next transaction id.",
            ));
        }
        if !newest.clean && !takeover.accept_loss {
            return Err(StartError::refused(
                format!(
                    "no manifest of the bucket belongs to this server's log, and what was logged behind {} of the newest \
                     one, {}, would be lost",
                    position(newest.position),
                    newest.number
                ),
                "lsm_s3_takeover(accept_loss => true) takes the bucket as that manifest has it.",
            ));
        }
        let history = History { generation: owner.generation, sequence_ceiling: owner.sequence_ceiling };
        let lossy = !newest.clean;
        let now = self.host.position().map_err(StartError::host)?;
        keep_log(self.host, now)?;
        Ok(Chosen { lossy, unlogged: true, ..chosen(newest.clone(), newest, owner, history) })
    }

    /// Whether a manifest belongs to this server's history; if so, what its owner and the log say.
    fn belongs(&self, manifest: &ManifestInfo, keep: bool) -> Result<(Owner, History), StartError> {
        let owner = owner_of(manifest)?;
        if owner.system_identifier != self.facts.system_identifier {
            return Err(foreign(
                manifest,
                &format!(
                    "it was written by the server with system identifier {}, this one has {}",
                    owner.system_identifier, self.facts.system_identifier
                ),
            ));
        }
        // The next transaction id is no evidence: ids that left nothing in the log are given out again after a crash.
        let flushed = log_end(self.host)?;
        if flushed < owner.birth_end || owner.birth_start < manifest.position {
            return Err(foreign(
                manifest,
                &format!(
                    "its birth was logged at {}, but the log ends at {}",
                    position(owner.birth_start),
                    position(flushed)
                ),
            ));
        }
        if keep {
            keep_log(self.host, manifest.position)?;
        }
        let history = self.read(manifest, &owner, flushed)?;
        Ok((owner, history))
    }

    fn read(&self, manifest: &ManifestInfo, owner: &Owner, flushed: u64) -> Result<History, StartError> {
        let expected = Birth {
            store_id: manifest.store_id.into_bytes(),
            epoch: manifest.epoch,
            manifest: manifest.number,
            nonce: manifest.nonce.into_bytes(),
            position: manifest.position,
            sequence: manifest.last_sequence,
        };
        let mut history = History { generation: owner.generation, sequence_ceiling: owner.sequence_ceiling };
        let mut born = false;
        walk(self.host, manifest.position, flushed, |at, payload| {
            let head = record::head(payload).map_err(|error| damaged(at, &error))?;
            match head.kind {
                Kind::Generation => history.generation = history.generation.max(head.generation),
                Kind::Birth => {
                    let birth: Birth = whole(payload).map_err(|error| damaged(at, &error))?;
                    // The nonce makes it the only one in the world.
                    born |= birth == expected;
                }
                Kind::Ceiling => {
                    let ceiling: Ceiling = whole(payload).map_err(|error| damaged(at, &error))?;
                    history.sequence_ceiling = history.sequence_ceiling.max(ceiling.sequence);
                }
                _ => {}
            }
            Ok(())
        })?;
        if !born {
            let at = position(owner.birth_start);
            return Err(foreign(manifest, &format!("its birth, logged near {at}, is not in this log")));
        }
        Ok(history)
    }
}

fn chosen(newest: ManifestInfo, manifest: ManifestInfo, owner: Owner, history: History) -> Chosen {
    Chosen { newest, manifest, owner, history, unlogged: false, lossy: false }
}

fn owner_of(manifest: &ManifestInfo) -> Result<Owner, StartError> {
    Owner::parse(&manifest.owner).map_err(|error| {
        StartError::refused(error.to_string(), "The bucket is not one of a KriyaDB server of this version.")
    })
}

fn foreign(manifest: &ManifestInfo, why: &str) -> StartError {
    StartError::refused(
        format!("the bucket's manifest {} does not belong to this server: {why}", manifest.number),
        "The bucket was written by another server, or by this one in a history that it no longer has (a restored or \
         copied data directory). Use another prefix, or, when no other server uses the bucket, lsm_s3_takeover().",
    )
}

/// Has the log kept from a position on.
pub(crate) fn keep_log(host: &dyn Host, from: u64) -> Result<(), StartError> {
    host.ensure_slot(from).map_err(|error| {
        StartError::refused(
            format!("the log from the store's position on cannot be kept: {error}"),
            "The store needs the write-ahead log that follows its newest manifest. Bring it back, or take the bucket over \
             with lsm_s3_takeover().",
        )
    })
}

/// An end of the log up to which it can be read. The flushed position itself may lie within a record, so one of no
/// consequence is logged and flushed.
fn log_end(host: &dyn Host) -> Result<u64, StartError> {
    let head = RecordHead { kind: Kind::Announce, generation: 0, sequence: 0, xid: 0, incarnation: 0 };
    let records = frames(&head, &[]).map_err(|error| StartError::failed(&error))?;
    Ok(host.log(records, true).map_err(StartError::host)?.end)
}

impl From<StorageError> for StartError {
    fn from(error: StorageError) -> StartError {
        match error {
            StorageError::Corrupt(_) | StorageError::Missing { .. } => StartError::refused(
                error.to_string(),
                "Objects of the bucket were changed or removed by somebody else; bring them back from a backup.",
            ),
            StorageError::Object { what, source } => StartError::unavailable(&what, &source),
            other => StartError::Failed(other.to_string()),
        }
    }
}

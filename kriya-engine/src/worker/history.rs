//! Which manifest a worker goes on with: one that belongs to this server's history.
//!
//! A manifest belongs to it if the log, read from the manifest's R, holds exactly the manifest's birth record. System
//! identifier and timeline do not tell a server from its copy; the record's nonce does. The local manifest comes first if
//! it is ahead of the bucket, then the bucket's newest one, then, if that belongs but its tables are not all there (a copy
//! of a bucket that was written to meanwhile), the newest older one that is whole. When none belongs the bucket is refused,
//! and nothing is written to it. So is an empty bucket in the place of one that this folder knows to hold tables.
//!
//! A takeover is what a human asks for then. It looks for the newest older manifest that belongs: with the log behind it,
//! that one loses nothing this server ever had (a restored base backup, a standby that was promoted early). If there is
//! none, a manifest of an orderly stop is whole without a log (after pg_upgrade or pg_resetwal); any other one lacks what
//! was in its log, and that loss must be accepted. The local manifest goes before the bucket's newest one there, too.
//!
//! The log is kept from a manifest's position on only once its birth was found: the slot does not move for others.

use std::cell::OnceCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use lsmstore::{Candidates, Config, Env, ManifestInfo, StorageError};
use object_store::ObjectStore;

use crate::record::{self, Birth, Ceiling, Kind, RecordHead, frames};
use crate::worker::host::{Facts, Host, HostError, Level};
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
#[derive(Debug, Clone)]
pub(crate) struct Takeover {
    /// What the manifest does not hold may be lost.
    pub accept_loss: bool,
    /// Whoever gave the order does not wait for it any more.
    pub withdrawn: Arc<AtomicBool>,
}

impl Takeover {
    pub(crate) fn new(accept_loss: bool) -> Takeover {
        Takeover { accept_loss, withdrawn: Arc::default() }
    }
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

/// Why a manifest is not the one to go on with.
enum Unfit {
    /// It is another history's, or its log cannot be read.
    Foreign(StartError),
    /// It is ours, but not all of its tables are there.
    Incomplete(StartError),
    /// Nobody knows: this ends the search.
    Failed(StartError),
}

impl From<StartError> for Unfit {
    fn from(error: StartError) -> Unfit {
        match error {
            refusal @ StartError::Refused { .. } => Unfit::Foreign(refusal),
            other => Unfit::Failed(other),
        }
    }
}

/// Where the choice is made from.
pub(crate) struct Choice<'a> {
    pub host: &'a dyn Host,
    pub runtime: &'a tokio::runtime::Handle,
    pub objects: &'a Arc<dyn ObjectStore>,
    pub env: &'a Arc<dyn Env>,
    pub store: &'a Config,
    pub prefix: &'a str,
    /// The bucket, for people.
    pub place: &'a str,
    pub facts: Facts,
    /// An error as soon as nobody wants a choice any more.
    pub go_on: &'a dyn Fn() -> Result<(), StartError>,
    /// How far the log can be read, once that was asked.
    pub flushed: OnceCell<u64>,
}

impl Choice<'_> {
    /// Chooses among the local manifest, the bucket's newest, and older ones if need be; with a takeover also what does
    /// not belong. None if the bucket is empty and nothing is known of a store.
    pub(crate) fn choose(&self, found: Candidates, takeover: Option<&Takeover>) -> Result<Option<Chosen>, StartError> {
        let accept_loss = takeover.is_some_and(|takeover| takeover.accept_loss);
        let Candidates { newest, local, local_error, left_behind, .. } = found;
        let left = match (&newest, left_behind, &local_error) {
            (None, Some(left), _) => Some(format!("{} is empty, but {left}", self.place)),
            (Some(newest), Some(left), _) => Some(format!("{} is store {}, but {left}", self.place, newest.store_id)),
            (None, None, Some(error)) => Some(format!(
                "{} is empty, but this server had a store whose local manifest is unreadable: {error}",
                self.place
            )),
            _ => None,
        };
        if let Some(message) = left.filter(|_| !accept_loss) {
            return Err(StartError::refused(message, LEFT_BEHIND));
        }
        let Some(newest) = newest else { return Ok(None) };
        if let Some(error) = local_error {
            let message = format!("what was flushed to the local disk only cannot be used, the log is: {error}");
            self.host.report(Level::Warning, &message);
        }
        if let Some(local) = &local {
            match self.belongs(local) {
                Ok((owner, history)) => return Ok(Some(chosen(newest, local.clone(), owner, history))),
                Err(Unfit::Failed(failed)) => return Err(failed),
                Err(Unfit::Foreign(why) | Unfit::Incomplete(why)) => {
                    let message = format!("the local disk is ahead of the bucket, but: {}", why.why());
                    self.host.report(Level::Warning, &message);
                }
            }
        }
        let refusal = match self.belongs(&newest) {
            Ok((owner, history)) => return Ok(Some(chosen(newest.clone(), newest, owner, history))),
            Err(Unfit::Failed(failed)) => return Err(failed),
            Err(Unfit::Incomplete(why)) => {
                self.host
                    .report(Level::Warning, &format!("{}; looking for an older manifest that is whole", why.why()));
                return match self.older(&newest)? {
                    Some(older) => Ok(Some(older)),
                    None => Err(why),
                };
            }
            Err(Unfit::Foreign(refusal)) => refusal,
        };
        match takeover {
            None => Err(refusal),
            Some(takeover) => self.take_over(newest, local, takeover).map(Some),
        }
    }

    /// The newest manifest before `newest` that belongs and is whole.
    fn older(&self, newest: &ManifestInfo) -> Result<Option<Chosen>, StartError> {
        // Where the log could not be read from: whoever needs as much of it or more is not looked at. Whoever came before
        // on the same branch needs more.
        let (mut unreadable, mut same_branch) = (0, false);
        let mut later = newest.clone();
        let numbers = self.runtime.block_on(lsmstore::manifest_numbers(self.objects, self.prefix))?;
        for number in numbers.into_iter().rev().filter(|number| *number < newest.number) {
            (self.go_on)()?;
            let older = lsmstore::read_manifest(self.objects, self.prefix, number);
            let older = match self.runtime.block_on(older) {
                Ok(Some(older)) => older,
                Ok(_) | Err(StorageError::Corrupt(_)) => continue,
                Err(error) => return Err(error.into()),
            };
            if owner_of(&older).is_ok_and(|owner| owner.system_identifier != self.facts.system_identifier) {
                return Ok(None);
            }
            same_branch &= later.previous_nonce == older.nonce;
            later = older.clone();
            if older.position <= unreadable {
                match same_branch {
                    true => return Ok(None),
                    false => continue,
                }
            }
            match self.belongs(&older) {
                Ok((owner, history)) => return Ok(Some(chosen(newest.clone(), older, owner, history))),
                Err(Unfit::Failed(failed)) => return Err(failed),
                Err(Unfit::Foreign(StartError::Refused { log: true, .. })) => {
                    (unreadable, same_branch) = (older.position, true);
                }
                Err(_) => {}
            }
        }
        Ok(None)
    }

    fn take_over(
        &self,
        newest: ManifestInfo,
        local: Option<ManifestInfo>,
        takeover: &Takeover,
    ) -> Result<Chosen, StartError> {
        if let Some(older) = self.older(&newest)? {
            return Ok(older);
        }
        // The local manifest is of the bucket's last epoch and ahead of the newest one: it has all that that one has.
        let base = match local {
            Some(local) if self.missing(&local)?.is_none() => local,
            _ => newest.clone(),
        };
        if let Some(object) = self.missing(&base)? {
            return Err(incomplete(&base, &object));
        }
        let owner = owner_of(&base)?;
        if !base.clean && owner.system_identifier != self.facts.system_identifier {
            return Err(StartError::refused(
                format!(
                    "manifest {} of the bucket was written by the server with system identifier {}, which was not stopped in \
                     order, and this one has {}: it does not know what became of that server's transactions",
                    base.number, owner.system_identifier, self.facts.system_identifier
                ),
                "Use the data directory that wrote the bucket, or another prefix. A server that is to be replaced must be \
                 stopped in order before.",
            ));
        }
        if owner.next_xid > self.facts.next_xid {
            return Err(StartError::refused(
                format!(
                    "the bucket knows transactions up to {}, this server has come to {} only",
                    owner.next_xid, self.facts.next_xid
                ),
                "Their ids would be given out again. Use the data directory that wrote the bucket, or another prefix.",
            ));
        }
        if !base.clean && !takeover.accept_loss {
            return Err(StartError::refused(
                format!(
                    "no manifest of the bucket belongs to this server's log, and what was logged behind {} of the newest \
                     one, {}, would be lost",
                    position(base.position),
                    base.number
                ),
                "lsm_s3_takeover(accept_loss => true) takes the bucket as that manifest has it.",
            ));
        }
        let history = History { generation: owner.generation, sequence_ceiling: owner.sequence_ceiling };
        let lossy = !base.clean;
        (self.go_on)()?;
        let now = self.host.position().map_err(StartError::host)?;
        keep_log(self.host, now)?;
        Ok(Chosen { lossy, unlogged: true, ..chosen(newest, base, owner, history) })
    }

    /// Whether a manifest belongs to this server's history and is whole; if so, what its owner and the log say. The log
    /// is kept from its position on then.
    fn belongs(&self, manifest: &ManifestInfo) -> Result<(Owner, History), Unfit> {
        let owner = owner_of(manifest)?;
        if owner.system_identifier != self.facts.system_identifier {
            let why = format!(
                "it was written by the server with system identifier {}, this one has {}",
                owner.system_identifier, self.facts.system_identifier
            );
            return Err(foreign(manifest, &why).into());
        }
        // The next transaction id is no evidence: ids that left nothing in the log are given out again after a crash.
        let flushed = self.flushed()?;
        if flushed < owner.birth_end || owner.birth_start < manifest.position {
            let (born, end) = (position(owner.birth_start), position(flushed));
            return Err(foreign(manifest, &format!("its birth was logged at {born}, but the log ends at {end}")).into());
        }
        if !self.was_born(manifest, &owner)? {
            let at = position(owner.birth_start);
            return Err(foreign(manifest, &format!("its birth, logged near {at}, is not in this log")).into());
        }
        if let Some(object) = self.missing(manifest)? {
            return Err(Unfit::Incomplete(incomplete(manifest, &object)));
        }
        keep_log(self.host, manifest.position)?;
        let history = self.history(manifest, &owner, flushed)?;
        Ok((owner, history))
    }

    fn missing(&self, manifest: &ManifestInfo) -> Result<Option<String>, StartError> {
        let missing = lsmstore::missing_table(self.store, self.objects, self.env, manifest);
        Ok(self.runtime.block_on(missing)?)
    }

    fn flushed(&self) -> Result<u64, StartError> {
        if let Some(flushed) = self.flushed.get() {
            return Ok(*flushed);
        }
        let flushed = log_end(self.host)?;
        Ok(*self.flushed.get_or_init(|| flushed))
    }

    /// Whether the log holds the birth record of a manifest.
    fn was_born(&self, manifest: &ManifestInfo, owner: &Owner) -> Result<bool, StartError> {
        let expected = Birth {
            store_id: manifest.store_id.into_bytes(),
            epoch: manifest.epoch,
            manifest: manifest.number,
            nonce: manifest.nonce.into_bytes(),
            position: manifest.position,
            sequence: manifest.last_sequence,
        };
        let mut born = false;
        walk(self.host, manifest.position, owner.birth_end, |at, payload| {
            (self.go_on)()?;
            if record::head(payload).is_ok_and(|head| head.kind == Kind::Birth) {
                let birth: Birth = whole(payload).map_err(|error| damaged(at, &error))?;
                // The nonce makes it the only one in the world.
                born |= birth == expected;
            }
            Ok(())
        })?;
        Ok(born)
    }

    /// What the log behind a manifest says.
    fn history(&self, manifest: &ManifestInfo, owner: &Owner, flushed: u64) -> Result<History, StartError> {
        let mut history = History { generation: owner.generation, sequence_ceiling: owner.sequence_ceiling };
        walk(self.host, manifest.position, flushed, |at, payload| {
            (self.go_on)()?;
            let head = record::head(payload).map_err(|error| damaged(at, &error))?;
            match head.kind {
                Kind::Generation => history.generation = history.generation.max(head.generation),
                Kind::Ceiling => {
                    let ceiling: Ceiling = whole(payload).map_err(|error| damaged(at, &error))?;
                    history.sequence_ceiling = history.sequence_ceiling.max(ceiling.sequence);
                }
                _ => {}
            }
            Ok(())
        })?;
        Ok(history)
    }
}

/// An error once the worker is to end, or whoever ordered a takeover has gone.
pub(crate) fn go_on(ending: bool, takeover: Option<&Takeover>) -> Result<(), StartError> {
    if ending {
        return Err(StartError::Failed("the worker was stopped while it looked for a manifest to go on with".into()));
    }
    if takeover.is_some_and(|takeover| takeover.withdrawn.load(Ordering::SeqCst)) {
        return Err(StartError::refused("the takeover was cancelled, nothing was changed", FOREIGN));
    }
    Ok(())
}

const LEFT_BEHIND: &str = "Nothing was changed. Bring the folder or the bucket back (is it mounted? are lsm_s3.endpoint, lsm_s3.bucket and \
     lsm_s3.prefix right?) and start the server again. To go on without, lsm_s3_takeover(accept_loss => true): what only \
     the local disk has is set aside then, and tables of that store are gone.";

const FOREIGN: &str = "The bucket was written by another server, or by this one in a history that it no longer has (a restored or copied \
     data directory). Use another prefix, or, when no other server uses the bucket, lsm_s3_takeover().";

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
        FOREIGN,
    )
}

fn incomplete(manifest: &ManifestInfo, object: &str) -> StartError {
    StartError::refused(
        format!("manifest {} of the bucket names object {object}, which is not there", manifest.number),
        "The bucket is an incomplete copy, or objects were removed by somebody else; bring them back from a backup.",
    )
}

/// Has the log kept from a position on.
pub(crate) fn keep_log(host: &dyn Host, from: u64) -> Result<(), StartError> {
    let refused = |error: HostError| {
        StartError::Refused {
        message: format!("the log from the store's position on cannot be kept: {error}"),
        hint: "The store needs the write-ahead log that follows its newest manifest. Bring it back, or take the bucket over \
               with lsm_s3_takeover()."
            .into(),
        log: true,
    }
    };
    let failed = |error: HostError| StartError::Failed(format!("keeping the log failed: {error}"));
    host.ensure_slot(from).map_err(|error| if error.is_gone() { refused(error) } else { failed(error) })
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

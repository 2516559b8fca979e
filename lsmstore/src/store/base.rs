//! Where a store goes on that is opened: behind which manifest, with the content of which.
//!
//! # Invariants
//! * The newest manifest is passed over only if it is damaged and the owner named another one.
//! * Where the newest manifest is damaged nobody knows where the log in the bucket of its epoch ends: that one is not fenced,
//!   and its writer, should he live, learns of it with his next publication.
//! * Whoever goes on with an older manifest holds it by a checkpoint until one of his own names its tables: a writer that
//!   does not know yet that it is fenced may be collecting it.

use std::time::Duration;

use uuid::Uuid;

use crate::checkpoint::{Checkpoint, CheckpointError, CheckpointOptions, Checkpoints};
use crate::env::nonce;
use crate::error::{OpenError, StorageError};
use crate::log::LogChoice;
use crate::manifest::{Manifest, local, publish};
use crate::object;
use crate::probe;
use crate::store::open::Opening;

/// How long an opening that crashed keeps the manifest that it began with.
const HOLD: Duration = Duration::from_secs(24 * 3600);

/// Where a store goes on.
pub(super) struct Start {
    /// The newest manifest's number, 0 if there is none; the next one's is one more.
    pub(super) number: u64,
    /// No epoch was above it.
    pub(super) epoch: u64,
    /// The newest manifest, or the newest that can be read.
    pub(super) newest: Option<Manifest>,
    pub(super) base: Manifest,
    /// The owner chose a base that is not the newest there was, or to go on without the log: what came behind it is left behind.
    pub(super) older: bool,
    /// Holds the base.
    pub(super) hold: Option<Checkpoint>,
}

/// The newest manifest that can be read.
struct Newest {
    /// The number of the newest one.
    number: u64,
    epoch: u64,
    /// The number of `manifest`.
    of: u64,
    manifest: Manifest,
}

impl Opening<'_> {
    pub(super) async fn start(&self) -> Result<Start, OpenError> {
        let Some(newest) = self.newest().await? else {
            self.refuse_another(None)?;
            self.refuse_unconditional().await?;
            let base = self.first_manifest().await?;
            return Ok(Start { number: 0, epoch: 0, newest: None, base, older: false, hold: None });
        };
        self.refuse_another(Some(&newest.manifest))?;
        let (base, held) = self.base(&newest).await?;
        self.check_log(&base)?;
        // The local one of the same writer is ahead of what he published, unless the folder is a copy.
        let behind = base.epoch != newest.epoch || base.last_sequence < newest.manifest.last_sequence;
        let older = held.is_some() || behind || (self.config.base.is_some() && self.config.accept_log_loss);
        let hold = match held {
            Some(number) => Some(self.hold(number, base.nonce).await.map_err(OpenError::Base)?),
            None => None,
        };
        let Newest { number, epoch, manifest, .. } = newest;
        Ok(Start { number, epoch, newest: Some(manifest), base, older, hold })
    }

    pub(super) fn checkpoints(&self) -> Checkpoints {
        Checkpoints::of(self.objects.clone(), self.env.clone(), self.names.clone())
    }

    async fn hold(&self, number: u64, nonce: Uuid) -> Result<Checkpoint, CheckpointError> {
        let options = CheckpointOptions { name: "being opened".into(), ttl: Some(HOLD), manifest: Some(number) };
        let held = self.checkpoints().create(options).await?;
        match held.manifest_nonce == nonce {
            true => Ok(held),
            false => Err(CheckpointError::NoManifest { manifest: number }),
        }
    }

    /// A store is made only where two writers cannot harm each other.
    async fn refuse_unconditional(&self) -> Result<(), OpenError> {
        if self.config.unsafe_single_writer {
            return Ok(());
        }
        let random = || nonce(&**self.env).map_err(StorageError::local("random bytes"));
        let nonces = [random()?, random()?];
        match probe::refuses_second_create(&**self.objects, self.names, nonces).await? {
            true => Ok(()),
            false => Err(OpenError::Unconditional { objects: self.objects.to_string() }),
        }
    }

    async fn newest(&self) -> Result<Option<Newest>, OpenError> {
        match publish::latest(&**self.objects, self.names, None).await {
            Ok(None) => Ok(None),
            Ok(Some((number, manifest))) => Ok(Some(Newest { number, epoch: manifest.epoch, of: number, manifest })),
            Err(damaged @ StorageError::Corrupt(_)) if self.config.base.is_some() => {
                match self.below_the_damaged().await? {
                    Some(newest) => Ok(Some(newest)),
                    None => Err(damaged.into()),
                }
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The newest manifest that can be read.
    async fn below_the_damaged(&self) -> Result<Option<Newest>, OpenError> {
        let numbers = publish::numbers(&**self.objects, self.names).await?;
        let Some(&number) = numbers.last() else { return Ok(None) };
        for &of in numbers.iter().rev() {
            let path = self.names.manifest(of);
            let Some(bytes) = object::get(&**self.objects, &path).await? else { continue };
            if let Ok(manifest) = Manifest::decode(path.as_ref(), of, &bytes) {
                // Each of those that cannot be read may have begun an epoch.
                return Ok(Some(Newest { number, epoch: manifest.epoch + (number - of), of, manifest }));
            }
        }
        Ok(None)
    }

    /// The manifest whose content the store goes on with: the one that the owner chose, else the local one if it is newer
    /// than the bucket's newest, else that one. With its number if there may be a newer one in the bucket.
    async fn base(&self, newest: &Newest) -> Result<(Manifest, Option<u64>), OpenError> {
        let (env, dir) = (&**self.env, &*self.config.local_dir);
        let Some(nonce) = self.config.base else {
            return match local::newer(env, dir, self.mirror, &newest.manifest) {
                Ok(Some((_, local))) => Ok((local, None)),
                // Without a log nothing else has what it holds.
                Err(error) if matches!(self.log, LogChoice::Nobody) => Err(error.into()),
                // One that is newer but cannot be used is the log's matter: its records are still needed.
                _ => Ok((newest.manifest.clone(), None)),
            };
        };
        if newest.manifest.nonce == nonce {
            return Ok((newest.manifest.clone(), (newest.of < newest.number).then_some(newest.of)));
        }
        // One that cannot be read is not the one that the owner chose.
        let local = local::read(env, dir).ok().flatten();
        if let Some((_, local)) = local.filter(|(_, local)| local.nonce == nonce) {
            return Ok((local, None));
        }
        for number in publish::numbers(&**self.objects, self.names).await?.into_iter().rev() {
            let path = self.names.manifest(number);
            let Some(bytes) = object::get(&**self.objects, &path).await? else { continue };
            match Manifest::decode(path.as_ref(), number, &bytes) {
                Ok(manifest) if manifest.nonce == nonce => return Ok((manifest, Some(number))),
                _ => {}
            }
        }
        Err(StorageError::Missing { object: format!("manifest with nonce {nonce}") }.into())
    }

    /// A folder whose store is not the bucket's is not made that of another one.
    fn refuse_another(&self, newest: Option<&Manifest>) -> Result<(), OpenError> {
        if self.config.leave_behind {
            return Ok(());
        }
        let dir = &self.config.local_dir;
        let left = match local::read(&**self.env, dir) {
            Ok(local) => local.and_then(|(_, local)| local::left_behind(dir, &local, newest)),
            // Nobody knows what an empty bucket should have held.
            Err(error) if newest.is_none() => return Err(error.into()),
            Err(_) => None,
        };
        left.map_or(Ok(()), |left| Err(OpenError::LeftBehind(left)))
    }
}

//! Checkpoints: manifests that are kept, with all of their tables, for as long as somebody says so.
//!
//! A checkpoint is a row of small numbered objects, its *beats*, each made by create-if-absent. The newest one tells what
//! it is: proposed, held, or ended. A refresh is the next beat, and so is the end, be it a deletion or that nobody
//! refreshed it in time: whoever creates the next number first decides, and no clocks are compared.
//!
//! Made while garbage is collected: the proposal is there first, then its creator looks for the boundary of collection;
//! collection creates its boundary first and lists checkpoints then. So one of the two sees the other. Whoever holds a
//! manifest below the boundary does so beside another checkpoint that was held when the proposal was there.
//!
//! # Invariants
//! * Collection spares what any beat but an ended one names, and lists again after it has ended a checkpoint itself.
//! * The beat before the newest one stays; an ended row is removed from its begin, the end last. So a refresh by somebody
//!   who slept through the end finds that the beat before his own is gone.

mod error;
mod format;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore};
use uuid::Uuid;

pub use error::CheckpointError;
pub(crate) use format::{Beat, State};

use crate::env::{Env, nonce};
use crate::error::{Corruption, StorageError};
use crate::manifest::{Manifest, publish};
use crate::object::{self, Created, Names};

/// Until it is deleted.
const FOR_EVER: u64 = u64::MAX;
/// How often rows are listed again that change meanwhile.
const ATTEMPTS: usize = 8;

/// What a checkpoint is to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckpointOptions {
    /// For people; need not be the only one of that name. Default: none.
    pub name: String,
    /// It ends when nobody has refreshed it for this long, by the clock of the object store. Default: it stays until it is
    /// deleted.
    pub ttl: Option<Duration>,
    /// The manifest that it keeps. Default: the newest.
    pub manifest: Option<u64>,
}

/// A checkpoint, as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Checkpoint {
    /// By this it is refreshed and deleted.
    pub id: Uuid,
    /// For people.
    pub name: String,
    /// Number of the manifest that it keeps.
    pub manifest: u64,
    /// Its nonce: what [`Config::base`](crate::Config::base) opens.
    pub manifest_nonce: Uuid,
    /// After how long without a refresh it ends.
    pub ttl: Option<Duration>,
    /// Whether it holds; if not, its creator has not finished, or died.
    pub held: bool,
}

/// The checkpoints under a prefix. Whoever reads the bucket may make some; the writer needs not know.
#[derive(Clone, Debug)]
pub struct Checkpoints {
    objects: Arc<dyn ObjectStore>,
    env: Arc<dyn Env>,
    names: Names,
}

/// A checkpoint's objects.
pub(crate) struct Row {
    pub(crate) id: Uuid,
    pub(crate) beats: BTreeMap<u64, ObjectMeta>,
    /// The newest one's number and content.
    pub(crate) newest: u64,
    pub(crate) last: Beat,
}

impl Row {
    pub(crate) fn ended(&self) -> bool {
        self.last.state == State::Ended
    }

    /// How long without a refresh it lives, in milliseconds.
    pub(crate) fn ttl_ms(&self) -> Option<u64> {
        (self.last.ttl_ms != FOR_EVER).then_some(self.last.ttl_ms)
    }

    pub(crate) fn describe(&self) -> Checkpoint {
        Checkpoint {
            id: self.id,
            name: self.last.name.clone(),
            manifest: self.last.manifest,
            manifest_nonce: self.last.manifest_nonce,
            ttl: self.ttl_ms().map(Duration::from_millis),
            held: self.last.state == State::Held,
        }
    }
}

/// The rows under `names`.
pub(crate) async fn rows(objects: &dyn ObjectStore, names: &Names) -> Result<Vec<Row>, StorageError> {
    let dir = names.checkpoints();
    'again: for _ in 0..ATTEMPTS {
        let mut found: BTreeMap<Uuid, BTreeMap<u64, ObjectMeta>> = BTreeMap::new();
        for meta in object::list(objects, &dir).await? {
            if let Some((id, beat)) = Names::checkpoint_beat(&meta.location) {
                found.entry(id).or_default().insert(beat, meta);
            }
        }
        let mut rows = Vec::new();
        for (id, beats) in found {
            let Some((&newest, _)) = beats.last_key_value() else { continue };
            let path = names.checkpoint(id, newest);
            // It was refreshed twice, or removed, since it was listed.
            let Some(bytes) = object::get(objects, &path).await? else { continue 'again };
            let last = Beat::decode(path.as_ref(), &bytes)?;
            rows.push(Row { id, beats, newest, last });
        }
        return Ok(rows);
    }
    let what = "the newest beat of a checkpoint is in the list, but not there";
    Err(StorageError::Corrupt(Corruption::new(dir.as_ref(), 0, what)))
}

/// Creates a beat. Says whether it is ours.
pub(crate) async fn put(objects: &dyn ObjectStore, path: &Path, beat: &Beat) -> Result<bool, StorageError> {
    let bytes = Bytes::from(beat.encode());
    // The nonce in it tells it from anybody else's.
    let created = object::create(objects, path, bytes.clone(), |found| Ok(found == bytes)).await?;
    Ok(created == Created::Ours)
}

/// Puts the end of a checkpoint in the place of its next beat, unless somebody else was faster: whoever lists it again knows
/// whether it is over.
pub(crate) async fn end(
    objects: &dyn ObjectStore,
    names: &Names,
    env: &dyn Env,
    row: &Row,
) -> Result<(), StorageError> {
    let nonce = nonce(env).map_err(StorageError::local("random bytes"))?;
    let beat = Beat { nonce, state: State::Ended, ..row.last.clone() };
    put(objects, &names.checkpoint(row.id, row.newest + 1), &beat).await.map(drop)
}

/// The lowest manifest of which everything is there; 0 if nothing was ever collected.
pub(crate) async fn boundary(objects: &dyn ObjectStore, names: &Names) -> Result<u64, StorageError> {
    let listed = object::list(objects, &names.boundaries()).await?;
    Ok(listed.iter().filter_map(|meta| Names::manifest_number(&meta.location)).max().unwrap_or(0))
}

impl Checkpoints {
    /// Those under `prefix`.
    pub fn new(objects: Arc<dyn ObjectStore>, env: Arc<dyn Env>, prefix: &str) -> Checkpoints {
        Checkpoints::of(objects, env, Names::new(prefix.trim_matches('/')))
    }

    pub(crate) fn of(objects: Arc<dyn ObjectStore>, env: Arc<dyn Env>, names: Names) -> Checkpoints {
        Checkpoints { objects, env, names }
    }

    fn random(&self) -> Result<Uuid, StorageError> {
        nonce(&*self.env).map_err(StorageError::local("random bytes"))
    }

    async fn manifest(&self, number: u64) -> Result<Manifest, CheckpointError> {
        let path = self.names.manifest(number);
        let bytes = object::get(&*self.objects, &path).await?;
        let bytes = bytes.ok_or(CheckpointError::NoManifest { manifest: number })?;
        Ok(Manifest::decode(path.as_ref(), number, &bytes)?)
    }

    async fn row(&self, id: Uuid) -> Result<Option<Row>, StorageError> {
        Ok(rows(&*self.objects, &self.names).await?.into_iter().find(|row| row.id == id))
    }

    /// Makes a checkpoint. When this returns, everything that its manifest names is there and stays.
    ///
    /// # Errors
    /// [`CheckpointError`]; [`Collected`](CheckpointError::Collected) if the manifest is too old.
    pub async fn create(&self, options: CheckpointOptions) -> Result<Checkpoint, CheckpointError> {
        let number = match options.manifest {
            Some(number) => number,
            None => {
                let newest = publish::newest_number(&*self.objects, &self.names, None).await?;
                newest.ok_or(CheckpointError::Empty)?
            }
        };
        let manifest = self.manifest(number).await?;
        let ttl_ms = options.ttl.map_or(FOR_EVER, |ttl| u64::try_from(ttl.as_millis()).unwrap_or(FOR_EVER));
        let id = self.random()?;
        let mut beat = Beat {
            nonce: self.random()?,
            state: State::Proposed,
            manifest: number,
            manifest_nonce: manifest.nonce,
            ttl_ms,
            name: options.name,
        };
        put(&*self.objects, &self.names.checkpoint(id, 0), &beat).await?;
        if let Err(error) = self.came_in_time(id, &beat).await {
            // One that stays a proposal ends like any other that nobody refreshes, if it may.
            let _ = self.delete(id).await;
            return Err(error);
        }
        (beat.nonce, beat.state) = (self.random()?, State::Held);
        if !put(&*self.objects, &self.names.checkpoint(id, 1), &beat).await? {
            return Err(CheckpointError::Ended { id });
        }
        let ttl = options.ttl;
        let Beat { name, manifest, manifest_nonce, .. } = beat;
        Ok(Checkpoint { id, name, manifest, manifest_nonce, ttl, held: true })
    }

    /// Whether what a proposal names cannot go any more.
    async fn came_in_time(&self, id: Uuid, proposal: &Beat) -> Result<(), CheckpointError> {
        let number = proposal.manifest;
        let boundary = boundary(&*self.objects, &self.names).await?;
        if number < boundary {
            let rows = rows(&*self.objects, &self.names).await?;
            let kept = |row: &Row| {
                row.id != id
                    && row.last.state == State::Held
                    && (row.last.manifest, row.last.manifest_nonce) == (number, proposal.manifest_nonce)
            };
            if !rows.iter().any(kept) {
                return Err(CheckpointError::Collected { manifest: number, boundary });
            }
        }
        let there = self.manifest(number).await?;
        match there.nonce == proposal.manifest_nonce {
            true => Ok(()),
            false => Err(CheckpointError::NoManifest { manifest: number }),
        }
    }

    /// Has a checkpoint live for its whole time again.
    ///
    /// # Errors
    /// [`CheckpointError`]; what it kept may be gone if it is [`Ended`](CheckpointError::Ended) or not found.
    pub async fn refresh(&self, id: Uuid) -> Result<Checkpoint, CheckpointError> {
        for _ in 0..ATTEMPTS {
            let row = self.row(id).await?.ok_or(CheckpointError::NotFound { id })?;
            if row.last.state != State::Held {
                return Err(CheckpointError::Ended { id });
            }
            let beat = Beat { nonce: self.random()?, ..row.last.clone() };
            let path = self.names.checkpoint(id, row.newest + 1);
            if !put(&*self.objects, &path, &beat).await? {
                // Its end, or somebody else's refresh.
                continue;
            }
            let now = self.row(id).await?;
            if !now.as_ref().is_some_and(|now| now.beats.contains_key(&row.newest)) {
                object::delete(&*self.objects, vec![path]).await?;
                if now.is_some_and(|now| now.newest > row.newest + 1) {
                    // Others refreshed it so often meanwhile that our number was free again.
                    continue;
                }
                return Err(CheckpointError::Ended { id });
            }
            let older = row.beats.range(..row.newest).map(|(_, meta)| meta.location.clone());
            object::delete(&*self.objects, older.collect()).await?;
            return Ok(row.describe());
        }
        Err(CheckpointError::Contended { id })
    }

    /// Ends a checkpoint: what only it kept is garbage. That it is over already is no error.
    ///
    /// # Errors
    /// [`CheckpointError::NotFound`], or the object store's.
    pub async fn delete(&self, id: Uuid) -> Result<(), CheckpointError> {
        for attempt in 0..ATTEMPTS {
            match self.row(id).await? {
                Some(row) if !row.ended() => end(&*self.objects, &self.names, &*self.env, &row).await?,
                None if attempt == 0 => return Err(CheckpointError::NotFound { id }),
                _ => return Ok(()),
            }
        }
        Err(CheckpointError::Contended { id })
    }

    /// Those that are not over.
    ///
    /// # Errors
    /// [`CheckpointError::Storage`], damage of one of them included.
    pub async fn list(&self) -> Result<Vec<Checkpoint>, CheckpointError> {
        let rows = rows(&*self.objects, &self.names).await?;
        Ok(rows.iter().filter(|row| !row.ended()).map(Row::describe).collect())
    }
}

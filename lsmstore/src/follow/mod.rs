//! Reading a bucket that somebody else writes, from anywhere, without a copy of it.
//!
//! A [`Follower`] knows the newest manifest and gives out [`Snapshot`]s of it. What they need is fetched by ranges of
//! objects, when it is needed: for a table that was never read one range with its filter and index, and one for each block,
//! or for many blocks that stand one behind the other. It stays in memory, decompressed, within a budget, and parts of
//! objects on the local disk, if there is a folder for them.
//!
//! # Invariants
//! * Nothing is written to the bucket, but for a checkpoint that was asked for.
//! * Nothing that was fetched is believed before its checksum was found right.
//! * No reader is disturbed: what a view has shown stays until the view is dropped.

mod ahead;
mod blocking;
mod config;
mod contents;
mod error;
mod fetch;
mod flights;
mod fresh;
mod logs;
mod parts;
mod scan;
mod shelf;
mod snapshot;

use std::fmt::{self, Debug, Formatter};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use object_store::ObjectStore;

pub use blocking::{BlockingFollower, BlockingScan};
pub use config::FollowerConfig;
pub use error::FollowError;
pub use scan::SnapshotScan;
pub use snapshot::Snapshot;

use crate::env::Env;
use crate::error::{Corruption, StorageError};
use crate::follow::contents::Contents;
use crate::follow::fetch::Fetcher;
use crate::follow::flights::Flights;
use crate::follow::fresh::Fresh;
use crate::follow::parts::Parts;
use crate::follow::shelf::Shelf;
use crate::manifest::{Manifest, publish};
use crate::metrics::counters::Reads;
use crate::metrics::objects::{CountedObjects, RequestCounters};
use crate::object::{self, Names};
use crate::store::Requests;
use crate::wal::remote::Tail;

/// Manifests that are asked for one after the other before the newest is looked for.
const STEPS: u64 = 4;
/// After so long the newest manifest is looked for by its name: the next one may have been collected.
const LONG: Duration = Duration::from_secs(60);
/// How often a get takes a newer snapshot because the one it had was collected.
const ATTEMPTS: usize = 4;

/// Reads a store that somebody else writes, on any machine, without a copy of it and without asking him. Cheap to clone.
///
/// It shows what the newest manifest does that it knows of: see [`Follower::refresh`] and [`Follower::staleness`]. What a
/// read needs is fetched by ranges of objects: for a table that was never read its filter and index, and then blocks.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::sync::Arc;
/// use lsmstore::{Config, Env, Follower, FollowerConfig, LogChoice, Store, SystemEnv, objects};
///
/// # let dir = tempfile::tempdir()?;
/// let (bucket, env): (_, Arc<dyn Env>) = (objects::memory(), Arc::new(SystemEnv::new()));
/// let store = Store::open(Config::new(dir.path(), "demo"), bucket.clone(), env.clone(), LogChoice::Nobody).await?;
/// store.put(b"apple", b"red").await?;
/// store.flush().await?;
///
/// let follower = Follower::open(FollowerConfig::new("demo"), bucket, env).await?;
/// assert_eq!(follower.get(b"apple").await?.as_deref(), Some(&b"red"[..]));
/// store.put(b"apple", b"green").await?;
/// store.flush().await?;
/// assert!(follower.refresh().await?);
/// assert_eq!(follower.get(b"apple").await?.as_deref(), Some(&b"green"[..]));
/// # Ok(())
/// # }
/// ```
///
/// # What keeps the objects that are read
/// The writer's garbage collection spares a manifest's objects for [`Config::keep_for`](crate::Config::keep_for) after a
/// newer manifest has come, and then for [`Config::quarantine`](crate::Config::quarantine). Whoever reads a snapshot for
/// longer than that holds a [checkpoint](Snapshot::checkpoint); else he is told that it was
/// [collected](FollowError::Collected). [`Follower::get`] takes a newer snapshot by itself then.
#[derive(Clone)]
pub struct Follower {
    inner: Arc<Inner>,
}

struct Inner {
    fetcher: Arc<Fetcher>,
    newest: RwLock<Newest>,
    /// Locked before `newest`.
    fresh: Mutex<Fresh>,
    /// One look at the bucket at a time.
    looking: tokio::sync::Mutex<Looking>,
}

/// How far the bucket was looked at.
struct Looking {
    /// How far the log there was read.
    tails: Vec<Tail>,
    /// When the manifests were last listed, and the log looked at for holes.
    listed: Duration,
}

#[derive(Clone)]
struct Newest {
    contents: Arc<Contents>,
    /// When it, with the log behind it, was last known to be all there is.
    known: Duration,
}

/// How far behind the writer a follower may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Staleness {
    /// The manifest that is read.
    pub manifest: u64,
    /// Writes up to this number are readable.
    pub last_sequence: u64,
    /// How long ago it was certainly the newest: what was published before that is in it.
    pub known: Duration,
}

impl Debug for Follower {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("Follower").field("staleness", &self.staleness()).finish()
    }
}

impl Follower {
    /// Follows the store under the configured prefix. Nothing of it is read yet but its newest manifest.
    ///
    /// # Errors
    /// [`FollowError`]; [`FollowError::NoStore`] if there is none.
    pub async fn open(
        config: FollowerConfig,
        objects: Arc<dyn ObjectStore>,
        env: Arc<dyn Env>,
    ) -> Result<Follower, FollowError> {
        let requests = Arc::new(RequestCounters::default());
        let objects = Arc::new(CountedObjects::new(objects, Arc::clone(&requests))) as Arc<dyn ObjectStore>;
        let names = Names::new(&config.prefix);
        let known = env.reactor().monotonic();
        let Some((number, manifest)) = publish::latest(&*objects, &names, None).await? else {
            return Err(FollowError::NoStore { prefix: config.prefix });
        };
        let parts = match &config.parts {
            Some((dir, bytes)) => {
                let identity = format!("store {}\nprefix {}\nobjects {objects}\n", manifest.store_id, config.prefix);
                Some(Arc::new(Parts::open(&*env, dir, *bytes, &identity).await?))
            }
            None => None,
        };
        let fetcher = Arc::new(Fetcher {
            shelf: Shelf::new(names.clone(), config.cache_bytes),
            names,
            objects,
            env,
            requests,
            reads: Arc::new(Reads::default()),
            parts,
            metas: Flights::default(),
            flights: Flights::default(),
            read_ahead: config.read_ahead_bytes.min(config.cache_bytes / 8).max(1),
        });
        let (mut tails, mut fresh) = (logs::tails(&manifest, &[]), Fresh::new(number));
        let (logged, behind) = logs::read(&fetcher, manifest.store_id, &tails).await?;
        let contents = show(&fetcher, number, &manifest);
        if fresh.apply_all(&contents, logged)? {
            tails = behind;
        }
        let newest = RwLock::new(Newest { contents, known });
        let looking = tokio::sync::Mutex::new(Looking { tails, listed: known });
        let fresh = Mutex::new(fresh);
        Ok(Follower { inner: Arc::new(Inner { fetcher, newest, fresh, looking }) })
    }

    fn fresh(&self) -> MutexGuard<'_, Fresh> {
        // A batch that was inserted in part was not published.
        self.inner.fresh.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn newest(&self) -> Newest {
        self.inner.newest.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Everything as the newest manifest that is known shows it.
    pub fn snapshot(&self) -> Snapshot {
        let contents = self.newest().contents;
        let sequence = contents.sequence();
        Snapshot { fetcher: Arc::clone(&self.inner.fetcher), contents, sequence }
    }

    /// The value of `key` in the newest manifest that is known; if what that names was collected, in a newer one.
    ///
    /// # Errors
    /// [`FollowError`].
    pub async fn get(&self, key: &[u8]) -> Result<Option<Bytes>, FollowError> {
        for _ in 1..ATTEMPTS {
            match self.snapshot().get(key).await {
                Err(FollowError::Collected { .. }) => self.look_for_newest().await?,
                outcome => return outcome,
            }
        }
        self.snapshot().get(key).await
    }

    /// Looks for newer manifests, and for newer writes in the log if that is in the bucket
    /// ([`Config::remote_log`](crate::Config::remote_log)): one request each if there are none. Whether there were any. It relies
    /// on the writer to keep each manifest for a minute ([`Config::keep_for`](crate::Config::keep_for)): once a minute, and after a
    /// longer pause, it lists them, and looks whether the log has a hole.
    ///
    /// # Errors
    /// [`FollowError`]; what was known stays readable.
    pub async fn refresh(&self) -> Result<bool, FollowError> {
        let mut looking = self.inner.looking.lock().await;
        let Looking { tails, listed } = &mut *looking;
        let (mut newer, mut hole) = (false, false);
        for _ in 0..ATTEMPTS {
            let now = self.inner.fetcher.env.reactor().monotonic();
            // The next manifest may have been collected, with the log that it holds.
            let list = hole || now.saturating_sub(*listed) > LONG;
            // A newer manifest is taken with the log behind it.
            let whole = match self.look(list, tails).await? {
                Some(whole) => {
                    newer = true;
                    whole
                }
                None => {
                    let logged = self.read_logs(tails).await?;
                    newer |= logged == Some(true);
                    logged.is_some()
                }
            };
            if whole {
                if list {
                    newer |= self.refuse_hole(tails).await?;
                    *listed = now;
                }
                self.known_at(now);
                return Ok(newer);
            }
            hole = true;
        }
        if newer {
            return Ok(true);
        }
        let shown = self.snapshot().sequence();
        let what = format!("writes behind sequence number {shown} are missing, and there is no newer manifest");
        Err(Corruption::new("the log in the bucket", 0, what).into())
    }

    /// Looks for a newer manifest, which is read from now on: whether all of the log behind it is. None if there is none.
    async fn look(&self, list: bool, tails: &mut Vec<Tail>) -> Result<Option<bool>, FollowError> {
        if list {
            return self.jump(tails).await;
        }
        let first = self.newest().contents.info.number;
        let Fetcher { objects, names, .. } = &*self.inner.fetcher;
        let mut found = None;
        loop {
            let number = found.as_ref().map_or(first, |(number, _)| *number);
            if number - first >= STEPS {
                return self.jump(tails).await;
            }
            let path = names.manifest(number + 1);
            let Some(bytes) = object::get(&**objects, &path).await? else {
                return match found {
                    Some((number, manifest)) => self.adopt(number, &manifest, tails).await.map(Some),
                    None => Ok(None),
                };
            };
            found = Some((number + 1, Manifest::decode(path.as_ref(), number + 1, &bytes)?));
        }
    }

    /// An error if the log has a hole where it seems to end: unless a newer manifest, which is read then, holds what is
    /// missing. Whether there is one.
    async fn refuse_hole(&self, tails: &mut Vec<Tail>) -> Result<bool, FollowError> {
        let Fetcher { objects, names, .. } = &*self.inner.fetcher;
        // Those behind it were not read yet.
        let Some(tail) = tails.iter().find(|tail| !tail.fenced).copied() else { return Ok(false) };
        match tail.refuse_hole(&**objects, names).await {
            Err(StorageError::Corrupt(hole)) => match self.jump(tails).await? {
                Some(_) => Ok(true),
                None => Err(hole.into()),
            },
            outcome => Ok(outcome.map(|()| false)?),
        }
    }

    async fn look_for_newest(&self) -> Result<(), FollowError> {
        let mut looking = self.inner.looking.lock().await;
        self.jump(&mut looking.tails).await.map(drop)
    }

    /// Shows what has come in the logs. Whether anything has; none if what lies before it is in a newer manifest.
    async fn read_logs(&self, tails: &mut Vec<Tail>) -> Result<Option<bool>, FollowError> {
        let contents = self.newest().contents;
        let (logged, behind) = logs::read(&self.inner.fetcher, contents.info.store_id, tails).await?;
        let newer = !logged.is_empty();
        let whole = self.fresh().apply_all(&contents, logged)?;
        if whole {
            *tails = behind;
        }
        Ok(whole.then_some(newer))
    }

    /// Lists the manifests and reads the newest from now on, if it is newer: whether all of the log behind it is read.
    async fn jump(&self, tails: &mut Vec<Tail>) -> Result<Option<bool>, FollowError> {
        let Fetcher { objects, names, .. } = &*self.inner.fetcher;
        let info = self.newest().contents.info.clone();
        let newest = match publish::latest(&**objects, names, info.number.checked_sub(1)).await? {
            None => publish::latest(&**objects, names, None).await?,
            newest => newest,
        };
        match newest {
            Some((_, manifest)) if manifest.store_id != info.store_id => {
                Err(FollowError::AnotherStore { found: manifest.store_id, expected: info.store_id })
            }
            Some((newest, manifest)) if newest > info.number => self.adopt(newest, &manifest, tails).await.map(Some),
            Some((newest, _)) if newest == info.number => Ok(None),
            // A bucket that was put back to what it held before, or emptied.
            _ => Err(StorageError::Missing { object: names.manifest(info.number).to_string() }.into()),
        }
    }

    /// Reads a manifest from now on, with the log behind it: whether all of that. After an error everything is as it was.
    async fn adopt(&self, number: u64, manifest: &Manifest, tails: &mut Vec<Tail>) -> Result<bool, FollowError> {
        let Newest { contents: before, known } = self.newest();
        let expected = before.info.store_id;
        if manifest.store_id != expected {
            return Err(FollowError::AnotherStore { found: manifest.store_id, expected });
        }
        // Another writer may have gone on without some of what was read: then all of it is read again, before anything is
        // shown, so that nobody sees less than he did.
        let same_writer = manifest.epoch == before.info.epoch;
        let next = logs::tails(manifest, if same_writer { tails } else { &[] });
        let (logged, behind) = logs::read(&self.inner.fetcher, expected, &next).await?;
        let mut fresh = self.fresh();
        let contents = show(&self.inner.fetcher, number, manifest);
        let mut beside = fresh.beside(&before.info, &contents);
        let whole = beside.apply_all(&contents, logged)?;
        fresh.give_way(beside);
        *tails = if whole { behind } else { next };
        *self.inner.newest.write().unwrap_or_else(PoisonError::into_inner) = Newest { contents, known };
        Ok(whole)
    }

    fn known_at(&self, known: Duration) {
        self.inner.newest.write().unwrap_or_else(PoisonError::into_inner).known = known;
    }

    /// How far behind the writer this may be.
    pub fn staleness(&self) -> Staleness {
        let Newest { contents, known } = self.newest();
        let now = self.inner.fetcher.env.reactor().monotonic();
        Staleness {
            manifest: contents.info.number,
            last_sequence: contents.sequence(),
            known: now.saturating_sub(known),
        }
    }

    /// [Refreshes](Follower::refresh) every `interval`, until the last handle is gone (of which this holds none). What fails
    /// is tried again the next time: [`Follower::staleness`] tells.
    pub fn follow(&self, interval: Duration) -> impl Future<Output = ()> + Send + 'static {
        let inner = Arc::downgrade(&self.inner);
        let env = Arc::clone(&self.inner.fetcher.env);
        async move {
            loop {
                env.reactor().sleep(interval).await;
                let Some(inner) = inner.upgrade() else { return };
                // The next one may succeed.
                let _ = Follower { inner }.refresh().await;
            }
        }
    }

    /// Requests made since it was opened.
    pub fn requests(&self) -> Requests {
        Requests::of(&self.inner.fetcher.requests)
    }

    /// Bytes in memory of what was fetched, those included that only old snapshots hold.
    pub fn cached_bytes(&self) -> u64 {
        self.inner.fetcher.shelf.used()
    }

    /// Bytes of parts of objects on the local disk.
    pub fn cached_on_disk(&self) -> u64 {
        self.inner.fetcher.parts.as_ref().map_or(0, |parts| parts.bytes())
    }
}

fn show(fetcher: &Fetcher, number: u64, manifest: &Manifest) -> Arc<Contents> {
    fetcher.shelf.contents(|find| Contents::new(number, manifest, &fetcher.reads, find))
}

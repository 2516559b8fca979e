//! Opening a store: completing the mirror of the manifest that `base` found, taking over with the next epoch.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, OnceLock, RwLock};

use bytes::Bytes;
use object_store::ObjectStore;
use uuid::Uuid;

use crate::config::Config;
use crate::env::{Env, lock_soon, nonce};
use crate::error::{OpenError, StorageError, WriteError};
use crate::gc::Known;
use crate::log::LogChoice;
use crate::manifest::{LogKind, Manifest, ManifestInfo, publish};
use crate::memtable::insert::{Heights, Inserter};
use crate::metrics::counters::Counters;
use crate::metrics::local::CountedEnv;
use crate::metrics::objects::CountedObjects;
use crate::mirror::Mirror;
use crate::object::{Created, Names};
use crate::sstable::TableId;
use crate::sstable::read::Table;
use crate::store::base::Start;
use crate::store::flush::{Local, birth_of, tables_of};
use crate::store::folder::take_mark;
use crate::store::found::kind;
use crate::store::group::Group;
use crate::store::jobs::Jobs;
use crate::store::merge::{Claims, Limiter};
use crate::store::publish::Uploader;
use crate::store::remote_logs::RemoteLogs;
use crate::store::shipping::Shipping;
use crate::store::{FlushOptions, Inner, Store, Writer, new_memtable};
use crate::view::View;
use crate::wal::OwnLog;
use crate::wal::recover::Logged;
use crate::wal::remote;

/// How often we try again when another writer opens the bucket at the same moment.
const ATTEMPTS: u32 = 16;
const LOCK: &str = "LOCK";

impl Store {
    /// Opens the store under the configured prefix, making it if there is none, and takes it over: a manifest with the
    /// next epoch fences whoever wrote before. The mirror of every table is complete, and verified unless the last stop
    /// was orderly, when this returns.
    ///
    /// With [`LogChoice::External`] nothing is replayed: the owner replays from the manifest's position by
    /// [`Store::apply_at`] and then calls [`Store::set_next_sequence`].
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn open(
        config: Config,
        objects: Arc<dyn ObjectStore>,
        env: Arc<dyn Env>,
        log: LogChoice,
    ) -> Result<Store, OpenError> {
        let counters = Counters::default();
        let objects = Arc::new(CountedObjects::new(objects, Arc::clone(&counters.requests))) as Arc<dyn ObjectStore>;
        let (mirrors, log_dir, written) = (config.mirror_dir(), config.wal_dir(), Arc::clone(&counters.local));
        let env = Arc::new(CountedEnv::new(env, mirrors, log_dir, written)) as Arc<dyn Env>;
        let local = |path: &std::path::Path| StorageError::local(path.to_owned());
        for dir in [config.local_dir.clone(), config.mirror_dir(), config.wal_dir()] {
            env.create_dir(&dir).map_err(local(&dir))?;
        }
        let lock_path = config.local_dir.join(LOCK);
        let folder = lock_soon(&*env, &lock_path).await.map_err(|error| match error.kind() {
            std::io::ErrorKind::WouldBlock => OpenError::InUse { local_dir: config.local_dir.clone() },
            _ => StorageError::local(lock_path)(error).into(),
        })?;
        let orderly = take_mark(&*env, &config)?;
        let names = Names::new(&config.prefix);
        let mirror = Mirror::new(Arc::clone(&env), config.mirror_dir(), config.block_bytes);
        let mirror = mirror.counting(Arc::clone(&counters.mirror));
        let opening =
            Opening { config: &config, objects: &objects, env: &env, log: &log, names: &names, mirror: &mirror };
        for _ in 0..ATTEMPTS {
            let Some(mut opened) = opening.attempt(orderly).await? else { continue };
            let (logged, publish) = (std::mem::take(&mut opened.logged), opened.publish);
            let store = opened.into_store(config, objects, env, log, names, mirror, folder, counters)?;
            let mut uploader = store.inner.uploader.lock().await;
            match store.inner.settle(&mut uploader).await {
                Ok(()) => {}
                Err(crate::error::FlushError::NotAnnounced(error)) => return Err(OpenError::Log(error)),
                Err(error) => return Err(OpenError::ReplayFlush(Box::new(error))),
            }
            store.inner.write_local(&uploader).await?;
            drop(uploader);
            store.replay(logged).await?;
            if publish {
                let options = FlushOptions { force: true, clean: false };
                store.flush_with(options).await.map_err(|error| OpenError::ReplayFlush(Box::new(error)))?;
            }
            store.inner.register();
            return Ok(store);
        }
        Err(OpenError::Contended { attempts: ATTEMPTS })
    }
}

pub(super) struct Opening<'a> {
    pub(super) config: &'a Config,
    pub(super) objects: &'a Arc<dyn ObjectStore>,
    pub(super) env: &'a Arc<dyn Env>,
    pub(super) log: &'a LogChoice,
    pub(super) names: &'a Names,
    pub(super) mirror: &'a Mirror,
}

/// A bucket that was taken over.
struct Opened {
    number: u64,
    manifest: Manifest,
    tables: HashMap<TableId, Arc<Table>>,
    seed: [u8; 8],
    /// The own log of this epoch, and what earlier ones left to be replayed.
    own: Option<OwnLog>,
    logged: Vec<Logged>,
    /// What was replayed has to be in the bucket before anything is added to the log that is kept there: that must not begin
    /// with a gap, and must not be needed any more by whoever comes next.
    publish: bool,
    /// Where tables were set aside that the store goes on without.
    left_behind: Option<PathBuf>,
}

impl Opening<'_> {
    /// None if another writer was faster.
    async fn attempt(&self, orderly: Option<(Uuid, u64)>) -> Result<Option<Opened>, OpenError> {
        let mut start = self.start().await?;
        let hold = start.hold.take();
        let opened = self.take_over(start, orderly).await?;
        if let Some(hold) = hold {
            // One that stays ends by itself. After an error it is left: our manifest may still come to be there.
            let _ = self.checkpoints().delete(hold.id).await;
        }
        Ok(opened)
    }

    async fn take_over(&self, start: Start, orderly: Option<(Uuid, u64)>) -> Result<Option<Opened>, OpenError> {
        let random = StorageError::local("random bytes");
        let Start { number, epoch, newest, base: mut next, older, .. } = start;
        let mut folder = self.folder(number, newest.as_ref(), &next)?;
        let trusted = self.trusted(orderly, number, newest.as_ref(), &next, &folder);
        let tables = match self.complete(&mut next, &trusted).await {
            Err(missing @ OpenError::Storage(StorageError::Missing { .. })) => {
                // What was the newest manifest when we began may be old enough to be collected by now.
                let moved_on = publish::newest_number(&**self.objects, self.names, Some(number)).await?.is_some();
                return if moved_on { Ok(None) } else { Err(missing) };
            }
            completed => completed?,
        };
        let own = self.own_log(&mut next, number > 0)?;
        let held = next.last_sequence;
        next.epoch = epoch + 1;
        next.previous_nonce = next.nonce;
        next.nonce = nonce(&**self.env).map_err(random)?;
        next.clean = false;
        next.log = kind(self.log);
        next.position = self.config.base_position.unwrap_or(next.position);
        let mut remote = RemoteLogs::of(newest.as_ref(), &next, older);
        let refuse_log = |shipped: &[Logged], log: LogKind| match shipped.is_empty() || log == LogKind::Own {
            true => Ok(()),
            false => Err(OpenError::WrongLog { found: LogKind::Own.name(), expected: log.name() }),
        };
        let mut shipped = match remote.read(self, next.store_id).await {
            Err(OpenError::Storage(damaged @ StorageError::Corrupt(_))) => {
                // What a newer manifest holds may have been collected by now, or was never put.
                let moved_on = publish::newest_number(&**self.objects, self.names, Some(number)).await?.is_some();
                return if moved_on { Ok(None) } else { Err(damaged.into()) };
            }
            read => read?,
        };
        refuse_log(&shipped, next.log)?;
        if older {
            // Whoever comes next must neither replay them nor have to end them.
            remote.fence(self, next.store_id).await?;
            next.remote.clear();
        }
        if next.log == LogKind::Own && self.config.remote_log {
            next.remote.push((next.epoch, 1));
        }
        let recover = next.recover.clone();
        match next.log {
            LogKind::Own => next.recover.push((next.epoch, 0)),
            _ => next.recover.clear(),
        }
        let logged = match &own {
            // Damage is found, and a torn tail cut off, before anything is taken over.
            Some(segments) => segments.batches(&**self.env, next.store_id, &recover, held)?,
            None => Vec::new(),
        };
        let number = number + 1;
        if let LogChoice::External(log) = self.log {
            next.owner = log.birth(&birth_of(number, &next)).await?;
        }
        let bytes = next.encode(number, self.config.zstd_level).map_err(StorageError::local("manifest"))?;
        let created = publish::create(&**self.objects, self.names, number, next.nonce, Bytes::from(bytes)).await?;
        if created == Created::Theirs {
            return Ok(None);
        }
        if publish::newest_number(&**self.objects, self.names, Some(number)).await?.is_some() {
            // A number before the newest was free: the list we began with was stale, and so are we.
            return Ok(None);
        }
        self.leave_behind(&mut folder, &next)?;
        shipped.extend(remote.fence(self, next.store_id).await?);
        refuse_log(&shipped, next.log)?;
        let logs = self.names.logs();
        let logged = remote::join(logged, shipped, held, logs.as_ref()).map_err(StorageError::Corrupt)?;
        // Tables may hold more than the log of a replay that was cut off.
        let ahead = next.levels.iter().flatten().any(|table| table.max_sequence > held);
        let begins = self.config.remote_log && (ahead || !logged.is_empty());
        let publish = next.log == LogKind::Own && (remote.any() || begins);
        let mut seed = [0; 8];
        self.env.random(&mut seed).map_err(StorageError::local("random bytes"))?;
        let own = match own {
            Some(_) => {
                let (env, dir) = (Arc::clone(self.env), self.config.wal_dir());
                let started = OwnLog::start(env, &dir, next.store_id, next.epoch, next.nonce);
                Some(started.map_err(StorageError::local(dir))?)
            }
            None => None,
        };
        Ok(Some(Opened { number, manifest: next, tables, seed, own, logged, publish, left_behind: folder.left_behind }))
    }

    pub(super) async fn first_manifest(&self) -> Result<Manifest, OpenError> {
        let position = match self.log {
            LogChoice::External(log) => log.position().await?,
            _ => 0,
        };
        Ok(Manifest {
            nonce: Uuid::nil(),
            previous_nonce: Uuid::nil(),
            store_id: nonce(&**self.env).map_err(StorageError::local("random bytes"))?,
            epoch: 0,
            floor: 0,
            last_sequence: 0,
            position,
            clean: false,
            log: kind(self.log),
            log_owner: Uuid::nil(),
            recover: Vec::new(),
            remote: Vec::new(),
            owner: Vec::new(),
            levels: Vec::new(),
            sections: Vec::new(),
        })
    }
}

impl Opened {
    #[allow(clippy::too_many_arguments, reason = "it is where all parts of a store come together")]
    fn into_store(
        self,
        config: Config,
        objects: Arc<dyn ObjectStore>,
        env: Arc<dyn Env>,
        log: LogChoice,
        names: Names,
        mirror: Mirror,
        folder: Box<dyn Send + Sync>,
        counters: Counters,
    ) -> Result<Store, OpenError> {
        let held = self.manifest.last_sequence;
        let active = new_memtable(&config, 1, 0, held).map_err(StorageError::local("memtable"))?;
        let tables = tables_of(&self.manifest, |info| self.tables.get(&info.id).map(Arc::clone));
        let tables = tables.ok_or_else(|| StorageError::Missing { object: "table".into() })?;
        let view = View {
            number: 1,
            memtables: vec![Arc::clone(&active)],
            l0: tables.l0,
            levels: tables.levels,
            table_sequence: tables.sequence,
            floor: tables.floor,
            reads: Arc::clone(&counters.reads),
        };
        let replaying = (!matches!(log, LogChoice::Nobody)).then_some(held);
        let shipping = config.remote_log.then(|| Shipping::new(self.manifest.store_id, self.manifest.epoch));
        let mut known = Known::default();
        known.note(self.number, &self.manifest);
        let inner = Inner {
            store_id: self.manifest.store_id,
            epoch: self.manifest.epoch,
            unusable: OnceLock::new(),
            ended: tokio::sync::watch::Sender::new(false),
            writer: Mutex::new(Writer {
                active: Inserter::new(active),
                frozen: Vec::new(),
                heights: Heights::new(u64::from_le_bytes(self.seed)),
                next_memtable: 2,
                replaying,
            }),
            last_sequence: AtomicU64::new(tables.sequence),
            view: RwLock::new(Arc::new(view)),
            view_number: AtomicU64::new(1),
            listeners: Mutex::new(Vec::new()),
            manifest: Mutex::new(ManifestInfo::of(self.number, &self.manifest)),
            local: tokio::sync::Mutex::new(Local::new(self.number, self.manifest.clone())),
            attempted: AtomicU64::new(self.number),
            pending_bytes: AtomicU64::new(0),
            backlog_bytes: AtomicU64::new(0),
            local_version: AtomicU64::new(0),
            published_version: AtomicU64::new(0),
            uploader: tokio::sync::Mutex::new(Uploader {
                number: self.number,
                manifest: self.manifest,
                version: 0,
                in_doubt: None,
                announce: true,
            }),
            garbage: tokio::sync::Mutex::default(),
            known: Mutex::new(known),
            claims: Claims::default(),
            limiter: Limiter::new(config.merge_rate),
            jobs: Jobs::default(),
            closing: AtomicBool::new(false),
            settled: AtomicU64::new(held),
            logged_from: AtomicU64::new(0),
            tables: AtomicU64::new(1),
            counters,
            folder: Mutex::new(Some(folder)),
            left_behind: self.left_behind,
            group: self.own.map(|own| Group::new(own, shipping)),
            config,
            objects,
            env,
            log,
            names,
            mirror,
        };
        Ok(Store { inner: Arc::new(inner) })
    }
}

impl Store {
    /// Applies what the own log holds, and ends the replay.
    async fn replay(&self, logged: Vec<Logged>) -> Result<(), OpenError> {
        if self.inner.group.is_none() {
            return Ok(());
        }
        for Logged { first, batch } in logged {
            loop {
                match self.inner.replay_one(first, &batch) {
                    Ok(_) => break,
                    Err(WriteError::Full { .. } | WriteError::Behind { .. }) => {
                        self.flush().await.map_err(|error| OpenError::ReplayFlush(Box::new(error)))?;
                    }
                    Err(error) => return Err(OpenError::Replay(error)),
                }
            }
        }
        self.set_next_sequence(0);
        Ok(())
    }
}

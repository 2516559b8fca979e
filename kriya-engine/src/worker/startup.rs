//! From a folder and a bucket to an engine that serves: who owns the bucket, what the log still has, and everything that
//! is kept in memory.
//!
//! Nothing is written to a bucket before its newest manifest is known to belong to this server's history.

use std::cell::OnceCell;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use lsmstore::{
    CheckpointError, Config, Env, FlushError, LogChoice, OpenError, RegionKind, Store, SystemEnv, View, candidates,
    fail,
};
use object_store::ObjectStore;

use crate::catalogue::{CatalogueEntry, IndexDescription, IndexEntry, SegmentRecord, floats};
use crate::codec;
use crate::control::Control;
use crate::keys;
use crate::record::{Generation, Kind};
use crate::worker::cache::note_used;
use crate::worker::check::{refuses_second_create, unconditional};
use crate::worker::config::{Endpoint, WorkerConfig};
use crate::worker::counters::{Counters, raise_sequences};
use crate::worker::engine::{Ending, Engine, Signals};
use crate::worker::flushing::fates;
use crate::worker::gate::Gate;
use crate::worker::history::{Choice, Chosen, Takeover, go_on, keep_log};
use crate::worker::host::{Host, Level};
use crate::worker::indexes::{Index, Indexes};
use crate::worker::lease::Tenancy;
use crate::worker::live::Live;
use crate::worker::loss::{came_to, make_up_for_loss};
use crate::worker::owner::{LogKeeper, StoreLog};
use crate::worker::place::{hint, objects_of, told};
use crate::worker::replay::replay;
use crate::worker::requests::vector_in_row;
use crate::worker::segments::{Sealed, SegmentError, SegmentFiles};
use crate::worker::sessions::Sessions;
use crate::worker::views::Views;

/// Why a worker does not come up.
#[derive(Debug)]
pub(crate) enum StartError {
    /// The bucket must not be used: sessions are told so until the worker is stopped.
    Refused {
        message: String,
        hint: String,
        /// It is the log that cannot be read.
        log: bool,
    },
    /// The object store cannot be used now: sessions are told so, and it is tried again.
    Unavailable { why: String, hint: String },
    /// Something failed that may work the next time.
    Failed(String),
}

impl StartError {
    pub(crate) fn refused(message: impl Into<String>, hint: impl Into<String>) -> StartError {
        StartError::Refused { message: message.into(), hint: hint.into(), log: false }
    }

    /// `what` could not be done because of the object store.
    pub(crate) fn unavailable(what: &str, error: &(dyn std::error::Error + 'static)) -> StartError {
        StartError::Unavailable { why: format!("{what}: {}", told(error)), hint: hint(error).to_owned() }
    }

    /// What is wrong.
    pub(crate) fn why(&self) -> &str {
        match self {
            StartError::Refused { message, .. } => message,
            StartError::Unavailable { why, .. } | StartError::Failed(why) => why,
        }
    }

    pub(crate) fn flush(error: FlushError) -> StartError {
        match error {
            FlushError::Storage(error) => error.into(),
            other => StartError::failed(&other),
        }
    }

    pub(crate) fn failed(error: &dyn fmt::Display) -> StartError {
        StartError::Failed(error.to_string())
    }

    pub(crate) fn host(error: crate::worker::host::HostError) -> StartError {
        StartError::Failed(error.to_string())
    }
}

impl From<OpenError> for StartError {
    fn from(error: OpenError) -> StartError {
        match error {
            OpenError::Storage(error) => error.into(),
            OpenError::ReplayFlush(error) => StartError::flush(*error),
            OpenError::Base(CheckpointError::Storage(error)) => error.into(),
            OpenError::Base(_) => StartError::refused(
                error.to_string(),
                "What this server would go on with was replaced longer than lsm_s3.retention ago. Restore a younger backup, \
                 or one with more of the write-ahead log.",
            ),
            OpenError::Unconditional { .. } => StartError::refused(
                error.to_string(),
                "Use an object store that supports If-None-Match, as Amazon S3, MinIO and Cloudflare R2 do.",
            ),
            OpenError::WrongLog { .. } | OpenError::LogElsewhere { .. } | OpenError::ForeignLog { .. } => {
                StartError::refused(error.to_string(), "Use another prefix.")
            }
            other => StartError::Failed(other.to_string()),
        }
    }
}

/// Opens the store, replays the log and loads everything.
pub(crate) fn open(
    config: WorkerConfig,
    live: Arc<Live>,
    host: Arc<dyn Host>,
    runtime: &tokio::runtime::Handle,
    control: Arc<Control>,
    signals: Arc<Signals>,
    takeover: Option<&Takeover>,
) -> Result<Engine, StartError> {
    let objects = objects_of(&config, &live)?;
    let objects: Arc<dyn ObjectStore> = Arc::new(Gate::new(objects, signals.abandoned.subscribe()));
    let facts = host.facts().map_err(StartError::host)?;
    let prefix = config.object_prefix();
    let mut store_config = Config::new(config.store_dir(), prefix.clone())
        .mirror_dir_at(config.mirror_dir())
        .memtable_bytes(live.asked().memtable_bytes)
        .memtable_region(RegionKind::Shared)
        .max_pending_bytes(config.backlog_bytes)
        .keep_for(config.retention)
        .quarantine(config.collect_every)
        .leave_behind(takeover.is_some_and(|takeover| takeover.accept_loss));
    if config.endpoint == Endpoint::Memory {
        config.forget_memory().map_err(|error| StartError::failed(&error))?;
    }
    let env: Arc<dyn Env> = Arc::new(SystemEnv::on(runtime.clone()));
    let choice = Choice {
        host: &*host,
        runtime,
        objects: &objects,
        env: &env,
        store: &store_config,
        prefix: &prefix,
        place: &config.place(),
        facts,
        go_on: &|| go_on(signals.ending() != Ending::No, takeover),
        flushed: OnceCell::new(),
    };
    let taken = choice.choose(runtime.block_on(candidates(&store_config, &objects, &env))?, takeover)?;
    if taken.is_none() {
        let conditional = runtime.block_on(refuses_second_create(&*objects, &prefix));
        if !conditional.map_err(|error| StartError::unavailable("trying a conditional PUT", &error))? {
            return Err(unconditional(&config));
        }
        // The new store's position cannot lie before this one.
        let position = host.position().map_err(StartError::host)?;
        keep_log(&*host, position)?;
    }
    let tenancy = match config.lease {
        Some(interval) => {
            let tenancy = Tenancy::new(Arc::clone(&objects), &prefix, &config.dir, interval);
            let tenancy = tenancy.map_err(|error| StartError::failed(&error))?;
            if takeover.is_none() {
                tenancy.wait_for_it(&*host, runtime, &signals)?;
            }
            Some(tenancy)
        }
        None => None,
    };
    // Generations of an earlier bucket, or of a copy of this one, may be in the log, too: the clock tells them apart.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |now| now.as_millis() as u64);
    let log = match &taken {
        None => {
            // Nor does it share an incarnation with another one that this server had.
            let incarnation = (now / 1000) as u32;
            LogKeeper::new(Arc::clone(&host), now, incarnation, 1, None, (1, None))
        }
        Some(Chosen { newest, manifest, owner, history, unlogged, lossy }) => {
            let log = LogKeeper::new(
                Arc::clone(&host),
                now.max(history.generation + 1),
                owner.incarnation,
                history.sequence_ceiling,
                (!unlogged).then_some((manifest.position, owner.replay_generation)),
                (newest.number + 1, Some(newest.store_id.into_bytes())),
            );
            log.lossy.store(*lossy || owner.lossy, Ordering::SeqCst);
            store_config = store_config.base(manifest.nonce);
            if *unlogged {
                store_config = store_config.base_position(host.position().map_err(StartError::host)?);
            }
            log
        }
    };
    let store_id = taken.as_ref().map_or([0; 16], |taken| taken.newest.store_id.into_bytes());
    let generation = codec::encode(&Generation { store_id });
    let logged = log.log(Kind::Generation, 0, &generation, true).map_err(StartError::host)?;
    fail::point("after-generation");

    let choice = LogChoice::External(Arc::new(StoreLog(Arc::clone(&log))));
    let store = runtime.block_on(Store::open(store_config, Arc::clone(&objects), env, choice))?;
    // Now nothing is on the local disk alone.
    note_used(&config)?;
    log.opened();
    if let Some(folder) = store.left_behind() {
        let folder = folder.display();
        let message =
            format!("the store goes on without tables of the local disk that may be nowhere else: see {folder}");
        host.report(Level::Warning, &message);
    }
    if let Some(Chosen { manifest, owner, unlogged: false, .. }) = &taken {
        let applied = replay(&host, runtime, &store, manifest, owner, logged.end)?;
        host.report(Level::Log, &format!("the log was replayed into the store: {applied} batches"));
    }
    let floor = log.sequence_ceiling.load(Ordering::SeqCst);
    store.set_next_sequence(floor);
    raise_sequences(store.last_sequence(), &log).map_err(StartError::host)?;

    control.set_generation(log.generation);
    {
        let (control, signals) = (Arc::clone(&control), Arc::clone(&signals));
        store.on_view_change(Box::new(move |_| {
            control.publish();
            signals.flushing.wake();
        }));
    }
    let counters = Counters::load(&*store.view().map_err(|error| StartError::failed(&error))?);
    let pool = rayon::ThreadPoolBuilder::new().thread_name(|n| format!("kriya-build-{n}")).build();
    let engine = Engine {
        host: Arc::clone(&host),
        runtime: runtime.clone(),
        counters: counters.map_err(|error| StartError::failed(&error))?,
        indexes: Indexes::new(Arc::clone(&control)),
        views: Views::new(Arc::clone(&control)),
        sessions: Sessions::default(),
        segments: SegmentFiles::new(config.segments_dir(), objects, &prefix),
        log_let_go: AtomicBool::new(false),
        tenancy,
        taken_over: taken.as_ref().map_or_else(String::new, came_to),
        last_error: Mutex::new(None),
        broken: AtomicBool::new(false),
        flushing: Mutex::new(()),
        undecided: Mutex::new(Vec::new()),
        locks: Mutex::default(),
        pool: pool.map_err(|error| StartError::failed(&error))?,
        config,
        live,
        store,
        log,
        control,
        signals,
    };
    if engine.log.lossy.load(Ordering::SeqCst) {
        make_up_for_loss(&engine)?;
    }
    load_indexes(&engine)?;
    host.barrier().map_err(StartError::host)?;
    Ok(engine)
}

/// Maps sealed segments, and makes active ones of the entries that no sealed one covers.
fn load_indexes(engine: &Engine) -> Result<(), StartError> {
    let view = &*engine.store.view().map_err(|error| StartError::failed(&error))?;
    let trusted = engine.config.take_clean_mark();
    let fates = fates(engine).map_err(StartError::Failed)?;
    let sequence = view.read_sequence();
    let mut kept = HashSet::new();
    for (id, description) in index_entries(view, sequence)? {
        if fates.dead.contains(&id) {
            continue;
        }
        let (mut sealed, mut lost) = (Vec::new(), None);
        for (segment, record) in segment_records(view, sequence, id)? {
            kept.extend([record.rows_object.clone(), record.graph_object.clone()]);
            match engine.runtime.block_on(engine.segments.open(segment, record, trusted)) {
                Ok(opened) => sealed.push(Arc::new(opened)),
                // The tables are worth serving without it.
                Err(error @ SegmentError::Damaged { .. }) => lost = Some(error.to_string()),
                Err(SegmentError::Object { object, source: object_store::Error::NotFound { .. } }) => {
                    lost = Some(format!("object {object} is not there"));
                }
                Err(SegmentError::Object { object, source }) => {
                    return Err(StartError::unavailable(&format!("reading {object}"), &source));
                }
                Err(error) => return Err(StartError::failed(&error)),
            }
        }
        let name = description.name.clone();
        let restored = match lost {
            Some(why) => Err(why),
            None => restore(engine, view, id, description, sealed),
        };
        match restored {
            Ok(index) => engine.indexes.add(index),
            Err(why) => engine.complain(format!("index {id} ({name}) cannot be used and should be rebuilt: {why}")),
        }
    }
    engine.signals.dropped.store(!fates.dead.is_empty(), Ordering::SeqCst);
    engine.undecided.lock().unwrap_or_else(std::sync::PoisonError::into_inner).extend(fates.undecided);
    engine.segments.clean(&kept).map_err(|error| StartError::failed(&error))
}

/// An index of its sealed segments and of the entries that none of them covers.
fn restore(
    engine: &Engine,
    view: &View,
    id: u64,
    description: IndexDescription,
    mut sealed: Vec<Arc<Sealed>>,
) -> Result<Index, String> {
    sealed.sort_by_key(|sealed| sealed.record.first);
    let covered: Vec<SegmentRecord> = sealed.iter().map(|sealed| sealed.record.clone()).collect();
    let index = Index::new(id, description, sealed, Arc::clone(&engine.control)).map_err(|error| error.to_string())?;
    restore_entries(view, view.read_sequence(), &index, &covered)?;
    Ok(index)
}

pub(super) fn index_entries(view: &View, sequence: u64) -> Result<HashMap<u64, IndexDescription>, StartError> {
    let unreadable = |error: &dyn fmt::Display| StartError::refused(error.to_string(), "");
    let mut found = HashMap::new();
    let mut scan = view.scan_prefix(&[keys::CATALOGUE], sequence).map_err(|error| unreadable(&error))?;
    while let Some((key, value)) = scan.next().map_err(|error| unreadable(&error))? {
        let id = keys::parse_pair(keys::CATALOGUE, key).map_err(|error| unreadable(&error))?;
        if let CatalogueEntry::Index(index) = CatalogueEntry::parse(value).map_err(|error| unreadable(&error))? {
            found.insert(id, index);
        }
    }
    Ok(found)
}

fn segment_records(view: &View, sequence: u64, index: u64) -> Result<Vec<(u64, SegmentRecord)>, StartError> {
    let unreadable = |error: &dyn fmt::Display| StartError::refused(error.to_string(), "");
    let mut found = Vec::new();
    let prefix = keys::object_prefix(keys::SEGMENT, index);
    let mut scan = view.scan_prefix(&prefix, sequence).map_err(|error| unreadable(&error))?;
    while let Some((key, value)) = scan.next().map_err(|error| unreadable(&error))? {
        let (_, segment) = keys::parse_triple(keys::SEGMENT, key).map_err(|error| unreadable(&error))?;
        found.push((segment, SegmentRecord::parse(value).map_err(|error| unreadable(&error))?));
    }
    Ok(found)
}

/// Appends the entries that no segment covers; they are pending until they are linked in the background.
fn restore_entries(view: &View, sequence: u64, index: &Index, covered: &[SegmentRecord]) -> Result<(), String> {
    let deleted_prefix = keys::object_prefix(keys::DELETED, index.id);
    let mut deleted = HashSet::new();
    let mut scan = view.scan_prefix(&deleted_prefix, sequence).map_err(|error| error.to_string())?;
    while let Some((key, _)) = scan.next().map_err(|error| error.to_string())? {
        deleted.extend(keys::parse_triple(keys::DELETED, key).map(|(_, entry)| entry));
    }
    let _appending = index.appending();
    let mut vector = Vec::new();
    let prefix = keys::object_prefix(keys::ENTRY, index.id);
    let mut scan = view.scan_prefix(&prefix, sequence).map_err(|error| error.to_string())?;
    while let Some((key, value)) = scan.next().map_err(|error| error.to_string())? {
        let (_, entry) = keys::parse_triple(keys::ENTRY, key).map_err(|error| error.to_string())?;
        if deleted.contains(&entry) || covered.iter().any(|record| record.covers(entry)) {
            continue;
        }
        let tid = match IndexEntry::parse(value).map_err(|error| error.to_string())? {
            IndexEntry::Inline { tid, vector: bytes } => {
                floats(bytes, &mut vector);
                tid
            }
            IndexEntry::InRow { tid, table, offset, dim } => {
                // A row that is gone was dead to everybody, and so is its entry.
                if !vector_in_row(view, sequence, (table, tid), offset, dim.into(), &mut vector)? {
                    continue;
                }
                tid
            }
        };
        index.append(entry, tid, &vector)?;
    }
    Ok(())
}

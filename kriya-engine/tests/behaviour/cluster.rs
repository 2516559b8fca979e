//! A host whose log is a list, a worker on a folder, and backends that write and log as Postgres's would.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use kriya_engine::record::{Kind, RecordHead, frames};
use kriya_engine::worker::{
    Endpoint, Facts, Host, HostError, KeptLog, Level, LogChunk, LogRange, LogRecord, WorkerConfig, WorkerHandle,
    XidState, start,
};
use kriya_engine::{Check, ClientError, IndexWritten, NewEntry, PollWait, Session, Written, keys};
use lsmstore::Batch;

/// How long anything may take before a test fails.
pub const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Default, Clone)]
pub struct LogState {
    pub records: Vec<LogRecord>,
    pub next: u64,
    pub flushed: u64,
    pub slot: Option<u64>,
    /// How often the slot was moved to an earlier position.
    pub moved_back: u64,
    pub redo: u64,
    /// What lies before is gone.
    pub removed: u64,
    pub next_xid: u64,
    pub system_identifier: u64,
    pub states: HashMap<u64, XidState>,
    pub warnings: Vec<String>,
    pub barriers: u64,
    /// Whoever asks for the position waits until this is false.
    pub hold_position: bool,
    /// Somebody waits for it.
    pub held: bool,
    /// The slot was invalidated.
    pub lost: bool,
    /// The next reading of the log fails, and that passes.
    pub fail_to_read: bool,
    /// How often the log was read.
    pub reads: u64,
    /// What became of transactions before this one is forgotten.
    pub oldest_known: u64,
}

/// Called before the log is read, without the lock.
type AtRead = Box<dyn FnMut() + Send>;

pub struct FakeHost(pub Mutex<LogState>, pub Mutex<Option<AtRead>>);

impl FakeHost {
    /// How far the log is durable.
    pub fn flushed_position(&self) -> u64 {
        self.lock().flushed
    }

    pub fn new() -> Arc<FakeHost> {
        let state = LogState { next: 1000, flushed: 1000, next_xid: 100, system_identifier: 7, ..LogState::default() };
        Arc::new(FakeHost(Mutex::new(state), Mutex::default()))
    }

    pub fn lock(&self) -> MutexGuard<'_, LogState> {
        self.0.lock().unwrap()
    }

    /// A copy of everything: what a file-level copy of a data directory would have.
    pub fn copy(&self) -> Arc<FakeHost> {
        Arc::new(FakeHost(Mutex::new(self.lock().clone()), Mutex::default()))
    }

    /// A checkpoint comes, and takes all of the log with it that nothing keeps.
    pub fn cut_at_slot(&self) {
        let mut state = self.lock();
        let slot = state.slot.unwrap();
        state.records.retain(|record| record.start >= slot);
        state.removed = slot;
    }

    /// Other records than ours fill the log.
    pub fn fill(&self, bytes: u64) {
        let mut state = self.lock();
        state.next += bytes;
        state.flushed = state.next;
    }

    pub fn warned(&self, of: &str) -> bool {
        self.lock().warnings.iter().any(|warning| warning.contains(of))
    }

    /// The whole server crashes: what was not flushed is gone.
    pub fn lose_unflushed(&self) {
        let mut state = self.lock();
        let flushed = state.flushed;
        state.records.retain(|record| record.end <= flushed);
        state.next = flushed;
    }

    pub fn begin(&self) -> u64 {
        let mut state = self.lock();
        let xid = state.next_xid;
        state.next_xid += 1;
        xid
    }
}

impl Host for FakeHost {
    fn facts(&self) -> Result<Facts, HostError> {
        let state = self.lock();
        Ok(Facts { system_identifier: state.system_identifier, timeline: 1, next_xid: state.next_xid })
    }

    fn position(&self) -> Result<u64, HostError> {
        loop {
            let mut state = self.lock();
            if !state.hold_position {
                return Ok(state.next);
            }
            state.held = true;
            drop(state);
            std::thread::yield_now();
        }
    }

    fn redo(&self) -> Result<u64, HostError> {
        Ok(self.lock().redo)
    }

    fn log(&self, records: Vec<Vec<u8>>, flush: bool) -> Result<LogRange, HostError> {
        let mut state = self.lock();
        let start = state.next;
        for payload in records {
            let (start, end) = (state.next, state.next + payload.len() as u64 + 24);
            state.records.push(LogRecord { start, end, payload });
            state.next = end;
        }
        if flush {
            state.flushed = state.next;
        }
        Ok(LogRange { start, end: state.next })
    }

    fn read_log(&self, from: u64, upto: u64, max_bytes: usize) -> Result<LogChunk, HostError> {
        if let Some(call) = &mut *self.1.lock().unwrap() {
            call();
        }
        let mut state = self.lock();
        state.reads += 1;
        if std::mem::take(&mut state.fail_to_read) {
            return Err(HostError::new("the server is short of memory"));
        }
        if upto > state.flushed {
            return Err(HostError::new(format!("the log is flushed to {}, {upto} was asked for", state.flushed)));
        }
        if state.removed > from {
            return Err(HostError::gone(format!("the log before {} was removed", state.removed)));
        }
        let (mut records, mut bytes, mut next) = (Vec::new(), 0, from);
        for record in state.records.iter().filter(|record| record.start >= from && record.start < upto) {
            if bytes > max_bytes {
                return Ok(LogChunk { records, next, end_reached: false });
            }
            bytes += record.payload.len();
            next = record.end;
            records.push(record.clone());
        }
        Ok(LogChunk { records, next: upto, end_reached: true })
    }

    fn ensure_slot(&self, position: u64) -> Result<(), HostError> {
        let mut state = self.lock();
        if state.slot.is_some_and(|slot| slot <= position) {
            return Ok(());
        }
        state.moved_back += u64::from(state.slot.is_some());
        state.slot = Some(position);
        Ok(())
    }

    /// Where it is told to, be it back.
    fn advance_slot(&self, position: u64) -> Result<(), HostError> {
        let mut state = self.lock();
        state.moved_back += u64::from(state.slot.is_some_and(|slot| slot > position));
        (state.slot, state.lost) = (Some(position), false);
        Ok(())
    }

    fn kept(&self) -> Result<KeptLog, HostError> {
        let state = self.lock();
        Ok(KeptLog { from: state.slot.filter(|_| !state.lost), lost: state.lost })
    }

    fn resolve(&self, xids: &[u64]) -> Result<Vec<XidState>, HostError> {
        let state = self.lock();
        if let Some(old) = xids.iter().find(|xid| **xid < state.oldest_known) {
            return Err(HostError::new(format!("could not access status of transaction {old}")));
        }
        Ok(xids.iter().map(|xid| state.states.get(xid).copied().unwrap_or(XidState::InProgress)).collect())
    }

    fn barrier(&self) -> Result<(), HostError> {
        self.lock().barriers += 1;
        Ok(())
    }

    fn report(&self, level: Level, message: &str) {
        if level == Level::Warning {
            self.lock().warnings.push(message.to_owned());
        }
    }
}

/// A folder, a host, and the worker if it runs.
pub struct Cluster {
    pub dir: tempfile::TempDir,
    pub host: Arc<FakeHost>,
    pub memtable_bytes: usize,
    pub flush_interval: Duration,
    pub backlog_bytes: u64,
    pub cache_bytes: u64,
    pub cache_dir: Option<PathBuf>,
    pub retention: Duration,
    pub collect_every: Duration,
    pub lease: Option<Duration>,
    pub endpoint: Endpoint,
    pub worker: Option<WorkerHandle>,
}

impl Cluster {
    /// A worker that flushes only when it is told to.
    pub fn new() -> Cluster {
        let mut cluster = Cluster {
            dir: tempfile::tempdir().unwrap(),
            host: FakeHost::new(),
            memtable_bytes: 4 << 20,
            flush_interval: Duration::from_secs(3600),
            backlog_bytes: 1 << 30,
            cache_bytes: 4 << 30,
            cache_dir: None,
            retention: Duration::from_secs(3600),
            collect_every: Duration::from_secs(900),
            lease: None,
            endpoint: Endpoint::Local,
            worker: None,
        };
        cluster.start();
        cluster
    }

    pub fn config(&self) -> WorkerConfig {
        WorkerConfig {
            backlog_bytes: self.backlog_bytes,
            cache_bytes: self.cache_bytes,
            cache_dir: self.cache_dir.clone(),
            retention: self.retention,
            collect_every: self.collect_every,
            lease: self.lease,
            endpoint: self.endpoint.clone(),
            ..config(self.dir.path(), self.memtable_bytes, self.flush_interval)
        }
    }

    /// Another server, with a copy of this one's history and with the same objects; not started.
    pub fn twin(&self) -> Cluster {
        let twin = Cluster {
            dir: tempfile::tempdir().unwrap(),
            host: self.host.copy(),
            endpoint: self.endpoint.clone(),
            cache_dir: None,
            worker: None,
            ..*self
        };
        std::os::unix::fs::symlink(self.objects(), twin.objects()).unwrap();
        twin
    }

    pub fn objects(&self) -> PathBuf {
        self.dir.path().join("objects")
    }

    /// Puts something that is no folder in the place of the objects while `during` runs.
    pub fn without_objects<R>(&mut self, during: impl FnOnce(&mut Cluster) -> R) -> R {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        let (objects, aside) = (self.objects(), self.dir.path().join("away"));
        // At once: a worker that tries again all the time makes a folder that is missing for a moment.
        let exchange = || renameat_with(CWD, &objects, CWD, &aside, RenameFlags::EXCHANGE).unwrap();
        std::fs::write(&aside, b"not a folder").unwrap();
        exchange();
        let result = during(self);
        exchange();
        std::fs::remove_file(&aside).unwrap();
        result
    }

    /// Writes, commits, and flushes to the local disk alone.
    pub fn put_locally(&mut self, table: u64, tid: u64, value: &[u8]) {
        self.without_objects(|cluster| {
            let mut backend = cluster.connect();
            backend.put_row(table, tid, value);
            backend.commit();
            assert!(backend.session.flush(&mut PollWait).is_err(), "there is no object store");
        });
    }

    /// Orders a takeover, as soon as the worker takes orders.
    pub fn take_over(&self, accept_loss: bool) -> Result<String, ClientError> {
        loop {
            match Session::take_over(&self.socket(), accept_loss, &mut PollWait) {
                Err(ClientError::NotServing(_)) => std::thread::yield_now(),
                other => return other,
            }
        }
    }

    /// Why it is refused; the bucket is not touched.
    pub fn refused(&self) -> String {
        let before = files(&self.objects());
        let Err(ClientError::Refused { message, hint }) = self.try_connect() else { panic!("it was not refused") };
        assert!(!hint.is_empty());
        assert_eq!(files(&self.objects()), before, "the bucket was written to");
        message
    }

    pub fn start(&mut self) {
        assert!(self.worker.is_none());
        self.worker = Some(start(self.config(), self.host.clone()));
    }

    /// The worker goes away without a word; the server stays.
    pub fn crash_worker(&mut self) {
        self.worker = None;
    }

    pub fn restart_after_worker_crash(&mut self) {
        self.crash_worker();
        self.start();
    }

    /// Everything goes away.
    pub fn restart_after_server_crash(&mut self) {
        self.crash_worker();
        self.host.lose_unflushed();
        self.start();
    }

    /// Stops the worker in order.
    pub fn stop(&mut self) {
        let worker = self.worker.take().unwrap();
        worker.stop();
        finished(&worker).unwrap();
    }

    pub fn socket(&self) -> std::path::PathBuf {
        WorkerConfig::socket(self.dir.path())
    }

    pub fn try_connect(&self) -> Result<Session, ClientError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match Session::connect(&self.socket(), std::process::id(), &mut PollWait) {
                Err(ClientError::NotServing(why)) => {
                    if let Some(Err(error)) = self.worker.as_ref().and_then(WorkerHandle::finished) {
                        panic!("the worker ended: {error}");
                    }
                    assert!(Instant::now() < deadline, "the worker does not serve: {why}");
                    std::thread::yield_now();
                }
                other => return other,
            }
        }
    }

    pub fn connect(&self) -> Backend {
        Backend::new(self.try_connect().unwrap(), self.host.clone())
    }
}

/// Every file below a folder with its length.
pub fn files(dir: &Path) -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&entry.path()));
        } else if let Ok(metadata) = entry.metadata() {
            // One that is deleted meanwhile is not there.
            found.insert(entry.path().display().to_string(), metadata.len());
        }
    }
    found
}

pub fn config(dir: &Path, memtable_bytes: usize, flush_interval: Duration) -> WorkerConfig {
    WorkerConfig {
        dir: dir.to_owned(),
        cache_dir: None,
        cache_bytes: 4 << 30,
        endpoint: Endpoint::Local,
        bucket: "bucket".into(),
        prefix: "prefix".into(),
        memtable_bytes,
        flush_interval,
        backlog_bytes: 1 << 30,
        retention: Duration::from_secs(3600),
        collect_every: Duration::from_secs(900),
        lease: None,
        version: "test".into(),
    }
}

/// Waits for the end of a worker.
pub fn finished(worker: &WorkerHandle) -> Result<(), kriya_engine::worker::WorkerError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(result) = worker.finished() {
            return result;
        }
        assert!(Instant::now() < deadline, "the worker does not end");
        std::thread::yield_now();
    }
}

/// Asks until the answer is right.
pub fn eventually(what: &str, mut right: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !right() {
        assert!(Instant::now() < deadline, "it never happened: {what}");
        std::thread::yield_now();
    }
}

/// A backend with one transaction.
pub struct Backend {
    pub session: Session,
    pub host: Arc<FakeHost>,
    pub xid: u64,
}

impl Backend {
    pub fn new(session: Session, host: Arc<FakeHost>) -> Backend {
        let xid = host.begin();
        Backend { session, host, xid }
    }

    /// Writes, with checks, without logging.
    pub fn write(&mut self, batch: &Batch, checks: &[Check]) -> Written {
        let generation = self.session.generation();
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.session.write(generation, batch, checks, &mut PollWait).unwrap() {
                Written::Busy => assert!(Instant::now() < deadline, "the store stays full"),
                other => return other,
            }
        }
    }

    /// Logs a batch that was acknowledged.
    pub fn log(&self, batch: &Batch, first: u64) {
        let head = RecordHead {
            kind: Kind::Batch,
            generation: self.session.generation(),
            sequence: first,
            xid: self.xid,
            incarnation: self.session.incarnation(),
        };
        self.host.log(frames(&head, batch.as_bytes()).unwrap(), false).unwrap();
    }

    /// Writes and logs, as a transaction does.
    pub fn put(&mut self, key: &[u8], value: &[u8]) {
        let mut batch = Batch::new();
        batch.put(key, value);
        let Written::At(first) = self.write(&batch, &[]) else { panic!("not written") };
        self.log(&batch, first);
    }

    pub fn put_row(&mut self, table: u64, tid: u64, value: &[u8]) {
        self.put(&keys::row(table, tid), value);
    }

    /// The commit record: makes the log durable.
    pub fn commit(&mut self) {
        let mut state = self.host.lock();
        state.flushed = state.next;
        state.states.insert(self.xid, XidState::Committed);
        drop(state);
        self.session.transaction_ended();
        self.session.unpin();
        self.xid = self.host.begin();
    }

    pub fn get(&mut self, key: &[u8]) -> Option<Vec<u8>> {
        let view = self.session.view(&mut PollWait).unwrap();
        view.get(key, view.read_sequence()).unwrap().map(<[u8]>::to_vec)
    }

    pub fn get_row(&mut self, table: u64, tid: u64) -> Option<Vec<u8>> {
        self.get(&keys::row(table, tid))
    }

    pub fn lease(&mut self, table: u64, count: u32) -> Range<u64> {
        self.session.lease_tids(table, count, &mut PollWait).unwrap().unwrap()
    }

    pub fn flush(&mut self) {
        self.session.flush(&mut PollWait).unwrap();
    }

    /// Inserts into an index and logs. Returns the first entry's number.
    pub fn index_insert(&mut self, index: u64, entries: &[NewEntry<'_>]) -> u64 {
        let generation = self.session.generation();
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.session.index_insert(generation, index, entries, &mut PollWait).unwrap() {
                IndexWritten::At { first_entry, batch, first } => {
                    self.log(&batch, first);
                    return first_entry;
                }
                IndexWritten::Busy => assert!(Instant::now() < deadline, "the store stays full"),
                other => panic!("{other:?}"),
            }
        }
    }
}

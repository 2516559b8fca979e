//! Local files: what must be synced is synced before it is relied upon, and a failed sync is the end.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};

use lsmstore::{Durability, Env, EnvFile, FlushOptions, KeepAll, LogChoice, Store, SystemEnv, Unusable, WriteError};

use crate::env::{Like, Over};
use crate::fixture::{Fixture, puts};

/// Notes what is done to files; syncs fail, or are held up, on demand.
#[derive(Debug)]
struct Watched {
    system: SystemEnv,
    notes: Arc<Notes>,
}

#[derive(Debug, Default)]
struct Notes {
    done: Mutex<Vec<String>>,
    fail_sync: Mutex<Option<&'static str>>,
    /// The file whose syncs are held up, and whether one is.
    hold: Mutex<(Option<&'static str>, bool)>,
    held: Condvar,
}

impl Notes {
    fn note(&self, what: &str, path: &Path) {
        let extension = path.extension().map_or("folder".into(), |extension| extension.to_string_lossy().into_owned());
        self.done.lock().unwrap().push(format!("{what} {extension}"));
    }

    fn hold(&self, part: &'static str) {
        *self.hold.lock().unwrap() = (Some(part), false);
    }

    fn wait_until_held(&self) {
        drop(self.held.wait_while(self.hold.lock().unwrap(), |(_, held)| !*held).unwrap());
    }

    fn let_go(&self) {
        self.hold.lock().unwrap().0 = None;
        self.held.notify_all();
    }

    /// Waits while syncs of this file are held up.
    fn pass(&self, path: &Path) {
        let is_it = |part: Option<&str>| part.is_some_and(|part| path.to_string_lossy().ends_with(part));
        let mut hold = self.hold.lock().unwrap();
        while is_it(hold.0) {
            hold.1 = true;
            self.held.notify_all();
            hold = self.held.wait(hold).unwrap();
        }
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.done.lock().unwrap())
    }
}

#[derive(Debug)]
struct WatchedFile {
    file: Box<dyn EnvFile>,
    path: PathBuf,
    notes: Arc<Notes>,
}

impl EnvFile for WatchedFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.notes.note("append", &self.path);
        self.file.append(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.notes.note("sync", &self.path);
        self.notes.pass(&self.path);
        if self.notes.fail_sync.lock().unwrap().is_some_and(|part| self.path.to_string_lossy().ends_with(part)) {
            return Err(io::Error::other("the disk is gone"));
        }
        self.file.sync()
    }
}

impl Like for Watched {
    fn other(&self) -> &dyn Env {
        &self.system
    }
    fn create(&self, path: &Path) -> io::Result<Box<dyn EnvFile>> {
        self.notes.note("create", path);
        let file = self.system.create(path)?;
        Ok(Box::new(WatchedFile { file, path: path.to_owned(), notes: Arc::clone(&self.notes) }))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.notes.note("rename", to);
        self.system.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.notes.note("remove", path);
        self.system.remove(path)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.notes.note("sync", dir);
        self.system.sync_dir(dir)
    }
}

async fn open(fixture: &Fixture) -> (Store, Arc<Notes>) {
    let notes = Arc::new(Notes::default());
    let env = Arc::new(Over(Watched { system: SystemEnv::new(), notes: Arc::clone(&notes) }));
    let objects = Arc::clone(&fixture.objects) as _;
    let store = Store::open(fixture.config(), objects, env, LogChoice::Own).await.unwrap();
    (store, notes)
}

#[tokio::test]
async fn a_local_write_is_synced_and_a_memory_write_is_not() {
    let fixture = Fixture::new();
    let (store, notes) = open(&fixture).await;
    notes.take();
    store.write(puts(&[("a", "1")]), Durability::Memory).await.unwrap();
    assert_eq!(notes.take(), ["append wal"]);
    store.write(puts(&[("b", "2")]), Durability::Local).await.unwrap();
    assert_eq!(notes.take(), ["append wal", "sync wal"]);
}

#[tokio::test]
async fn a_flush_syncs_the_log_before_the_next_segment_and_the_mirror_before_its_name() {
    let fixture = Fixture::new();
    let (store, notes) = open(&fixture).await;
    store.write(puts(&[("a", "1")]), Durability::Memory).await.unwrap();
    notes.take();
    store.flush().await.unwrap();
    let segment = ["sync wal", "create wal", "append wal", "sync wal", "sync folder"];
    let mirror = ["create tmp", "append tmp", "sync tmp", "rename lsm", "sync folder"];
    let manifest = ["create tmp", "append tmp", "sync tmp", "rename folder", "sync folder"];
    assert_eq!(notes.take(), [&segment[..], &mirror[..], &manifest[..], &["remove wal"]].concat());
}

#[tokio::test]
async fn a_failed_sync_of_the_log_poisons_the_store() {
    let fixture = Fixture::new();
    let (store, notes) = open(&fixture).await;
    store.write(puts(&[("a", "1")]), Durability::Local).await.unwrap();
    let held = store.view().unwrap();
    *notes.fail_sync.lock().unwrap() = Some(".wal");
    let failed = store.write(puts(&[("b", "2")]), Durability::Local).await;
    assert!(matches!(failed, Err(WriteError::Unusable(Unusable::Poisoned { .. }))), "{failed:?}");
    *notes.fail_sync.lock().unwrap() = None;
    let still = store.write(puts(&[("c", "3")]), Durability::Local).await;
    assert!(matches!(still, Err(WriteError::Unusable(Unusable::Poisoned { .. }))), "{still:?}");
    assert!(store.flush().await.is_err() && store.view().is_err());
    let sequence = held.read_sequence();
    assert_eq!(held.get(b"a", sequence).unwrap(), Some(&b"1"[..]));
    assert_eq!(held.get(b"b", sequence).unwrap(), None, "what is not durable was never readable");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flush_that_waits_for_the_log_does_not_go_on_with_one_whose_sync_failed() {
    let fixture = Fixture::new();
    let (store, notes) = open(&fixture).await;
    store.write(puts(&[("a", "1")]), Durability::Local).await.unwrap();
    notes.hold(".wal");
    let writer = store.clone();
    let written = tokio::spawn(async move { writer.write(puts(&[("b", "2")]), Durability::Local).await });
    notes.wait_until_held();
    notes.take();
    // It has found the store in order.
    let mut flush = Box::pin(store.flush_local(FlushOptions::default()));
    assert!(futures::poll!(&mut flush).is_pending());
    *notes.fail_sync.lock().unwrap() = Some(".wal");
    notes.let_go();
    assert!(matches!(written.await.unwrap(), Err(WriteError::Unusable(Unusable::Poisoned { .. }))));
    assert!(flush.as_mut().await.is_err());
    drop(flush);
    let done = notes.take();
    assert!(!done.iter().any(|done| done.ends_with("wal")), "{done:?}");
    drop(store);
    *notes.fail_sync.lock().unwrap() = None;
    let (store, _) = open(&fixture).await;
    let view = store.view().unwrap();
    assert_eq!(view.get(b"a", view.read_sequence()).unwrap(), Some(&b"1"[..]));
}

#[tokio::test]
async fn a_failed_sync_of_a_mirror_fails_the_flush_and_loses_nothing() {
    let fixture = Fixture::new();
    let (store, notes) = open(&fixture).await;
    store.write(puts(&[("a", "1")]), Durability::Local).await.unwrap();
    *notes.fail_sync.lock().unwrap() = Some(".tmp");
    let error = store.flush().await.unwrap_err().to_string();
    assert!(error.contains("the disk is gone"), "{error}");
    *notes.fail_sync.lock().unwrap() = None;
    store.flush().await.unwrap();
    let view = store.view().unwrap();
    assert_eq!(view.get(b"a", view.read_sequence()).unwrap(), Some(&b"1"[..]));
}

fn mirrors(fixture: &Fixture) -> usize {
    std::fs::read_dir(fixture.folder().join("mirror")).unwrap().count()
}

#[tokio::test]
async fn tables_of_a_local_manifest_that_failed_go_when_the_next_one_is_written() {
    let fixture = Fixture::new();
    let (store, notes) = open(&fixture).await;
    for key in ["a", "b"] {
        store.write(puts(&[(key, "1")]), Durability::Local).await.unwrap();
        for _ in 0..3 {
            *notes.fail_sync.lock().unwrap() = Some("MANIFEST.tmp");
            store.flush_local(FlushOptions::default()).await.unwrap_err();
            *notes.fail_sync.lock().unwrap() = None;
        }
        store.flush_local(FlushOptions::default()).await.unwrap();
    }
    assert_eq!((mirrors(&fixture), store.stats().levels[0].tables), (2, 2));
    *notes.fail_sync.lock().unwrap() = Some("MANIFEST.tmp");
    store.merge_local(Arc::new(KeepAll)).await.unwrap_err();
    *notes.fail_sync.lock().unwrap() = None;
    store.merge_local(Arc::new(KeepAll)).await.unwrap();
    assert_eq!(mirrors(&fixture), 1);
}

/// Begins a job, gives it up when its local manifest is about to be synced, and sees whether another writer of it could
/// come in between.
async fn give_up<T>(store: &Store, notes: &Notes, job: impl Future<Output = T>) {
    notes.hold("MANIFEST.tmp");
    let mut job = Box::pin(job);
    assert!(futures::poll!(&mut job).is_pending());
    while !notes.hold.lock().unwrap().1 {
        let _ = futures::poll!(&mut job);
        tokio::task::yield_now().await;
    }
    notes.wait_until_held();
    drop(job);
    let mut guarded = true;
    for _ in 0..100 {
        tokio::task::yield_now().await;
        guarded &= futures::poll!(Box::pin(store.local_manifest())).is_pending();
    }
    notes.let_go();
    assert!(guarded, "another one could be written at the same time");
}

#[tokio::test]
async fn a_flush_or_merge_that_nobody_waits_for_any_more_is_carried_to_its_end() {
    let fixture = Fixture::new();
    let (store, notes) = open(&fixture).await;
    for (sequence, key) in [(1, "a"), (2, "b")] {
        store.write(puts(&[(key, "1")]), Durability::Local).await.unwrap();
        give_up(&store, &notes, store.flush_local(FlushOptions::default())).await;
        assert_eq!(store.local_manifest().await.last_sequence, sequence);
        assert_eq!((store.stats().frozen, mirrors(&fixture) as u64), (0, sequence));
    }
    give_up(&store, &notes, store.merge_local(Arc::new(KeepAll))).await;
    assert_eq!(store.local_manifest().await.tables, 1);
    assert_eq!(mirrors(&fixture), 1);
}

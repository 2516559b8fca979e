//! Local files: what must be synced is synced before it is relied upon, and a failed sync is the end.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use futures::future::BoxFuture;
use lsmstore::{Durability, Env, EnvFile, LogChoice, Store, SystemEnv, Unusable, WriteError};

use crate::fixture::{Fixture, puts};

/// Notes what is done to files; syncs fail on demand.
#[derive(Debug)]
struct Watched {
    system: SystemEnv,
    notes: Arc<Notes>,
}

#[derive(Debug, Default)]
struct Notes {
    done: Mutex<Vec<String>>,
    fail_sync: Mutex<Option<&'static str>>,
}

impl Notes {
    fn note(&self, what: &str, path: &Path) {
        let extension = path.extension().map_or("folder".into(), |extension| extension.to_string_lossy().into_owned());
        self.done.lock().unwrap().push(format!("{what} {extension}"));
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
        if self.notes.fail_sync.lock().unwrap().is_some_and(|part| self.path.to_string_lossy().ends_with(part)) {
            return Err(io::Error::other("the disk is gone"));
        }
        self.file.sync()
    }
}

impl Env for Watched {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.system.create_dir(dir)
    }
    fn create(&self, path: &Path) -> io::Result<Box<dyn EnvFile>> {
        self.notes.note("create", path);
        let file = self.system.create(path)?;
        Ok(Box::new(WatchedFile { file, path: path.to_owned(), notes: Arc::clone(&self.notes) }))
    }
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.system.read(path)
    }
    fn open(&self, path: &Path) -> io::Result<File> {
        self.system.open(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.notes.note("rename", to);
        self.system.rename(from, to)
    }
    fn truncate(&self, path: &Path, length: u64) -> io::Result<()> {
        self.system.truncate(path, length)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.notes.note("remove", path);
        self.system.remove(path)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.system.list(dir)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.notes.note("sync", dir);
        self.system.sync_dir(dir)
    }
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        self.system.lock(path)
    }
    fn monotonic(&self) -> Duration {
        self.system.monotonic()
    }
    fn wall(&self) -> SystemTime {
        self.system.wall()
    }
    fn random(&self, bytes: &mut [u8]) -> io::Result<()> {
        self.system.random(bytes)
    }
    fn spawn(&self, job: BoxFuture<'static, ()>) {
        self.system.spawn(job);
    }
    fn spawn_blocking(&self, job: Box<dyn FnOnce() + Send>) {
        self.system.spawn_blocking(job);
    }
}

async fn open(fixture: &Fixture) -> (Store, Arc<Notes>) {
    let notes = Arc::new(Notes::default());
    let env = Arc::new(Watched { system: SystemEnv::new(), notes: Arc::clone(&notes) });
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

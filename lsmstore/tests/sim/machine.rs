//! Machines with disks, and processes on them that see files only for as long as they live.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lsmstore::{DeterministicReactor, Env, EnvFile, Reactor};

use crate::bucket::{Bucket, Link};
use crate::disk::{Disk, Loss};
use crate::env::{Like, Over};
use crate::journal::Journal;
use crate::tally::{self, Event};

/// A machine, which has one disk at a time: what a power cut leaves is on another one.
pub struct Machine {
    root: PathBuf,
    cuts: AtomicU64,
    disk: Mutex<Arc<Disk>>,
    locks: Arc<Mutex<BTreeMap<PathBuf, u64>>>,
    pub link: Link,
    dir: Mutex<PathBuf>,
    /// What a store's owner logs here.
    pub journal: Arc<Journal>,
}

impl Machine {
    pub fn new(root: &Path, name: usize, bucket: &Arc<Bucket>) -> Machine {
        let root = root.join(format!("machine{name}"));
        let dir = root.join("0");
        std::fs::create_dir_all(&dir).unwrap();
        let disk = Mutex::new(Arc::new(Disk::new(&dir)));
        let link = Link::new(bucket);
        let journal = Arc::new(Journal::new(name));
        Machine { root, cuts: AtomicU64::new(0), disk, locks: Arc::default(), link, dir: Mutex::new(dir), journal }
    }

    /// The folder of the store.
    pub fn folder(&self) -> PathBuf {
        self.dir.lock().unwrap().join("store")
    }

    /// A process begins: one of so many of its syncs fails, and of ten times as many other changes of files, none if zero; with
    /// a fuse, nothing is done any more after so many changes of files.
    pub fn start(&self, reactor: &DeterministicReactor, faults: u64, fuse: Option<u64>) -> Arc<Process> {
        let reactor = reactor.process();
        let fuse = AtomicU64::new(fuse.unwrap_or(u64::MAX));
        let (alive, failed, log_failed) = (AtomicBool::new(true), AtomicBool::new(false), AtomicBool::new(false));
        let health = Arc::new(Health { alive, failed, log_failed, fuse, faults, reactor: reactor.clone() });
        let number = reactor.random(u64::MAX);
        let (disk, locks) = (Arc::clone(&self.disk.lock().unwrap()), Arc::clone(&self.locks));
        let env = Arc::new(Over(Local { disk, reactor, health, locks, number }));
        Arc::new(Process { env })
    }

    /// The power goes and comes again; no process lives on.
    pub fn lose_power(&self, reactor: &DeterministicReactor) {
        let loss = if reactor.random(3) == 0 { Loss::Unsynced } else { Loss::Torn(reactor.random(1 << 40)) };
        let cuts = self.cuts.fetch_add(1, Ordering::Relaxed) + 1;
        let dir = self.root.join(cuts.to_string());
        std::fs::create_dir_all(&dir).unwrap();
        let mut disk = self.disk.lock().unwrap();
        disk.left_behind(disk.ops(), loss, &dir);
        *disk = Arc::new(Disk::found(&dir));
        let before = std::mem::replace(&mut *self.dir.lock().unwrap(), dir);
        if size(&before) != size(&self.dir.lock().unwrap()) {
            tally::count(Event::PowerLoss);
        }
        // Maps stay.
        std::fs::remove_dir_all(before).unwrap();
        self.locks.lock().unwrap().clear();
    }
}

/// Bytes of all files in a folder and those below.
fn size(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap());
    entries.map(|entry| if entry.path().is_dir() { size(&entry.path()) } else { entry.metadata().unwrap().len() }).sum()
}

/// A process: its tasks, jobs and files end together.
pub struct Process {
    pub env: Arc<Over<Local>>,
}

impl Process {
    pub fn reactor(&self) -> &DeterministicReactor {
        &self.env.reactor
    }

    /// Whether its disk failed, or its fuse has blown.
    pub fn failed(&self) -> bool {
        self.env.health.failed.load(Ordering::Relaxed)
    }

    /// Whether that was while it changed its log: then it may refuse everything.
    pub fn log_failed(&self) -> bool {
        self.env.health.log_failed.load(Ordering::Relaxed)
    }

    pub fn random(&self, below: u64) -> u64 {
        self.reactor().random(below)
    }

    /// Sleeps for so many microseconds at most.
    pub async fn sleep_up_to(&self, most: u64) {
        let time = Duration::from_micros(self.random(most));
        self.reactor().sleep(time).await;
    }

    /// Whether the log that the store's owner keeps fails now.
    pub fn owner_fails(&self, what: &str) -> bool {
        let health = &self.env.health;
        health.strikes(health.faults, what, Path::new("journal"))
    }

    /// Whether it does nothing any more: it is to be killed where it is.
    pub fn blown(&self) -> bool {
        self.env.health.fuse.load(Ordering::Relaxed) == 0
    }

    pub fn kill(&self) {
        self.env.health.alive.store(false, Ordering::Relaxed);
        self.env.reactor.kill();
        self.env.locks.lock().unwrap().retain(|_, holder| *holder != self.env.number);
    }
}

/// Whether a process can change files.
#[derive(Debug)]
struct Health {
    alive: AtomicBool,
    failed: AtomicBool,
    log_failed: AtomicBool,
    /// Changes of files until nothing is done any more.
    fuse: AtomicU64,
    /// One of so many syncs fails; none if it is zero.
    faults: u64,
    reactor: DeterministicReactor,
}

impl Health {
    /// It is about to change something.
    fn act(&self) -> io::Result<()> {
        let burn = |left: u64| if left == u64::MAX { None } else { Some(left.saturating_sub(1)) };
        if let Ok(0 | 1) = self.fuse.fetch_update(Ordering::Relaxed, Ordering::Relaxed, burn) {
            self.failed.store(true, Ordering::Relaxed);
            self.log_failed.store(true, Ordering::Relaxed);
            return Err(io::Error::other("the fuse has blown"));
        }
        match self.alive.load(Ordering::Relaxed) {
            true => Ok(()),
            false => Err(io::Error::other("the process is no more")),
        }
    }

    /// Whether one of so many things fails now.
    fn strikes(&self, one_of: u64, what: &str, path: &Path) -> bool {
        let struck = one_of > 0 && self.reactor.random(one_of) == 0;
        if struck {
            self.failed.store(true, Ordering::Relaxed);
            if path.components().any(|part| part.as_os_str() == "wal") {
                self.log_failed.store(true, Ordering::Relaxed);
            }
            crate::tell(&self.reactor, || format!("the disk fails: {what}"));
            tally::count(Event::DiskFault);
        }
        struck
    }

    /// It is about to change something, which may fail.
    fn try_to(&self, what: &str, path: &Path) -> io::Result<()> {
        self.act()?;
        if self.strikes(self.faults * 10, what, path) { Err(io::Error::other("the disk is ill")) } else { Ok(()) }
    }
}

/// What a process sees of its machine.
#[derive(Debug)]
pub struct Local {
    disk: Arc<Disk>,
    reactor: DeterministicReactor,
    health: Arc<Health>,
    locks: Arc<Mutex<BTreeMap<PathBuf, u64>>>,
    number: u64,
}

impl Local {
    fn note(&self, what: &str, path: &Path) {
        self.reactor.note(what.as_bytes());
        self.reactor.note(path.file_name().map_or(&[][..], |name| name.as_encoded_bytes()));
    }
}

#[derive(Debug)]
struct LocalFile {
    inner: Box<dyn EnvFile>,
    path: PathBuf,
    disk: Arc<Disk>,
    reactor: DeterministicReactor,
    health: Arc<Health>,
}

impl EnvFile for LocalFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.health.act()?;
        self.reactor.note(bytes);
        if self.health.strikes(self.health.faults * 10, "an append", &self.path) {
            let part = self.reactor.random(bytes.len() as u64 + 1) as usize;
            self.inner.append(&bytes[..part])?;
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.inner.append(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.health.act()?;
        if self.health.strikes(self.health.faults, "a sync", &self.path) {
            self.disk.fall_ill();
        }
        self.inner.sync()
    }
}

/// Given back when dropped, unless the process was killed before.
struct Lock {
    path: PathBuf,
    number: u64,
    locks: Arc<Mutex<BTreeMap<PathBuf, u64>>>,
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.locks.lock().unwrap().retain(|path, holder| *path != self.path || *holder != self.number);
    }
}

impl Like for Local {
    fn other(&self) -> &dyn Env {
        &*self.disk
    }
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.health.act()?;
        self.disk.create_dir(dir)
    }
    fn create(&self, path: &Path) -> io::Result<Box<dyn EnvFile>> {
        self.health.try_to("a creation", path)?;
        self.note("create", path);
        let (disk, reactor, health) = (Arc::clone(&self.disk), self.reactor.clone(), Arc::clone(&self.health));
        let inner = Env::create(&*disk, path)?;
        Ok(Box::new(LocalFile { inner, path: path.to_owned(), disk, reactor, health }))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.health.try_to("a rename", to)?;
        self.note("rename", to);
        Env::rename(&*self.disk, from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.health.try_to("a removal", path)?;
        self.note("remove", path);
        Env::remove(&*self.disk, path)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.health.try_to("a sync of names", dir)?;
        Env::sync_dir(&*self.disk, dir)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.health.act()?;
        // A folder has no order, but the same one each time.
        let mut names = self.disk.list(dir)?;
        names.sort();
        Ok(names)
    }
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        self.health.act()?;
        let mut locks = self.locks.lock().unwrap();
        if locks.contains_key(path) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        locks.insert(path.to_owned(), self.number);
        Ok(Box::new(Lock { path: path.to_owned(), number: self.number, locks: Arc::clone(&self.locks) }))
    }
    fn random(&self, bytes: &mut [u8]) -> io::Result<()> {
        bytes.fill_with(|| self.reactor.random(256) as u8);
        Ok(())
    }
    fn reactor(&self) -> &dyn Reactor {
        &self.reactor
    }
}

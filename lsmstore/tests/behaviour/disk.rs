//! A local disk that remembers everything that was done to it, so that a test can look at what a crash at any moment
//! leaves: of the process, which loses nothing, or of the machine, which loses what was not synced.
//!
//! Files are real ones in a folder, for they are mapped; nothing is really synced, and background work is done at once.
//! What is remembered is the order in which files were made, named, written and synced. A name is durable once its folder
//! was synced, bytes once their file was; folders themselves are taken for durable.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use lsmstore::{Env, EnvFile, SystemEnv};

use crate::env::{AtOnce, Like, Over};

/// Bytes that a disk writes as a whole.
const SECTOR: usize = 512;

#[derive(Clone, Debug)]
enum Op {
    Create(PathBuf, usize),
    Append(usize, Vec<u8>),
    Sync(usize),
    /// A sync that failed: the system may forget that these bytes are still to be written.
    SyncFailed(usize),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
    SyncDir(PathBuf),
}

/// What a crash takes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The process ends; the system keeps what it was given.
    Process,
    /// The machine stops: everything that was not synced is gone.
    Unsynced,
    /// The machine stops: of what was not synced, some sectors and some of the last names are there.
    Torn(u64),
}

/// Tells what time it is elsewhere.
type Clock = Box<dyn Fn() -> usize + Send + Sync>;

/// What was done, and when by the clock.
struct Journal {
    ops: Mutex<Vec<(usize, Op)>>,
    clock: Clock,
}

impl std::fmt::Debug for Journal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Journal")
    }
}

impl Journal {
    fn note(&self, op: Op) {
        self.ops.lock().unwrap().push(((self.clock)(), op));
    }
}

pub type Disk = Over<Hardware>;

#[derive(Debug)]
pub struct Hardware {
    root: PathBuf,
    system: SystemEnv,
    journal: Arc<Journal>,
    files: Mutex<usize>,
    ill: Arc<AtomicBool>,
}

#[derive(Debug)]
struct DiskFile {
    file: Box<dyn EnvFile>,
    number: usize,
    journal: Arc<Journal>,
    ill: Arc<AtomicBool>,
}

impl EnvFile for DiskFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.journal.note(Op::Append(self.number, bytes.to_vec()));
        self.file.append(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        if self.ill.swap(false, Ordering::Relaxed) {
            self.journal.note(Op::SyncFailed(self.number));
            return Err(io::Error::other("the disk is ill"));
        }
        self.journal.note(Op::Sync(self.number));
        Ok(())
    }
}

impl Disk {
    /// An empty disk whose files are kept below `root`.
    pub fn new(root: &Path) -> Disk {
        Disk::with_clock(root, Box::new(|| 0))
    }

    /// One whose files are there already, and durable.
    pub fn found(root: &Path) -> Disk {
        let disk = Disk::new(root);
        let mut folders = vec![root.to_owned()];
        while let Some(folder) = folders.pop() {
            let mut paths: Vec<PathBuf> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
            paths.sort();
            for path in paths {
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                let mut files = disk.files.lock().unwrap();
                *files += 1;
                disk.note(Op::Create(disk.within(&path), *files));
                disk.note(Op::Append(*files, fs::read(&path).unwrap()));
                disk.note(Op::Sync(*files));
            }
            disk.note(Op::SyncDir(disk.within(&folder)));
        }
        disk
    }

    /// One that notes when each thing was done, by a clock that counts what happens elsewhere.
    pub fn with_clock(root: &Path, clock: Clock) -> Disk {
        let journal = Arc::new(Journal { ops: Mutex::default(), clock });
        let system = SystemEnv::with(Arc::<AtOnce>::default());
        Over(Hardware { root: root.to_owned(), system, journal, files: Mutex::new(0), ill: Arc::default() })
    }
}

impl Hardware {
    /// The next sync fails. What it was to write is lost when the machine stops, whatever later ones say.
    pub fn fall_ill(&self) {
        self.ill.store(true, Ordering::Relaxed);
    }

    /// How many things were done so far.
    pub fn ops(&self) -> usize {
        self.journal.ops.lock().unwrap().len()
    }

    /// When each was done.
    pub fn times(&self) -> Vec<usize> {
        self.journal.ops.lock().unwrap().iter().map(|(time, _)| *time).collect()
    }

    fn note(&self, op: Op) {
        self.journal.note(op);
    }

    fn within(&self, path: &Path) -> PathBuf {
        path.strip_prefix(&self.root).expect("a path on this disk").to_owned()
    }

    /// Writes what a crash after the first `ops` leaves to another folder.
    pub fn left_behind(&self, ops: usize, loss: Loss, to: &Path) {
        let mut left = State::default();
        self.journal.ops.lock().unwrap()[..ops].iter().for_each(|(_, op)| left.apply(op));
        for (path, bytes) in left.crash(loss) {
            let path = to.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
    }
}

/// A folder in memory, if the system has such.
pub fn quick_folder() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory).unwrap() } else { tempfile::tempdir().unwrap() }
}

#[derive(Default)]
struct State {
    /// Bytes of each file, and how many of them were synced.
    files: BTreeMap<usize, (Vec<u8>, usize)>,
    /// Bytes that a failed sync was to write.
    lost: Vec<(usize, Range<usize>)>,
    durable: BTreeMap<PathBuf, usize>,
    /// Changes of names that are not durable yet.
    pending: Vec<Op>,
}

/// Changes names as an operation did.
fn rename(names: &mut BTreeMap<PathBuf, usize>, op: &Op) {
    match op {
        Op::Create(path, file) => drop(names.insert(path.clone(), *file)),
        Op::Rename(from, to) => {
            if let Some(file) = names.remove(from) {
                names.insert(to.clone(), file);
            }
        }
        Op::Remove(path) => drop(names.remove(path)),
        _ => {}
    }
}

fn folder_of(op: &Op) -> Option<&Path> {
    match op {
        Op::Create(path, _) | Op::Remove(path) | Op::Rename(_, path) => path.parent(),
        _ => None,
    }
}

impl State {
    fn names(&self) -> BTreeMap<PathBuf, usize> {
        let mut names = self.durable.clone();
        self.pending.iter().for_each(|op| rename(&mut names, op));
        names
    }

    fn apply(&mut self, op: &Op) {
        match op {
            Op::Create(_, file) => {
                self.files.insert(*file, (Vec::new(), 0));
                self.pending.push(op.clone());
            }
            Op::Append(file, bytes) => self.files.get_mut(file).unwrap().0.extend_from_slice(bytes),
            Op::Sync(file) => {
                let (bytes, synced) = self.files.get_mut(file).unwrap();
                *synced = bytes.len();
            }
            Op::SyncFailed(file) => {
                let (bytes, synced) = &self.files[file];
                self.lost.push((*file, *synced..bytes.len()));
            }
            Op::Rename(..) | Op::Remove(_) => self.pending.push(op.clone()),
            Op::SyncDir(dir) => {
                let (now, later): (Vec<Op>, Vec<Op>) =
                    std::mem::take(&mut self.pending).into_iter().partition(|op| folder_of(op) == Some(dir));
                now.iter().for_each(|op| rename(&mut self.durable, op));
                self.pending = later;
            }
        }
    }

    fn crash(mut self, loss: Loss) -> Vec<(PathBuf, Vec<u8>)> {
        let mut seed = match loss {
            Loss::Torn(seed) => seed,
            _ => 0,
        };
        let mut draw = move |below: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as usize % below
        };
        match loss {
            Loss::Process => {}
            Loss::Unsynced => self.pending.clear(),
            // Names are journalled in order.
            Loss::Torn(_) => self.pending.truncate(draw(self.pending.len() + 1)),
        }
        let names = self.names();
        let mut left = Vec::new();
        for (path, file) in names {
            let (bytes, synced) = &self.files[&file];
            let mut bytes = match loss {
                Loss::Process => bytes.clone(),
                Loss::Unsynced => bytes[..*synced].to_vec(),
                Loss::Torn(_) => torn(bytes, *synced, &mut draw),
            };
            if loss != Loss::Process {
                for (_, lost) in self.lost.iter().filter(|(other, _)| *other == file) {
                    let end = lost.end.min(bytes.len());
                    bytes[lost.start.min(end)..end].fill(0);
                }
            }
            left.push((path, bytes));
        }
        left
    }
}

/// What is left of a file of which only the first bytes were synced.
fn torn(bytes: &[u8], synced: usize, draw: &mut impl FnMut(usize) -> usize) -> Vec<u8> {
    let length = synced + draw(bytes.len() - synced + 1);
    let mut left = bytes[..length].to_vec();
    for start in (synced / SECTOR * SECTOR..length).step_by(SECTOR) {
        if draw(2) == 0 {
            left[start.max(synced)..(start + SECTOR).min(length)].fill(0);
        }
    }
    left
}

impl Like for Hardware {
    fn other(&self) -> &dyn Env {
        &self.system
    }
    fn create(&self, path: &Path) -> io::Result<Box<dyn EnvFile>> {
        // What is replaced here could be lost before the new one is durable.
        assert!(!path.exists() || path.extension().is_some_and(|e| e == "tmp"), "{} is there", path.display());
        let file = self.system.create(path)?;
        let number = {
            let mut files = self.files.lock().unwrap();
            *files += 1;
            *files
        };
        self.note(Op::Create(self.within(path), number));
        Ok(Box::new(DiskFile { file, number, journal: Arc::clone(&self.journal), ill: Arc::clone(&self.ill) }))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.system.rename(from, to)?;
        self.note(Op::Rename(self.within(from), self.within(to)));
        Ok(())
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.system.remove(path)?;
        self.note(Op::Remove(self.within(path)));
        Ok(())
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.note(Op::SyncDir(self.within(dir)));
        Ok(())
    }
}

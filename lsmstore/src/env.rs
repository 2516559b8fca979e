//! The seam to the outside: local files, random bytes, and a [`Reactor`] for background work and time.
//!
//! Everything the store does besides calling the object store and an external log goes through [`Env`], so that a test
//! can fail a sync, drop unsynced bytes, or run all work in one seeded order. [`SystemEnv`] is the real one.

use std::fmt::Debug;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rand::TryRngCore;

use crate::error::StorageError;
use crate::reactor::{Reactor, TokioReactor};

/// A local file being written.
pub trait EnvFile: Send + Debug {
    /// Writes all of `bytes` behind what is there.
    ///
    /// # Errors
    /// What the system says; how much was written is then unknown.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Makes everything written so far durable (fdatasync).
    ///
    /// # Errors
    /// What the system says. The state of the bytes is then unknown for good: never sync again and believe it.
    fn sync(&mut self) -> io::Result<()>;
}

/// Local files, random bytes, and what runs background work.
pub trait Env: Send + Sync + Debug + 'static {
    /// Makes a folder and those above it.
    ///
    /// # Errors
    /// What the system says; so for all methods here.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// An empty file to write, in place of one that may be there.
    fn create(&self, path: &Path) -> io::Result<Box<dyn EnvFile>>;
    /// The whole file.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
    /// The file, to be mapped.
    fn open(&self, path: &Path) -> io::Result<File>;
    /// Renames within a file system, replacing what is at `to`.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Names in a folder, in no order.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Makes creations, renames and removals in a folder durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Takes a file for this holder alone, until the value is dropped; `WouldBlock` if another has it.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>>;
    /// Fills `bytes` with unguessable bytes.
    fn random(&self, bytes: &mut [u8]) -> io::Result<()>;
    /// What runs background work and tells how time passes.
    fn reactor(&self) -> &dyn Reactor;
}

/// The real thing.
#[derive(Debug)]
pub struct SystemEnv {
    reactor: Arc<dyn Reactor>,
}

impl SystemEnv {
    /// Background work runs on the tokio runtime that this is called in, or on that of whoever calls.
    pub fn new() -> SystemEnv {
        SystemEnv::with(Arc::new(TokioReactor::new()))
    }

    /// Background work runs on this tokio runtime.
    pub fn on(runtime: tokio::runtime::Handle) -> SystemEnv {
        SystemEnv::with(Arc::new(TokioReactor::on(runtime)))
    }

    /// Background work runs there.
    pub fn with(reactor: Arc<dyn Reactor>) -> SystemEnv {
        SystemEnv { reactor }
    }
}

impl Default for SystemEnv {
    fn default() -> Self {
        SystemEnv::new()
    }
}

#[derive(Debug)]
struct SystemFile(File);

impl EnvFile for SystemFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.0.sync_data()
    }
}

impl Env for SystemEnv {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        std::fs::create_dir_all(dir)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn EnvFile>> {
        let file = OpenOptions::new().create(true).write(true).truncate(true).open(path)?;
        Ok(Box::new(SystemFile(file)))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        std::fs::read(path)
    }

    fn open(&self, path: &Path) -> io::Result<File> {
        File::open(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            // A name that is not text cannot be one of ours.
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Box::new(file)),
            Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn random(&self, bytes: &mut [u8]) -> io::Result<()> {
        rand::rngs::OsRng.try_fill_bytes(bytes).map_err(io::Error::other)
    }

    fn reactor(&self) -> &dyn Reactor {
        &*self.reactor
    }
}

/// Runs `job` where it may block and waits for its result.
pub(crate) async fn blocking<T: Send + 'static>(
    env: &dyn Env,
    job: impl FnOnce() -> T + Send + 'static,
) -> Result<T, JobLost> {
    let (send, receive) = tokio::sync::oneshot::channel();
    env.reactor().spawn_blocking(Box::new(move || drop(send.send(job()))));
    receive.await.map_err(|_| JobLost)
}

/// Runs `job` in the background and waits for its result; it is carried to its end even if the caller stops waiting.
pub(crate) async fn to_its_end<T: Send + 'static>(
    env: &dyn Env,
    job: impl Future<Output = T> + Send + 'static,
) -> Result<T, JobLost> {
    let (send, receive) = tokio::sync::oneshot::channel();
    env.reactor().spawn(Box::pin(async move { drop(send.send(job.await)) }));
    receive.await.map_err(|_| JobLost)
}

/// Writes a small file into a folder, durably and as a whole.
pub(crate) fn write_whole(env: &dyn Env, dir: &Path, name: &str, bytes: &[u8]) -> Result<(), StorageError> {
    let path = dir.join(name);
    let aside = path.with_extension("tmp");
    let written = env.create(&aside).and_then(|mut file| {
        file.append(bytes)?;
        file.sync()?;
        env.rename(&aside, &path)?;
        env.sync_dir(dir)
    });
    if written.is_err() {
        // There may be no room for it.
        let _ = env.remove(&aside);
    }
    written.map_err(StorageError::local(&path))
}

/// How often, and after what pause each, a folder is tried that somebody holds.
const ATTEMPTS: usize = 50;
const PAUSE: Duration = Duration::from_millis(20);

/// Locks a folder. One that was given up a moment ago is held until the last of its work has ended, which is waited for: about
/// a second.
pub(crate) async fn lock_soon(env: &dyn Env, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
    for _ in 1..ATTEMPTS {
        match env.lock(path) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => env.reactor().sleep(PAUSE).await,
            outcome => return outcome,
        }
    }
    env.lock(path)
}

/// A background job ended without a result: it panicked, or its runtime is shutting down.
#[derive(Debug)]
pub(crate) struct JobLost;

/// A random 128-bit name.
pub(crate) fn nonce(env: &dyn Env) -> io::Result<uuid::Uuid> {
    let mut bytes = [0; 16];
    env.random(&mut bytes)?;
    Ok(uuid::Builder::from_random_bytes(bytes).into_uuid())
}

//! Counts what is written to the local disk, by what it is: a wrapper around the owner's [`Env`].

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::env::{Env, EnvFile};
use crate::metrics::Counter;
use crate::reactor::Reactor;

/// Files of one kind.
#[derive(Debug, Default)]
pub(crate) struct Kind {
    /// Bytes written.
    pub(crate) bytes: Arc<Counter>,
    /// Times that they were made durable.
    pub(crate) syncs: Arc<Counter>,
}

/// What is written to the local disk.
#[derive(Debug, Default)]
pub(crate) struct LocalCounters {
    /// The own log.
    pub(crate) log: Kind,
    /// Mirrors of tables.
    pub(crate) mirror: Kind,
    /// The small files of the folder: the local manifest, marks.
    pub(crate) other: Kind,
}

impl LocalCounters {
    /// Each kind and its name.
    pub(crate) fn kinds(&self) -> [(&'static str, &Kind); 3] {
        [("log", &self.log), ("mirror", &self.mirror), ("other", &self.other)]
    }
}

/// An environment whose writes are counted.
#[derive(Debug)]
pub(crate) struct CountedEnv {
    inner: Arc<dyn Env>,
    mirror: PathBuf,
    log: PathBuf,
    local: Arc<LocalCounters>,
}

impl CountedEnv {
    /// Files in the folder `mirror` are tables, those in `log` the log.
    pub(crate) fn new(inner: Arc<dyn Env>, mirror: PathBuf, log: PathBuf, local: Arc<LocalCounters>) -> CountedEnv {
        CountedEnv { inner, mirror, log, local }
    }
}

#[derive(Clone, Copy, Debug)]
enum Which {
    Log,
    Mirror,
    Other,
}

#[derive(Debug)]
struct CountedFile {
    inner: Box<dyn EnvFile>,
    local: Arc<LocalCounters>,
    which: Which,
}

impl CountedFile {
    fn kind(&self) -> &Kind {
        match self.which {
            Which::Log => &self.local.log,
            Which::Mirror => &self.local.mirror,
            Which::Other => &self.local.other,
        }
    }
}

impl EnvFile for CountedFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.inner.append(bytes)?;
        self.kind().bytes.add(bytes.len() as u64);
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        self.inner.sync()?;
        self.kind().syncs.add(1);
        Ok(())
    }
}

impl Env for CountedEnv {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.inner.create_dir(dir)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn EnvFile>> {
        let inner = self.inner.create(path)?;
        let which = match path.parent() {
            Some(dir) if dir == self.mirror => Which::Mirror,
            Some(dir) if dir == self.log => Which::Log,
            _ => Which::Other,
        };
        Ok(Box::new(CountedFile { inner, local: Arc::clone(&self.local), which }))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.inner.read(path)
    }

    fn open(&self, path: &Path) -> io::Result<File> {
        self.inner.open(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.inner.remove(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.inner.list(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.inner.sync_dir(dir)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        self.inner.lock(path)
    }

    fn random(&self, bytes: &mut [u8]) -> io::Result<()> {
        self.inner.random(bytes)
    }

    fn reactor(&self) -> &dyn Reactor {
        self.inner.reactor()
    }
}

//! A store for people without tokio: the same, with calls that block.
//!
//! A [`Blocking`] store has a runtime of its own, on which its background work goes on by itself (see
//! [`Store::upkeep`]). Its calls may be made from any thread, from one of another runtime too: that blocks the thread
//! and does not panic.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use lsmstore::{Blocking, Config, LogChoice, objects};
//!
//! # let dir = tempfile::tempdir()?;
//! # let folder = dir.path();
//! let bucket = objects::local(&folder.join("bucket"))?;
//! let store = Blocking::open(Config::new(folder.join("local"), "demo"), bucket, LogChoice::Own)?;
//! store.put(b"apple", b"red")?;
//! store.put(b"banana", b"yellow")?;
//! store.delete(b"apple")?;
//! let mut scan = store.scan_prefix(b"")?;
//! assert_eq!(scan.next()?, Some((&b"banana"[..], &b"yellow"[..])));
//! assert_eq!(scan.next()?, None);
//! store.close()?;
//! # Ok(())
//! # }
//! ```

use std::sync::Arc;

use object_store::ObjectStore;
use tokio::task::JoinHandle;

use crate::batch::Batch;
use crate::config::Config;
use crate::env::{JobLost, SystemEnv};
use crate::error::{FlushError, OpenError, ReadError, StorageError, Unusable, WriteError};
use crate::log::LogChoice;
use crate::runtime::Own;
use crate::store::upkeep::Stop;
use crate::store::{Applied, Durability, FlushOptions, Flushed, KeepAll, Stats, Store};
use crate::view::Scan;

/// An open store whose calls block; see the module.
#[derive(Debug)]
pub struct Blocking {
    store: Store,
    upkeep: JoinHandle<()>,
    stop: Arc<Stop>,
    runtime: Own,
}

fn lost(_: JobLost) -> Unusable {
    Unusable::Poisoned { what: "a job ended without an answer".to_owned() }
}

impl Blocking {
    /// Opens a store as [`Store::open`] does. What is due is flushed, merged and published in the background from now on.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(config: Config, objects: Arc<dyn ObjectStore>, log: LogChoice) -> Result<Blocking, OpenError> {
        Blocking::with(|env| Store::open(config, objects, env, log))
    }

    /// An empty store in memory, as [`Store::in_memory`].
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn in_memory() -> Result<Blocking, OpenError> {
        Blocking::with(|env| Store::in_memory_with(env, |config| config))
    }

    fn with<O>(open: impl FnOnce(Arc<SystemEnv>) -> O) -> Result<Blocking, OpenError>
    where
        O: Future<Output = Result<Store, OpenError>> + Send + 'static,
    {
        let runtime = Own::new().map_err(StorageError::local("threads"))?;
        let env = runtime.env();
        let store = runtime.run(open(env)).map_err(StorageError::from)??;
        let stop = Arc::new(Stop::default());
        let upkeep = runtime.spawn(store.upkeep_until(Arc::new(KeepAll), Arc::clone(&stop)));
        Ok(Blocking { store, upkeep, stop, runtime })
    }

    /// The store behind it: for views, figures, and everything else that does not block.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Writes `value` under `key`, as [`Store::put`].
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn put(&self, key: &[u8], value: &[u8]) -> Result<Applied, WriteError> {
        let (store, key, value) = (self.store.clone(), key.to_vec(), value.to_vec());
        self.runtime.run(async move { store.put(&key, &value).await }).map_err(lost)?
    }

    /// Deletes `key`, as [`Store::delete`].
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn delete(&self, key: &[u8]) -> Result<Applied, WriteError> {
        let (store, key) = (self.store.clone(), key.to_vec());
        self.runtime.run(async move { store.delete(&key).await }).map_err(lost)?
    }

    /// Writes a batch, as [`Store::write`] does, but makes room where there is none.
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn write(&self, batch: Batch, durability: Durability) -> Result<Applied, WriteError> {
        let store = self.store.clone();
        self.runtime.run(async move { store.write_patiently(&batch, durability).await }).map_err(lost)?
    }

    /// The newest value of `key`, as [`Store::get`].
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, ReadError> {
        self.store.get(key)
    }

    /// The keys that begin with `prefix`, as [`Store::scan_prefix`].
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn scan_prefix(&self, prefix: &[u8]) -> Result<Scan, ReadError> {
        self.store.scan_prefix(prefix)
    }

    /// Makes everything durable in the object store, as [`Store::flush`].
    ///
    /// # Errors
    /// [`FlushError`].
    pub fn flush(&self) -> Result<Flushed, FlushError> {
        let store = self.store.clone();
        self.runtime.run(async move { store.flush().await }).map_err(lost)?
    }

    /// The figures of this moment.
    pub fn stats(&self) -> Stats {
        self.store.stats()
    }

    /// Flushes, marks the stop as an orderly one and ends the use of the store. A store that is dropped instead ends where
    /// it is, as in a crash: what its log or the object store has comes back.
    ///
    /// # Errors
    /// [`FlushError`]: the store is closed all the same, without the mark or what could not be flushed.
    pub fn close(self) -> Result<(), FlushError> {
        let Blocking { store, upkeep, stop, runtime } = self;
        stop.now();
        let close = async move {
            // A merge that ends behind the last flush would take the mark from it.
            let _ = upkeep.await;
            let flushed = store.flush_with(FlushOptions { clean: true, force: false }).await;
            let closed = store.close().await;
            flushed?;
            Ok(closed?)
        };
        runtime.run(close).map_err(lost)?
    }
}

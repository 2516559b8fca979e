//! A store that is gone with the process: for tests, caches, and a first look.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::Config;
use crate::env::{Env, SystemEnv, nonce};
use crate::error::{OpenError, StorageError};
use crate::log::LogChoice;
use crate::object;
use crate::store::{Store, lock};

/// Where Linux keeps files in memory.
const MEMORY: &str = "/dev/shm";

/// A folder that is removed with the value.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        // What is left goes when the machine is restarted.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Store {
    /// An empty store in memory: nothing outlives the last handle. Its mirrors are in a folder of `/dev/shm` (that of
    /// temporary files, if there is none), which a process that is killed leaves behind.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let store = lsmstore::Store::in_memory().await?;
    /// store.put(b"key", b"value").await?;
    /// assert_eq!(store.get(b"key")?.as_deref(), Some(&b"value"[..]));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`OpenError`] if there is no room for the folder.
    pub async fn in_memory() -> Result<Store, OpenError> {
        Store::in_memory_with(Arc::new(SystemEnv::new()), |config| config).await
    }

    /// As [`Store::in_memory`], with settings changed by `settings` and background work in `env`.
    ///
    /// # Errors
    /// As [`Store::in_memory`].
    pub async fn in_memory_with(
        env: Arc<dyn Env>,
        settings: impl FnOnce(Config) -> Config,
    ) -> Result<Store, OpenError> {
        let memory = Path::new(MEMORY);
        let root = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let name = nonce(&*env).map_err(StorageError::local("random bytes"))?;
        let dir = root.join(format!("lsmstore-{name}"));
        let folder = Temporary(dir.clone());
        let config = settings(Config::new(&dir, ""));
        let store = Store::open(config, object::memory(), env, LogChoice::Nobody).await?;
        let mut held = lock(&store.inner.folder);
        // The lock goes first.
        *held = held.take().map(|lock| Box::new((lock, folder)) as Box<dyn Send + Sync>);
        drop(held);
        Ok(store)
    }
}

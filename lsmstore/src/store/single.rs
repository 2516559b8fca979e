//! One key at a time: for those who need neither batches nor views.

use crate::batch::Batch;
use crate::error::{ReadError, WriteError};
use crate::log::LogChoice;
use crate::store::{Applied, Durability, FlushOptions, Store};
use crate::view::Scan;

impl Store {
    /// Writes `value` under `key`. It is in the object store if the log is kept there as well
    /// ([`Config::remote_log`](crate::Config::remote_log)), else synced to the local disk if the store keeps its own log, and in
    /// memory only if nobody keeps one. While memtables are full, or too much waits for the object store, this flushes or publishes until
    /// there is room.
    ///
    /// # Errors
    /// [`WriteError`]; [`WriteError::WrongLog`] if the owner keeps the log, who applies batches himself.
    pub async fn put(&self, key: &[u8], value: &[u8]) -> Result<Applied, WriteError> {
        let mut batch = Batch::new();
        batch.put(key, value);
        self.write_patiently(&batch, self.usual_durability()).await
    }

    /// Deletes `key`; deleting what is not there is fine. Durable as [`Store::put`] is.
    ///
    /// # Errors
    /// As [`Store::put`].
    pub async fn delete(&self, key: &[u8]) -> Result<Applied, WriteError> {
        let mut batch = Batch::new();
        batch.delete(key);
        self.write_patiently(&batch, self.usual_durability()).await
    }

    /// The newest value of `key`, copied. Whoever reads more than that takes a [`view`](Store::view), which copies nothing.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, ReadError> {
        let view = self.view()?;
        Ok(view.get(key, view.read_sequence())?.map(<[u8]>::to_vec))
    }

    /// The keys that begin with `prefix` and their values as they are now, in order; an empty prefix means all. What is
    /// written later is not seen.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn scan_prefix(&self, prefix: &[u8]) -> Result<Scan, ReadError> {
        let view = self.view()?;
        view.scan_prefix(prefix, view.read_sequence())
    }

    /// What a write that does not say otherwise waits for.
    fn usual_durability(&self) -> Durability {
        match self.inner.log {
            LogChoice::Own if self.inner.config.remote_log => Durability::Remote,
            LogChoice::Own => Durability::Local,
            _ => Durability::Memory,
        }
    }

    /// Writes a batch, making room where there is none.
    pub(crate) async fn write_patiently(&self, batch: &Batch, durability: Durability) -> Result<Applied, WriteError> {
        loop {
            match self.write(batch.clone(), durability).await {
                Err(WriteError::Full { .. }) => {
                    self.flush_local(FlushOptions::default()).await.map_err(Box::new)?;
                }
                Err(WriteError::Behind { .. }) => {
                    // What waits may be of the log, whose place tables take.
                    if !self.publish().await.map_err(Box::new)? {
                        self.flush().await.map_err(Box::new)?;
                    }
                }
                done => return done,
            }
        }
    }
}

//! An LSM key-value engine on object storage, with views that other processes can read.
//!
//! Keys and values are bytes. A [`Store`] is the one writer of a bucket prefix: it applies [`Batch`]es to a memtable,
//! flushes memtables to tables (an object in the store and an uncompressed mirror on the local disk), merges tables,
//! and publishes numbered manifests. A [`View`] is everything readable at one moment; it is read by anyone, in any
//! process that maps the same memory and files, without asking the writer.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::sync::Arc;
//! use lsmstore::{Batch, Config, LogChoice, Store, SystemEnv, objects};
//!
//! # let dir = tempfile::tempdir()?;
//! # let folder = dir.path();
//! let env = Arc::new(SystemEnv::new());
//! let store = Store::open(Config::new(folder, "demo"), objects::memory(), env, LogChoice::Nobody).await?;
//! let mut batch = Batch::new();
//! batch.put(b"one", b"1").put(b"two", b"2").delete(b"three");
//! store.apply(&batch)?;
//! store.flush().await?;
//! let view = store.view()?;
//! assert_eq!(view.get(b"two", view.read_sequence())?, Some(&b"2"[..]));
//! # Ok(())
//! # }
//! ```
//!
//! Who keeps the log of unflushed writes is a [`LogChoice`]: nobody, this crate, or the owner through [`ExternalLog`].
#![deny(clippy::unwrap_used, clippy::expect_used)]

mod batch;
mod codec;
mod config;
mod env;
mod error;
pub mod fail;
mod in_use;
#[cfg(feature = "ctl")]
pub mod inspect;
mod key;
mod log;
mod manifest;
mod memtable;
pub mod metrics;
mod mirror;
mod object;
mod place;
#[cfg(feature = "s3")]
mod s3;
mod sstable;
mod store;
#[cfg(feature = "vectors")]
pub mod vectors;
mod view;
mod wal;

/// Object stores: any `object_store::ObjectStore` will do; a folder and memory need no server.
pub mod objects {
    pub use crate::object::{local, memory};
    pub use crate::place::{EndpointUrl, PlaceError, check_bucket, check_prefix};
    #[cfg(feature = "s3")]
    pub use crate::s3::{CredentialSource, S3Config, S3Credentials, S3Failure, S3Problem, Secret, s3};
    pub use object_store::ObjectStore;
}

pub use batch::{Batch, MAX_BATCH_BYTES, Write};
pub use config::{Config, RegionKind};
pub use env::{Env, EnvFile, SystemEnv};
pub use error::{
    BatchError, Corruption, FlushError, LogError, OpenError, ReadError, StorageError, Unusable, ViewError, WriteError,
};
pub use in_use::{Held, InUse};
pub use key::{MAX_KEY_BYTES, MAX_SEQUENCE, MAX_VALUE_BYTES};
pub use log::{Birth, ExternalLog, LogChoice};
pub use manifest::{
    Candidates, LeftBehind, ManifestInfo, candidates, missing_table, peek, pending_tables, read_manifest,
};
pub use sstable::{TableId, TableRef};
pub use store::{
    Applied, Durability, FlushOptions, Flushed, KeepAll, LevelStats, LocalStats, MergeEntry, MergePolicy, Merged,
    Replayed, RequestStats, Requests, Stats, Store,
};
pub use view::{Iter, KeyValue, KeyVersion, MemtableRef, Scan, View, ViewDescription};

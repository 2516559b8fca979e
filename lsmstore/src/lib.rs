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
//! use lsmstore::{Batch, Config, Durability, KeepAll, LogChoice, Store, SystemEnv, objects};
//!
//! # let dir = tempfile::tempdir()?;
//! # let folder = dir.path();
//! let config = Config::new(folder, "demo");
//! let store = Store::open(config, objects::memory(), Arc::new(SystemEnv::new()), LogChoice::Own).await?;
//! tokio::spawn(store.upkeep(Arc::new(KeepAll)));
//!
//! store.put(b"one", b"1").await?;
//! let mut batch = Batch::new();
//! batch.put(b"two", b"2").put(b"three", b"3").delete(b"one").delete_range(b"a", b"f");
//! store.write(batch, Durability::Local).await?;
//! assert_eq!(store.get(b"one")?, None);
//!
//! let view = store.view()?;
//! let mut scan = view.scan_prefix(b"t", view.read_sequence())?;
//! while let Some((key, value)) = scan.next()? {
//!     println!("{} = {}", key.escape_ascii(), value.escape_ascii());
//! }
//! store.flush().await?;
//! store.close().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Where to look
//! * Writing: [`Store::put`], [`Store::delete`], [`Store::write`] with a [`Durability`]; [`Store::apply`] where the owner
//!   keeps the log. Who keeps the log of unflushed writes is a [`LogChoice`]: nobody, this crate, or the owner through
//!   [`ExternalLog`].
//! * Reading: [`Store::get`], [`Store::scan_prefix`]; [`Store::view`] for more than that, and for other processes.
//! * Background work: [`Store::upkeep`] does it all; or call [`Store::flush`], [`Store::merge`] and [`Store::publish`]
//!   when [`Store::wants_flush`], [`Store::wants_merge`] and [`Store::wants_publish`] say so.
//! * Reading a bucket that somebody else writes, without a copy of it: [`Follower`], [`Snapshot`].
//! * Without tokio: [`Blocking`]. For a first look: [`Store::in_memory`].
//! * Figures: [`Store::stats`], [`metrics`].
//!
//! What a write is worth, settings and limits are in the README; the bytes of every file in FORMATS.md.
#![deny(clippy::unwrap_used, clippy::expect_used)]

mod batch;
mod blocking;
mod checkpoint;
mod codec;
mod config;
mod env;
mod error;
pub mod fail;
mod follow;
mod gc;
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
mod prefetch;
mod probe;
mod ranges;
mod reactor;
mod runtime;
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
pub use blocking::Blocking;
pub use checkpoint::{Checkpoint, CheckpointError, CheckpointOptions, Checkpoints};
pub use config::{Config, RegionKind};
pub use env::{Env, EnvFile, SystemEnv};
pub use error::{
    BatchError, Corruption, FlushError, LogError, OpenError, ReadError, StorageError, Unusable, ViewError, WriteError,
};
pub use follow::{
    BlockingFollower, BlockingScan, FollowError, Follower, FollowerConfig, Snapshot, SnapshotScan, Staleness,
};
pub use gc::{Garbage, GcError, GcKind, GcOptions, GcReport, Kept, KeptBecause, garbage};
pub use in_use::{Held, InUse};
pub use key::{MAX_KEY_BYTES, MAX_SEQUENCE, MAX_VALUE_BYTES};
pub use log::{Birth, ExternalLog, LogChoice};
pub use manifest::{
    Candidates, LeftBehind, ManifestInfo, candidates, manifest_numbers, missing_table, peek, pending_tables,
    read_manifest,
};
pub use reactor::{DeterministicReactor, Reactor, Stalled, TokioReactor};
pub use sstable::{TableId, TableRef};
pub use store::{
    Applied, Durability, FlushOptions, Flushed, JobKind, JobRecord, JobState, KeepAll, LevelStats, LocalStats,
    MergeEntry, MergePolicy, Merged, Replayed, RequestStats, Requests, Stats, Store,
};
pub use view::{Iter, KeyValue, KeyVersion, MappedTables, MemtableRef, Scan, View, ViewDescription};

/// The README's example, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

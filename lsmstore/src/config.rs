//! How a store is set up. Every value has a default that suits a server; tests use tiny ones.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use uuid::Uuid;

use crate::metrics::{NoRecorder, Recorder};

/// Where memtables live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RegionKind {
    /// Private memory of this process.
    Heap,
    /// Shared memory whose descriptor can be handed to other processes.
    Shared,
}

/// Settings of a store; made by [`Config::new`], changed by the methods.
#[derive(Clone, Debug)]
pub struct Config {
    pub(crate) local_dir: PathBuf,
    pub(crate) mirror: Option<PathBuf>,
    pub(crate) prefix: String,
    /// Shared with the store that was opened with it, where it can be changed.
    pub(crate) memtable_bytes: Arc<AtomicUsize>,
    pub(crate) memtable_region: RegionKind,
    pub(crate) max_frozen: usize,
    pub(crate) block_bytes: usize,
    pub(crate) zstd_level: i32,
    pub(crate) l0_merge_trigger: usize,
    pub(crate) table_bytes: usize,
    pub(crate) level_bytes: u64,
    pub(crate) level_factor: u64,
    pub(crate) merge_rate: Option<u64>,
    pub(crate) accept_log_loss: bool,
    pub(crate) max_pending_bytes: u64,
    pub(crate) base: Option<Uuid>,
    pub(crate) base_position: Option<u64>,
    pub(crate) leave_behind: bool,
    pub(crate) recorder: Arc<dyn Recorder>,
    pub(crate) retention: Retention,
    pub(crate) unsafe_single_writer: bool,
    pub(crate) remote_log: bool,
}

/// What garbage collection leaves alone although nothing current needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Retention {
    /// Newest manifests.
    pub(crate) manifests: usize,
    /// Manifests that were the newest within this time.
    pub(crate) age: Duration,
    /// Time from the pass that finds garbage to the one that deletes it.
    pub(crate) quarantine: Duration,
}

impl Config {
    /// A store whose objects live under `prefix` (a path in the bucket; may be empty) and whose mirror files and own
    /// log live in the folder `local_dir`, which belongs to this store alone and is made if missing.
    pub fn new(local_dir: impl AsRef<Path>, prefix: impl Into<String>) -> Config {
        Config {
            local_dir: local_dir.as_ref().to_owned(),
            mirror: None,
            prefix: prefix.into().trim_matches('/').to_owned(),
            memtable_bytes: Arc::new(AtomicUsize::new(64 << 20)),
            memtable_region: RegionKind::Heap,
            max_frozen: 4,
            block_bytes: 16 << 10,
            zstd_level: 1,
            l0_merge_trigger: 8,
            table_bytes: 64 << 20,
            level_bytes: 256 << 20,
            level_factor: 10,
            merge_rate: None,
            accept_log_loss: false,
            max_pending_bytes: u64::MAX,
            base: None,
            base_position: None,
            leave_behind: false,
            recorder: Arc::new(NoRecorder),
            retention: Retention {
                manifests: 16,
                age: Duration::from_secs(3600),
                quarantine: Duration::from_secs(900),
            },
            unsafe_single_writer: false,
            remote_log: false,
        }
    }

    /// Bytes of a memtable's arena; a batch that is larger gets one of its own size. At least 4 KiB. Default 64 MiB.
    pub fn memtable_bytes(mut self, bytes: usize) -> Config {
        self.memtable_bytes = Arc::new(AtomicUsize::new(bytes.max(4096)));
        self
    }

    /// Folder of the mirror files instead of one in the local folder; it belongs to this store alone as well.
    pub fn mirror_dir_at(mut self, dir: impl AsRef<Path>) -> Config {
        self.mirror = Some(dir.as_ref().to_owned());
        self
    }

    /// Where memtables live. Default: private memory.
    pub fn memtable_region(mut self, kind: RegionKind) -> Config {
        self.memtable_region = kind;
        self
    }

    /// Full memtables that may wait for a flush before writes are refused as full. At least 1. Default 4.
    pub fn max_frozen(mut self, count: usize) -> Config {
        self.max_frozen = count.max(1);
        self
    }

    /// Bytes of a table's block before compression. Default 16 KiB.
    pub fn block_bytes(mut self, bytes: usize) -> Config {
        self.block_bytes = bytes.clamp(64, 16 << 20);
        self
    }

    /// Level of zstd for objects. Default 1.
    pub fn zstd_level(mut self, level: i32) -> Config {
        self.zstd_level = level;
        self
    }

    /// Tables in L0 from which they are merged into L1. Default 8.
    pub fn l0_merge_trigger(mut self, count: usize) -> Config {
        self.l0_merge_trigger = count.max(1);
        self
    }

    /// Bytes, before compression, at which a merge starts another table. Default 64 MiB.
    pub fn table_bytes(mut self, bytes: usize) -> Config {
        self.table_bytes = bytes.max(1024);
        self
    }

    /// Bytes, before compression, from which L1 is merged into L2. Default 256 MiB.
    pub fn level_bytes(mut self, bytes: u64) -> Config {
        self.level_bytes = bytes.max(1024);
        self
    }

    /// How many times the bytes of a level the next one may hold, down to L6, which has no limit. Default 10.
    pub fn level_factor(mut self, factor: u64) -> Config {
        self.level_factor = factor.max(2);
        self
    }

    /// Bytes a second that merges read and write together at most. They then also give way to flushes. Default: no limit.
    pub fn merge_rate(mut self, bytes_per_second: u64) -> Config {
        self.merge_rate = Some(bytes_per_second.max(1));
        self
    }

    /// Opens even if the last owner of the bucket kept its log in another folder and did not stop cleanly: writes that
    /// it acknowledged and had not flushed are lost. Only for a store with its own log. Default: refused.
    pub fn accept_log_loss(mut self, accept: bool) -> Config {
        self.accept_log_loss = accept;
        self
    }

    /// Bytes of tables that may wait on the local disk for an object store that is slow or down before writes are
    /// refused as [`Behind`](crate::WriteError::Behind). What a merge rewrites counts as much as was new in its inputs.
    /// Default: no limit.
    pub fn max_pending_bytes(mut self, bytes: u64) -> Config {
        self.max_pending_bytes = bytes;
        self
    }

    /// Opens the store as the manifest with this nonce has it, which may be the local one or one that is not the newest:
    /// what later ones hold is left behind. A local one must have been found by [`candidates`](crate::candidates), which
    /// verified it. Default: the local one if it is ahead of the bucket, else the newest.
    pub fn base(mut self, nonce: Uuid) -> Config {
        self.base = Some(nonce);
        self
    }

    /// With an external log: the store goes on at this R instead of that of the manifest, because no log follows it.
    pub fn base_position(mut self, position: u64) -> Config {
        self.base_position = Some(position);
        self
    }

    /// Opens even if the local folder belongs to another store than the bucket, or to one whose bucket is empty now: tables
    /// of it that may be nowhere else are set aside. Default: refused as [`LeftBehind`](crate::OpenError::LeftBehind).
    pub fn leave_behind(mut self, leave: bool) -> Config {
        self.leave_behind = leave;
        self
    }

    /// Who is told where the store's figures stand; see [`metrics`](crate::metrics). Default: nobody.
    pub fn recorder(mut self, recorder: Arc<dyn Recorder>) -> Config {
        self.recorder = recorder;
        self
    }

    /// How many of the newest manifests [`Store::collect_garbage`](crate::Store::collect_garbage) keeps, whatever their
    /// age. At least 1. Default 16.
    pub fn keep_manifests(mut self, count: usize) -> Config {
        self.retention.manifests = count.max(1);
        self
    }

    /// For how long garbage collection keeps a manifest, with all of its tables, after a newer one has taken its place: by
    /// the clock of the object store. Default 1 hour.
    pub fn keep_for(mut self, time: Duration) -> Config {
        self.retention.age = time;
        self
    }

    /// What garbage collection finds it deletes this much later, in another pass, by the clock of this process. Longer than
    /// anybody takes who reads a manifest and then, without a checkpoint, its tables. Default 15 minutes.
    pub fn quarantine(mut self, time: Duration) -> Config {
        self.retention.quarantine = time;
        self
    }

    /// Makes a store in a bucket that does not refuse to create what is there already. Two writers would destroy each
    /// other's data there, and nobody would notice: only for whoever has other means to be the only one. Default: refused.
    pub fn unsafe_single_writer(mut self, accept: bool) -> Config {
        self.unsafe_single_writer = accept;
        self
    }

    /// With [`LogChoice::Own`](crate::LogChoice::Own): the log can be kept in the object store as well, for writes that ask for
    /// [`Durability::Remote`](crate::Durability::Remote), as [`Store::put`](crate::Store::put) then does. Any machine can go on
    /// with such a store, from its bucket alone: what was acknowledged as remote is there. What was not is lost then, though
    /// the folder that it was synced to refuses to be opened before that is accepted. Default: off.
    pub fn remote_log(mut self, on: bool) -> Config {
        self.remote_log = on;
        self
    }

    pub(crate) fn mirror_dir(&self) -> PathBuf {
        self.mirror.clone().unwrap_or_else(|| self.local_dir.join("mirror"))
    }

    pub(crate) fn wal_dir(&self) -> PathBuf {
        self.local_dir.join("wal")
    }
}

//! How a worker is set up: where objects are kept, where local files are, how much and how often.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

#[cfg(feature = "s3")]
use lsmstore::objects::{CredentialSource, EndpointUrl};

/// Where objects are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Endpoint {
    /// A folder beside the worker's other files.
    Local,
    /// Memory of the worker: gone with it.
    Memory,
    /// A bucket of a store that speaks S3.
    #[cfg(feature = "s3")]
    S3(S3Endpoint),
}

/// A store that speaks S3.
#[cfg(feature = "s3")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3Endpoint {
    /// Its address.
    pub url: EndpointUrl,
    /// Region that requests are signed for.
    pub region: String,
    /// Bucket in the path instead of the host's name. `None`: yes, unless it is Amazon's.
    pub path_style: Option<bool>,
    /// Certificates of further authorities to trust.
    pub ca_file: Option<PathBuf>,
    /// With what requests are signed.
    pub credentials: CredentialSource,
}

impl Endpoint {
    /// For the status: without anything secret.
    pub(crate) fn name(&self) -> String {
        match self {
            Endpoint::Local => "local".into(),
            Endpoint::Memory => "memory".into(),
            #[cfg(feature = "s3")]
            Endpoint::S3(endpoint) => endpoint.url.to_string(),
        }
    }

    /// Whether both are the same but for credentials.
    fn is_place_of(&self, other: &Endpoint) -> bool {
        match (self, other) {
            #[cfg(feature = "s3")]
            (Endpoint::S3(one), Endpoint::S3(two)) => {
                S3Endpoint { credentials: two.credentials.clone(), ..one.clone() } == *two
            }
            (one, two) => one == two,
        }
    }
}

/// How a worker is set up.
#[derive(Debug, Clone)]
pub struct WorkerConfig {
    /// Folder of the worker, made if missing, for its owner alone: lock, socket, and objects if they are local.
    pub dir: PathBuf,
    /// Folder for the mirrors of tables and index segments; without it, in `dir`. Made if missing; it must be its
    /// owner's alone, and no other worker's.
    pub cache_dir: Option<PathBuf>,
    /// Bytes that mirrors should not exceed. All that is in use is mirrored and stays, however much it is; files that are
    /// not in use go when there is more.
    pub cache_bytes: u64,
    /// Where objects are kept.
    pub endpoint: Endpoint,
    /// Bucket; part of the objects' names for the endpoints that have no buckets.
    pub bucket: String,
    /// Prefix of all names in the bucket; may be empty.
    pub prefix: String,
    /// Bytes of a memtable.
    pub memtable_bytes: usize,
    /// How often what was written is flushed.
    pub flush_interval: Duration,
    /// What may wait for an object store that is slow or down: bytes of tables on the local disk, then writers wait; bytes
    /// of log, then it is kept from the local disk's position on only.
    pub backlog_bytes: u64,
    /// How long what was replaced stays in the bucket: a base backup that is younger can be gone on with.
    pub retention: Duration,
    /// How often the bucket is looked through for what nobody needs any more, and how long at least that stays after it
    /// was found.
    pub collect_every: Duration,
    /// For a bucket that other servers can reach: how often this one says in it that it uses it. `None`: never.
    pub lease: Option<Duration>,
    /// Version of the build, for the status.
    pub version: String,
}

impl WorkerConfig {
    /// The socket on which a worker with this folder serves.
    pub fn socket(dir: &Path) -> PathBuf {
        dir.join("worker.sock")
    }

    /// Objects in memory have folders of their own, so that they touch nothing of what was kept elsewhere before.
    pub(crate) fn store_dir(&self) -> PathBuf {
        self.dir.join(if self.endpoint == Endpoint::Memory { "memory" } else { "store" })
    }

    pub(crate) fn mirror_dir(&self) -> PathBuf {
        match (&self.cache_dir, &self.endpoint) {
            (None, _) => self.store_dir().join("mirror"),
            (Some(dir), Endpoint::Memory) => dir.join("memory/mirror"),
            (Some(dir), _) => dir.join("mirror"),
        }
    }

    /// Empties the folder of objects in memory: what an earlier worker kept there is gone.
    pub(crate) fn forget_memory(&self) -> std::io::Result<()> {
        let dir = self.dir.join("memory");
        match std::fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => DirBuilder::new().recursive(true).mode(0o700).create(&dir),
        }
    }

    pub(crate) fn segments_dir(&self) -> PathBuf {
        self.cache_dir.as_ref().unwrap_or(&self.dir).join("segments")
    }

    pub(crate) fn objects_dir(&self) -> PathBuf {
        self.dir.join("objects")
    }

    pub(crate) fn object_prefix(&self) -> String {
        let bucket = match &self.endpoint {
            #[cfg(feature = "s3")]
            Endpoint::S3(_) => "",
            _ => self.bucket.trim_matches('/'),
        };
        let parts = [bucket, self.prefix.trim_matches('/')];
        parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/")
    }

    /// Where objects are, for people.
    pub(crate) fn place(&self) -> String {
        let prefix = self.object_prefix();
        match &self.endpoint {
            Endpoint::Local | Endpoint::Memory => format!("{} ({prefix})", self.endpoint.name()),
            #[cfg(feature = "s3")]
            Endpoint::S3(_) if prefix.is_empty() => format!("bucket \"{}\" at {}", self.bucket, self.endpoint.name()),
            #[cfg(feature = "s3")]
            Endpoint::S3(_) => format!("prefix \"{prefix}\" of bucket \"{}\" at {}", self.bucket, self.endpoint.name()),
        }
    }

    /// Whether both keep their objects and files in the same places, reached in the same way.
    pub(crate) fn is_place_of(&self, other: &WorkerConfig) -> bool {
        let rest = |config: &WorkerConfig| {
            (config.cache_dir.clone(), config.bucket.clone(), config.prefix.trim_matches('/').to_owned())
        };
        self.endpoint.is_place_of(&other.endpoint) && rest(self) == rest(other)
    }

    pub(crate) fn clean_mark(&self) -> PathBuf {
        self.dir.join("CLEAN")
    }

    /// Whether the last stop was orderly, so that local files are what was written; it is told once.
    pub(crate) fn take_clean_mark(&self) -> bool {
        std::fs::remove_file(self.clean_mark()).is_ok()
    }
}

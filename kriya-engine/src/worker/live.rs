//! Settings that change while the worker runs: what takes effect at once, and what is only asked for.
//!
//! Flush interval, size of memtables, the cache's budget, the retention and credentials take effect. Where objects are does not, while
//! tables are there: they would be elsewhere than where the worker looks.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

#[cfg(feature = "s3")]
use lsmstore::objects::{CredentialSource, S3Credentials};

use crate::worker::config::WorkerConfig;

#[derive(Debug)]
pub(crate) struct Live {
    asked: Mutex<WorkerConfig>,
    changed: AtomicBool,
    pending: Mutex<Option<String>>,
    #[cfg(feature = "s3")]
    credentials: Arc<S3Credentials>,
}

#[cfg(feature = "s3")]
fn credentials_of(config: &WorkerConfig) -> CredentialSource {
    match &config.endpoint {
        crate::worker::Endpoint::S3(endpoint) => endpoint.credentials.clone(),
        _ => CredentialSource::default(),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Live {
    pub(crate) fn new(config: WorkerConfig) -> Arc<Live> {
        Arc::new(Live {
            #[cfg(feature = "s3")]
            credentials: S3Credentials::new(credentials_of(&config)),
            asked: Mutex::new(config),
            changed: AtomicBool::new(false),
            pending: Mutex::new(None),
        })
    }

    /// Takes over new settings.
    pub(crate) fn ask(&self, config: WorkerConfig) {
        #[cfg(feature = "s3")]
        self.credentials.replace(credentials_of(&config));
        *lock(&self.asked) = config;
        self.changed.store(true, Ordering::SeqCst);
    }

    /// The settings that were asked for last.
    pub(crate) fn asked(&self) -> WorkerConfig {
        lock(&self.asked).clone()
    }

    /// Whether they changed since the last call.
    pub(crate) fn take_change(&self) -> bool {
        self.changed.swap(false, Ordering::SeqCst)
    }

    pub(crate) fn flush_interval(&self) -> Duration {
        lock(&self.asked).flush_interval.max(Duration::from_millis(10))
    }

    #[cfg(feature = "s3")]
    pub(crate) fn credentials(&self) -> Arc<S3Credentials> {
        Arc::clone(&self.credentials)
    }

    /// What was asked for and waits for a restart.
    pub(crate) fn pending(&self) -> Option<String> {
        lock(&self.pending).clone()
    }

    pub(crate) fn set_pending(&self, pending: Option<String>) {
        *lock(&self.pending) = pending;
    }
}

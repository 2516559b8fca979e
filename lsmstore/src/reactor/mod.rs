//! What runs background work and tells how time passes: [`Reactor`]. [`TokioReactor`] is the real one,
//! [`DeterministicReactor`] one for tests.
//!
//! Everything that the store does beside its callers is started here and waits here, so that whoever gives it another
//! reactor decides in which order things happen and how long they take.

mod deterministic;
mod state;
mod workers;

use std::fmt::Debug;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::runtime::Handle;

pub use deterministic::{DeterministicReactor, Stalled};

/// Runs background work and tells how time passes.
pub trait Reactor: Send + Sync + Debug + 'static {
    /// Time since some fixed moment; never goes back.
    fn monotonic(&self) -> Duration;
    /// Ends after this time, and not before.
    fn sleep(&self, time: Duration) -> BoxFuture<'static, ()>;
    /// Waits, where it may block.
    fn pause(&self, time: Duration);
    /// Runs `job` in the background.
    fn spawn(&self, job: BoxFuture<'static, ()>);
    /// Runs `job` where it may block.
    fn spawn_blocking(&self, job: Box<dyn FnOnce() + Send>);
}

/// Runs work on the tokio runtime of whoever made this, or of whoever calls; without any on threads of its own.
#[derive(Clone, Debug)]
pub struct TokioReactor {
    runtime: Option<Handle>,
}

impl TokioReactor {
    /// Uses the runtime that this is called in, if any.
    pub fn new() -> TokioReactor {
        TokioReactor { runtime: Handle::try_current().ok() }
    }

    /// Uses this runtime, which needs a timer.
    pub fn on(runtime: Handle) -> TokioReactor {
        TokioReactor { runtime: Some(runtime) }
    }

    fn runtime(&self) -> Option<Handle> {
        self.runtime.clone().or_else(|| Handle::try_current().ok())
    }
}

impl Default for TokioReactor {
    fn default() -> Self {
        TokioReactor::new()
    }
}

impl Reactor for TokioReactor {
    fn monotonic(&self) -> Duration {
        static START: OnceLock<Instant> = OnceLock::new();
        START.get_or_init(Instant::now).elapsed()
    }

    fn sleep(&self, time: Duration) -> BoxFuture<'static, ()> {
        match self.runtime() {
            Some(runtime) => {
                let _within = runtime.enter();
                tokio::time::sleep(time).boxed()
            }
            None => {
                let (send, over) = tokio::sync::oneshot::channel::<()>();
                std::thread::spawn(move || {
                    std::thread::sleep(time);
                    drop(send);
                });
                over.map(drop).boxed()
            }
        }
    }

    fn pause(&self, time: Duration) {
        std::thread::sleep(time);
    }

    fn spawn(&self, job: BoxFuture<'static, ()>) {
        match self.runtime() {
            Some(runtime) => drop(runtime.spawn(job)),
            None => drop(std::thread::spawn(move || futures::executor::block_on(job))),
        }
    }

    fn spawn_blocking(&self, job: Box<dyn FnOnce() + Send>) {
        match self.runtime() {
            Some(runtime) => drop(runtime.spawn_blocking(job)),
            None => drop(std::thread::spawn(job)),
        }
    }
}

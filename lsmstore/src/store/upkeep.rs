//! Background work for owners who want none of it themselves: what [`Store::wants_flush`], [`Store::wants_merge`] and
//! [`Store::wants_publish`] ask for is done as soon as they do.
//!
//! Flushes, merges of upper and of deep levels, and publishing go on side by side: a long merge keeps no memtable waiting, and
//! an object store that is slow keeps nothing else. Each is woken by views, for what is due begins with one, and by the others
//! when they have done something; so an idle store does nothing, not even look.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::watch;

use crate::env::Env;
use crate::error::FlushError;
use crate::store::{FlushOptions, Inner, MergePolicy, Store};

/// How long to wait after a failure: doubled from one to the other.
const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(10);

/// Ends upkeep between two jobs, so that none is left half-way when the next thing is done.
#[derive(Debug)]
pub(crate) struct Stop(watch::Sender<bool>);

impl Default for Stop {
    fn default() -> Self {
        Stop(watch::Sender::new(false))
    }
}

impl Stop {
    pub(crate) fn now(&self) {
        self.0.send_replace(true);
    }

    fn wanted(&self) -> bool {
        *self.0.borrow()
    }

    async fn come(&self) {
        // The sender is here.
        let _ = self.0.subscribe().wait_for(|wanted| *wanted).await;
    }
}

/// What one of the loops does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Job {
    Flush,
    Merge,
    Publish,
}

impl Store {
    /// Flushes, merges and publishes whatever is due, until the store is closed, fenced, poisoned, or gone with its last
    /// handle (of which this holds none). What fails is tried again after a while, and counted in [`Store::stats`].
    ///
    /// One for each store is enough. With the usual [`SystemEnv`](crate::SystemEnv) it needs a tokio runtime with a timer:
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::sync::Arc;
    /// use lsmstore::{KeepAll, Store};
    ///
    /// let store = Store::in_memory().await?;
    /// let upkeep = tokio::spawn(store.upkeep(Arc::new(KeepAll)));
    /// store.put(b"key", b"value").await?;
    /// drop(store);
    /// upkeep.await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn upkeep(&self, policy: Arc<dyn MergePolicy>) -> impl Future<Output = ()> + Send + 'static {
        self.upkeep_until(policy, Arc::default())
    }

    /// As [`Store::upkeep`], until it is told to stop as well.
    pub(crate) fn upkeep_until(
        &self,
        policy: Arc<dyn MergePolicy>,
        stop: Arc<Stop>,
    ) -> impl Future<Output = ()> + Send + 'static {
        let (woken, wakes) = watch::channel(());
        // The sender goes with the store, which ends the work.
        self.on_view_change(Box::new(move |_| woken.send_replace(())));
        let ended = self.inner.ended.subscribe();
        let store = Arc::downgrade(&self.inner);
        let env = Arc::clone(&self.inner.env);
        async move {
            let upkeep = Upkeep { store, env, wakes, ended, policy, stop: &stop, done: watch::Sender::new(()) };
            upkeep.keep().await
        }
    }
}

/// What the loops share. Of the store it holds nothing that keeps it open.
struct Upkeep<'a> {
    store: Weak<Inner>,
    env: Arc<dyn Env>,
    wakes: watch::Receiver<()>,
    /// The store refuses everything.
    ended: watch::Receiver<bool>,
    policy: Arc<dyn MergePolicy>,
    stop: &'a Stop,
    done: watch::Sender<()>,
}

impl Upkeep<'_> {
    async fn keep(&self) {
        let each = |job| self.repeat(job);
        // Two merge: one may be long. In order, so that nothing but the reactor decides what is done first.
        tokio::join!(biased; each(Job::Flush), each(Job::Merge), each(Job::Merge), each(Job::Publish));
    }

    /// Does a job whenever it is due.
    async fn repeat(&self, job: Job) {
        let Upkeep { store, env, wakes, ended, policy, stop, done } = self;
        let (mut wakes, mut ended) = (wakes.clone(), ended.clone());
        let mut others = done.subscribe();
        let mut pause = SHORTEST;
        loop {
            wakes.borrow_and_update();
            others.borrow_and_update();
            let Some(inner) = store.upgrade() else { return };
            if inner.usable().is_err() || stop.wanted() {
                return;
            }
            // Held no longer than that, or a store that is dropped would stay open through a pause.
            let outcome = (Store { inner }).do_if_due(job, policy).await;
            match outcome {
                Ok(true) => {
                    pause = SHORTEST;
                    done.send_replace(());
                    continue;
                }
                Ok(false) => pause = SHORTEST,
                Err(FlushError::Unusable(_)) => return,
                Err(_) => {
                    tokio::select! {
                        biased;
                        () = env.reactor().sleep(pause) => {}
                        () = stop.come() => {}
                        _ = ended.wait_for(|ended| *ended) => return,
                        woken = wakes.changed() => if woken.is_err() { return },
                    }
                    pause = (pause * 2).min(LONGEST);
                    continue;
                }
            }
            tokio::select! {
                biased;
                _ = ended.wait_for(|ended| *ended) => return,
                woken = wakes.changed() => if woken.is_err() { return },
                _ = others.changed() => {}
                () = stop.come() => {}
            }
        }
    }
}

impl Store {
    /// Whether there was anything to do.
    async fn do_if_due(&self, job: Job, policy: &Arc<dyn MergePolicy>) -> Result<bool, FlushError> {
        match job {
            Job::Flush if self.wants_flush() => self.flush_local(FlushOptions::default()).await.map(|_| true),
            // There is nothing left if another one did it.
            Job::Merge if self.wants_merge() => Ok(self.merge_local(Arc::clone(policy)).await?.inputs > 0),
            Job::Publish if self.wants_publish() => self.publish().await,
            _ => Ok(false),
        }
    }
}

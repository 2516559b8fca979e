//! Background work for owners who want none of it themselves: what [`Store::wants_flush`], [`Store::wants_merge`] and
//! [`Store::wants_publish`] ask for is done as soon as they do.
//!
//! It is woken by views alone, for each of those three begins with one; so an idle store does nothing, not even look.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::{Notify, watch};

use crate::error::FlushError;
use crate::store::{FlushOptions, Inner, MergePolicy, Store};

/// How long to wait after a failure: doubled from one to the other.
const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(10);

/// Ends upkeep between two jobs, so that none is left half-way when the next thing is done.
#[derive(Debug, Default)]
pub(crate) struct Stop {
    wanted: AtomicBool,
    woken: Notify,
}

impl Stop {
    pub(crate) fn now(&self) {
        self.wanted.store(true, Ordering::Release);
        self.woken.notify_one();
    }

    fn wanted(&self) -> bool {
        self.wanted.load(Ordering::Acquire)
    }
}

impl Store {
    /// Flushes, merges and publishes whatever is due, until the store is closed, fenced, poisoned, or gone with its last
    /// handle (of which this holds none). What fails is tried again after a while, and counted in [`Store::stats`].
    ///
    /// One for each store is enough; it needs a tokio runtime with a timer:
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
        let store = Arc::downgrade(&self.inner);
        async move { keep(store, wakes, policy, &stop).await }
    }
}

async fn keep(store: Weak<Inner>, mut wakes: watch::Receiver<()>, policy: Arc<dyn MergePolicy>, stop: &Stop) {
    let mut pause = SHORTEST;
    loop {
        wakes.borrow_and_update();
        let Some(inner) = store.upgrade() else { return };
        if inner.usable().is_err() || stop.wanted() {
            return;
        }
        let done = (Store { inner }).do_what_is_due(&policy, stop).await;
        match done {
            Ok(()) => {
                pause = SHORTEST;
                tokio::select! {
                    woken = wakes.changed() => if woken.is_err() { return },
                    () = stop.woken.notified() => {}
                }
            }
            Err(FlushError::Unusable(_)) => return,
            Err(_) => {
                // A memtable that is full does not wait for what failed.
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = stop.woken.notified() => {}
                    woken = wakes.changed() => if woken.is_err() { return },
                }
                pause = (pause * 2).min(LONGEST);
            }
        }
    }
}

impl Store {
    async fn do_what_is_due(&self, policy: &Arc<dyn MergePolicy>, stop: &Stop) -> Result<(), FlushError> {
        while !stop.wanted() {
            let mut failed = None;
            if self.wants_flush() {
                self.flush_local(FlushOptions::default()).await?;
            } else if self.wants_merge() {
                match self.merge_local(Arc::clone(policy)).await {
                    Ok(merged) if merged.inputs == 0 && !self.wants_publish() => return Ok(()),
                    merged => failed = merged.err(),
                }
            } else if !self.wants_publish() {
                return Ok(());
            }
            // A merge that fails keeps nothing from the object store.
            if self.wants_publish() {
                self.publish().await?;
            }
            if let Some(error) = failed {
                return Err(error);
            }
        }
        Ok(())
    }
}

//! The faults of a running server: they can be changed at any time, and whoever waits because of one hears of it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::fault::{Fault, Kind, Operation, Plan};

#[derive(Debug)]
pub(crate) struct Faults {
    plan: Mutex<Plan>,
    /// Counts changes; what waits because of a fault waits for the next.
    changed: watch::Sender<u64>,
    struck: AtomicU64,
}

impl Default for Faults {
    fn default() -> Faults {
        Faults { plan: Mutex::default(), changed: watch::Sender::new(0), struck: AtomicU64::new(0) }
    }
}

impl Faults {
    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set(&self, faults: Vec<Fault>) {
        *self.plan() = Plan::new(faults);
        self.changed.send_modify(|count| *count += 1);
    }

    pub(crate) fn get(&self) -> Vec<Fault> {
        self.plan().faults().cloned().collect()
    }

    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    pub(crate) fn struck(&self) -> u64 {
        self.struck.load(Ordering::Relaxed)
    }

    pub(crate) fn is_down(&self) -> bool {
        self.plan().faults().any(|fault| fault.kind == Kind::Down)
    }

    /// The kinds of failure that strike this request.
    pub(crate) fn strike(&self, operation: Operation, path: &str) -> Vec<Kind> {
        let kinds = self.plan().strike(operation, path);
        self.struck.fetch_add(kinds.len() as u64, Ordering::Relaxed);
        kinds
    }
}

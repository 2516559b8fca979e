//! What is readable at one moment, and who holds it.
//!
//! Whoever changes something (the store, an index) makes the change visible in its own place first and then raises the
//! published number ([`Control::publish`]); a view is put together when a session asks for it. It is numbered by what was
//! published before it was read, so it contains at least everything of that number.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use lsmstore::{Store, Unusable, View};

use crate::control::{Control, SLOTS};
use crate::worker::indexes::{IndexState, Indexes};

/// Everything readable at one moment.
pub(crate) struct EngineView {
    pub number: u64,
    pub store: Arc<View>,
    pub indexes: HashMap<u64, Arc<IndexState>>,
}

pub(crate) struct Views {
    control: Arc<Control>,
    newest: Mutex<Option<Arc<EngineView>>>,
    handed: Mutex<HashMap<usize, Vec<Arc<EngineView>>>>,
}

impl Views {
    pub(crate) fn new(control: Arc<Control>) -> Views {
        Views { control, newest: Mutex::new(None), handed: Mutex::new(HashMap::new()) }
    }

    fn newest(&self, store: &Store, indexes: &Indexes) -> Result<Arc<EngineView>, Unusable> {
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let number = self.control.number();
        if let Some(view) = newest.as_ref().filter(|view| view.number == number) {
            return Ok(Arc::clone(view));
        }
        let view = Arc::new(EngineView { number, store: store.view()?, indexes: indexes.states() });
        *newest = Some(Arc::clone(&view));
        Ok(view)
    }

    /// The newest view, pinned in the session's slot and kept for it.
    pub(crate) fn hand_out(&self, slot: usize, store: &Store, indexes: &Indexes) -> Result<Arc<EngineView>, Unusable> {
        let view = self.newest(store, indexes)?;
        {
            let mut handed = self.handed.lock().unwrap_or_else(PoisonError::into_inner);
            let views = handed.entry(slot).or_default();
            if views.last().is_none_or(|last| last.number != view.number) {
                views.push(Arc::clone(&view));
            }
            // Under the lock: a pruning thread must find the view pinned.
            self.control.slot(slot).store(view.number, Ordering::SeqCst);
        }
        self.prune();
        Ok(view)
    }

    /// The view of that number which the session was handed, if it is still kept for it.
    pub(crate) fn of(&self, slot: usize, number: u64) -> Option<Arc<EngineView>> {
        let handed = self.handed.lock().unwrap_or_else(PoisonError::into_inner);
        handed.get(&slot)?.iter().rev().find(|view| view.number == number).map(Arc::clone)
    }

    /// Drops what no session can pin any more: not the newest, and not in the slot.
    pub(crate) fn prune(&self) {
        let mut dropped = Vec::new();
        {
            let mut handed = self.handed.lock().unwrap_or_else(PoisonError::into_inner);
            let number = self.control.number();
            for (slot, views) in handed.iter_mut() {
                let pinned = self.control.slot(*slot).load(Ordering::SeqCst);
                let (keep, drop) =
                    std::mem::take(views).into_iter().partition(|view| view.number == number || view.number == pinned);
                *views = keep;
                let _: &Vec<Arc<EngineView>> = &drop;
                dropped.push(drop);
            }
        }
        {
            let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
            let number = self.control.number();
            if newest.as_ref().is_some_and(|view| view.number != number) {
                dropped.push(newest.take().into_iter().collect());
            }
        }
        // Dropping may unlink files: not under the locks.
        drop(dropped);
    }

    /// A session ended.
    pub(crate) fn release(&self, slot: usize) {
        debug_assert!(slot < SLOTS);
        self.control.slot(slot).store(0, Ordering::SeqCst);
        let views = self.handed.lock().unwrap_or_else(PoisonError::into_inner).remove(&slot);
        drop(views);
    }
}

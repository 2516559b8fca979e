//! What is being fetched at the moment, so that nobody fetches it a second time.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// Things that are under way, each with whoever waits for it.
#[derive(Debug)]
pub(super) struct Flights<K>(Arc<Mutex<HashMap<K, watch::Receiver<()>>>>);

impl<K> Default for Flights<K> {
    fn default() -> Flights<K> {
        Flights(Arc::default())
    }
}

/// Somebody fetches this. Dropped when it is there, or failed, or nobody wants it any more.
#[derive(Debug)]
pub(super) struct Claim<K: Eq + Hash> {
    flights: Arc<Mutex<HashMap<K, watch::Receiver<()>>>>,
    keys: Vec<K>,
    /// Closed by being dropped, which wakes all who wait.
    _done: watch::Sender<()>,
}

fn lock<K>(map: &Mutex<HashMap<K, watch::Receiver<()>>>) -> MutexGuard<'_, HashMap<K, watch::Receiver<()>>> {
    // Each change is one insertion or removal.
    map.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<K: Eq + Hash + Clone> Flights<K> {
    /// Takes those that nobody fetches; of the others, one to wait for. `wanted` is asked while nothing can begin.
    pub(super) fn claim(
        &self,
        keys: impl Iterator<Item = K>,
        wanted: impl Fn(&K) -> bool,
    ) -> (Option<Claim<K>>, Option<watch::Receiver<()>>) {
        let (done, landed) = watch::channel(());
        let (mut mine, mut other) = (Vec::new(), None);
        let mut map = lock(&self.0);
        for key in keys.filter(wanted) {
            match map.get(&key) {
                Some(flight) => other = Some(flight.clone()),
                None => {
                    map.insert(key.clone(), landed.clone());
                    mine.push(key);
                }
            }
        }
        drop(map);
        let claim = Claim { flights: Arc::clone(&self.0), keys: mine, _done: done };
        ((!claim.keys.is_empty()).then_some(claim), other)
    }
}

impl<K: Eq + Hash> Claim<K> {
    pub(super) fn keys(&self) -> &[K] {
        &self.keys
    }
}

impl<K: Eq + Hash> Drop for Claim<K> {
    fn drop(&mut self) {
        let mut map = lock(&self.flights);
        for key in &self.keys {
            map.remove(key);
        }
    }
}

/// Waits until what somebody else fetches has come, or has failed.
pub(super) async fn landed(mut flight: watch::Receiver<()>) {
    // Nothing is ever sent: the error says that the sender is gone.
    let _ = flight.changed().await;
}

//! What is being fetched at the moment, so that nobody fetches it a second time.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::FutureExt;
use futures::future::{BoxFuture, Shared, WeakShared};

use crate::error::StorageError;

/// Something that is under way. All who wait for it move it on, and share its outcome; it ends when nobody does.
pub(super) type Flight<T> = Shared<Fetching<T>>;
/// What is waited for.
pub(super) type Fetching<T> = BoxFuture<'static, Result<T, StorageError>>;

/// Things that are under way.
pub(super) struct Flights<K, T: Clone>(Arc<Mutex<UnderWay<K, T>>>);

struct UnderWay<K, T: Clone> {
    /// Of the next flight.
    number: u64,
    of: HashMap<K, (u64, WeakShared<Fetching<T>>)>,
}

impl<K, T: Clone> Default for Flights<K, T> {
    fn default() -> Flights<K, T> {
        Flights(Arc::new(Mutex::new(UnderWay { number: 0, of: HashMap::new() })))
    }
}

/// Dropped when it is there, or failed, or nobody wants it any more.
struct Landing<K: Eq + Hash, T: Clone> {
    flights: Arc<Mutex<UnderWay<K, T>>>,
    number: u64,
    keys: Vec<K>,
}

fn lock<K, T: Clone>(map: &Mutex<UnderWay<K, T>>) -> MutexGuard<'_, UnderWay<K, T>> {
    // Each change is one insertion or removal.
    map.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<K: Eq + Hash + Clone + Send + 'static, T: Clone + Send + Sync + 'static> Flights<K, T> {
    /// What brings those that are `wanted`, which is asked while nothing can begin: flights that are under way, and one for
    /// those that nobody fetches, made by `fetch`.
    pub(super) fn board(
        &self,
        keys: impl Iterator<Item = K>,
        wanted: impl Fn(&K) -> bool,
        fetch: impl FnOnce(Vec<K>) -> Fetching<T>,
    ) -> Vec<Flight<T>> {
        let mut flights: Vec<Flight<T>> = Vec::new();
        let mut mine = Vec::new();
        let mut map = lock(&self.0);
        for key in keys.filter(wanted) {
            match map.of.get(&key).and_then(|(_, flight)| flight.upgrade()) {
                Some(flight) if flights.iter().any(|other| other.ptr_eq(&flight)) => {}
                Some(flight) => flights.push(flight),
                None => mine.push(key),
            }
        }
        if !mine.is_empty() {
            let number = map.number;
            map.number += 1;
            let landing = Landing { flights: Arc::clone(&self.0), number, keys: mine.clone() };
            let fetching = fetch(mine.clone());
            let flight = async move {
                let _landing = landing;
                fetching.await
            };
            let flight = flight.boxed().shared();
            if let Some(weak) = flight.downgrade() {
                map.of.extend(mine.into_iter().map(|key| (key, (number, weak.clone()))));
            }
            flights.push(flight);
        }
        flights
    }
}

impl<K: Eq + Hash, T: Clone> Drop for Landing<K, T> {
    fn drop(&mut self) {
        let mut map = lock(&self.flights);
        for key in &self.keys {
            // Once nobody wants this one, another may begin before this is dropped.
            if map.of.get(key).is_some_and(|(number, _)| *number == self.number) {
                map.of.remove(key);
            }
        }
    }
}

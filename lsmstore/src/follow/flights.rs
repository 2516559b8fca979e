//! What is being fetched at the moment, so that nobody fetches it a second time.
//!
//! A fetch is a task of its own: it goes on whoever of those who wait is looked after, ends when nobody waits any more, and
//! its outcome is everybody's.

use std::collections::HashMap;
use std::hash::Hash;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use futures::FutureExt;
use futures::future::{Either, select};
use tokio::sync::Notify;

use crate::env::Env;
use crate::error::StorageError;

type Outcome<T> = Result<T, StorageError>;

/// Something that is under way, as long as somebody holds this.
#[derive(Debug)]
pub(super) struct Flight<T>(Arc<Course<T>>);

#[derive(Debug)]
struct Course<T> {
    outcome: OnceLock<Outcome<T>>,
    landed: Notify,
    given_up: Notify,
}

impl<T: Clone> Flight<T> {
    /// Waits for it.
    pub(super) async fn landed(&self) -> Outcome<T> {
        loop {
            let mut landed = pin!(self.0.landed.notified());
            // From here on nothing is missed.
            landed.as_mut().enable();
            match self.0.outcome.get() {
                Some(outcome) => return outcome.clone(),
                None => landed.await,
            }
        }
    }
}

impl<T> Drop for Flight<T> {
    fn drop(&mut self) {
        self.0.given_up.notify_one();
    }
}

/// Things that are under way.
#[derive(Debug)]
pub(super) struct Flights<K, T>(Arc<Mutex<UnderWay<K, T>>>);

#[derive(Debug)]
struct UnderWay<K, T> {
    /// Of the next flight.
    number: u64,
    of: HashMap<K, (u64, Weak<Flight<T>>)>,
}

impl<K, T> Default for Flights<K, T> {
    fn default() -> Flights<K, T> {
        Flights(Arc::new(Mutex::new(UnderWay { number: 0, of: HashMap::new() })))
    }
}

/// Dropped when it is there, or failed, or nobody wants it any more.
struct Landing<K: Eq + Hash, T> {
    flights: Arc<Mutex<UnderWay<K, T>>>,
    number: u64,
    keys: Vec<K>,
    course: Arc<Course<T>>,
}

fn lock<K, T>(map: &Mutex<UnderWay<K, T>>) -> MutexGuard<'_, UnderWay<K, T>> {
    // Each change is one insertion or removal.
    map.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<K: Eq + Hash + Clone + Send + 'static, T: Clone + Send + Sync + 'static> Flights<K, T> {
    /// What brings those that are `wanted`, which is asked while nothing can begin: flights that are under way, and one for
    /// those that nobody fetches, made by `fetch`.
    pub(super) fn board<F: Future<Output = Outcome<T>> + Send + 'static>(
        &self,
        env: &dyn Env,
        keys: impl Iterator<Item = K>,
        wanted: impl Fn(&K) -> bool,
        fetch: impl FnOnce(Vec<K>) -> F,
    ) -> Vec<Arc<Flight<T>>> {
        let mut flights: Vec<Arc<Flight<T>>> = Vec::new();
        let mut mine = Vec::new();
        let mut map = lock(&self.0);
        for key in keys.filter(wanted) {
            match map.of.get(&key).and_then(|(_, flight)| flight.upgrade()) {
                Some(flight) if flights.iter().any(|other| Arc::ptr_eq(other, &flight)) => {}
                Some(flight) => flights.push(flight),
                None => mine.push(key),
            }
        }
        if mine.is_empty() {
            return flights;
        }
        let (outcome, landed, given_up) = (OnceLock::new(), Notify::new(), Notify::new());
        let course = Arc::new(Course { outcome, landed, given_up });
        let flight = Arc::new(Flight(Arc::clone(&course)));
        let number = map.number;
        map.number += 1;
        map.of.extend(mine.iter().map(|key| (key.clone(), (number, Arc::downgrade(&flight)))));
        drop(map);
        flights.push(flight);
        let landing = Landing { flights: Arc::clone(&self.0), number, keys: mine.clone(), course };
        let fetching = AssertUnwindSafe(fetch(mine)).catch_unwind();
        env.reactor().spawn(Box::pin(async move {
            let given_up = landing.course.given_up.notified();
            if let Either::Left((Ok(fetched), _)) = select(Box::pin(fetching), pin!(given_up)).await {
                // Nobody else sets it before this has ended.
                let _ = landing.course.outcome.set(fetched);
            }
        }));
        flights
    }
}

impl<K: Eq + Hash, T> Drop for Landing<K, T> {
    fn drop(&mut self) {
        // If it is not there, the task was lost.
        let _ = self.course.outcome.set(Err(StorageError::JobLost));
        self.course.landed.notify_waiters();
        let mut map = lock(&self.flights);
        for key in &self.keys {
            // Once nobody wants this one, another may begin before this is dropped.
            if map.of.get(key).is_some_and(|(number, _)| *number == self.number) {
                map.of.remove(key);
            }
        }
    }
}

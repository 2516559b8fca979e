//! Who is connected: slots of the control region, sockets to be cut, and which sessions are in a writing transaction.

use std::collections::{BTreeMap, HashSet};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::control::SLOTS;
use crate::worker::fence::{Activity, Doing, Fences};

#[derive(Default)]
struct Connected {
    /// Those who have not said yet who they are.
    guests: BTreeMap<u64, Arc<UnixStream>>,
    next_guest: u64,
    seated: BTreeMap<usize, (Arc<UnixStream>, Arc<Activity>)>,
    writing: HashSet<usize>,
    /// No new session and no new writing transaction.
    closing: bool,
    /// When somebody was first turned away because of that, of those who have come again since, and when that was last.
    turned_away: Option<(Instant, Instant)>,
}

/// Who waits for the next worker asks more often than this.
const ASKS_AGAIN: Duration = Duration::from_secs(2);

impl Connected {
    fn may_write(&mut self, slot: usize) -> bool {
        self.writing.contains(&slot) || !self.turns_away()
    }

    /// Whether newcomers are to wait for the next worker.
    fn turns_away(&mut self) -> bool {
        if self.closing {
            let now = Instant::now();
            let first = self.turned_away.filter(|(_, last)| now - *last < ASKS_AGAIN).map_or(now, |(first, _)| first);
            self.turned_away = Some((first, now));
        }
        self.closing
    }
}

/// All sessions.
#[derive(Default)]
pub(crate) struct Sessions {
    connected: Mutex<Connected>,
    changed: Condvar,
    fences: Arc<Fences>,
}

impl Sessions {
    fn lock(&self) -> MutexGuard<'_, Connected> {
        self.connected.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody at the door: so that a socket is cut with the others while its greeting is awaited. `None` if the worker
    /// is stopping.
    pub(crate) fn greet(&self, socket: &Arc<UnixStream>) -> Option<u64> {
        let mut connected = self.lock();
        if connected.turns_away() {
            return None;
        }
        let guest = connected.next_guest;
        connected.next_guest += 1;
        connected.guests.insert(guest, Arc::clone(socket));
        Some(guest)
    }

    /// A slot for who was at the door and is welcome, or `None` if there is none left or the worker is stopping.
    pub(crate) fn seat(&self, guest: u64, welcome: bool) -> Option<(usize, Arc<Activity>)> {
        let mut connected = self.lock();
        let socket = connected.guests.remove(&guest)?;
        if connected.turns_away() || !welcome {
            return None;
        }
        let slot = (0..SLOTS).find(|slot| !connected.seated.contains_key(slot))?;
        let activity = Arc::new(Activity::new(&self.fences));
        connected.seated.insert(slot, (socket, Arc::clone(&activity)));
        Some((slot, activity))
    }

    pub(crate) fn end(&self, slot: usize) {
        let mut connected = self.lock();
        let seated = connected.seated.remove(&slot);
        connected.writing.remove(&slot);
        drop(connected);
        if let Some((_, activity)) = seated {
            activity.set(Doing::Over);
        }
        self.changed.notify_all();
    }

    /// Whether the session may write: not if its transaction would be a new one while the worker is stopping.
    pub(crate) fn begin_writing(&self, slot: usize) -> bool {
        let mut connected = self.lock();
        let may = connected.may_write(slot);
        if may {
            connected.writing.insert(slot);
        }
        may
    }

    /// As [`Sessions::begin_writing`], without beginning.
    pub(crate) fn may_write(&self, slot: usize) -> bool {
        self.lock().may_write(slot)
    }

    pub(crate) fn end_writing(&self, slot: usize) {
        let mut connected = self.lock();
        if connected.writing.remove(&slot) {
            drop(connected);
            self.changed.notify_all();
        }
    }

    pub(crate) fn close(&self) {
        self.lock().closing = true;
    }

    pub(crate) fn count(&self) -> u32 {
        self.lock().seated.len() as u32
    }

    /// Cuts those off that write, if newcomers have been coming back for `patience` to see whether they are done. What they
    /// wait for may be a newcomer, through a lock that the worker does not know of; and one of them may be idle for ever.
    pub(crate) fn cut_writers_after(&self, patience: Duration) {
        let connected = self.lock();
        let waits = |(first, last): (Instant, Instant)| first.elapsed() >= patience && last.elapsed() < ASKS_AGAIN;
        if !connected.turned_away.is_some_and(waits) {
            return;
        }
        for slot in &connected.writing {
            // A socket whose other end is gone is cut already.
            let _ = connected.seated.get(slot).map(|(socket, _)| socket.shutdown(Shutdown::Both));
        }
    }

    /// Waits until no session writes, or `timeout`; says which.
    pub(crate) fn wait_for_writers(&self, timeout: Duration) -> bool {
        self.wait(timeout, |connected| connected.writing.is_empty())
    }

    fn wait(&self, timeout: Duration, done: impl Fn(&Connected) -> bool) -> bool {
        let deadline = Instant::now() + timeout;
        let mut connected = self.lock();
        while !done(&connected) {
            let Some(left) = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) else {
                return false;
            };
            connected = self.changed.wait_timeout(connected, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Waits until nothing is on its way that any session sent before; false if `give_up` said so first.
    pub(crate) fn fence(&self, give_up: impl Fn() -> bool) -> bool {
        let sessions: Vec<_> = self.lock().seated.values().cloned().collect();
        self.fences.wait(&sessions, give_up)
    }

    /// Cuts every connection.
    pub(crate) fn cut(&self) {
        let connected = self.lock();
        for socket in connected.seated.values().map(|(socket, _)| socket).chain(connected.guests.values()) {
            // A socket whose other end is gone is cut already.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

//! Waiting until nothing that was sent before is still on its way.
//!
//! A session may be cut short while a request of it lies in the socket: its transaction is over for everyone before the
//! worker has read that request. VACUUM must not give a row's place to another row before such a request has been
//! applied or thrown away, so it asks for a fence first: the answer comes when every session's socket was seen empty and
//! its thread idle thereafter.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};

/// How often a waiting fence looks whether it should give up.
const PATIENCE: Duration = Duration::from_millis(100);

/// What the thread of a session does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Doing {
    /// It has answered everything it has received.
    Nothing = 0,
    /// It has received something, or is about to.
    Request = 1,
    /// It is at something long that changes no rows and no entries of others, with nothing behind it.
    Long = 2,
    /// It serves no more.
    Over = 3,
}

/// What one session does, for all to see.
#[derive(Debug)]
pub(crate) struct Activity {
    doing: AtomicU8,
    fences: Arc<Fences>,
}

/// Who waits for sessions to become quiet.
#[derive(Debug, Default)]
pub(crate) struct Fences {
    waiting: AtomicUsize,
    lock: Mutex<()>,
    changed: Condvar,
}

impl Activity {
    pub(crate) fn new(fences: &Arc<Fences>) -> Activity {
        Activity { doing: AtomicU8::new(Doing::Nothing as u8), fences: Arc::clone(fences) }
    }

    /// Says what comes now.
    pub(crate) fn set(&self, doing: Doing) {
        self.doing.store(doing as u8, Ordering::SeqCst);
        if doing != Doing::Request && self.fences.waiting.load(Ordering::SeqCst) > 0 {
            drop(self.fences.lock.lock().unwrap_or_else(PoisonError::into_inner));
            self.fences.changed.notify_all();
        }
    }

    /// Waits for something to receive from the socket: idle before, busy when this returns.
    pub(crate) fn await_request(&self, socket: &UnixStream) -> io::Result<()> {
        self.set(Doing::Nothing);
        loop {
            match rustix::event::poll(&mut [PollFd::new(socket, PollFlags::IN)], None) {
                Err(rustix::io::Errno::INTR) => {}
                other => {
                    self.set(Doing::Request);
                    return other.map(drop).map_err(io::Error::from);
                }
            }
        }
    }

    /// True if whatever the session sent before this call has been answered, or never will be.
    fn is_quiet(&self, socket: &UnixStream) -> bool {
        // In this order: what is no longer in the socket was received by a thread that had said so before.
        let empty = matches!(rustix::io::ioctl_fionread(socket.as_fd()), Ok(0) | Err(_));
        match self.doing.load(Ordering::SeqCst) {
            doing if doing == Doing::Nothing as u8 => empty,
            doing => doing != Doing::Request as u8,
        }
    }
}

impl Fences {
    /// Waits until each of these has been quiet once; false if `give_up` said so before.
    pub(crate) fn wait(&self, sessions: &[(Arc<UnixStream>, Arc<Activity>)], give_up: impl Fn() -> bool) -> bool {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let all = sessions.iter().all(|(socket, activity)| {
            let mut lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
            while !activity.is_quiet(socket) {
                if give_up() {
                    return false;
                }
                lock = self.changed.wait_timeout(lock, PATIENCE).unwrap_or_else(PoisonError::into_inner).0;
            }
            true
        });
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        all
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn a_fence_waits_for_what_was_sent_before_it_and_not_for_half_a_message_or_long_work() {
        let fences = Arc::new(Fences::default());
        let activity = Arc::new(Activity::new(&fences));
        let (mut mine, theirs) = UnixStream::pair().unwrap();
        let session = [(Arc::new(theirs), Arc::clone(&activity))];
        assert!(fences.wait(&session, || true), "nothing was sent");
        mine.write_all(b"r").unwrap();
        assert!(!fences.wait(&session, || true), "it lies in the socket");
        activity.await_request(&session[0].0).unwrap();
        (&*session[0].0).read_exact(&mut [0]).unwrap();
        assert!(!fences.wait(&session, || true), "it is being answered");
        activity.set(Doing::Long);
        assert!(fences.wait(&session, || true));
        activity.set(Doing::Request);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| fences.wait(&session, || false));
            while fences.waiting.load(Ordering::SeqCst) == 0 {
                std::thread::yield_now();
            }
            activity.set(Doing::Nothing);
            assert!(waiting.join().unwrap());
        });
        mine.write_all(b"r").unwrap();
        activity.set(Doing::Over);
        assert!(fences.wait(&session, || true), "nobody will read it");
    }
}

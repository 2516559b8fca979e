//! The control region: a few words of shared memory that the worker and all sessions write.
//!
//! ```text
//! 0 magic u64 | 8 version u32 | 12 state u32 | 16 generation u64 | 64 view number u64 | 128 slots u64 * 1024
//! ```
//! Everything is an atomic. The worker alone writes state, generation and number. A slot belongs to one session and
//! holds the number of the view that it reads, 0 when it reads nothing:
//!
//! * when the worker hands out a view it writes the number into the session's slot itself, so there is no moment in
//!   which the session holds a view that is not pinned;
//! * the session unpins by storing 0, and pins a view that it still holds by storing the number and then looking whether
//!   the published number is still the same: if not, it asks;
//! * the worker drops what it handed out only when the published number moved on and the slot holds another number.
//!   Both sides use SeqCst for slot and number, so one of them sees the other.
//!
//! A hostile session can only lie about its own pin: the worker reads nothing else from here.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use kriya_region::Region;

use crate::error::FormatError;

/// Sessions that can be connected at once.
pub const SLOTS: usize = 1024;

/// Bytes of the region.
pub(crate) const BYTES: usize = 3 * 4096;

const MAGIC: u64 = u64::from_le_bytes(*b"KRIYACTL");
const VERSION: u32 = 1;
const SLOTS_AT: usize = 128;

/// What the worker is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum State {
    Starting = 1,
    Serving = 2,
    Stopping = 3,
}

/// The region as either side sees it.
#[derive(Debug)]
pub(crate) struct Control {
    region: Region,
    base: *mut u8,
}

// SAFETY: all access goes through atomics in memory that lives as long as `region`.
unsafe impl Send for Control {}
// SAFETY: as above.
unsafe impl Sync for Control {}

impl Control {
    /// The worker's side.
    pub(crate) fn create() -> io::Result<Control> {
        let region = Region::shared("kriya-control", BYTES)?;
        region.commit(BYTES)?;
        let control = Control::over(region)?;
        control.word64(0).store(MAGIC, Ordering::Relaxed);
        control.word32(8).store(VERSION, Ordering::Relaxed);
        control.word64(64).store(1, Ordering::SeqCst);
        control.set_state(State::Starting);
        Ok(control)
    }

    /// A session's side, over the descriptor that the worker sent.
    pub(crate) fn open(descriptor: BorrowedFd<'_>) -> io::Result<Control> {
        let control = Control::over(Region::open_shared_writable(descriptor, BYTES)?)?;
        let (magic, version) = (control.word64(0).load(Ordering::Relaxed), control.word32(8).load(Ordering::Relaxed));
        if magic != MAGIC || version != VERSION {
            let error = FormatError::new("control region", format!("magic {magic:#x}, version {version}"));
            return Err(io::Error::new(io::ErrorKind::InvalidData, error));
        }
        Ok(control)
    }

    fn over(region: Region) -> io::Result<Control> {
        let base = region.as_mut_ptr().ok_or_else(|| io::Error::other("the control region is not writable"))?;
        Ok(Control { region, base })
    }

    /// What a session opens.
    pub(crate) fn descriptor(&self) -> io::Result<OwnedFd> {
        self.region.writer()
    }

    fn word64(&self, at: usize) -> &AtomicU64 {
        debug_assert!(at.is_multiple_of(8) && at + 8 <= BYTES);
        // SAFETY: the region has BYTES bytes from a page boundary, all committed by its maker; callers pass multiples
        // of 8 below BYTES; everybody uses atomics here.
        unsafe { AtomicU64::from_ptr(self.base.add(at).cast()) }
    }

    fn word32(&self, at: usize) -> &AtomicU32 {
        debug_assert!(at.is_multiple_of(4) && at + 4 <= BYTES);
        // SAFETY: as above, with multiples of 4.
        unsafe { AtomicU32::from_ptr(self.base.add(at).cast()) }
    }

    pub(crate) fn serving(&self) -> bool {
        self.word32(12).load(Ordering::Acquire) == State::Serving as u32
    }

    pub(crate) fn set_state(&self, state: State) {
        self.word32(12).store(state as u32, Ordering::Release);
    }

    pub(crate) fn generation(&self) -> u64 {
        self.word64(16).load(Ordering::Acquire)
    }

    pub(crate) fn set_generation(&self, generation: u64) {
        self.word64(16).store(generation, Ordering::Release);
    }

    /// The published view number.
    pub(crate) fn number(&self) -> u64 {
        self.word64(64).load(Ordering::SeqCst)
    }

    /// Publishes: what was changed before this call is in every view of a number at or above the one returned.
    pub(crate) fn publish(&self) -> u64 {
        self.word64(64).fetch_add(1, Ordering::SeqCst) + 1
    }

    /// The slot of a session; `slot` must be below [`SLOTS`].
    pub(crate) fn slot(&self, slot: usize) -> &AtomicU64 {
        assert!(slot < SLOTS, "a session's slot was checked when it was given out");
        self.word64(SLOTS_AT + slot * 8)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn both_sides_see_what_the_other_writes() {
        let worker = Control::create().unwrap();
        let session = Control::open(worker.descriptor().unwrap().as_fd()).unwrap();
        assert!(!session.serving());
        worker.set_state(State::Serving);
        worker.set_generation(7);
        assert!(session.serving() && session.generation() == 7);
        let number = worker.publish();
        assert_eq!(session.number(), number);
        session.slot(SLOTS - 1).store(number, Ordering::SeqCst);
        assert_eq!(worker.slot(SLOTS - 1).load(Ordering::SeqCst), number);
    }

    #[test]
    fn a_region_of_something_else_is_refused() {
        let other = Region::shared("other", BYTES).unwrap();
        other.commit(BYTES).unwrap();
        assert!(Control::open(other.writer().unwrap().as_fd()).is_err());
    }
}

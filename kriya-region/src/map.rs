//! A memory map that is unmapped when dropped. The only unsafe calls of this crate.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use rustix::mm::{Advice, MapFlags, ProtFlags};

use crate::Region;

/// Bytes of a huge page, on the processors that matter.
const HUGE: usize = 2 << 20;

#[derive(Debug)]
pub(crate) struct Mapping {
    ptr: *mut u8,
    len: usize,
    /// Inaccessible bytes behind the others.
    guard: usize,
    /// Of a part: what it is a part of, which is what will be unmapped.
    whole: Option<Arc<Region>>,
}

// SAFETY: a mapping is plain memory owned by this value; what is read and written through the raw pointer is the
// responsibility of whoever dereferences it.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Private zeroed memory. If it is large, it starts where a huge page can, and huge pages are asked for: whoever jumps
    /// about in it would otherwise wait for the processor to look up a page each time.
    pub(crate) fn anonymous(len: usize) -> io::Result<Mapping> {
        let spare = if len < HUGE { 0 } else { HUGE };
        let whole = len.checked_add(spare).ok_or(io::ErrorKind::OutOfMemory)?;
        // SAFETY: a new private map at an address of the kernel's choice touches no existing memory.
        let start = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                whole,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )?
        };
        let mut map = Mapping { ptr: start.cast(), len: whole, guard: 0, whole: None };
        if spare > 0 {
            map.keep(map.ptr.align_offset(HUGE), len);
            // SAFETY: advice on a range that this value has mapped changes nothing that a program can see. A kernel without
            // huge pages refuses it.
            let _ = unsafe { rustix::mm::madvise(map.ptr.cast(), map.len, Advice::LinuxHugepage) };
        }
        Ok(map)
    }

    /// Gives back what lies before `skip` and after `len` bytes from there, in whole pages.
    fn keep(&mut self, skip: usize, len: usize) {
        let end = (skip + len).next_multiple_of(super::ALIGNMENT).min(self.len);
        // SAFETY: both ranges are whole pages of this map, in which nothing is yet. A failure leaves them mapped, unused.
        unsafe {
            if skip > 0 {
                let _ = rustix::mm::munmap(self.ptr.cast(), skip);
            }
            if end < self.len {
                let _ = rustix::mm::munmap(self.ptr.add(end).cast(), self.len - end);
            }
            self.ptr = self.ptr.add(skip);
        }
        self.len = len;
    }

    pub(crate) fn of(fd: BorrowedFd<'_>, len: usize, write: bool) -> io::Result<Mapping> {
        let protection = if write { ProtFlags::READ | ProtFlags::WRITE } else { ProtFlags::READ };
        // SAFETY: as above; the descriptor is open for the call.
        let ptr = unsafe { rustix::mm::mmap(std::ptr::null_mut(), len, protection, MapFlags::SHARED, fd, 0)? };
        Ok(Mapping { ptr: ptr.cast(), len, guard: 0, whole: None })
    }

    /// As `of`, read-only, with `guard` bytes behind it that nobody can touch. Both are whole numbers of pages.
    pub(crate) fn guarded(fd: BorrowedFd<'_>, len: usize, guard: usize) -> io::Result<Mapping> {
        let all = len.checked_add(guard).ok_or(io::ErrorKind::OutOfMemory)?;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new map at an address of the kernel's choice, which nobody can read or write.
        let ptr = unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), all, ProtFlags::empty(), flags)? };
        let mapping = Mapping { ptr: ptr.cast(), len, guard, whole: None };
        // SAFETY: this replaces the first part of the range that was just reserved, which nobody knows of yet.
        unsafe { rustix::mm::mmap(ptr, len, ProtFlags::READ, MapFlags::SHARED | MapFlags::FIXED, fd, 0)? };
        Ok(mapping)
    }

    /// A range of a region, which it keeps alive. The caller has checked that it lies within.
    pub(crate) fn part(whole: &Arc<Region>, offset: usize, len: usize) -> Mapping {
        Mapping { ptr: whole.map.ptr.wrapping_add(offset), len, guard: 0, whole: Some(whole.clone()) }
    }

    pub(crate) fn ptr(&self) -> *mut u8 {
        self.ptr
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if self.whole.is_some() {
            return;
        }
        // SAFETY: exactly the range that was mapped, and nobody can hold a reference into it beyond this value.
        let _ = unsafe { rustix::mm::munmap(self.ptr.cast(), self.len + self.guard) };
    }
}

//! A memory map that is unmapped when dropped. The only unsafe calls of this crate.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::mm::{MapFlags, ProtFlags};

#[derive(Debug)]
pub(crate) struct Mapping {
    ptr: *mut u8,
    len: usize,
}

// SAFETY: a mapping is plain memory owned by this value; what is read and written through the raw pointer is the
// responsibility of whoever dereferences it.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    pub(crate) fn anonymous(len: usize) -> io::Result<Mapping> {
        // SAFETY: a new private map at an address of the kernel's choice touches no existing memory.
        let ptr = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )?
        };
        Ok(Mapping { ptr: ptr.cast(), len })
    }

    pub(crate) fn of(fd: BorrowedFd<'_>, len: usize, write: bool) -> io::Result<Mapping> {
        let protection = if write { ProtFlags::READ | ProtFlags::WRITE } else { ProtFlags::READ };
        // SAFETY: as above; the descriptor is open for the call.
        let ptr = unsafe { rustix::mm::mmap(std::ptr::null_mut(), len, protection, MapFlags::SHARED, fd, 0)? };
        Ok(Mapping { ptr: ptr.cast(), len })
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
        // SAFETY: exactly the range that was mapped, and nobody can hold a reference into it beyond this value.
        let _ = unsafe { rustix::mm::munmap(self.ptr.cast(), self.len) };
    }
}

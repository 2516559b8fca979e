//! Bytes that one process writes and others map.
//!
//! A [`Region`] is a fixed range of memory of one of four kinds: private memory ([`Region::heap`]), a memfd that this
//! process writes ([`Region::shared`]) and others map read-only ([`Region::open_shared`]), or an immutable file
//! ([`Region::open_file`]). What stands on top (memtables, graph rows) is written once, against raw bytes, and works in
//! all four.
//!
//! # Invariants
//! * The capacity of a region never changes: a memfd is sealed against shrinking and growing, so a reader that maps
//!   it can never be hit by SIGBUS because of a truncation.
//! * Memory of a shared region is committed by its writer ([`Region::commit`]) before it is touched: a full tmpfs is an
//!   error there, never a signal in a reader. Readers touch nothing beyond what the structure in the region declares
//!   to be published.
//! * A file is mapped only when nobody writes to it any more (written aside, synced, renamed).
#![deny(clippy::unwrap_used)]

mod map;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use map::Mapping;
use rustix::fs::{FallocateFlags, MemfdFlags, Mode, OFlags, SealFlags};

/// Regions are aligned to this many bytes at least (they start on a page).
pub const ALIGNMENT: usize = 4096;

/// Memory is committed in steps of this many bytes.
const COMMIT_STEP: usize = 1 << 20;

/// A fixed range of bytes; see the crate's documentation for the kinds. Shared between threads by `Arc`.
#[derive(Debug)]
pub struct Region {
    map: Mapping,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Heap,
    Shared { fd: OwnedFd, committed: AtomicUsize },
    SharedReader,
    SharedWriter,
    File,
}

impl Region {
    /// Private zeroed memory of `capacity` bytes; pages are taken on first touch.
    ///
    /// # Errors
    /// `InvalidInput` for a capacity of zero, else what the system says.
    pub fn heap(capacity: usize) -> io::Result<Region> {
        Ok(Region { map: Mapping::anonymous(checked(capacity)?)?, kind: Kind::Heap })
    }

    /// Zeroed shared memory of `capacity` bytes which other processes can map through [`Region::reader`]. Nothing is
    /// allocated until [`Region::commit`]. `name` shows up in /proc only.
    ///
    /// # Errors
    /// `InvalidInput` for a capacity of zero, else what the system says (no descriptors left, say).
    pub fn shared(name: &str, capacity: usize) -> io::Result<Region> {
        let capacity = checked(capacity)?;
        let fd = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        rustix::fs::ftruncate(&fd, capacity as u64)?;
        rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        let map = Mapping::of(fd.as_fd(), capacity, true)?;
        Ok(Region { map, kind: Kind::Shared { fd, committed: AtomicUsize::new(0) } })
    }

    /// Maps, read-only, what another process made by [`Region::shared`]. The descriptor may be closed afterwards.
    ///
    /// # Errors
    /// `InvalidData` if the descriptor is not a sealed memfd of exactly `capacity` bytes: a file that could be
    /// truncated under this map is refused.
    pub fn open_shared(fd: BorrowedFd<'_>, capacity: usize) -> io::Result<Region> {
        Ok(Region { map: sealed_map(fd, capacity, false)?, kind: Kind::SharedReader })
    }

    /// Maps, for writing, what another process made by [`Region::shared`] and gave away by [`Region::writer`]: for the
    /// few words that both sides write through atomics.
    ///
    /// # Errors
    /// As [`Region::open_shared`].
    pub fn open_shared_writable(fd: BorrowedFd<'_>, capacity: usize) -> io::Result<Region> {
        Ok(Region { map: sealed_map(fd, capacity, true)?, kind: Kind::SharedWriter })
    }

    /// A descriptor of a shared region that can be written through. Its maker must have committed all of it.
    ///
    /// # Errors
    /// `Unsupported` for the other kinds, else what the system says.
    pub fn writer(&self) -> io::Result<OwnedFd> {
        match &self.kind {
            Kind::Shared { fd, .. } => fd.try_clone(),
            _ => Err(not_shared()),
        }
    }

    /// Maps a finished file, read-only. An empty file is refused, for it cannot be mapped.
    ///
    /// # Errors
    /// `InvalidInput` for an empty file, else what the system says.
    pub fn open_file(file: &File) -> io::Result<Region> {
        let length = usize::try_from(file.metadata()?.len()).map_err(|_| invalid("file is too large to map".into()))?;
        Ok(Region { map: Mapping::of(file.as_fd(), checked(length)?, false)?, kind: Kind::File })
    }

    /// As [`Region::open_file`], with a page behind it that nobody can touch, so that an access past the end of the file is
    /// certain to end the process: for tests of whatever reads bytes that it does not believe.
    ///
    /// # Errors
    /// `InvalidInput` for a file that is not a whole number of pages, else what the system says.
    pub fn open_file_guarded(file: &File) -> io::Result<Region> {
        let length = usize::try_from(file.metadata()?.len()).map_err(|_| invalid("file is too large to map".into()))?;
        let page = rustix::param::page_size();
        if !checked(length)?.is_multiple_of(page) {
            let message = format!("file of {length} bytes, expected a whole number of pages");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        Ok(Region { map: Mapping::guarded(file.as_fd(), length, page)?, kind: Kind::File })
    }

    /// A part of a mapped file as a region of its own: `length` bytes from `offset`, which is a multiple of
    /// [`ALIGNMENT`]. The file stays mapped for as long as any part of it is held.
    ///
    /// # Errors
    /// `InvalidInput` for another offset, an empty part, one that is not within the file, or a region of another kind.
    pub fn part(self: &Arc<Self>, offset: usize, length: usize) -> io::Result<Region> {
        let refuse = |message: String| Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        if !matches!(self.kind, Kind::File) {
            return refuse("only a file has parts".into());
        }
        if !offset.is_multiple_of(ALIGNMENT) {
            return refuse(format!("a part begins at byte {offset}, expected a multiple of {ALIGNMENT}"));
        }
        if offset.checked_add(checked(length)?).is_none_or(|end| end > self.capacity()) {
            return refuse(format!("a part of {length} bytes from byte {offset} of {}", self.capacity()));
        }
        Ok(Region { map: Mapping::part(self, offset, length), kind: Kind::File })
    }

    /// Makes sure that bytes `0..upto` have memory behind them. Cheap when they have. A no-op for kinds that are
    /// not written through shared memory.
    ///
    /// # Errors
    /// `StorageFull` (or what the system says) when there is no memory; `InvalidInput` beyond the capacity.
    pub fn commit(&self, upto: usize) -> io::Result<()> {
        if upto > self.capacity() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("commit of {upto} bytes in a region of {}", self.capacity()),
            ));
        }
        let Kind::Shared { fd, committed } = &self.kind else { return Ok(()) };
        let have = committed.load(Ordering::Acquire);
        if upto <= have {
            return Ok(());
        }
        let want = upto.next_multiple_of(COMMIT_STEP).min(self.capacity());
        rustix::fs::fallocate(fd, FallocateFlags::empty(), have as u64, (want - have) as u64)?;
        committed.fetch_max(want, Ordering::AcqRel);
        Ok(())
    }

    /// A descriptor of a shared region that cannot be written through, to be sent to another process.
    ///
    /// # Errors
    /// `Unsupported` for the other kinds, else what the system says.
    pub fn reader(&self) -> io::Result<OwnedFd> {
        let Kind::Shared { fd, .. } = &self.kind else { return Err(not_shared()) };
        use std::os::fd::AsRawFd;
        let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
        Ok(rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
    }

    /// Number of bytes.
    pub fn capacity(&self) -> usize {
        self.map.len()
    }

    /// First byte. Reading is sound only for bytes that nobody writes at the same time, or through atomics.
    pub fn as_ptr(&self) -> *const u8 {
        self.map.ptr()
    }

    /// First byte for writing, or `None` where this process may only read. Whoever writes keeps the one-writer rule
    /// of the structure in the region.
    pub fn as_mut_ptr(&self) -> Option<*mut u8> {
        match self.kind {
            Kind::Heap | Kind::Shared { .. } | Kind::SharedWriter => Some(self.map.ptr()),
            Kind::SharedReader | Kind::File => None,
        }
    }

    /// The bytes of a finished file; `None` for memory, which may change under the slice.
    pub fn file_bytes(&self) -> Option<&[u8]> {
        match self.kind {
            // SAFETY: the map covers `len` bytes, lives as long as self, and the file is not written any more (the
            // invariant of `open_file`'s callers).
            Kind::File => Some(unsafe { std::slice::from_raw_parts(self.map.ptr(), self.map.len()) }),
            _ => None,
        }
    }
}

fn checked(capacity: usize) -> io::Result<usize> {
    if capacity == 0 {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a region cannot be empty"));
    }
    Ok(capacity)
}

fn not_shared() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "only a shared region can be given away, by its maker")
}

fn sealed_map(fd: BorrowedFd<'_>, capacity: usize, write: bool) -> io::Result<Mapping> {
    let capacity = checked(capacity)?;
    let size = rustix::fs::fstat(fd)?.st_size;
    if u64::try_from(size).ok() != Some(capacity as u64) {
        return Err(invalid(format!("shared region has {size} bytes, expected {capacity}")));
    }
    if !rustix::fs::fcntl_get_seals(fd)?.contains(SealFlags::SHRINK) {
        return Err(invalid("shared region is not sealed against shrinking".into()));
    }
    Mapping::of(fd, capacity, write)
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn what_the_writer_writes_a_reader_of_the_descriptor_sees() {
        let writer = Region::shared("test", 3 << 20).unwrap();
        writer.commit(100).unwrap();
        // SAFETY: the first hundred bytes are committed and nobody else writes them.
        unsafe { *writer.as_mut_ptr().unwrap().add(99) = 7 };
        let reader = Region::open_shared(writer.reader().unwrap().as_fd(), 3 << 20).unwrap();
        // SAFETY: as above; the write happened before.
        assert_eq!(unsafe { *reader.as_ptr().add(99) }, 7);
        assert!(reader.as_mut_ptr().is_none());
    }

    #[test]
    fn a_reader_cannot_map_for_writing_and_nobody_can_truncate() {
        let writer = Region::shared("test", 4096).unwrap();
        let fd = writer.reader().unwrap();
        assert!(Mapping::of(fd.as_fd(), 4096, true).is_err());
        let Kind::Shared { fd, .. } = &writer.kind else { panic!("kind") };
        assert!(rustix::fs::ftruncate(fd, 0).is_err());
    }

    #[test]
    fn a_lying_capacity_and_a_truncatable_file_are_refused() {
        let writer = Region::shared("test", 8192).unwrap();
        assert!(Region::open_shared(writer.reader().unwrap().as_fd(), 1 << 30).is_err());
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[1; 8192]).unwrap();
        assert!(Region::open_shared(file.as_fd(), 8192).is_err());
    }

    #[test]
    fn commit_beyond_the_capacity_is_an_error() {
        assert!(Region::shared("test", 4096).unwrap().commit(4097).is_err());
        assert!(Region::heap(4096).unwrap().commit(4097).is_err());
    }

    #[test]
    fn a_part_of_a_file_outlives_the_whole_and_must_lie_within_it() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[1; ALIGNMENT]).unwrap();
        file.write_all(b"second page").unwrap();
        let whole = Arc::new(Region::open_file(&file).unwrap());
        let part = whole.part(ALIGNMENT, 6).unwrap();
        let bad = [(0, 0), (1, 1), (ALIGNMENT, 12), (2 * ALIGNMENT, 1), (usize::MAX & !(ALIGNMENT - 1), ALIGNMENT)];
        for (offset, length) in bad {
            assert!(whole.part(offset, length).is_err(), "{length} bytes from {offset}");
        }
        drop(whole);
        assert_eq!(part.file_bytes().unwrap(), b"second");
        assert_eq!(Arc::new(part).part(0, 3).unwrap().file_bytes().unwrap(), b"sec");
        assert!(Arc::new(Region::heap(8192).unwrap()).part(0, 4096).is_err());
    }

    #[test]
    fn behind_a_guarded_file_nothing_can_be_read() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 3 << 16]).unwrap();
        let region = Region::open_file_guarded(&file).unwrap();
        assert!(region.file_bytes().unwrap().iter().all(|byte| *byte == 7));
        let end = region.as_ptr().wrapping_add(region.capacity()) as usize;
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let behind = maps.lines().find(|line| line.starts_with(&format!("{end:x}-"))).unwrap();
        assert!(behind.contains(" ---p "), "{behind}");
        file.write_all(&[7]).unwrap();
        assert!(Region::open_file_guarded(&file).is_err());
    }

    #[test]
    fn a_file_is_mapped_and_an_empty_one_refused() {
        let mut file = tempfile::tempfile().unwrap();
        assert!(Region::open_file(&file).is_err());
        file.write_all(b"hello").unwrap();
        assert_eq!(Region::open_file(&file).unwrap().file_bytes().unwrap(), b"hello");
    }
}

//! A merge takes the same memory whatever the size of what it merges: counted by the allocator, in a process of its own.
#![allow(clippy::unwrap_used)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use lsmstore::{Batch, Config, KeepAll, LogChoice, Store, SystemEnv, objects};

struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: memory is the system allocator's; only sizes are counted beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(now, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const TABLE: usize = 256 << 10;

/// The most that merges of `rounds` flushes of so many keys each have allocated at a time.
async fn peak(keys: u32, rounds: u32) -> usize {
    let folder = tempfile::tempdir().unwrap();
    let config = Config::new(folder.path(), "memory").memtable_bytes(32 << 20).block_bytes(4096).table_bytes(TABLE);
    let env = Arc::new(SystemEnv::new());
    let config = config.level_bytes(1 << 30);
    let store = Store::open(config, objects::memory(), env, LogChoice::Nobody).await.unwrap();
    let mut most = 0;
    for round in 0..rounds {
        for some in (0..keys).collect::<Vec<_>>().chunks(100) {
            let mut batch = Batch::new();
            for key in some {
                batch.put(&key.wrapping_mul(0x9e37_79b9).to_be_bytes(), &[round as u8; 200]);
            }
            store.apply(&batch).unwrap();
        }
        store.flush_local(lsmstore::FlushOptions::default()).await.unwrap();
        let before = NOW.load(Ordering::Relaxed);
        PEAK.store(before, Ordering::Relaxed);
        store.merge_local(Arc::new(KeepAll)).await.unwrap();
        most = most.max(PEAK.load(Ordering::Relaxed) - before);
    }
    assert!(store.stats().levels[1].mirror_bytes > u64::from(keys) * 200);
    most
}

#[tokio::test]
async fn a_merge_of_ten_times_the_bytes_takes_no_more_memory() {
    let (small, large) = (peak(10_000, 3).await, peak(100_000, 3).await);
    // For each of two parts a buffer of 1 MiB, and blocks, index and filter of a table.
    let bound = 2 * ((1 << 20) + 2 * TABLE);
    assert!(small < bound && large < bound, "{small} and {large} bytes, expected less than {bound}");
    assert!(large < small + (512 << 10), "{small} bytes, then {large}");
}

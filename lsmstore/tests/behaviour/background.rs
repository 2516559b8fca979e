//! Background work beside writers and beside each other: who waits for whom, for how long, and what is left of work that
//! was cut off.

use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use lsmstore::{
    Batch, Config, Durability, KeepAll, LogChoice, MergePolicy, Reactor, Store, SystemEnv, WriteError,
    objects::ObjectStore,
};

use crate::env::Clock;
use crate::fixture::{Fixture, get, puts};
use crate::levels::{self, LEVEL, same, scattered, settle};

/// Holds a merge up before its first group, and says when it has come so far.
#[derive(Default)]
struct Gate {
    /// Whether the merge has come, and whether it may go on.
    state: Mutex<(bool, bool)>,
    moved: Condvar,
}

impl Gate {
    fn wait_until_reached(&self) {
        drop(self.moved.wait_while(self.state.lock().unwrap(), |(reached, _)| !*reached).unwrap());
    }

    fn open(&self) {
        self.state.lock().unwrap().1 = true;
        self.moved.notify_all();
    }
}

impl MergePolicy for Gate {
    fn goes_on(&self) -> bool {
        let mut state = self.state.lock().unwrap();
        state.0 = true;
        self.moved.notify_all();
        drop(self.moved.wait_while(state, |(_, open)| !*open).unwrap());
        true
    }
}

async fn reached(gate: &Arc<Gate>) {
    let gate = Arc::clone(gate);
    tokio::task::spawn_blocking(move || gate.wait_until_reached()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deep_merge_that_takes_long_does_not_hold_up_those_of_the_upper_levels() {
    let fixture = Fixture::new();
    let store = fixture.open_with(levels::config(&fixture), LogChoice::Nobody).await;
    let mut model = std::collections::BTreeMap::new();
    for begin in (0..6000).step_by(100) {
        let mut batch = Batch::new();
        for at in begin..begin + 100 {
            let (key, value) = (format!("{:08}", scattered(at)), at.to_le_bytes().repeat(4));
            batch.put(key.as_bytes(), &value);
            model.insert(key, value);
        }
        // Tables with deletions are never just moved.
        for at in begin.saturating_sub(1000)..begin.saturating_sub(990) {
            let key = format!("{:08}", scattered(at));
            batch.delete(key.as_bytes());
            model.remove(&key);
        }
        store.apply(&batch).unwrap();
        store.flush().await.unwrap();
        settle(&store, &(Arc::new(KeepAll) as _)).await;
    }
    let sizes = store.stats().levels;
    assert!(sizes[1].mirror_bytes < LEVEL && sizes[2].mirror_bytes > 2 * LEVEL, "{sizes:?}");
    drop(store);
    // With smaller limits L2 is too large, and L1 is not.
    let store = fixture.open_with(levels::config(&fixture).level_factor(2), LogChoice::Nobody).await;
    let gate = Arc::new(Gate::default());
    let (held, policy) = (store.clone(), Arc::clone(&gate));
    let deep = tokio::spawn(async move {
        loop {
            let merged = held.merge_local(Arc::clone(&policy) as _).await?;
            if merged.bytes > 0 {
                return Ok::<_, lsmstore::FlushError>(merged);
            }
        }
    });
    reached(&gate).await;
    for round in 0..8 {
        let mut batch = Batch::new();
        for n in 0..50 {
            let (key, value) = (format!("{:08}", scattered(n * 8 + round)), b"again".to_vec());
            batch.put(key.as_bytes(), &value);
            model.insert(key, value);
        }
        store.apply(&batch).unwrap();
        store.flush().await.unwrap();
    }
    assert_eq!(store.stats().levels[0].tables, 8);
    let merged = store.merge_local(Arc::new(KeepAll)).await.unwrap();
    assert!(merged.inputs >= 8, "{merged:?}");
    assert_eq!(store.stats().levels[0].tables, 0);
    gate.open();
    let merged = deep.await.unwrap().unwrap();
    assert!(merged.inputs > 0 && merged.bytes > 0, "{merged:?}");
    same(&store, &model);
    for _ in 0..5 {
        store.merge(Arc::new(KeepAll)).await.unwrap();
    }
    same(&store, &model);
    drop(store);
    same(&fixture.elsewhere().open().await, &model);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_that_merge_beside_each_other_while_others_write_lose_nothing() {
    let fixture = Fixture::new();
    let store = fixture.open_with(levels::config(&fixture), LogChoice::Nobody).await;
    let done = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let merger = || {
        let (store, done) = (store.clone(), Arc::clone(&done));
        tokio::spawn(async move {
            while !done.load(std::sync::atomic::Ordering::Acquire) {
                if store.wants_merge() {
                    store.merge_local(Arc::new(KeepAll)).await.unwrap();
                }
                tokio::task::yield_now().await;
            }
        })
    };
    let mergers = [merger(), merger()];
    let mut model = std::collections::BTreeMap::new();
    for round in 0..150 {
        let mut batch = Batch::new();
        for n in 0..100 {
            let (key, value) = (format!("{:08}", scattered(round * 61 + n)), round.to_le_bytes().repeat(4));
            batch.put(key.as_bytes(), &value);
            model.insert(key, value);
        }
        store.apply(&batch).unwrap();
        store.flush_local(lsmstore::FlushOptions::default()).await.unwrap();
    }
    done.store(true, std::sync::atomic::Ordering::Release);
    for merger in mergers {
        merger.await.unwrap();
    }
    same(&store, &model);
    store.publish().await.unwrap();
    drop(store);
    same(&fixture.elsewhere().open().await, &model);
}

async fn open_with_clock(fixture: &Fixture, config: Config, clock: &Arc<Clock>, log: LogChoice) -> Store {
    let env = Arc::new(SystemEnv::with(Arc::clone(clock) as _));
    Store::open(config, Arc::clone(&fixture.objects) as Arc<dyn ObjectStore>, env, log).await.unwrap()
}

#[tokio::test]
async fn merges_keep_to_their_rate_and_flushes_do_not_care() {
    let fixture = Fixture::new();
    let clock = Arc::<Clock>::default();
    let config = fixture.config().memtable_bytes(1 << 20).merge_rate(100_000);
    let store = open_with_clock(&fixture, config, &clock, LogChoice::Nobody).await;
    for round in 0..4_u8 {
        let mut batch = Batch::new();
        for n in 0..500 {
            batch.put(format!("k{n:03}").as_bytes(), &[round; 200]);
        }
        store.apply(&batch).unwrap();
        store.flush().await.unwrap();
    }
    assert_eq!(clock.monotonic(), Duration::ZERO);
    let merged = store.merge(Arc::new(KeepAll)).await.unwrap();
    // Four times 102 kB are read and once 104 kB written.
    let bytes = 4.0 * 500.0 * 204.0 + merged.bytes as f64;
    let (took, exact) = (clock.monotonic().as_secs_f64(), bytes / 100_000.0);
    assert!(took < exact && took > exact - 0.1 - 2.0, "{took} s for {bytes} bytes");
    assert_eq!(get(&store, "k499").map(|value| value.len()), Some(200));
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_are_held_back_more_the_more_is_owed_while_a_merge_pays_it_and_not_else() {
    let fixture = Fixture::new();
    let clock = Arc::<Clock>::default();
    let config = fixture.config().max_frozen(100).l0_merge_trigger(2);
    let store = open_with_clock(&fixture, config, &clock, LogChoice::Own).await;
    let write = async |key: &str| {
        store.write(puts(&[(key, "x")]), Durability::Memory).await.unwrap();
        store.flush_local(lsmstore::FlushOptions::default()).await.unwrap();
    };
    for n in 0..5 {
        write(&format!("before{n}")).await;
    }
    assert_eq!(store.write_delay(4096), Duration::ZERO, "no merge is running");
    let gate = Arc::new(Gate::default());
    let (held, policy) = (store.clone(), Arc::clone(&gate));
    let merge = tokio::spawn(async move { held.merge_local(policy).await });
    reached(&gate).await;
    let mut delays = Vec::new();
    for n in 0..5 {
        delays.push(store.write_delay(4096));
        write(&format!("during{n}")).await;
    }
    assert!(delays[0] > Duration::ZERO && delays.is_sorted_by(|a, b| a < b), "{delays:?}");
    assert!(store.stats().held_back > Duration::ZERO && clock.monotonic() >= store.stats().held_back);
    gate.open();
    assert_eq!(merge.await.unwrap().unwrap().inputs, 5);
    let (before, held_back) = (clock.monotonic(), store.stats().held_back);
    write("after").await;
    assert_eq!((clock.monotonic(), store.stats().held_back), (before, held_back));
}

/// A store with some tables in L0 whose keys are all twice there.
async fn overlapping(fixture: &Fixture) -> Store {
    let config = fixture.config().table_bytes(1024).block_bytes(64);
    let store = fixture.open_with(config, LogChoice::Nobody).await;
    for round in 0..2 {
        let mut batch = Batch::new();
        for n in 0..100 {
            batch.put(format!("k{n:03}").as_bytes(), format!("{round}{}", "x".repeat(90)).as_bytes());
        }
        store.apply(&batch).unwrap();
        store.flush().await.unwrap();
    }
    store
}

fn whole(store: &Store) {
    for n in 0..100 {
        assert_eq!(get(store, &format!("k{n:03}")).map(|value| value.as_bytes()[0]), Some(b'1'));
    }
}

fn mirrors(folder: &Path) -> usize {
    std::fs::read_dir(folder.join("mirror")).unwrap().count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_closed_does_not_wait_for_a_merge_to_end_and_the_next_one_makes_it() {
    let fixture = Fixture::new();
    let store = overlapping(&fixture).await;
    let gate = Arc::new(Gate::default());
    let (held, policy) = (store.clone(), Arc::clone(&gate));
    let merge = tokio::spawn(async move { held.merge(policy).await });
    reached(&gate).await;
    let mut closing = Box::pin(store.close());
    assert!(futures::poll!(&mut closing).is_pending());
    gate.open();
    closing.await.unwrap();
    assert_eq!(merge.await.unwrap().unwrap().inputs, 0, "it gave up");
    assert_eq!(mirrors(fixture.folder()), 2);
    let store = fixture.open().await;
    whole(&store);
    assert_eq!(store.merge(Arc::new(KeepAll)).await.unwrap().inputs, 2);
    whole(&store);
}

/// Copies a folder when a merge has passed so many groups: what a process that is killed then leaves behind.
struct Snapshot {
    left: std::sync::atomic::AtomicUsize,
    from: std::path::PathBuf,
    to: std::path::PathBuf,
}

impl MergePolicy for Snapshot {
    fn goes_on(&self) -> bool {
        if self.left.fetch_sub(1, std::sync::atomic::Ordering::SeqCst) == 1 {
            copy(&self.from, &self.to);
        }
        true
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[tokio::test]
async fn a_process_that_dies_in_a_merge_loses_nothing_and_leaves_nothing_behind() {
    for groups in [1, 40, 99] {
        let fixture = Fixture::new();
        let store = overlapping(&fixture).await;
        let killed = fixture.elsewhere();
        let policy =
            Snapshot { left: groups.into(), from: fixture.folder().to_owned(), to: killed.folder().to_owned() };
        // The bucket stays as it was when the process died: the merge is on the local disk only.
        store.merge_local(Arc::new(policy)).await.unwrap();
        drop(store);
        assert!(groups == 1 || mirrors(killed.folder()) > 3, "it was in the middle of its outputs");
        let store = killed.open().await;
        whole(&store);
        assert_eq!(mirrors(killed.folder()), 2, "after {groups} groups");
        assert_eq!(store.merge(Arc::new(KeepAll)).await.unwrap().inputs, 2);
        whole(&store);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn upkeep_flushes_while_a_merge_takes_long() {
    let fixture = Fixture::new();
    let config = fixture.config().memtable_bytes(8192).max_frozen(1).l0_merge_trigger(2);
    let store = fixture.open_with(config, LogChoice::Nobody).await;
    let gate = Arc::new(Gate::default());
    let upkeep = tokio::spawn(store.upkeep(Arc::clone(&gate) as _));
    let write = |from: u32| {
        let store = store.clone();
        async move {
            for n in from..from + 400 {
                let batch = puts(&[(&format!("{n:05}"), "some bytes that fill a memtable before long")]);
                while let Err(error) = store.apply(&batch) {
                    assert!(matches!(error, WriteError::Full { .. }), "{error}");
                    tokio::task::yield_now().await;
                }
            }
        }
    };
    write(0).await;
    reached(&gate).await;
    tokio::time::timeout(Duration::from_secs(60), write(400)).await.expect("writers wait for no merge");
    gate.open();
    store.flush().await.unwrap();
    assert_eq!(get(&store, "00799").as_deref(), Some("some bytes that fill a memtable before long"));
    drop(store);
    upkeep.await.unwrap();
}

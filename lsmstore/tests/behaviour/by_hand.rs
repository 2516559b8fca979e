//! What people type first: single keys, a store in memory, one that blocks, one that looks after itself.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use lsmstore::objects::{self, ObjectStore};
use lsmstore::{
    Batch, Blocking, Config, Durability, FlushError, FlushOptions, GcOptions, KeepAll, LogChoice, ReadError, Store,
    SystemEnv, Unusable, WriteError,
};

use crate::fixture::{Fault, Fixture, puts};

/// Settings with which everything happens soon.
fn small(config: Config) -> Config {
    config.memtable_bytes(8 << 10).block_bytes(256).table_bytes(4 << 10).level_bytes(16 << 10).l0_merge_trigger(2)
}

/// Waits until `done`, or says what was waited for.
async fn until(what: &str, done: impl Fn() -> bool) {
    let begin = Instant::now();
    while !done() {
        assert!(begin.elapsed() < Duration::from_secs(60), "{what}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn single_keys_are_written_read_and_deleted() {
    let fixture = Fixture::new();
    for log in [LogChoice::Nobody, LogChoice::Own] {
        let store = fixture.open_with(fixture.config(), log).await;
        store.put(b"a", b"1").await.unwrap();
        let applied = store.put(b"b", b"").await.unwrap();
        store.put(b"c", b"3").await.unwrap();
        assert_eq!(store.delete(b"a").await.unwrap().first, applied.last + 2);
        assert_eq!((store.get(b"a").unwrap(), store.get(b"b").unwrap()), (None, Some(Vec::new())));
        let mut scan = store.scan_prefix(b"").unwrap();
        store.put(b"d", b"too late").await.unwrap();
        assert_eq!(scan.next().unwrap(), Some((&b"b"[..], &b""[..])));
        assert_eq!(scan.next().unwrap(), Some((&b"c"[..], &b"3"[..])));
        assert_eq!(scan.next().unwrap(), None);
        store.delete(b"b").await.unwrap();
        store.delete(b"c").await.unwrap();
        store.delete(b"d").await.unwrap();
        store.flush().await.unwrap();
        store.clone().close().await.unwrap();
        assert_eq!(store.get(b"b"), Err(ReadError::Unusable(Unusable::Closed)));
    }
}

#[tokio::test]
async fn a_put_to_a_store_with_its_own_log_survives_a_crash() {
    let fixture = Fixture::new();
    let store = fixture.open_with(fixture.config(), LogChoice::Own).await;
    store.put(b"a", b"1").await.unwrap();
    assert_eq!(store.stats().log.syncs, 2, "the header, and the put");
    drop(store);
    let store = fixture.open_with(fixture.config(), LogChoice::Own).await;
    assert_eq!(store.get(b"a").unwrap().as_deref(), Some(&b"1"[..]));
}

#[tokio::test]
async fn a_put_makes_room_for_itself() {
    let fixture = Fixture::new();
    let store = fixture.open_with(small(fixture.config()).max_frozen(1), LogChoice::Nobody).await;
    for n in 0..200 {
        store.put(format!("{n:03}").as_bytes(), &[0; 500]).await.unwrap();
    }
    assert!(store.stats().refused_full > 0, "there was no room");
    assert_eq!(store.get(b"000").unwrap(), Some(vec![0; 500]));
    let fixture = Fixture::new();
    let store = fixture.open_with(small(fixture.config()).max_frozen(1).max_pending_bytes(0), LogChoice::Nobody).await;
    fixture.objects.fail("/sst/", Fault::Before, 1);
    let mut failed = 0;
    for n in 0..200 {
        match store.put(format!("{n:03}").as_bytes(), &[0; 500]).await {
            Ok(_) => {}
            Err(WriteError::Flush(error)) => {
                assert!(matches!(*error, FlushError::Storage(_)), "{error}");
                failed += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(failed, 1);
    assert!(store.stats().refused_behind > 0);
}

/// An empty store in memory, and the folder of its mirrors.
async fn in_memory() -> (Store, PathBuf) {
    let mut shown = String::new();
    let settings = |config: Config| {
        shown = format!("{config:?}");
        config
    };
    let store = Store::in_memory_with(Arc::new(SystemEnv::new()), settings).await.unwrap();
    let folder = shown.split("local_dir: \"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
    (store, PathBuf::from(folder))
}

#[tokio::test]
async fn a_store_in_memory_leaves_nothing_behind() {
    let (store, folder) = in_memory().await;
    store.put(b"a", b"1").await.unwrap();
    store.flush().await.unwrap();
    assert_eq!(store.get(b"a").unwrap().as_deref(), Some(&b"1"[..]));
    assert_eq!(std::fs::read_dir(folder.join("mirror")).unwrap().count(), 1);
    let view = store.view().unwrap();
    store.close().await.unwrap();
    assert!(!folder.exists());
    assert_eq!(view.get(b"a", view.read_sequence()).unwrap(), Some(&b"1"[..]), "whoever has a view keeps it");
    let (store, folder) = in_memory().await;
    assert!(folder.exists());
    drop(store);
    assert!(!folder.exists());
}

#[tokio::test]
async fn upkeep_does_what_is_due_and_ends_with_the_store() {
    let fixture = Fixture::new();
    let store = fixture.open_with(small(fixture.config()), LogChoice::Nobody).await;
    let upkeep = tokio::spawn(store.upkeep(Arc::new(KeepAll)));
    for n in 0..300 {
        store.put(format!("{:03}", n % 100).as_bytes(), &[n as u8; 300]).await.unwrap();
    }
    until("all that is due", || !(store.wants_flush() || store.wants_merge() || store.wants_publish())).await;
    let stats = store.stats();
    assert!(stats.flushes > 2 && stats.merges > 0 && stats.levels[0].tables < 2, "{stats}");
    assert_eq!(stats.pending_bytes, 0);
    // What fails is tried again without anybody's doing.
    fixture.objects.fail("/sst/", Fault::Before, 2);
    for n in 0..50 {
        store.put(format!("{n:03}").as_bytes(), &[1; 300]).await.unwrap();
    }
    until("what failed", || store.stats().requests.put.failures == 2 && !store.wants_publish()).await;
    drop(store);
    upkeep.await.unwrap();
}

#[tokio::test]
async fn upkeep_of_an_idle_store_does_nothing() {
    let fixture = Fixture::new();
    let store = fixture.open_with(small(fixture.config()), LogChoice::Nobody).await;
    let upkeep = tokio::spawn(store.upkeep(Arc::new(KeepAll)));
    store.put(b"a", b"1").await.unwrap();
    store.flush().await.unwrap();
    let before = store.stats();
    // Not to wait for something, but to see nothing happen.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(store.stats(), before);
    assert!(!upkeep.is_finished());
    store.close().await.unwrap();
    drop(upkeep);
}

fn blocking(folder: &Path, bucket: &Arc<dyn ObjectStore>) -> Blocking {
    Blocking::open(small(Config::new(folder, "blocking")), Arc::clone(bucket), LogChoice::Own).unwrap()
}

/// Everything a blocking store does, in whatever thread this is called.
fn exercise() {
    let folder = tempfile::tempdir().unwrap();
    let bucket = objects::memory();
    let store = blocking(folder.path(), &bucket);
    for n in 0..200 {
        store.put(format!("{n:03}").as_bytes(), &[0; 200]).unwrap();
    }
    store.delete(b"000").unwrap();
    store.write(puts(&[("x", "1"), ("y", "2")]), Durability::Memory).unwrap();
    assert_eq!((store.get(b"000").unwrap(), store.get(b"x").unwrap()), (None, Some(b"1".to_vec())));
    let mut scan = store.scan_prefix(b"1").unwrap();
    let mut count = 0;
    while scan.next().unwrap().is_some() {
        count += 1;
    }
    assert_eq!(count, 100);
    assert!(store.flush().unwrap().manifest_number > 1);
    // Dropped, as in a crash, and at once opened again.
    store.put(b"z", b"3").unwrap();
    drop(store);
    let store = blocking(folder.path(), &bucket);
    assert_eq!(store.get(b"z").unwrap().as_deref(), Some(&b"3"[..]));
    store.close().unwrap();
    assert!(folder.path().join("ORDERLY").exists());
    drop(Blocking::in_memory().unwrap());
}

#[test]
fn a_blocking_store_needs_no_runtime() {
    exercise();
}

#[tokio::test]
async fn a_blocking_store_may_be_used_and_dropped_within_a_runtime() {
    exercise();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blocking_store_may_be_used_and_dropped_within_a_runtime_of_many_threads() {
    tokio::spawn(async { exercise() }).await.unwrap();
}

#[test]
fn a_blocking_store_that_is_closed_amid_its_upkeep_stops_in_an_orderly_way() {
    let folder = tempfile::tempdir().unwrap();
    let bucket = objects::memory();
    for round in 0..20 {
        let store = blocking(folder.path(), &bucket);
        for n in 0..100 {
            store.put(format!("{n:03}").as_bytes(), &[round; 300]).unwrap();
        }
        store.close().unwrap();
        assert!(folder.path().join("ORDERLY").exists(), "round {round}");
    }
}

#[test]
fn many_threads_share_a_blocking_store() {
    let folder = tempfile::tempdir().unwrap();
    let store = blocking(folder.path(), &objects::memory());
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let store = &store;
            scope.spawn(move || {
                for n in 0..50 {
                    let mut batch = Batch::new();
                    batch.put(format!("{thread} {n}").as_bytes(), b"v");
                    store.write(batch, Durability::Local).unwrap();
                }
            });
        }
    });
    assert_eq!((store.stats().writes, store.stats().refused_behind), (400, 0));
    store.close().unwrap();
}

#[tokio::test]
async fn a_store_whose_log_somebody_else_keeps_says_what_to_call() {
    let fixture = Fixture::new();
    let log = Arc::new(crate::fixture::RecordingLog::default());
    let env = Arc::new(SystemEnv::new());
    let objects = Arc::clone(&fixture.objects) as Arc<dyn ObjectStore>;
    let store = Store::open(fixture.config(), objects, env, LogChoice::External(log)).await.unwrap();
    let error = store.put(b"a", b"1").await.unwrap_err().to_string();
    assert!(error.contains("Store::apply"), "{error}");
}

#[tokio::test]
async fn upkeep_ends_with_a_store_that_refuses_everything() {
    let fixture = Fixture::new();
    let store = fixture.open_with(small(fixture.config()), LogChoice::Nobody).await;
    let upkeep = tokio::spawn(store.upkeep(Arc::new(KeepAll)));
    store.put(b"a", b"1").await.unwrap();
    store.flush().await.unwrap();
    store.clone().close().await.unwrap();
    upkeep.await.unwrap();
    assert!(store.view().is_err());

    let store = fixture.open_with(small(fixture.config()), LogChoice::Nobody).await;
    let upkeep = tokio::spawn(store.upkeep(Arc::new(KeepAll)));
    let elsewhere = fixture.elsewhere();
    let next = elsewhere.open_with(small(elsewhere.config()), LogChoice::Nobody).await;
    next.put(b"b", b"1").await.unwrap();
    assert!(store.collect_garbage(GcOptions::default()).await.is_err(), "it is told so");
    upkeep.await.unwrap();
}

#[tokio::test]
async fn a_store_that_is_dropped_is_not_kept_open_by_upkeep_that_waits() {
    let fixture = Fixture::new();
    let store = fixture.open_with(small(fixture.config()), LogChoice::Nobody).await;
    let upkeep = tokio::spawn(store.upkeep(Arc::new(KeepAll)));
    fixture.objects.fail("/sst/", Fault::Before, usize::MAX);
    store.put(b"a", b"1").await.unwrap();
    store.flush_local(FlushOptions::default()).await.unwrap();
    until("a publication fails", || store.jobs().iter().any(|job| job.error.is_some())).await;
    drop(store);
    upkeep.await.unwrap();
    fixture.objects.heal();
    let store = fixture.open_with(small(fixture.config()), LogChoice::Nobody).await;
    assert_eq!(store.get(b"a").unwrap().as_deref(), Some(&b"1"[..]));
}

#[tokio::test]
async fn a_publication_whose_answer_was_lost_is_one_when_that_is_known() {
    let fixture = Fixture::new();
    let store = fixture.open_with(small(fixture.config()), LogChoice::Nobody).await;
    store.put(b"a", b"1").await.unwrap();
    fixture.objects.fail("/manifest/", Fault::After, 1);
    store.flush().await.unwrap_err();
    assert!(store.flush().await.unwrap().published);
    assert!(!store.flush().await.unwrap().published);
}

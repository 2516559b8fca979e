//! The object store is away: flushes and merges go on with the local disk, and what is there counts after a crash.

use std::sync::Arc;

use lsmstore::{
    Config, Env, FlushOptions, KeepAll, LogChoice, Store, SystemEnv, WriteError, candidates, read_manifest,
};
use object_store::ObjectStoreExt;

use crate::fixture::{Fault, Fixture, RecordingLog, get, names, puts};

const LONG: usize = 1000;

async fn open(fixture: &Fixture, log: &Arc<RecordingLog>) -> Store {
    fixture.open_with(fixture.config(), LogChoice::External(Arc::clone(log) as _)).await
}

fn write(store: &Store, log: &RecordingLog, key: &str, value: &str) {
    let batch = puts(&[(key, value)]);
    let applied = store.apply(&batch).unwrap();
    log.append(applied.first, &batch);
}

async fn flush_locally(store: &Store) {
    store.flush_local(FlushOptions::default()).await.unwrap();
}

#[tokio::test]
async fn memtables_go_to_the_local_disk_and_writers_do_not_wait() {
    let fixture = Fixture::new();
    let log = Arc::new(RecordingLog::default());
    let store = open(&fixture, &log).await;
    fixture.objects.fail("", Fault::Before, LONG);
    for n in 0..20 {
        write(&store, &log, &format!("k{n}"), "v");
        flush_locally(&store).await;
        assert!(store.publish().await.is_err());
    }
    let stats = store.stats();
    assert_eq!((stats.frozen, stats.levels[0].tables), (0, 20));
    assert!(stats.pending_bytes > 0 && store.wants_publish());
    fixture.objects.heal();
    assert!(store.publish().await.unwrap());
    assert_eq!((store.stats().pending_bytes, store.wants_publish()), (0, false));
    assert_eq!(store.manifest().last_sequence, 20);
    drop(store);
    let elsewhere = fixture.elsewhere();
    let store = open(&elsewhere, &log).await;
    assert_eq!(get(&store, "k19").as_deref(), Some("v"), "from the bucket alone");
}

#[tokio::test]
async fn a_stop_meanwhile_is_an_orderly_one_and_what_the_local_disk_alone_has_is_verified_all_the_same() {
    for damaged in [false, true] {
        let fixture = Fixture::new();
        let store = fixture.open().await;
        store.apply(&puts(&[("a", "published")])).unwrap();
        store.flush().await.unwrap();
        fixture.objects.fail("", Fault::Before, LONG);
        store.apply(&puts(&[("b", "local")])).unwrap();
        flush_locally(&store).await;
        store.close().await.unwrap();
        assert!(fixture.folder().join("ORDERLY").exists());
        let mut mirrors: Vec<_> =
            std::fs::read_dir(fixture.folder().join("mirror")).unwrap().map(Result::unwrap).collect();
        mirrors.sort_by_key(std::fs::DirEntry::file_name);
        assert_eq!(mirrors.len(), 2);
        let newer = mirrors[1].path();
        if damaged {
            let mut bytes = std::fs::read(&newer).unwrap();
            bytes[0] ^= 1;
            std::fs::write(&newer, bytes).unwrap();
        }
        fixture.objects.heal();
        match fixture.try_open(fixture.config(), LogChoice::Nobody).await {
            Ok(store) => {
                assert!(!damaged);
                assert_eq!(
                    (get(&store, "a").as_deref(), get(&store, "b").as_deref()),
                    (Some("published"), Some("local"))
                );
            }
            Err(error) => {
                let name = newer.file_name().unwrap().to_str().unwrap();
                assert!(damaged && error.to_string().contains(name), "{error}");
            }
        }
    }
}

#[tokio::test]
async fn after_an_orderly_stop_an_object_that_no_manifest_of_the_bucket_names_is_looked_for_all_the_same() {
    let fixture = Fixture::new();
    let store = fixture.open().await;
    store.apply(&puts(&[("a", "published")])).unwrap();
    store.flush().await.unwrap();
    store.apply(&puts(&[("b", "uploaded")])).unwrap();
    flush_locally(&store).await;
    fixture.objects.fail("/manifest/", Fault::Before, LONG);
    assert!(store.publish().await.is_err());
    store.apply(&puts(&[("c", "local")])).unwrap();
    flush_locally(&store).await;
    store.close().await.unwrap();
    fixture.objects.heal();
    // The bucket as it was a moment before.
    let uploaded = names(&fixture, "/sst/").await.pop().unwrap();
    fixture.objects.delete(&uploaded).await.unwrap();
    drop(fixture.open().await);
    let store = fixture.elsewhere().open().await;
    for (key, value) in [("a", "published"), ("b", "uploaded"), ("c", "local")] {
        assert_eq!(get(&store, key).as_deref(), Some(value), "from the bucket alone");
    }
}

#[tokio::test]
async fn after_a_crash_the_newer_of_both_manifests_is_gone_on_with() {
    let fixture = Fixture::new();
    let log = Arc::new(RecordingLog::default());
    let store = open(&fixture, &log).await;
    write(&store, &log, "a", "published");
    store.flush().await.unwrap();
    fixture.objects.fail("", Fault::Before, LONG);
    write(&store, &log, "b", "local");
    flush_locally(&store).await;
    write(&store, &log, "c", "in the log");
    let local = store.local_manifest().await;
    assert_eq!((local.position, local.last_sequence), (2, 2));
    drop(store);
    fixture.objects.heal();
    let store = open(&fixture, &log).await;
    assert_eq!((store.manifest().position, store.manifest().last_sequence), (2, 2), "and it is published");
    assert_eq!(get(&store, "b").as_deref(), Some("local"));
    assert_eq!(get(&store, "c"), None);
    assert_eq!(log.replay(&store).await, (1, 0));
    assert_eq!(get(&store, "c").as_deref(), Some("in the log"));
    drop(store);
    let store = open(&fixture.elsewhere(), &log).await;
    assert_eq!(get(&store, "b").as_deref(), Some("local"), "its table was uploaded");
}

#[tokio::test]
async fn a_bucket_taken_over_meanwhile_is_not_overruled_by_the_local_disk() {
    let fixture = Fixture::new();
    let log = Arc::new(RecordingLog::default());
    let store = open(&fixture, &log).await;
    write(&store, &log, "a", "1");
    store.flush().await.unwrap();
    fixture.objects.fail("", Fault::Before, LONG);
    write(&store, &log, "a", "zombie");
    flush_locally(&store).await;
    drop(store);
    fixture.objects.heal();
    drop(open(&fixture.elsewhere(), &log).await);
    let store = open(&fixture, &log).await;
    assert_eq!(get(&store, "a").as_deref(), Some("1"));
    assert_eq!(store.manifest().position, 1, "the log has the rest");
}

#[tokio::test]
async fn a_local_table_that_is_damaged_leaves_it_to_the_log() {
    let fixture = Fixture::new();
    let log = Arc::new(RecordingLog::default());
    let store = open(&fixture, &log).await;
    fixture.objects.fail("", Fault::Before, LONG);
    write(&store, &log, "a", "1");
    flush_locally(&store).await;
    drop(store);
    fixture.objects.heal();
    let mirror = std::fs::read_dir(fixture.folder().join("mirror")).unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&mirror).unwrap();
    bytes[3] ^= 1;
    std::fs::write(&mirror, bytes).unwrap();
    let env: Arc<dyn Env> = Arc::new(SystemEnv::new());
    let objects = Arc::clone(&fixture.objects) as _;
    let found = candidates(&fixture.config(), &objects, &env).await.unwrap();
    assert!(found.local.is_none() && found.local_error.is_some(), "{found:?}");
    let store = open(&fixture, &log).await;
    assert_eq!((get(&store, "a"), store.manifest().position), (None, 0));
    assert_eq!(log.replay(&store).await, (1, 0));
    assert_eq!(get(&store, "a").as_deref(), Some("1"));
}

#[tokio::test]
async fn merges_go_on_and_their_inputs_are_never_uploaded() {
    let fixture = Fixture::new();
    let log = Arc::new(RecordingLog::default());
    let store = open(&fixture, &log).await;
    fixture.objects.fail("", Fault::Before, LONG);
    for n in 0..5 {
        write(&store, &log, "k", &n.to_string());
        flush_locally(&store).await;
    }
    let merged = store.merge_local(Arc::new(KeepAll)).await.unwrap();
    assert_eq!((merged.inputs, merged.outputs), (5, 1));
    assert_eq!(std::fs::read_dir(fixture.folder().join("mirror")).unwrap().count(), 1);
    fixture.objects.heal();
    fixture.objects.puts.lock().unwrap().clear();
    store.publish().await.unwrap();
    assert_eq!(fixture.objects.puts.lock().unwrap().iter().filter(|name| name.contains("/sst/")).count(), 1);
    assert_eq!(get(&store, "k").as_deref(), Some("4"));
}

#[tokio::test]
async fn a_limit_on_what_waits_makes_writers_wait_and_publishing_frees_them() {
    let fixture = Fixture::new();
    let config = fixture.config().memtable_bytes(4096).max_pending_bytes(8 << 10);
    let store = fixture.open_with(config, LogChoice::Nobody).await;
    fixture.objects.fail("", Fault::Before, LONG);
    let value = "v".repeat(1500);
    let mut refused = None;
    for n in 0..100 {
        if let Err(error) = store.apply(&puts(&[(&format!("k{n}"), &value)])) {
            refused = Some(error);
            break;
        }
        flush_locally(&store).await;
    }
    assert!(matches!(refused, Some(WriteError::Behind { limit: 8192, .. })), "{refused:?}");
    assert!(store.stats().pending_bytes < 16 << 10);
    fixture.objects.heal();
    store.flush().await.unwrap();
    store.apply(&puts(&[("x", &value)])).unwrap();
}

#[tokio::test]
async fn a_failed_flush_goes_on_with_the_memtables_it_had_cut_off() {
    let fixture = Fixture::new();
    let log = Arc::new(RecordingLog::default());
    let store = open(&fixture, &log).await;
    *log.fail_birth.lock().unwrap() = true;
    for n in 0..10 {
        write(&store, &log, &format!("k{n}"), "v");
        store.flush_local(FlushOptions::default()).await.unwrap_err();
        assert_eq!(store.stats().frozen, 1);
    }
    *log.fail_birth.lock().unwrap() = false;
    store.flush().await.unwrap();
    let manifest = store.manifest();
    assert_eq!((manifest.position, manifest.last_sequence, store.stats().frozen), (10, 10, 0));
}

#[tokio::test]
async fn a_store_can_be_opened_as_an_older_manifest_has_it() {
    let fixture = Fixture::new();
    let log = Arc::new(RecordingLog::default());
    let store = open(&fixture, &log).await;
    for n in 0..3 {
        write(&store, &log, "k", &n.to_string());
        store.flush().await.unwrap();
    }
    let epoch = store.epoch();
    drop(store);
    let objects = Arc::clone(&fixture.objects) as _;
    let older = read_manifest(&objects, "test", 2).await.unwrap().unwrap();
    assert_eq!(older.last_sequence, 1);
    assert!(read_manifest(&objects, "test", 9).await.unwrap().is_none());
    let config: Config = fixture.config().base(older.nonce);
    let store = fixture.open_with(config, LogChoice::External(Arc::clone(&log) as _)).await;
    assert_eq!((store.epoch(), store.manifest().number), (epoch + 1, 5), "in front of all that came later");
    assert_eq!((store.manifest().position, get(&store, "k").as_deref()), (1, Some("0")));
    drop(store);
    let unknown = fixture.config().base(uuid::Uuid::from_u128(7));
    assert!(fixture.try_open(unknown, LogChoice::External(log as _)).await.is_err());
}

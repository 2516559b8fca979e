//! The log in the object store: what was acknowledged as remote is there for whoever has nothing but the bucket, in order, and
//! a writer who was taken over from acknowledges nothing more.

use std::sync::Arc;
use std::time::Duration;

use lsmstore::{Batch, Config, Durability, GcOptions, LogChoice, OpenError, Store, SystemEnv, Unusable, WriteError};
use object_store::ObjectStoreExt;

use crate::env::Clock;
use crate::fixture::{Fault, Fixture, get, names, puts};

fn config(fixture: &Fixture) -> Config {
    fixture.config().remote_log(true)
}

async fn open(fixture: &Fixture) -> Store {
    fixture.open_own(config(fixture)).await.unwrap()
}

async fn write(store: &Store, key: &str, durability: Durability) {
    store.write(puts(&[(key, "1")]), durability).await.unwrap();
}

fn holds(store: &Store, keys: &[&str]) {
    for key in keys {
        assert_eq!(get(store, key).as_deref(), Some("1"), "{key}");
    }
}

/// The objects of the log, without fences.
async fn pieces(fixture: &Fixture) -> Vec<String> {
    let mut pieces = Vec::new();
    for name in names(fixture, "/wal/").await {
        if fixture.objects.head(&name).await.unwrap().size > 88 {
            pieces.push(name.to_string());
        }
    }
    pieces
}

#[tokio::test]
async fn another_machine_has_what_was_acknowledged_as_remote_and_all_before_it() {
    let fixture = Fixture::new();
    let store = open(&fixture).await;
    write(&store, "a", Durability::Memory).await;
    write(&store, "b", Durability::Remote).await;
    write(&store, "c", Durability::Local).await;
    write(&store, "d", Durability::Remote).await;
    write(&store, "e", Durability::Local).await;
    drop(store);
    let elsewhere = fixture.elsewhere();
    let store = open(&elsewhere).await;
    holds(&store, &["a", "b", "c", "d"]);
    assert_eq!(get(&store, "e"), None, "only the other machine's disk has it");
    assert_eq!(store.last_sequence(), 4);
    write(&store, "f", Durability::Remote).await;
    drop(store);
    let third = fixture.elsewhere();
    let store = open(&third).await;
    assert_eq!(get(&store, "d").as_deref(), Some("1"));
    assert_eq!(get(&store, "f").as_deref(), Some("1"));
}

#[tokio::test]
async fn a_flush_takes_the_place_of_the_log_before_it() {
    let fixture = Fixture::new();
    let store = open(&fixture).await;
    write(&store, "a", Durability::Remote).await;
    store.flush().await.unwrap();
    write(&store, "b", Durability::Remote).await;
    write(&store, "c", Durability::Memory).await;
    store.flush().await.unwrap();
    write(&store, "d", Durability::Remote).await;
    assert_eq!(pieces(&fixture).await.len(), 3, "nobody waited for the third");
    // What the manifest holds is not asked for.
    let first = names(&fixture, "/wal/").await.remove(0);
    fixture.objects.delete(&first).await.unwrap();
    let elsewhere = fixture.elsewhere();
    let store = open(&elsewhere).await;
    holds(&store, &["a", "b", "c", "d"]);
}

#[tokio::test]
async fn on_the_same_machine_the_local_log_is_joined_with_what_only_the_bucket_has() {
    let fixture = Fixture::new();
    let store = open(&fixture).await;
    write(&store, "a", Durability::Local).await;
    write(&store, "b", Durability::Remote).await;
    write(&store, "c", Durability::Local).await;
    drop(store);
    let store = open(&fixture).await;
    assert_eq!(get(&store, "c").as_deref(), Some("1"), "the local log has more than the bucket");
    drop(store);

    let fixture = Fixture::new();
    let store = open(&fixture).await;
    write(&store, "a", Durability::Local).await;
    write(&store, "b", Durability::Remote).await;
    drop(store);
    // The machine stopped before the second one was on its disk.
    let segment = std::fs::read_dir(fixture.folder().join("wal")).unwrap().next().unwrap().unwrap().path();
    let length = std::fs::metadata(&segment).unwrap().len();
    std::fs::OpenOptions::new().write(true).open(&segment).unwrap().set_len(length - 1).unwrap();
    let store = open(&fixture).await;
    assert_eq!(get(&store, "a").as_deref(), Some("1"));
    assert_eq!(get(&store, "b").as_deref(), Some("1"), "the bucket has it");
    write(&store, "c", Durability::Local).await;
    drop(store);
    let store = open(&fixture).await;
    holds(&store, &["a", "b", "c"]);
}

#[tokio::test]
async fn a_writer_who_was_taken_over_from_acknowledges_nothing_more() {
    let fixture = Fixture::new();
    let old = open(&fixture).await;
    write(&old, "a", Durability::Remote).await;
    let elsewhere = fixture.elsewhere();
    let new = open(&elsewhere).await;
    assert_eq!(get(&new, "a").as_deref(), Some("1"));
    let refused = old.write(puts(&[("b", "1")]), Durability::Remote).await;
    assert!(matches!(refused, Err(WriteError::Unusable(Unusable::Fenced { epoch: 1, .. }))), "{refused:?}");
    assert!(old.view().is_err());
    write(&new, "c", Durability::Remote).await;
    let third = fixture.elsewhere();
    let newest = open(&third).await;
    assert_eq!(get(&newest, "b"), None);
    assert_eq!(get(&newest, "c").as_deref(), Some("1"));
}

#[tokio::test]
async fn what_comes_in_while_another_takes_over_is_replayed_or_not_acknowledged() {
    // The older writer's object is there, but the answer to its creation was lost: he asks again after the takeover.
    let fixture = Fixture::new();
    let old = open(&fixture).await;
    write(&old, "a", Durability::Remote).await;
    fixture.objects.fail("/wal/", Fault::After, 1);
    let waiting = tokio::spawn({
        let old = old.clone();
        async move { old.write(puts(&[("b", "1")]), Durability::Remote).await }
    });
    while pieces(&fixture).await.len() < 2 {
        tokio::task::yield_now().await;
    }
    let elsewhere = fixture.elsewhere();
    let new = open(&elsewhere).await;
    assert_eq!(get(&new, "b").as_deref(), Some("1"));
    waiting.await.unwrap().unwrap();
    // The object was not there before the takeover: the fence has its number.
    fixture.objects.fail("/wal/", Fault::Before, 1);
    let refused = old.write(puts(&[("c", "1")]), Durability::Remote).await;
    assert!(matches!(refused, Err(WriteError::Unusable(Unusable::Fenced { .. }))), "{refused:?}");
}

#[tokio::test]
async fn remote_writes_wait_while_the_object_store_is_away_and_others_go_on() {
    let fixture = Fixture::new();
    let store = open(&fixture).await;
    fixture.objects.fail("/wal/", Fault::Before, usize::MAX);
    let waiting = tokio::spawn({
        let store = store.clone();
        async move { store.write(puts(&[("a", "1")]), Durability::Remote).await }
    });
    while fixture.objects.puts.lock().unwrap().iter().filter(|name| name.contains("/wal/")).count() < 2 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    write(&store, "b", Durability::Local).await;
    assert_eq!(get(&store, "a").as_deref(), Some("1"), "it is readable");
    assert!(!waiting.is_finished());
    fixture.objects.heal();
    assert_eq!(waiting.await.unwrap().unwrap().first, 1);
}

#[tokio::test]
async fn a_manifest_that_holds_a_write_acknowledges_it_as_well() {
    let fixture = Fixture::new();
    let store = open(&fixture).await;
    fixture.objects.fail("/wal/", Fault::Before, usize::MAX);
    let waiting = tokio::spawn({
        let store = store.clone();
        async move { store.write(puts(&[("a", "1")]), Durability::Remote).await }
    });
    while get(&store, "a").is_none() {
        tokio::task::yield_now().await;
    }
    store.flush().await.unwrap();
    waiting.await.unwrap().unwrap();
    fixture.objects.heal();
    let elsewhere = fixture.elsewhere();
    assert_eq!(get(&open(&elsewhere).await, "a").as_deref(), Some("1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_writers_share_objects_and_nobody_asks_for_anything_when_nobody_writes() {
    let fixture = Fixture::new();
    let store = open(&fixture).await;
    let writer = |number: usize| {
        let store = store.clone();
        async move {
            for n in 0..50 {
                let durability = if n % 3 == 0 { Durability::Memory } else { Durability::Remote };
                write(&store, &format!("{number}-{n}"), durability).await;
            }
        }
    };
    let tasks: Vec<_> = (0..16).map(|number| tokio::spawn(writer(number))).collect();
    for task in tasks {
        task.await.unwrap();
    }
    let stats = store.stats();
    assert!(stats.log_objects_put < 16 * 34, "{} objects for {} writes", stats.log_objects_put, 16 * 34);
    assert!(stats.log_objects_put > 0 && stats.log_object_bytes_put > 800 * 20);
    write(&store, "last", Durability::Remote).await;
    let before = store.stats().requests.total();
    write(&store, "local", Durability::Local).await;
    assert_eq!(store.stats().requests.total(), before, "nobody waits for it");
    drop(store);
    let elsewhere = fixture.elsewhere();
    let store = open(&elsewhere).await;
    for number in 0..16 {
        for n in 0..50 {
            assert_eq!(get(&store, &format!("{number}-{n}")).as_deref(), Some("1"), "{number}-{n}");
        }
    }
}

#[tokio::test]
async fn a_batch_of_no_writes_waits_for_those_before_it() {
    let fixture = Fixture::new();
    let store = open(&fixture).await;
    write(&store, "a", Durability::Memory).await;
    let applied = store.write(Batch::new(), Durability::Remote).await.unwrap();
    assert_eq!(applied.last + 1, applied.first);
    assert_eq!(pieces(&fixture).await.len(), 1);
}

#[tokio::test]
async fn put_is_remote_where_the_log_is_and_elsewhere_remote_is_refused() {
    let fixture = Fixture::new();
    let store = open(&fixture).await;
    store.put(b"a", b"1").await.unwrap();
    assert_eq!(pieces(&fixture).await.len(), 1);
    let without = Fixture::new();
    let store = without.open_with(without.config(), LogChoice::Own).await;
    let refused = store.write(puts(&[("a", "1")]), Durability::Remote).await;
    assert!(matches!(refused, Err(WriteError::WrongLog { instead: "Config::remote_log" })), "{refused:?}");
    store.put(b"a", b"1").await.unwrap();
    assert!(names(&without, "/wal/").await.is_empty());
}

#[tokio::test]
async fn a_damaged_or_missing_object_is_told_before_anything_is_taken_over() {
    for cut in [None, Some(0), Some(70)] {
        let fixture = Fixture::new();
        let store = open(&fixture).await;
        for key in ["a", "b", "d", "e", "f", "c"] {
            write(&store, key, Durability::Remote).await;
        }
        let nonce = store.manifest().nonce;
        drop(store);
        let manifests = names(&fixture, "/manifest/").await.len();
        let second = names(&fixture, "/wal/").await.remove(1);
        let bytes = fixture.objects.get(&second).await.unwrap().bytes().await.unwrap();
        match cut {
            Some(0) => fixture.objects.delete(&second).await.unwrap(),
            Some(at) => drop(fixture.objects.put(&second, bytes.slice(..at).into()).await.unwrap()),
            None => {
                let mut changed = bytes.to_vec();
                changed[90] ^= 1;
                fixture.objects.put(&second, changed.into()).await.unwrap();
            }
        }
        let elsewhere = fixture.elsewhere();
        let error = elsewhere.try_open(config(&elsewhere), LogChoice::Own).await.unwrap_err().to_string();
        assert!(error.contains(second.as_ref()), "{error}");
        assert_eq!(names(&fixture, "/manifest/").await.len(), manifests);
        let without = fixture.copy().await.elsewhere();
        fixture.objects.put(&second, bytes.into()).await.unwrap();
        assert_eq!(get(&open(&elsewhere).await, "c").as_deref(), Some("1"));
        // Or it is left behind, with what came after it.
        let config = config(&without).base(nonce).accept_log_loss(true);
        let store = without.open_with(config, LogChoice::Own).await;
        assert_eq!((get(&store, "a"), get(&store, "c")), (None, None));
    }
}

#[tokio::test]
async fn objects_that_tables_hold_are_collected_and_fences_stay() {
    let fixture = Fixture::new();
    for _ in 0..3 {
        let store = open(&fixture).await;
        write(&store, "a", Durability::Remote).await;
        drop(store);
    }
    let clock = Arc::<Clock>::default();
    let env = Arc::new(SystemEnv::with(Arc::clone(&clock) as _));
    let config = config(&fixture).keep_manifests(1).keep_for(Duration::ZERO).quarantine(Duration::from_secs(10));
    let objects = Arc::clone(&fixture.objects) as _;
    let store = Store::open(config, objects, Arc::clone(&env) as _, LogChoice::Own).await.unwrap();
    write(&store, "b", Durability::Remote).await;
    assert_eq!(pieces(&fixture).await.len(), 4);
    store.collect_garbage(GcOptions::default()).await.unwrap();
    assert_eq!(pieces(&fixture).await.len(), 4, "what is found waits");
    clock.forward(Duration::from_secs(11));
    store.collect_garbage(GcOptions::default()).await.unwrap();
    assert_eq!(pieces(&fixture).await.len(), 1, "the newest is needed");
    assert_eq!(names(&fixture, "/wal/").await.len(), 4, "each epoch before has its fence");
    let elsewhere = fixture.elsewhere();
    assert_eq!(get(&open(&elsewhere).await, "b").as_deref(), Some("1"));
}

#[tokio::test]
async fn a_store_goes_on_without_the_log_in_the_bucket() {
    let fixture = Fixture::new();
    let store = open(&fixture).await;
    write(&store, "a", Durability::Remote).await;
    drop(store);
    let elsewhere = fixture.elsewhere();
    // Somebody who has another log would lose what that one holds.
    let refused = elsewhere.try_open(elsewhere.config(), LogChoice::Nobody).await;
    assert!(matches!(refused, Err(OpenError::WrongLog { .. })), "{refused:?}");
    let store = elsewhere.open_with(elsewhere.config(), LogChoice::Own).await;
    assert_eq!(get(&store, "a").as_deref(), Some("1"));
    assert_eq!(store.manifest().last_sequence, 1, "it is in the bucket's tables");
}

#[tokio::test]
async fn an_older_manifest_leaves_the_log_behind_and_ends_it() {
    let fixture = Fixture::new();
    let old = open(&fixture).await;
    write(&old, "a", Durability::Remote).await;
    old.flush().await.unwrap();
    let base = old.manifest().nonce;
    for key in ["b", "c", "d"] {
        write(&old, key, Durability::Remote).await;
        old.flush().await.unwrap();
    }
    write(&old, "e", Durability::Remote).await;
    // What the newest manifest holds was collected.
    for name in names(&fixture, "/wal/").await.into_iter().take(4) {
        fixture.objects.delete(&name).await.unwrap();
    }
    let elsewhere = fixture.elsewhere();
    let new = elsewhere.open_with(config(&elsewhere).base(base), LogChoice::Own).await;
    assert_eq!((get(&new, "a").as_deref(), get(&new, "b"), get(&new, "e")), (Some("1"), None, None));
    let refused = old.write(puts(&[("f", "1")]), Durability::Remote).await;
    assert!(matches!(refused, Err(WriteError::Unusable(Unusable::Fenced { .. }))), "{refused:?}");
    write(&new, "g", Durability::Remote).await;
    drop(new);
    let third = fixture.elsewhere();
    let store = open(&third).await;
    assert_eq!((get(&store, "a").as_deref(), get(&store, "g").as_deref()), (Some("1"), Some("1")));
    assert_eq!((get(&store, "b"), get(&store, "e")), (None, None), "they stay behind");
}

#[tokio::test]
async fn writes_that_only_an_older_local_log_has_are_not_lost_in_silence() {
    let fixture = Fixture::new();
    let store = fixture.open_with(fixture.config(), LogChoice::Own).await;
    write(&store, "a", Durability::Local).await;
    drop(store);
    // The next one keeps its log in the bucket, but does not get as far as putting there what it replayed.
    fixture.objects.fail("/sst/", Fault::Before, usize::MAX);
    let failed = fixture.open_own(config(&fixture)).await;
    assert!(matches!(failed, Err(OpenError::ReplayFlush(_))), "{failed:?}");
    fixture.objects.heal();
    let elsewhere = fixture.elsewhere();
    let refused = elsewhere.try_open(config(&elsewhere), LogChoice::Own).await;
    assert!(matches!(refused, Err(OpenError::LogElsewhere { .. })), "{refused:?}");
    assert_eq!(get(&open(&fixture).await, "a").as_deref(), Some("1"));
}

#[tokio::test]
async fn a_patient_writer_of_a_log_that_is_too_slow_waits_or_is_told_why() {
    let fixture = Fixture::new();
    let config = config(&fixture).memtable_bytes(128 << 20);
    let store = fixture.open_with(config, LogChoice::Own).await;
    fixture.objects.fail("/wal/", Fault::Before, usize::MAX);
    let value = vec![7; 1 << 20];
    for n in 0..80_u64 {
        let mut batch = Batch::new();
        batch.put(&n.to_be_bytes(), &value);
        match store.write(batch, Durability::Local).await {
            Ok(_) => {}
            Err(WriteError::Behind { bytes, limit }) => {
                assert!(bytes > limit && n > 60, "after {n} writes");
                // Tables take the log's place.
                store.flush().await.unwrap();
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(store.stats().refused_behind, 1);
}

//! Object stores that fail in every way, and clients that crash between any two requests: what was flushed is there,
//! whole, once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use kriya_testkit::fault::{Fault, Kind, Operation};
use kriya_testkit::stores::{CrashStore, FaultStore};
use lsmstore::{
    Batch, Config, GcError, GcOptions, KeepAll, LogChoice, OpenError, Store, SystemEnv, objects, objects::ObjectStore,
};

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

async fn open(dir: &tempfile::TempDir, objects: Arc<dyn ObjectStore>) -> Result<Store, OpenError> {
    let config = Config::new(dir.path(), "test").memtable_bytes(64 << 10).block_bytes(256).l0_merge_trigger(3);
    // All that can go goes at once, so that it would be missed.
    let config = config.keep_manifests(1).keep_for(Duration::ZERO).quarantine(Duration::ZERO);
    Store::open(config, objects, Arc::new(SystemEnv::new()), LogChoice::Nobody).await
}

/// Round `round`: some keys are new, some are changed, some are gone.
fn change(round: u32, model: &mut Model) -> Batch {
    let mut batch = Batch::new();
    for n in 0..20 {
        let key = format!("key{:03}", (round * 13 + n * 7) % 100).into_bytes();
        if (round + n).is_multiple_of(5) {
            batch.delete(&key);
            model.remove(&key);
        } else {
            let value = format!("{round}.{n}").into_bytes();
            batch.put(&key, &value);
            model.insert(key, value);
        }
    }
    batch
}

fn content(store: &Store) -> Model {
    let view = store.view().unwrap();
    let mut scan = view.scan_prefix(b"", view.read_sequence()).unwrap();
    let mut found = Model::new();
    while let Some((key, value)) = scan.next().unwrap() {
        assert!(found.insert(key.to_vec(), value.to_vec()).is_none(), "a key came twice");
    }
    found
}

async fn survives(faults: Vec<Fault>) {
    let dir = tempfile::tempdir().unwrap();
    let objects = Arc::new(FaultStore::new(objects::memory()));
    let store = open(&dir, Arc::clone(&objects) as _).await.unwrap();
    objects.set(faults.clone());
    let mut model = Model::new();
    for round in 0..60 {
        store.apply(&change(round, &mut model)).unwrap();
        let mut attempts = 0;
        while let Err(error) = store.flush().await {
            attempts += 1;
            assert!(attempts < 200, "{error}");
            assert_eq!(content(&store), model, "a failed flush changes nothing that can be read");
        }
        if store.wants_merge() {
            // One that fails is due again.
            let _ = store.merge(Arc::new(KeepAll)).await;
        }
        for _ in 0..4 {
            match store.collect_garbage(GcOptions::default()).await {
                Ok(_) | Err(GcError::Storage(_)) => {}
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(content(&store), model);
    }
    objects.set(Vec::new());
    let left = objects.list(Some(&"test/sst".into())).count().await;
    assert!(left < 30, "{left} tables are left, not all of which could be deleted");
    // Whatever the last merge came to.
    store.flush().await.unwrap();
    for _ in 0..2 {
        store.collect_garbage(GcOptions::default()).await.unwrap();
    }
    let tables = objects.list(Some(&"test/sst".into())).count().await;
    assert_eq!(tables as u64, store.manifest().tables);
    objects.set(faults.clone());
    assert!(objects.struck() > 0, "no fault struck");
    drop(store);
    // From the objects alone, over the same faults.
    let elsewhere = tempfile::tempdir().unwrap();
    let mut attempts = 0;
    let store = loop {
        match open(&elsewhere, Arc::clone(&objects) as _).await {
            Ok(store) => break store,
            Err(error) => assert!(attempts < 200, "{error}"),
        }
        attempts += 1;
    };
    assert_eq!(content(&store), model);
}

#[tokio::test]
async fn requests_that_fail_before_they_take_effect_lose_nothing() {
    survives(vec![Fault::always(Kind::Before).chance(0.3, 1)]).await;
}

#[tokio::test]
async fn requests_that_take_effect_and_report_failure_lose_and_double_nothing() {
    survives(vec![Fault::always(Kind::After).on(&[Operation::Put]).chance(0.4, 2)]).await;
}

#[tokio::test]
async fn conflicts_that_are_none_and_bodies_that_are_cut_lose_nothing() {
    survives(vec![
        Fault::always(Kind::Conflict).chance(0.3, 3),
        Fault::always(Kind::Cut).on(&[Operation::Get, Operation::List]).chance(0.2, 4),
    ])
    .await;
}

#[tokio::test]
async fn everything_at_once_and_slowly_loses_nothing() {
    survives(vec![
        Fault::always(Kind::Slow(Duration::from_millis(1))),
        Fault::always(Kind::Before).chance(0.1, 5),
        Fault::always(Kind::After).on(&[Operation::Put]).chance(0.1, 6),
        Fault::always(Kind::Conflict).chance(0.1, 7),
        Fault::always(Kind::Deny).chance(0.05, 8),
    ])
    .await;
}

#[tokio::test]
async fn a_crash_between_any_two_requests_leaves_one_of_the_flushed_states() {
    let dir = tempfile::tempdir().unwrap();
    let objects = Arc::new(CrashStore::new());
    let (mut model, mut deleted) = (Model::new(), 0);
    // What was flushed when, by the number of events at which the flush had returned.
    let mut flushed = vec![(0, Model::new())];
    // A second opening, with its own manifest, is among the requests.
    for half in 0..2 {
        let store = open(&dir, Arc::clone(&objects) as _).await.unwrap();
        for round in half * 6..half * 6 + 6 {
            store.apply(&change(round, &mut model)).unwrap();
            store.flush().await.unwrap();
            flushed.push((objects.events(), model.clone()));
            if store.wants_merge() {
                store.merge(Arc::new(KeepAll)).await.unwrap();
            }
            let report = store.collect_garbage(GcOptions::default()).await.unwrap();
            deleted += report.deleted.len();
        }
    }
    assert!(deleted > 12);
    let states = objects.left_behind().await.unwrap();
    assert!(states.len() > objects.events(), "open requests were tried both ways");
    for left in states {
        let done = flushed.iter().rposition(|(events, _)| *events <= left.events).unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        let store = open(&elsewhere, Arc::clone(&left.objects)).await.unwrap();
        let found = content(&store);
        if left.events.is_multiple_of(5) {
            // Whatever was left half-way is collected, and nothing else.
            for _ in 0..3 {
                store.collect_garbage(GcOptions::default()).await.unwrap();
            }
            let tables = left.objects.list(Some(&"test/sst".into())).count().await;
            assert_eq!(tables as u64, store.manifest().tables, "after {} events", left.events);
            let elsewhere = tempfile::tempdir().unwrap();
            assert_eq!(content(&open(&elsewhere, left.objects).await.unwrap()), found);
        }
        let next = flushed.get(done + 1).is_some_and(|(_, model)| *model == found);
        assert!(found == flushed[done].1 || next, "after {} events, {done} flushes were acknowledged", left.events);
    }
}

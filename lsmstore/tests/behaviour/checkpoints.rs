//! Checkpoints: manifests that are kept with all of their tables until they are deleted or nobody refreshes them.

use std::sync::Arc;
use std::time::Duration;

use lsmstore::{
    CheckpointError, CheckpointOptions, Config, GcKind, GcOptions, GcReport, KeepAll, LogChoice, OpenError, Store,
};

use crate::fixture::{Fixture, get, names, puts};

fn config(fixture: &Fixture) -> Config {
    let none = Duration::ZERO;
    fixture.config().keep_manifests(1).keep_for(none).quarantine(none).l0_merge_trigger(2)
}

async fn open(fixture: &Fixture) -> Store {
    fixture.open_with(config(fixture), LogChoice::Nobody).await
}

/// One more state of the key, of which no older manifest shares a table.
async fn state(store: &Store, value: &str) {
    for _ in 0..2 {
        store.apply(&puts(&[("key", value)])).unwrap();
        store.flush().await.unwrap();
    }
    store.merge(Arc::new(KeepAll)).await.unwrap();
}

async fn passes(store: &Store, count: usize) -> GcReport {
    let mut report = GcReport::default();
    for _ in 0..count {
        report = store.collect_garbage(GcOptions::default()).await.unwrap();
    }
    report
}

fn named(name: &str) -> CheckpointOptions {
    CheckpointOptions { name: name.into(), ..CheckpointOptions::default() }
}

#[tokio::test]
async fn a_checkpoint_keeps_its_state_until_it_is_deleted() {
    let fixture = Fixture::new();
    let store = open(&fixture).await;
    state(&store, "one").await;
    let held = store.checkpoints().create(named("before")).await.unwrap();
    assert_eq!((held.manifest, held.held), (store.manifest().number, true));
    state(&store, "two").await;
    let report = passes(&store, 4).await;
    assert_eq!(report.checkpoints, std::slice::from_ref(&held));
    assert_eq!(store.checkpoints().list().await.unwrap(), std::slice::from_ref(&held));
    drop(store);

    let other = fixture.elsewhere();
    let store = other.open_with(config(&other).base(held.manifest_nonce), LogChoice::Nobody).await;
    assert_eq!(get(&store, "key").as_deref(), Some("one"));
    state(&store, "three").await;
    store.checkpoints().delete(held.id).await.unwrap();
    store.checkpoints().delete(held.id).await.unwrap();
    assert_eq!(store.checkpoints().list().await.unwrap(), []);
    let mut deleted = 0;
    for _ in 0..4 {
        let report = passes(&store, 1).await;
        deleted += report.deleted.iter().filter(|garbage| garbage.kind == GcKind::Checkpoint).count();
    }
    assert!(deleted >= 3);
    assert_eq!(names(&fixture, "/checkpoint/").await, []);
    assert_eq!((names(&fixture, "/sst/").await.len(), names(&fixture, "/manifest/").await.len()), (1, 1));
    let error = store.checkpoints().delete(held.id).await.unwrap_err();
    assert!(matches!(error, CheckpointError::NotFound { id } if id == held.id), "{error}");
}

#[tokio::test]
async fn what_was_collected_cannot_be_kept_but_beside_another_checkpoint() {
    let fixture = Fixture::new();
    let store = open(&fixture).await;
    state(&store, "one").await;
    let number = store.manifest().number;
    let first = store.checkpoints().create(named("first")).await.unwrap();
    state(&store, "two").await;
    passes(&store, 3).await;
    let at = |manifest| CheckpointOptions { manifest: Some(manifest), ..CheckpointOptions::default() };
    let second = store.checkpoints().create(at(number)).await.unwrap();
    store.checkpoints().delete(first.id).await.unwrap();
    passes(&store, 3).await;
    let other = fixture.elsewhere();
    drop(store);
    let store = other.open_with(config(&other).base(second.manifest_nonce), LogChoice::Nobody).await;
    assert_eq!(get(&store, "key").as_deref(), Some("one"));

    let error = store.checkpoints().create(at(number - 1)).await.unwrap_err();
    assert!(matches!(error, CheckpointError::NoManifest { .. }), "{error}");
    // It is there for a moment longer, but below the boundary.
    let newest = store.manifest().number;
    state(&store, "three").await;
    passes(&store, 1).await;
    let young = store.checkpoints().create(at(newest)).await.unwrap();
    passes(&store, 2).await;
    store.checkpoints().delete(young.id).await.unwrap();
    let error = store.checkpoints().create(at(newest)).await.unwrap_err();
    assert!(matches!(error, CheckpointError::Collected { manifest, .. } if manifest == newest), "{error}");
    let held: Vec<_> = store.checkpoints().list().await.unwrap().into_iter().map(|held| held.id).collect();
    assert_eq!(held, [second.id], "a refused proposal keeps nothing");
}

#[tokio::test]
async fn a_checkpoint_that_nobody_refreshes_ends_and_cannot_be_refreshed_any_more() {
    let fixture = Fixture::new();
    let store = open(&fixture).await;
    state(&store, "one").await;
    let options = CheckpointOptions { ttl: Some(Duration::ZERO), ..named("short") };
    let short = store.checkpoints().create(options).await.unwrap();
    let long = CheckpointOptions { ttl: Some(Duration::from_secs(3600)), ..named("long") };
    let long = store.checkpoints().create(long).await.unwrap();
    for _ in 0..4 {
        store.checkpoints().refresh(long.id).await.unwrap();
    }
    assert!(names(&fixture, "/checkpoint/").await.len() <= 5, "a refresh removes older beats");
    state(&store, "two").await;
    let report = passes(&store, 1).await;
    assert_eq!((report.expired.len(), report.checkpoints.len()), (0, 2), "one pass alone ends nothing");
    let report = passes(&store, 1).await;
    assert_eq!((report.expired.len(), report.checkpoints.len()), (1, 1));
    assert_eq!(report.expired[0].id, short.id);
    let error = store.checkpoints().refresh(short.id).await.unwrap_err();
    assert!(matches!(error, CheckpointError::Ended { id } if id == short.id), "{error}");
    passes(&store, 3).await;
    let error = store.checkpoints().refresh(short.id).await.unwrap_err();
    assert!(matches!(error, CheckpointError::NotFound { id } if id == short.id), "{error}");
    store.checkpoints().refresh(long.id).await.unwrap();
    let other = fixture.elsewhere();
    let store = other.open_with(config(&other).base(long.manifest_nonce), LogChoice::Nobody).await;
    assert_eq!(get(&store, "key").as_deref(), Some("one"));
}

#[tokio::test]
async fn a_bucket_without_manifests_has_nothing_to_be_kept() {
    let fixture = Fixture::new();
    let env = Arc::new(lsmstore::SystemEnv::new());
    let checkpoints = lsmstore::Checkpoints::new(Arc::clone(&fixture.objects) as _, env, "test");
    assert!(matches!(checkpoints.create(named("none")).await, Err(CheckpointError::Empty)));
    assert_eq!(names(&fixture, "").await, []);
}

#[tokio::test]
async fn an_older_base_that_is_being_collected_is_refused_and_nothing_is_taken_over() {
    let fixture = Fixture::new();
    let store = fixture.open_with(config(&fixture).keep_manifests(9), LogChoice::Nobody).await;
    state(&store, "one").await;
    let old = store.manifest();
    state(&store, "two").await;
    // Another collector has come as far as the boundary.
    let boundary = format!("test/boundary/{:020}", store.manifest().number);
    object_store::ObjectStoreExt::put(&*fixture.objects, &boundary.into(), "x".into()).await.unwrap();
    let other = fixture.elsewhere();
    let error = other.try_open(config(&other).base(old.nonce), LogChoice::Nobody).await.unwrap_err();
    assert!(matches!(&error, OpenError::Base(CheckpointError::Collected { .. })), "{error}");
    state(&store, "three").await;
    assert_eq!(get(&store, "key").as_deref(), Some("three"), "the writer is the writer still");
}

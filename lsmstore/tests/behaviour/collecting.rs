//! Garbage collection: what nothing needs goes, in the second pass that sees it, and only the writer deletes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use kriya_testkit::fault::{Fault as StoreFault, Kind, Operation};
use kriya_testkit::stores::FaultStore;
use lsmstore::{
    Config, FlushError, FlushOptions, GcError, GcKind, GcOptions, GcReport, KeepAll, KeptBecause, LogChoice, OpenError,
    StorageError, Store, SystemEnv, Unusable, garbage, objects, read_manifest,
};
use object_store::{ObjectStore, ObjectStoreExt};

use crate::env::Clock;
use crate::fixture::{Fixture, get, names, puts};

const SOON: Duration = Duration::ZERO;

/// Nothing is retained but the newest manifest.
fn config(fixture: &Fixture) -> Config {
    fixture.config().keep_manifests(1).keep_for(SOON).quarantine(SOON).l0_merge_trigger(2)
}

async fn open(fixture: &Fixture) -> Store {
    fixture.open_with(config(fixture), LogChoice::Nobody).await
}

/// Rounds that each publish a table and a manifest, and a merge of all of them.
async fn rounds(store: &Store, from: usize, to: usize) {
    for round in from..to {
        store.apply(&puts(&[(&format!("k{round:02}"), &format!("v{round}")), ("all", &format!("{round}"))])).unwrap();
        store.flush().await.unwrap();
    }
    store.merge(Arc::new(KeepAll)).await.unwrap();
}

fn right(store: &Store, rounds: usize) {
    for round in 0..rounds {
        assert_eq!(get(store, &format!("k{round:02}")), Some(format!("v{round}")));
    }
    assert_eq!(get(store, "all"), Some(format!("{}", rounds - 1)));
}

async fn pass(store: &Store) -> GcReport {
    store.collect_garbage(GcOptions::default()).await.unwrap()
}

fn kinds(report: &GcReport, kind: GcKind) -> usize {
    report.deleted.iter().filter(|garbage| garbage.kind == kind).count()
}

fn kept(report: &GcReport, because: KeptBecause) -> u64 {
    report.kept.iter().find(|kept| kept.because == because).map_or(0, |kept| kept.objects)
}

#[tokio::test]
async fn what_nothing_names_goes_in_the_second_pass_and_the_rest_stays() {
    let fixture = Fixture::new();
    let store = open(&fixture).await;
    rounds(&store, 0, 6).await;
    let (tables, manifests) = (names(&fixture, "/sst/").await.len(), names(&fixture, "/manifest/").await.len());
    assert_eq!((tables, manifests), (7, 8));

    let first = pass(&store).await;
    assert_eq!((first.deleted.len(), first.waiting.len()), (0, 6 + 7));
    assert_eq!((names(&fixture, "/sst/").await.len(), names(&fixture, "/manifest/").await.len()), (7, 8));

    let second = pass(&store).await;
    assert_eq!((kinds(&second, GcKind::Table), kinds(&second, GcKind::Manifest), second.waiting.len()), (6, 7, 0));
    assert_eq!((kept(&second, KeptBecause::Named), kept(&second, KeptBecause::Retained)), (1, 1));
    assert_eq!((names(&fixture, "/sst/").await.len(), names(&fixture, "/manifest/").await.len()), (1, 1));
    assert_eq!(second.boundary, store.manifest().number);
    assert!(second.deleted_bytes() > 0);

    assert!(pass(&store).await.deleted.is_empty());
    rounds(&store, 6, 8).await;
    right(&store, 8);
    drop(store);
    right(&open(&fixture.elsewhere()).await, 8);
}

#[tokio::test]
async fn a_dry_run_says_what_a_pass_would_do_and_does_not_count_as_one() {
    let fixture = Fixture::new();
    let store = open(&fixture).await;
    rounds(&store, 0, 4).await;
    let before = names(&fixture, "").await;
    let dry = GcOptions { dry_run: true, ..GcOptions::default() };
    for _ in 0..3 {
        let report = store.collect_garbage(dry).await.unwrap();
        assert!(report.dry_run && report.deleted.is_empty() && !report.waiting.is_empty());
    }
    assert_eq!(names(&fixture, "").await, before);
    pass(&store).await;
    let dry = store.collect_garbage(dry).await.unwrap();
    assert_eq!(names(&fixture, "").await, before);
    let real = pass(&store).await;
    assert_eq!((&dry.deleted, &dry.waiting, &dry.kept), (&real.deleted, &real.waiting, &real.kept));
    assert!(!real.deleted.is_empty());
}

#[tokio::test]
async fn whoever_does_not_own_the_bucket_is_told_what_is_garbage() {
    let fixture = Fixture::new();
    let store = open(&fixture).await;
    rounds(&store, 0, 4).await;
    let before = names(&fixture, "").await;
    let expected = pass(&store).await;
    let objects: Arc<dyn ObjectStore> = Arc::clone(&fixture.objects) as _;
    let report = garbage(&config(&fixture), &objects, &(Arc::new(SystemEnv::new()) as _)).await.unwrap();
    assert!(report.dry_run && report.deleted.is_empty());
    // Tables of the epoch that has named them in manifests which stay no more: only their writer knows.
    assert_eq!(report.waiting.len() as u64 + kept(&report, KeptBecause::OnItsWay), expected.waiting.len() as u64);
    assert_eq!(names(&fixture, "").await, before);
}

#[tokio::test]
async fn what_a_publication_that_is_on_its_way_will_name_is_no_garbage() {
    let fixture = Fixture::new();
    let objects = Arc::new(FaultStore::new(objects::memory()));
    let env = Arc::new(SystemEnv::new());
    let store = Store::open(config(&fixture), Arc::clone(&objects) as _, env, LogChoice::Nobody).await.unwrap();
    for writes in [[("a", "1"), ("c", "1")], [("b", "2"), ("d", "2")]] {
        store.apply(&puts(&writes)).unwrap();
        store.flush_local(FlushOptions::default()).await.unwrap();
    }
    objects.set(vec![StoreFault::always(Kind::Silent).on(&[Operation::Put]).within("0002.sst")]);
    let publishing = store.clone();
    let publication = tokio::spawn(async move { publishing.publish().await });
    let tables = async || objects.list(Some(&"test/sst".into())).count().await;
    while tables().await == 0 {
        tokio::task::yield_now().await;
    }
    // It goes on with what the local manifest named when it began.
    assert_eq!(store.merge_local(Arc::new(KeepAll)).await.unwrap().inputs, 2);
    for _ in 0..3 {
        store.collect_garbage(GcOptions::default()).await.unwrap();
    }
    assert_eq!(tables().await, 1, "the manifest to come names it");
    publication.abort();
}

#[tokio::test]
async fn garbage_stays_for_the_quarantine_by_the_clock_of_one_process() {
    let fixture = Fixture::new();
    let clock = Arc::new(Clock::default());
    let env = Arc::new(SystemEnv::with(Arc::clone(&clock) as _));
    let config = config(&fixture).quarantine(Duration::from_secs(60));
    let open =
        || Store::open(config.clone(), Arc::clone(&fixture.objects) as _, Arc::clone(&env) as _, LogChoice::Nobody);
    let store = open().await.unwrap();
    rounds(&store, 0, 4).await;
    assert!(pass(&store).await.deleted.is_empty());
    clock.forward(Duration::from_secs(59));
    assert!(pass(&store).await.deleted.is_empty());
    drop(store);
    // Another process has to see it for as long again.
    let store = open().await.unwrap();
    clock.forward(Duration::from_secs(2));
    assert!(pass(&store).await.deleted.is_empty());
    clock.forward(Duration::from_secs(60));
    let report = pass(&store).await;
    assert_eq!((kinds(&report, GcKind::Table), kinds(&report, GcKind::Manifest)), (4, 6));
    right(&store, 4);
}

#[tokio::test]
async fn retained_manifests_keep_their_tables_and_can_be_gone_back_to() {
    let fixture = Fixture::new();
    let store = fixture.open_with(config(&fixture).keep_manifests(3), LogChoice::Nobody).await;
    rounds(&store, 0, 6).await;
    let newest = store.manifest().number;
    let objects: Arc<dyn ObjectStore> = Arc::clone(&fixture.objects) as _;
    let info = |number| read_manifest(&objects, "test", number);
    let old = info(newest - 3).await.unwrap().unwrap();
    for _ in 0..3 {
        pass(&store).await;
    }
    assert_eq!(info(newest - 3).await.unwrap(), None);
    let retained = info(newest - 2).await.unwrap().unwrap();
    drop(store);
    let other = fixture.elsewhere();
    let error = other.try_open(config(&other).base(old.nonce), LogChoice::Nobody).await.unwrap_err();
    assert!(matches!(error, OpenError::Storage(StorageError::Missing { .. })), "{error}");
    let store = other.open_with(config(&other).base(retained.nonce), LogChoice::Nobody).await;
    right(&store, 5);
    assert!(names(&fixture, "/checkpoint/").await.len() <= 3, "the hold of the opening is over");
    assert_eq!(store.checkpoints().list().await.unwrap(), []);
}

#[tokio::test]
async fn a_writer_that_slept_through_a_takeover_and_collections_is_fenced_by_names_that_are_free_again() {
    let fixture = Fixture::new();
    let zombie = open(&fixture).await;
    rounds(&zombie, 0, 3).await;
    let asleep = zombie.manifest().number;
    let other = fixture.elsewhere();
    let store = open(&other).await;
    rounds(&store, 3, 6).await;
    for _ in 0..3 {
        pass(&store).await;
    }
    let objects: Arc<dyn ObjectStore> = Arc::clone(&fixture.objects) as _;
    assert_eq!(read_manifest(&objects, "test", asleep + 1).await.unwrap(), None, "the name is free");
    let before: BTreeSet<_> = names(&fixture, "").await.into_iter().collect();

    let held = zombie.view().unwrap();
    zombie.apply(&puts(&[("k00", "zombie")])).unwrap();
    let error = zombie.flush().await.unwrap_err();
    assert!(matches!(error, FlushError::Unusable(Unusable::Fenced { .. })), "{error}");
    assert!(zombie.view().is_err());
    assert_eq!(held.get(b"k01", held.read_sequence()).unwrap(), Some(&b"v1"[..]), "its mirrors are its own");
    let after: BTreeSet<_> = names(&fixture, "").await.into_iter().collect();
    assert!(after.is_superset(&before));
    // What it left goes, too.
    for _ in 0..3 {
        pass(&store).await;
    }
    assert_eq!((names(&fixture, "/sst/").await.len(), names(&fixture, "/manifest/").await.len()), (1, 1));
    right(&store, 6);
    drop(store);
    right(&open(&fixture.elsewhere()).await, 6);
}

#[tokio::test]
async fn a_writer_that_does_not_know_that_it_is_fenced_deletes_nothing() {
    let fixture = Fixture::new();
    let zombie = open(&fixture).await;
    rounds(&zombie, 0, 3).await;
    pass(&zombie).await;
    let other = fixture.elsewhere();
    let store = open(&other).await;
    let before = names(&fixture, "").await;
    let error = zombie.collect_garbage(GcOptions::default()).await.unwrap_err();
    assert!(matches!(error, GcError::Unusable(Unusable::Fenced { .. })), "{error}");
    assert_eq!(names(&fixture, "").await, before);
    assert!(zombie.apply(&puts(&[("a", "b")])).is_err(), "it knows now");
    right(&store, 3);
}

#[tokio::test]
async fn views_and_local_tables_that_are_not_published_survive_collection() {
    let fixture = Fixture::new();
    let store = open(&fixture).await;
    rounds(&store, 0, 3).await;
    let held = store.view().unwrap();
    let sequence = held.read_sequence();
    // A merge on the local disk only: the bucket's newest manifest names the inputs.
    store.apply(&puts(&[("all", "local")])).unwrap();
    store.flush_local(Default::default()).await.unwrap();
    store.merge_local(Arc::new(KeepAll)).await.unwrap();
    for _ in 0..3 {
        pass(&store).await;
    }
    right(&open(&fixture.elsewhere()).await, 3);
    assert_eq!(held.get(b"all", sequence).unwrap(), Some(&b"2"[..]));
    assert_eq!(get(&store, "all").as_deref(), Some("local"));
}

#[tokio::test]
async fn names_that_are_not_ours_and_tables_on_their_way_stay() {
    let fixture = Fixture::new();
    let store = open(&fixture).await;
    rounds(&store, 0, 3).await;
    let foreign = ["test/sst/readme.txt", "test/manifest/backup", "test/segments/1.rows", "other/sst/1/2.sst"];
    let on_its_way = format!("test/sst/{:016x}/{:016x}.sst", store.epoch(), 99);
    let newer = format!("test/sst/{:016x}/{:016x}.sst", store.epoch() + 1, 1);
    let mut names_of = foreign.to_vec();
    names_of.extend([&on_its_way[..], &newer[..]]);
    for name in &names_of {
        fixture.objects.put(&(*name).into(), "x".into()).await.unwrap();
    }
    let mut report = pass(&store).await;
    for _ in 0..2 {
        report = pass(&store).await;
    }
    let there = names(&fixture, "").await;
    for name in names_of {
        assert!(there.contains(&name.into()), "{name}");
    }
    assert_eq!(kept(&report, KeptBecause::Foreign), 2);
    assert_eq!((kept(&report, KeptBecause::OnItsWay), kept(&report, KeptBecause::Newer)), (1, 1));
    // The next epoch knows that nobody will name what an earlier one left.
    drop(store);
    let store = open(&fixture).await;
    pass(&store).await;
    pass(&store).await;
    assert!(!names(&fixture, "").await.contains(&on_its_way.into()));
}

#[tokio::test]
async fn a_manifest_of_ours_that_is_gone_and_one_that_is_damaged_end_the_pass_before_anything_is_deleted() {
    for damage in [None, Some("garbage")] {
        let fixture = Fixture::new();
        let store = fixture.open_with(config(&fixture).keep_manifests(2), LogChoice::Nobody).await;
        rounds(&store, 0, 3).await;
        drop(store);
        let store = fixture.open_with(config(&fixture).keep_manifests(2), LogChoice::Nobody).await;
        let manifests = names(&fixture, "/manifest/").await;
        match damage {
            None => fixture.objects.delete(manifests.last().unwrap()).await.unwrap(),
            Some(bytes) => drop(fixture.objects.put(&manifests[manifests.len() - 2], bytes.into()).await.unwrap()),
        }
        let before = names(&fixture, "").await;
        for _ in 0..3 {
            let error = store.collect_garbage(GcOptions::default()).await.unwrap_err();
            assert!(error.to_string().contains("manifest/"), "{error}");
        }
        assert_eq!(names(&fixture, "").await, before);
    }
}

#[tokio::test]
async fn two_boundaries_stay_however_often_garbage_is_collected() {
    let fixture = Fixture::new();
    let store = open(&fixture).await;
    for round in 0..6 {
        rounds(&store, round * 2, round * 2 + 2).await;
        pass(&store).await;
        pass(&store).await;
    }
    let boundaries = names(&fixture, "/boundary/").await;
    assert_eq!(boundaries.len(), 2);
    assert!(boundaries[1].as_ref().ends_with(&format!("{:020}", store.manifest().number)));
}

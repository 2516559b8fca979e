//! A bucket read by somebody who does not write it and has no copy of it: what it shows, and what it asks for.

use std::sync::Arc;
use std::time::Duration;

use lsmstore::{
    Batch, BlockingFollower, FollowError, Follower, FollowerConfig, GcOptions, KeepAll, LogChoice, Snapshot, Store,
    SystemEnv,
};
use object_store::ObjectStoreExt;

use crate::env::Clock;
use crate::fixture::{Fixture, RecordingLog, names, puts};

pub async fn follow_with(fixture: &Fixture, config: FollowerConfig) -> Follower {
    Follower::open(config, Arc::clone(&fixture.objects) as _, Arc::new(SystemEnv::new())).await.unwrap()
}

async fn follow(fixture: &Fixture) -> Follower {
    follow_with(fixture, FollowerConfig::new("test")).await
}

fn key(n: usize) -> Vec<u8> {
    format!("key {n:06}").into_bytes()
}

fn value(n: usize) -> Vec<u8> {
    format!("value {n} ").repeat(1 + n % 7).into_bytes()
}

async fn fill(store: &Store, keys: std::ops::Range<usize>) {
    let mut batch = Batch::new();
    for n in keys {
        batch.put(&key(n), &value(n));
    }
    store.apply(&batch).unwrap();
    store.flush().await.unwrap();
}

/// A store of 2,000 keys in one level.
pub async fn compacted(fixture: &Fixture) -> Store {
    let store = fixture.open().await;
    for part in 0..4 {
        fill(&store, part * 500..(part + 1) * 500).await;
    }
    store.merge(Arc::new(KeepAll)).await.unwrap();
    store
}

async fn all(mut scan: lsmstore::SnapshotScan) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut rows = Vec::new();
    while let Some((key, value)) = scan.next().await.unwrap() {
        rows.push((key.to_vec(), value.to_vec()));
    }
    rows
}

#[tokio::test]
async fn a_cold_get_asks_for_the_index_and_a_block_and_the_next_one_for_a_block_alone() {
    let fixture = Fixture::new();
    let store = compacted(&fixture).await;
    assert_eq!(store.view().unwrap().tables().count(), 1);
    let follower = follow(&fixture).await;
    let asked = |follower: &Follower| follower.requests().total();
    let opened = asked(&follower);
    assert_eq!(follower.get(&key(700)).await.unwrap().as_deref(), Some(&value(700)[..]));
    assert_eq!(asked(&follower) - opened, 2, "cold");
    assert_eq!(follower.get(&key(1900)).await.unwrap().as_deref(), Some(&value(1900)[..]));
    assert_eq!(asked(&follower) - opened, 3, "the index is there");
    assert_eq!(follower.get(&key(1900)).await.unwrap().as_deref(), Some(&value(1900)[..]));
    assert_eq!(asked(&follower) - opened, 3, "all of it is there");
    assert_eq!(follower.get(b"zzz").await.unwrap(), None);
    assert_eq!(asked(&follower) - opened, 3, "no table has such keys");
}

#[tokio::test]
async fn a_scan_of_everything_asks_for_far_fewer_ranges_than_there_are_blocks() {
    let fixture = Fixture::new();
    let store = compacted(&fixture).await;
    let follower = follow(&fixture).await;
    let before = follower.requests().total();
    let rows = all(follower.snapshot().scan(..)).await;
    assert!(rows.iter().map(|(key, value)| (key.clone(), value.clone())).eq((0..2000).map(|n| (key(n), value(n)))));
    assert!(follower.requests().total() - before < 10, "{}", follower.requests().total() - before);
    let mut backward = all(follower.snapshot().scan(..).reverse()).await;
    backward.reverse();
    assert_eq!(backward, rows);
    drop(store);
}

#[tokio::test]
async fn bounds_and_prefixes_are_kept_in_both_directions() {
    let fixture = Fixture::new();
    let store = fixture.open().await;
    fill(&store, 0..1000).await;
    fill(&store, 500..1500).await;
    let snapshot = follow(&fixture).await.snapshot();
    let (from, to) = (key(300), key(1200));
    let numbers = |rows: Vec<(Vec<u8>, Vec<u8>)>| -> Vec<usize> {
        rows.iter().map(|(key, _)| std::str::from_utf8(&key[4..]).unwrap().parse().unwrap()).collect()
    };
    assert!(numbers(all(snapshot.scan(&from[..]..&to[..])).await).into_iter().eq(300..1200));
    assert!(numbers(all(snapshot.scan(&from[..]..=&to[..]).reverse()).await).into_iter().eq((300..1201).rev()));
    assert!(numbers(all(snapshot.scan(..&from[..])).await).into_iter().eq(0..300));
    assert!(numbers(all(snapshot.scan(&to[..]..).reverse()).await).into_iter().eq((1200..1500).rev()));
    assert!(numbers(all(snapshot.scan_prefix(b"key 0012")).await).into_iter().eq(1200..1300));
    assert!(numbers(all(snapshot.scan_prefix(b"key 0012").reverse()).await).into_iter().eq((1200..1300).rev()));
    assert!(all(snapshot.scan_prefix(b"kez")).await.is_empty());
    assert_eq!(all(snapshot.scan_prefix(&[0xff, 0xff])).await, []);
}

#[tokio::test]
async fn a_short_scan_of_one_level_asks_for_little() {
    let fixture = Fixture::new();
    let store = compacted(&fixture).await;
    let follower = follow(&fixture).await;
    let before = follower.requests();
    let (from, to) = (key(1000), key(1003));
    assert_eq!(all(follower.snapshot().scan(&from[..]..&to[..])).await.len(), 3);
    let asked = follower.requests();
    assert!(asked.total() - before.total() <= 3, "{}", asked.total() - before.total());
    drop(store);
}

#[tokio::test]
async fn the_work_of_a_follower_can_be_given_to_any_thread() {
    let fixture = Fixture::new();
    let store = compacted(&fixture).await;
    let follower = follow(&fixture).await;
    let job = async move {
        let mut scan = follower.snapshot().scan(..);
        let mut count = 0;
        while scan.next().await.unwrap().is_some() {
            count += 1;
        }
        (count, follower.get(&key(3)).await.unwrap().is_some())
    };
    assert_eq!(tokio::spawn(job).await.unwrap(), (2000, true));
    drop(store);
}

fn manifest(snapshot: &Snapshot) -> u64 {
    snapshot.manifest().number
}

#[tokio::test]
async fn a_look_for_news_is_one_request_and_a_snapshot_does_not_change() {
    let fixture = Fixture::new();
    let store = fixture.open().await;
    fill(&store, 0..100).await;
    let follower = follow(&fixture).await;
    let old = follower.snapshot();
    let asked = follower.requests().total();
    assert!(!follower.refresh().await.unwrap());
    assert_eq!(follower.requests().total() - asked, 1);

    store.apply(&puts(&[("key 000001", "newer"), ("key 2", "more")])).unwrap();
    store.flush().await.unwrap();
    assert!(follower.refresh().await.unwrap());
    assert_eq!(manifest(&follower.snapshot()), store.manifest().number);
    assert_eq!(follower.get(&key(1)).await.unwrap().as_deref(), Some(&b"newer"[..]));
    assert_eq!(old.get(&key(1)).await.unwrap().as_deref(), Some(&value(1)[..]));
    assert_eq!(old.get(b"key 2").await.unwrap(), None);
    assert_eq!(all(old.scan(..)).await.len(), 100);
    assert_eq!(all(follower.snapshot().scan(..)).await.len(), 101);
}

#[tokio::test]
async fn whoever_is_far_behind_finds_the_newest_by_its_name() {
    let fixture = Fixture::new();
    let store = fixture.open().await;
    let follower = follow(&fixture).await;
    for round in 0..30 {
        fill(&store, round..round + 1).await;
    }
    let asked = follower.requests();
    assert!(follower.refresh().await.unwrap());
    assert_eq!(manifest(&follower.snapshot()), store.manifest().number);
    assert!(follower.requests().total() - asked.total() < 10);
}

#[tokio::test]
async fn staleness_is_the_time_since_the_last_look_that_found_nothing_newer() {
    let fixture = Fixture::new();
    let store = fixture.open().await;
    fill(&store, 0..10).await;
    let clock = Arc::<Clock>::default();
    let env = Arc::new(SystemEnv::with(Arc::clone(&clock) as _));
    let objects = Arc::clone(&fixture.objects) as _;
    let follower = Follower::open(FollowerConfig::new("test"), objects, env as _).await.unwrap();
    clock.forward(Duration::from_secs(7));
    let staleness = follower.staleness();
    assert_eq!((staleness.manifest, staleness.last_sequence), (store.manifest().number, 10));
    assert_eq!(staleness.known, Duration::from_secs(7));
    follower.refresh().await.unwrap();
    assert_eq!(follower.staleness().known, Duration::ZERO);
}

#[tokio::test]
async fn an_empty_prefix_has_no_store_and_an_empty_store_has_no_keys() {
    let fixture = Fixture::new();
    let objects = Arc::clone(&fixture.objects);
    let opened = Follower::open(FollowerConfig::new("test"), objects as _, Arc::new(SystemEnv::new())).await;
    assert!(matches!(opened, Err(FollowError::NoStore { prefix }) if prefix == "test"));
    let store = fixture.open_with(fixture.config(), LogChoice::Own).await;
    let follower = follow(&fixture).await;
    assert_eq!(follower.get(b"key").await.unwrap(), None);
    assert!(all(follower.snapshot().scan(..)).await.is_empty());
    assert!(all(follower.snapshot().scan(..).reverse()).await.is_empty());
    drop(store);
}

#[tokio::test]
async fn a_prefix_may_have_any_letters() {
    let fixture = Fixture::new();
    let prefix = "ä b~c";
    let config = lsmstore::Config::new(fixture.folder(), prefix);
    let store = fixture.open_with(config, LogChoice::Nobody).await;
    fill(&store, 0..10).await;
    let follower = follow_with(&fixture, FollowerConfig::new(prefix)).await;
    assert_eq!(follower.get(&key(3)).await.unwrap().as_deref(), Some(&value(3)[..]));
}

#[tokio::test]
async fn a_missing_table_is_named_and_never_an_empty_answer() {
    let fixture = Fixture::new();
    let store = compacted(&fixture).await;
    let follower = follow(&fixture).await;
    let table = names(&fixture, "/sst/").await.pop().unwrap();
    fixture.objects.delete(&table).await.unwrap();
    let error = follower.get(&key(1)).await.unwrap_err().to_string();
    assert!(error.contains(table.as_ref()) && error.contains("lost"), "{error}");
    let error = follower.snapshot().scan(..).next().await.unwrap_err().to_string();
    assert!(error.contains(table.as_ref()), "{error}");
    drop(store);
}

#[tokio::test]
async fn another_store_in_the_same_place_is_refused() {
    let fixture = Fixture::new();
    let store = fixture.open().await;
    fill(&store, 0..10).await;
    let follower = follow(&fixture).await;
    drop(store);
    for name in names(&fixture, "").await {
        fixture.objects.delete(&name).await.unwrap();
    }
    let other = fixture.elsewhere();
    let store = other.open().await;
    for round in 0..3 {
        fill(&store, round..round + 1).await;
    }
    let error = follower.refresh().await.unwrap_err();
    assert!(matches!(error, FollowError::AnotherStore { .. }), "{error}");
    assert_eq!(follower.staleness().manifest, 2);
}

#[tokio::test]
async fn another_store_with_fewer_manifests_is_refused_within_a_minute() {
    let fixture = Fixture::new();
    let store = fixture.open().await;
    for round in 0..5 {
        fill(&store, round..round + 1).await;
    }
    let clock = Arc::<Clock>::default();
    let env = Arc::new(SystemEnv::with(Arc::clone(&clock) as _));
    let follower =
        Follower::open(FollowerConfig::new("test"), Arc::clone(&fixture.objects) as _, env as _).await.unwrap();
    drop(store);
    for name in names(&fixture, "").await {
        fixture.objects.delete(&name).await.unwrap();
    }
    let other = fixture.elsewhere();
    let _store = other.open().await;
    for _ in 0..3 {
        clock.forward(Duration::from_secs(30));
        let looked = follower.refresh().await;
        if let Err(error) = looked {
            assert!(matches!(error, FollowError::AnotherStore { .. }), "{error}");
            return;
        }
    }
    panic!("it was not noticed");
}

/// A writer whose garbage goes at once.
async fn tidy(fixture: &Fixture) -> Store {
    let config = fixture.config().keep_manifests(1).keep_for(Duration::ZERO).quarantine(Duration::ZERO);
    fixture.open_with(config.l0_merge_trigger(1), LogChoice::Nobody).await
}

async fn replace_all(store: &Store) {
    for round in 0..2 {
        fill(store, round * 100..round * 100 + 200).await;
    }
    store.merge(Arc::new(KeepAll)).await.unwrap();
    for _ in 0..2 {
        store.collect_garbage(GcOptions::default()).await.unwrap();
    }
}

#[tokio::test]
async fn a_snapshot_that_was_collected_says_so_and_a_get_takes_a_newer_one() {
    let fixture = Fixture::new();
    let store = tidy(&fixture).await;
    fill(&store, 0..200).await;
    let follower = follow(&fixture).await;
    let old = follower.snapshot();
    let read = follower.get(&key(7)).await.unwrap();
    replace_all(&store).await;
    assert_eq!(old.get(&key(7)).await.unwrap(), read, "what was fetched stays");
    let error = old.get(&key(199)).await.unwrap_err();
    assert!(matches!(&error, FollowError::Collected { .. }), "{error}");
    assert!(error.to_string().contains(".sst"), "{error}");
    assert_eq!(follower.get(&key(199)).await.unwrap().as_deref(), Some(&value(199)[..]));
    assert_eq!(manifest(&follower.snapshot()), store.manifest().number);
}

#[tokio::test]
async fn after_a_long_pause_the_newest_is_found_although_the_next_one_was_collected() {
    let fixture = Fixture::new();
    let store = tidy(&fixture).await;
    fill(&store, 0..200).await;
    let clock = Arc::<Clock>::default();
    let env = Arc::new(SystemEnv::with(Arc::clone(&clock) as _));
    let objects = Arc::clone(&fixture.objects) as _;
    let follower = Follower::open(FollowerConfig::new("test"), objects, env as _).await.unwrap();
    replace_all(&store).await;
    clock.forward(Duration::from_secs(61));
    assert!(follower.refresh().await.unwrap());
    assert_eq!(manifest(&follower.snapshot()), store.manifest().number);
}

#[tokio::test]
async fn what_a_checkpoint_holds_can_be_read_for_as_long() {
    let fixture = Fixture::new();
    let store = tidy(&fixture).await;
    fill(&store, 0..200).await;
    let follower = follow(&fixture).await;
    let old = follower.snapshot();
    let held = old.checkpoint("reading", Duration::from_secs(3600)).await.unwrap();
    assert_eq!(held.manifest, manifest(&old));
    replace_all(&store).await;
    assert_eq!(all(old.scan(..)).await.len(), 200);
    assert_eq!(all(follow(&fixture).await.snapshot().scan(..)).await.len(), 300);
}

#[tokio::test]
async fn one_whose_calls_block_may_be_used_on_any_thread() {
    let (fixture, folder) = (Fixture::new(), tempfile::tempdir().unwrap());
    let bucket = lsmstore::objects::local(folder.path()).unwrap();
    let store =
        Store::open(fixture.config(), bucket.clone(), Arc::new(SystemEnv::new()), LogChoice::Nobody).await.unwrap();
    fill(&store, 0..2000).await;
    // So little stays in memory that all is asked for again and again.
    let open = move || BlockingFollower::open(FollowerConfig::new("test").cache_bytes(20_000), bucket.clone()).unwrap();
    let reads = |follower: &BlockingFollower, keys| {
        for n in (0..keys).map(|n| n * 7_919 % keys).step_by(5) {
            assert_eq!(follower.get(&key(n)).unwrap().as_deref(), Some(&value(n)[..]));
        }
        let (mut scan, mut found) = (follower.scan(..), 0);
        while let Some((at, held)) = scan.next().unwrap() {
            assert_eq!((at, held), (&key(found)[..], &value(found)[..]));
            found += 1;
        }
        assert_eq!(found, keys);
    };
    // A thread of a runtime, one of another executor, and one of none.
    let follower = open();
    fill(&store, 2000..2020).await;
    assert!(follower.refresh().unwrap() && !follower.refresh().unwrap());
    reads(&follower, 2020);
    drop(follower);
    std::thread::spawn(move || {
        let follower = open();
        reads(&follower, 2020);
        futures::executor::block_on(async { reads(&follower, 2020) });
    })
    .join()
    .unwrap();
}

#[tokio::test]
async fn what_a_replay_has_published_is_shown_when_all_of_it_is_there() {
    let fixture = Fixture::new();
    let log = Arc::new(RecordingLog::default());
    let external = || LogChoice::External(Arc::clone(&log) as _);
    let store = fixture.open_with(fixture.config(), external()).await;
    store.apply(&puts(&[("a", "1")])).unwrap();
    store.flush().await.unwrap();
    drop(store);
    // Two writers logged their batches in the other order.
    let store = fixture.open_with(fixture.config(), external()).await;
    store.apply_at(3, &puts(&[("c", "3")])).unwrap();
    assert!(store.flush().await.unwrap().published);
    let follower = follow(&fixture).await;
    let snapshot = follower.snapshot();
    assert_eq!((snapshot.sequence(), follower.staleness().last_sequence), (1, 1));
    assert_eq!((snapshot.get(b"a").await.unwrap().is_some(), snapshot.get(b"c").await.unwrap()), (true, None));
    assert_eq!(all(snapshot.scan_prefix(b"")).await.len(), 1);
    store.apply_at(2, &puts(&[("b", "2")])).unwrap();
    store.set_next_sequence(4);
    store.flush().await.unwrap();
    follower.refresh().await.unwrap();
    assert_eq!(follower.snapshot().sequence(), 3);
    assert_eq!(all(follower.snapshot().scan_prefix(b"")).await.len(), 3);
}

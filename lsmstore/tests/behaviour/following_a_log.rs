//! A follower of a store whose log is in the bucket as well: it shows what was acknowledged as remote, before any flush, and
//! never less than it showed before.

use std::sync::Arc;
use std::time::Duration;

use lsmstore::{Config, Durability, Follower, FollowerConfig, LogChoice, OpenError, Store, SystemEnv};

use object_store::ObjectStoreExt;

use crate::env::Clock;
use crate::fixture::{Fault, Fixture, names, puts};

fn config(fixture: &Fixture) -> Config {
    fixture.config().remote_log(true)
}

async fn open(fixture: &Fixture) -> Store {
    fixture.open_own(config(fixture)).await.unwrap()
}

async fn follow(fixture: &Fixture) -> Follower {
    let config = FollowerConfig::new("test");
    Follower::open(config, Arc::clone(&fixture.objects) as _, Arc::new(SystemEnv::new())).await.unwrap()
}

async fn write(store: &Store, key: &str, durability: Durability) {
    store.write(puts(&[(key, "1")]), durability).await.unwrap();
}

async fn shows(follower: &Follower, keys: &str) {
    let mut scan = follower.snapshot().scan_prefix(b"");
    let mut found = String::new();
    while let Some((key, _)) = scan.next().await.unwrap() {
        found.push_str(std::str::from_utf8(key).unwrap());
    }
    assert_eq!(found, keys);
}

#[tokio::test]
async fn writes_are_seen_before_they_are_flushed_and_behind_the_flush() {
    let fixture = Fixture::new();
    let store = open(&fixture).await;
    write(&store, "a", Durability::Remote).await;
    let follower = follow(&fixture).await;
    shows(&follower, "a").await;
    let old = follower.snapshot();
    write(&store, "b", Durability::Memory).await;
    assert!(!follower.refresh().await.unwrap());
    write(&store, "c", Durability::Remote).await;
    assert!(follower.refresh().await.unwrap());
    shows(&follower, "abc").await;
    assert_eq!(follower.staleness().last_sequence, 3);
    assert_eq!(old.get(b"b").await.unwrap(), None, "a snapshot stays what it is");
    store.flush().await.unwrap();
    write(&store, "d", Durability::Remote).await;
    assert!(follower.refresh().await.unwrap());
    shows(&follower, "abcd").await;
    assert!(!follower.refresh().await.unwrap());
    assert_eq!(follower.staleness().last_sequence, 4);
}

#[tokio::test]
async fn a_deletion_of_a_range_in_the_log_hides_what_tables_hold() {
    let fixture = Fixture::new();
    let store = open(&fixture).await;
    store.write(puts(&[("a", "1"), ("b", "1"), ("c", "1"), ("d", "1")]), Durability::Remote).await.unwrap();
    store.flush().await.unwrap();
    let follower = follow(&fixture).await;
    let old = follower.snapshot();
    let mut batch = puts(&[("d", "2"), ("e", "2")]);
    batch.delete_range(b"b", b"d");
    store.write(batch, Durability::Remote).await.unwrap();
    for _ in ["read from the log", "read from a table"] {
        assert!(follower.refresh().await.unwrap());
        shows(&follower, "ade").await;
        assert_eq!(follower.get(b"b").await.unwrap(), None);
        assert_eq!(follower.get(b"d").await.unwrap().as_deref(), Some(&b"2"[..]));
        store.flush().await.unwrap();
    }
    assert_eq!(old.get(b"b").await.unwrap().as_deref(), Some(&b"1"[..]));
}

#[tokio::test]
async fn a_look_that_finds_nothing_is_two_requests() {
    let fixture = Fixture::new();
    let store = open(&fixture).await;
    write(&store, "a", Durability::Remote).await;
    let follower = follow(&fixture).await;
    let before = follower.requests();
    for _ in 0..10 {
        assert!(!follower.refresh().await.unwrap());
    }
    let after = follower.requests();
    assert_eq!(after.get.requests - before.get.requests, 20);
    assert_eq!(after.total() - before.total(), 20);
}

#[tokio::test]
async fn nobody_sees_less_after_a_takeover_than_before() {
    let fixture = Fixture::new();
    let store = open(&fixture).await;
    write(&store, "a", Durability::Remote).await;
    write(&store, "b", Durability::Remote).await;
    let follower = follow(&fixture).await;
    shows(&follower, "ab").await;
    drop(store);
    // The next writer gets as far as his first manifest.
    let elsewhere = fixture.elsewhere();
    fixture.objects.fail("/sst/", Fault::Before, usize::MAX);
    let failed = elsewhere.try_open(config(&elsewhere), LogChoice::Own).await;
    assert!(matches!(failed, Err(OpenError::ReplayFlush(_))), "{failed:?}");
    fixture.objects.heal();
    assert!(follower.refresh().await.unwrap());
    shows(&follower, "ab").await;
    let store = open(&elsewhere).await;
    write(&store, "c", Durability::Remote).await;
    assert!(follower.refresh().await.unwrap());
    shows(&follower, "abc").await;
    assert_eq!(follower.staleness().last_sequence, 3);
}

#[tokio::test]
async fn a_log_that_is_damaged_is_told_and_read_on_when_it_is_whole_again() {
    let fixture = Fixture::new();
    let store = open(&fixture).await;
    let follower = follow(&fixture).await;
    for key in ["a", "b", "c"] {
        write(&store, key, Durability::Remote).await;
    }
    let second = names(&fixture, "/wal/").await.remove(1);
    let bytes = fixture.objects.get(&second).await.unwrap().bytes().await.unwrap();
    let mut changed = bytes.to_vec();
    changed[70] ^= 4;
    fixture.objects.put(&second, changed.into()).await.unwrap();
    let error = follower.refresh().await.unwrap_err().to_string();
    assert!(error.contains(second.as_ref()), "{error}");
    shows(&follower, "").await;
    fixture.objects.put(&second, bytes.into()).await.unwrap();
    assert!(follower.refresh().await.unwrap());
    shows(&follower, "abc").await;
}

#[tokio::test]
async fn a_hole_in_the_log_is_found_within_a_minute_and_until_then_nothing_is_called_fresh() {
    let fixture = Fixture::new();
    let store = open(&fixture).await;
    let clock = Arc::<Clock>::default();
    let env = Arc::new(SystemEnv::with(Arc::clone(&clock) as _));
    let objects = Arc::clone(&fixture.objects) as _;
    let follower = Follower::open(FollowerConfig::new("test"), objects, env as _).await.unwrap();
    for n in 0..8 {
        write(&store, &n.to_string(), Durability::Remote).await;
    }
    let second = names(&fixture, "/wal/").await.remove(1);
    let bytes = fixture.objects.get(&second).await.unwrap().bytes().await.unwrap();
    fixture.objects.delete(&second).await.unwrap();
    for _ in 0..2 {
        clock.forward(Duration::from_secs(61));
        let error = follower.refresh().await.unwrap_err().to_string();
        assert!(error.contains(second.as_ref()), "{error}");
    }
    assert_eq!(follower.staleness().known, Duration::from_secs(122));
    fixture.objects.put(&second, bytes.into()).await.unwrap();
    follower.refresh().await.unwrap();
    shows(&follower, "01234567").await;
    assert_eq!(follower.staleness().known, Duration::ZERO);
    store.flush().await.unwrap();
}

#[tokio::test]
async fn one_that_follows_by_itself_comes_to_see_everything() {
    let fixture = Fixture::new();
    let store = open(&fixture).await;
    let follower = follow(&fixture).await;
    let following = tokio::spawn(follower.follow(Duration::from_millis(1)));
    for n in 0..60_u32 {
        write(&store, &format!("{n:02} "), Durability::Remote).await;
        if n % 20 == 7 {
            store.flush().await.unwrap();
        }
    }
    while follower.staleness().last_sequence < 60 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let all: String = (0..60).map(|n| format!("{n:02} ")).collect();
    shows(&follower, &all).await;
    drop(follower);
    following.await.unwrap();
}

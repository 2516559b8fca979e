//! A follower of an object store that is slow, fails, or is asked by many at once: what it needs it asks for once, and an error
//! is one answer and not the last.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::join_all;
use kriya_testkit::fault::{Fault, Kind, Operation};
use kriya_testkit::stores::FaultStore;
use lsmstore::{Env, EnvFile, FollowError, Follower, FollowerConfig, StorageError, SystemEnv};

use crate::env::{Like, Over};
use crate::fixture::Fixture;
use crate::following::compacted;

fn key(n: usize) -> Vec<u8> {
    format!("key {n:06}").into_bytes()
}

async fn behind_faults(fixture: &Fixture, config: FollowerConfig) -> (Arc<FaultStore>, Follower) {
    let objects = Arc::new(FaultStore::new(Arc::clone(&fixture.objects) as _));
    let follower = Follower::open(config, Arc::clone(&objects) as _, Arc::new(SystemEnv::new())).await.unwrap();
    (objects, follower)
}

fn slow() -> Fault {
    Fault::always(Kind::Slow(Duration::from_millis(5))).on(&[Operation::Get])
}

#[tokio::test]
async fn what_many_want_at_once_is_asked_for_once() {
    let fixture = Fixture::new();
    let store = compacted(&fixture).await;
    let folder = tempfile::tempdir().unwrap();
    for config in [FollowerConfig::new("test"), FollowerConfig::new("test").cache_dir(folder.path(), 1 << 20)] {
        let (objects, follower) = behind_faults(&fixture, config).await;
        objects.set(vec![slow()]);
        let before = follower.requests().total();
        let gets = (0..50).map(|_| {
            let follower = follower.clone();
            async move { follower.get(&key(1234)).await.unwrap() }
        });
        let found = join_all(gets).await;
        assert!(found.iter().all(|value| *value == found[0] && value.is_some()));
        let asked = follower.requests().total() - before;
        assert!(asked <= 2, "{asked}");
    }
    drop(store);
}

#[tokio::test]
async fn a_walk_goes_on_where_it_was_when_an_error_has_passed() {
    let fixture = Fixture::new();
    let store = compacted(&fixture).await;
    for kind in [Kind::Before, Kind::Cut, Kind::Break] {
        for forward in [true, false] {
            let config = FollowerConfig::new("test").cache_bytes(20 << 10);
            let (objects, follower) = behind_faults(&fixture, config).await;
            objects.set(vec![slow(), Fault::always(kind).on(&[Operation::Get]).every(3)]);
            let scan = follower.snapshot().scan(..);
            let mut scan = if forward { scan } else { scan.reverse() };
            let (mut found, mut failed) = (0, 0);
            loop {
                match scan.next().await {
                    Ok(Some((at, _))) => {
                        assert_eq!(at, key(if forward { found } else { 1999 - found }));
                        found += 1;
                    }
                    Ok(None) => break,
                    Err(_) => failed += 1,
                }
                assert!(failed < 1_000, "{found} keys, and nothing but errors");
            }
            assert!(found == 2000 && failed > 0 && objects.struck() > 0, "{found} keys, {failed} errors");
        }
    }
    drop(store);
}

#[tokio::test]
async fn whoever_stops_waiting_keeps_nobody_else_from_what_he_asked_for() {
    let fixture = Fixture::new();
    let store = compacted(&fixture).await;
    let (objects, follower) = behind_faults(&fixture, FollowerConfig::new("test")).await;
    objects.set(vec![Fault::always(Kind::Silent).on(&[Operation::Get])]);
    let wanted = key(5);
    {
        let mut first = std::pin::pin!(follower.get(&wanted));
        assert!(futures::poll!(&mut first).is_pending());
        objects.set(Vec::new());
        // Dropped while it waits for an answer that never comes.
    }
    assert!(follower.get(&wanted).await.unwrap().is_some());
    drop(store);
}

#[tokio::test]
async fn whoever_waits_and_does_not_look_keeps_nobody_else_waiting() {
    let fixture = Fixture::new();
    let store = compacted(&fixture).await;
    let (objects, follower) = behind_faults(&fixture, FollowerConfig::new("test")).await;
    objects.set(vec![slow()]);
    let wanted = key(5);
    let before = follower.requests().total();
    let mut first = std::pin::pin!(follower.get(&wanted));
    assert!(futures::poll!(&mut first).is_pending());
    // Not polled meanwhile.
    let second =
        tokio::time::timeout(Duration::from_secs(20), follower.get(&wanted)).await.expect("it is kept waiting");
    assert!(second.unwrap().is_some());
    // The index and a block.
    assert_eq!(follower.requests().total() - before, 2, "it was asked for again");
    assert!(first.await.unwrap().is_some());
    drop(store);
}

#[tokio::test]
async fn what_fails_fails_at_once_for_all_who_wait() {
    let fixture = Fixture::new();
    let store = compacted(&fixture).await;
    let (objects, follower) = behind_faults(&fixture, FollowerConfig::new("test")).await;
    objects.set(vec![slow(), Fault::always(Kind::Before).on(&[Operation::Get])]);
    let before = follower.requests().total();
    let gets = (0..50).map(|_| {
        let follower = follower.clone();
        async move { follower.get(&key(1234)).await.unwrap_err().to_string() }
    });
    let told = join_all(gets).await;
    assert!(told.iter().all(|error| *error == told[0]), "{told:?}");
    let asked = follower.requests().total() - before;
    assert!(asked <= 2, "{asked}");
    objects.set(Vec::new());
    assert!(follower.get(&key(1234)).await.unwrap().is_some());
    drop(store);
}

/// A local disk that takes no files, in a bad way.
#[derive(Debug, Default)]
struct Panicking {
    system: SystemEnv,
    on: AtomicBool,
}

impl Like for Panicking {
    fn other(&self) -> &dyn Env {
        &self.system
    }
    fn create(&self, path: &Path) -> std::io::Result<Box<dyn EnvFile>> {
        assert!(!self.on.load(Ordering::Relaxed), "as it should");
        self.system.create(path)
    }
}

#[tokio::test]
async fn a_job_that_panics_is_an_error_for_all_who_wait_and_the_next_one_is_asked_anew() {
    let fixture = Fixture::new();
    let store = compacted(&fixture).await;
    let (folder, env) = (tempfile::tempdir().unwrap(), Arc::new(Over(Panicking::default())));
    let config = FollowerConfig::new("test").cache_dir(folder.path(), 1 << 20);
    let follower = Follower::open(config, Arc::clone(&fixture.objects) as _, Arc::clone(&env) as _).await.unwrap();
    env.on.store(true, Ordering::Relaxed);
    let gets = (0..10).map(|_| {
        let follower = follower.clone();
        async move { follower.get(&key(1234)).await.unwrap_err() }
    });
    let told = tokio::time::timeout(Duration::from_secs(20), join_all(gets)).await.expect("somebody is kept waiting");
    assert!(told.iter().all(|error| matches!(error, FollowError::Storage(StorageError::JobLost))), "{told:?}");
    env.on.store(false, Ordering::Relaxed);
    assert!(follower.get(&key(1234)).await.unwrap().is_some());
    drop(store);
}

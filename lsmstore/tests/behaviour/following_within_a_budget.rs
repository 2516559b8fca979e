//! What a follower keeps in memory and on the disk: no more than it was told, and never at the cost of a right answer.

use std::sync::Arc;

use lsmstore::{Batch, Follower, FollowerConfig, KeepAll, Snapshot, Store};
use object_store::ObjectStoreExt;

use crate::fixture::{Fixture, names};
use crate::following::follow_with;

const KEYS: usize = 30_000;
const BUDGET: u64 = 512 << 10;

fn key(n: usize) -> Vec<u8> {
    format!("key {n:06}").into_bytes()
}

/// About a hundred bytes that do not compress.
fn value(n: usize) -> Vec<u8> {
    let mut state = n as u64 + 1;
    let mut byte = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u8
    };
    (0..100).map(|_| byte()).collect()
}

/// 4 MB in several tables and levels, six times the budget.
async fn large(fixture: &Fixture) -> Store {
    let config = fixture.config().memtable_bytes(2 << 20).block_bytes(1 << 10).table_bytes(512 << 10);
    let store = fixture.open_with(config, lsmstore::LogChoice::Nobody).await;
    for part in 0..3 {
        let mut batch = Batch::new();
        for n in (part..KEYS).step_by(3) {
            batch.put(&key(n), &value(n));
        }
        store.apply(&batch).unwrap();
        store.flush().await.unwrap();
        if part == 1 {
            store.merge(Arc::new(KeepAll)).await.unwrap();
        }
    }
    store
}

async fn walked(snapshot: &Snapshot, follower: &Follower, forward: bool) -> u64 {
    let scan = snapshot.scan(..);
    let mut scan = if forward { scan } else { scan.reverse() };
    let (mut count, mut most) = (0, 0);
    while let Some((found, held)) = scan.next().await.unwrap() {
        let n = if forward { count } else { KEYS - 1 - count };
        assert_eq!((found, held), (&key(n)[..], &value(n)[..]));
        count += 1;
        most = most.max(follower.cached_bytes());
    }
    assert_eq!(count, KEYS);
    most
}

#[tokio::test]
async fn scans_and_gets_of_much_more_than_the_budget_keep_to_it() {
    let fixture = Fixture::new();
    let store = large(&fixture).await;
    assert!(store.view().unwrap().tables().count() > 4);
    let follower = follow_with(&fixture, FollowerConfig::new("test").cache_bytes(BUDGET)).await;
    let snapshot = follower.snapshot();
    for forward in [true, false] {
        let most = walked(&snapshot, &follower, forward).await;
        assert!(most <= BUDGET + BUDGET / 5, "{most} bytes");
    }
    let mut most = 0;
    for n in 0..3_000 {
        let n = n * 7_919 % KEYS;
        assert_eq!(snapshot.get(&key(n)).await.unwrap().as_deref(), Some(&value(n)[..]));
        most = most.max(follower.cached_bytes());
    }
    assert!(most <= BUDGET + BUDGET / 5, "{most} bytes");
}

#[tokio::test]
async fn a_long_deleted_stretch_is_passed_within_the_budget_and_asked_for_once() {
    let fixture = Fixture::new();
    let store = large(&fixture).await;
    let mut batch = Batch::new();
    batch.delete_range(&key(10), &key(KEYS - 10));
    store.apply(&batch).unwrap();
    store.flush().await.unwrap();
    for forward in [true, false] {
        let follower = follow_with(&fixture, FollowerConfig::new("test").cache_bytes(BUDGET)).await;
        let opened = follower.requests().total();
        let scan = follower.snapshot().scan(..);
        let mut scan = if forward { scan } else { scan.reverse() };
        let (mut count, mut most) = (0, 0);
        loop {
            let mut next = std::pin::pin!(scan.next());
            let found = std::future::poll_fn(|context| {
                most = most.max(follower.cached_bytes());
                next.as_mut().poll(context).map(|found| found.unwrap().is_some())
            });
            if !found.await {
                break;
            }
            count += 1;
        }
        assert_eq!(count, 20);
        assert!(most <= BUDGET + BUDGET / 5, "{most} bytes");
        let asked = follower.requests().total() - opened;
        assert!(asked < 1_000, "{asked} requests");
    }
}

#[tokio::test]
async fn a_budget_smaller_than_one_block_delays_and_does_not_lie() {
    let fixture = Fixture::new();
    let store = large(&fixture).await;
    let follower = follow_with(&fixture, FollowerConfig::new("test").cache_bytes(1)).await;
    for n in (0..KEYS).step_by(997) {
        assert_eq!(follower.get(&key(n)).await.unwrap().as_deref(), Some(&value(n)[..]));
    }
    let (from, to) = (key(100), key(200));
    let mut scan = follower.snapshot().scan(&from[..]..&to[..]);
    let mut expected = 100..200;
    while let Some((found, held)) = scan.next().await.unwrap() {
        let n = expected.next().unwrap();
        assert_eq!((found, held), (&key(n)[..], &value(n)[..]));
    }
    assert!(expected.is_empty());
    drop(store);
}

#[tokio::test]
async fn a_scan_that_was_left_standing_goes_on_rightly_after_everything_was_given_up() {
    let fixture = Fixture::new();
    let store = large(&fixture).await;
    let follower = follow_with(&fixture, FollowerConfig::new("test").cache_bytes(BUDGET)).await;
    let snapshot = follower.snapshot();
    let mut standing = snapshot.scan(..);
    for n in 0..1000 {
        assert_eq!(standing.next().await.unwrap().unwrap().0, key(n));
    }
    walked(&snapshot, &follower, true).await;
    for n in 1000..KEYS {
        assert_eq!(standing.next().await.unwrap(), Some((&key(n)[..], &value(n)[..])));
    }
    assert_eq!(standing.next().await.unwrap(), None);
    drop(store);
}

#[tokio::test]
async fn what_is_read_often_stays_while_much_else_is_read_once() {
    let fixture = Fixture::new();
    let store = large(&fixture).await;
    let follower = follow_with(&fixture, FollowerConfig::new("test").cache_bytes(BUDGET)).await;
    follower.get(&key(5)).await.unwrap();
    let mut asked = 0;
    for n in 0..2_000 {
        follower.get(&key(n * 7_919 % KEYS)).await.unwrap();
        let before = follower.requests().get.requests;
        follower.get(&key(5)).await.unwrap();
        asked += follower.requests().get.requests - before;
    }
    assert!(asked < 40, "{asked} of 2000 had to ask");
    drop(store);
}

#[tokio::test]
async fn parts_on_the_disk_outlive_the_follower_and_keep_to_their_budget() {
    let fixture = Fixture::new();
    let store = large(&fixture).await;
    let folder = tempfile::tempdir().unwrap();
    let config = |bytes| FollowerConfig::new("test").cache_bytes(BUDGET).cache_dir(folder.path(), bytes);
    let follower = follow_with(&fixture, config(64 << 20)).await;
    walked(&follower.snapshot(), &follower, true).await;
    let all = follower.cached_on_disk();
    assert!(all > 3 << 20, "{all}");
    drop(follower);

    let follower = follow_with(&fixture, config(64 << 20)).await;
    assert_eq!(follower.cached_on_disk(), all);
    let opened = follower.requests().total();
    walked(&follower.snapshot(), &follower, false).await;
    assert_eq!(follower.requests().total(), opened, "everything is on the disk");
    drop(follower);

    let follower = follow_with(&fixture, config(1 << 20)).await;
    let on_disk = || -> u64 {
        let files = std::fs::read_dir(folder.path()).unwrap();
        let parts = files.map(|file| file.unwrap()).filter(|file| file.path().extension() == Some("part".as_ref()));
        parts.map(|part| part.metadata().unwrap().len()).sum()
    };
    assert!(on_disk() <= 1 << 20);
    walked(&follower.snapshot(), &follower, true).await;
    assert!(follower.cached_on_disk() <= 1 << 20 && on_disk() <= 1 << 20);
    drop(store);
}

#[tokio::test]
async fn parts_of_another_store_are_not_read_and_files_of_others_stay() {
    let folder = tempfile::tempdir().unwrap();
    let foreign = folder.path().join("notes.tmp");
    std::fs::write(&foreign, "not ours").unwrap();
    for round in ["one", "two"] {
        let fixture = Fixture::new();
        let store = fixture.open().await;
        store.put(b"key", round.as_bytes()).await.unwrap();
        store.flush().await.unwrap();
        let follower = follow_with(&fixture, FollowerConfig::new("test").cache_dir(folder.path(), 1 << 20)).await;
        assert_eq!(follower.cached_on_disk(), 0);
        assert_eq!(follower.get(b"key").await.unwrap().as_deref(), Some(round.as_bytes()));
        assert!(follower.cached_on_disk() > 0);
    }
    assert!(foreign.exists());
}

#[tokio::test]
async fn a_part_on_the_disk_that_is_wrong_is_fetched_again() {
    let fixture = Fixture::new();
    let store = large(&fixture).await;
    let folder = tempfile::tempdir().unwrap();
    let config = || FollowerConfig::new("test").cache_bytes(BUDGET).cache_dir(folder.path(), 64 << 20);
    let follower = follow_with(&fixture, config()).await;
    walked(&follower.snapshot(), &follower, true).await;
    drop(follower);
    let files = std::fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().path());
    for (n, path) in files.filter(|path| path.extension() == Some("part".as_ref())).enumerate() {
        let mut bytes = std::fs::read(&path).unwrap();
        match n % 4 {
            0 => bytes.iter_mut().step_by(500).for_each(|byte| *byte ^= 1),
            1 => bytes.truncate(bytes.len() / 2),
            2 => bytes.resize(1 << 20, 0),
            _ => continue,
        }
        std::fs::write(&path, bytes).unwrap();
    }
    let follower = follow_with(&fixture, config()).await;
    walked(&follower.snapshot(), &follower, true).await;
    walked(&follower.snapshot(), &follower, false).await;
    drop(store);
}

#[tokio::test]
async fn any_changed_byte_of_a_table_is_named_or_makes_no_difference() {
    let fixture = Fixture::new();
    let store = fixture.open().await;
    let mut batch = Batch::new();
    for n in 0..40 {
        batch.put(&key(n), &value(n)[..n]);
    }
    batch.delete_range(&key(20), &key(25));
    store.apply(&batch).unwrap();
    store.flush().await.unwrap();
    let name = names(&fixture, "/sst/").await.remove(0);
    let bytes = fixture.objects.get(&name).await.unwrap().bytes().await.unwrap().to_vec();
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1 << (at % 8);
        fixture.objects.put(&name, changed.into()).await.unwrap();
        let follower = follow_with(&fixture, FollowerConfig::new("test")).await;
        let snapshot = follower.snapshot();
        let mut noticed = false;
        let mut check = |error: lsmstore::FollowError| {
            let error = error.to_string();
            assert!(error.contains(name.as_ref()) && error.contains("at byte"), "byte {at}: {error}");
            noticed = true;
        };
        for n in 0..40 {
            match snapshot.get(&key(n)).await {
                Ok(found) => {
                    let expected = (!(20..25).contains(&n)).then(|| value(n)[..n].to_vec());
                    assert_eq!(found.as_deref(), expected.as_deref(), "byte {at}");
                }
                Err(error) => check(error),
            }
        }
        let mut scan = snapshot.scan(..);
        let mut expected = (0..20).chain(25..40);
        loop {
            match scan.next().await {
                Ok(Some((found, _))) => assert_eq!(found, key(expected.next().unwrap()), "byte {at}"),
                Ok(None) => break assert_eq!(expected.next(), None, "byte {at}"),
                Err(error) => break check(error),
            }
        }
        assert!(noticed, "byte {at} was not noticed");
    }
    for cut in [0, 1, bytes.len() / 2, bytes.len() - 1] {
        fixture.objects.put(&name, bytes[..cut].to_vec().into()).await.unwrap();
        let follower = follow_with(&fixture, FollowerConfig::new("test")).await;
        let error = follower.get(&key(1)).await.unwrap_err().to_string();
        assert!(error.contains(name.as_ref()), "{error}");
    }
}

//! `lsmstore` on a bucket: nothing is lost, nothing happens twice, and one writer fences the other, whatever fails.

use std::sync::Arc;

use kriya_testkit::fault::{Fault, Kind, Operation};
use kriya_testkit::s3::S3Server;
use lsmstore::{Batch, Config, LogChoice, Store, SystemEnv};

use crate::places::{client, server};

async fn open(server: &S3Server, dir: &tempfile::TempDir) -> Result<Store, lsmstore::OpenError> {
    let config = Config::new(dir.path(), "store").memtable_bytes(64 << 10).block_bytes(512).l0_merge_trigger(4);
    Store::open(config, client(server), Arc::new(SystemEnv::new()), LogChoice::Nobody).await
}

fn batch(key: u32, round: u32) -> Batch {
    let mut batch = Batch::new();
    batch.put(format!("key{key:05}").as_bytes(), format!("value of round {round}").as_bytes());
    batch
}

/// Writes rounds of keys and flushes each; a flush that fails is tried again, as the owner of a store does.
pub async fn rounds(store: &Store, rounds: std::ops::Range<u32>) -> u32 {
    let mut failed = 0;
    for round in rounds {
        for key in 0..50 {
            store.apply(&batch(key * 7 % 50 + round, round)).unwrap();
        }
        while let Err(error) = store.flush().await {
            failed += 1;
            assert!(failed < 500, "{error}");
        }
        if store.wants_merge() {
            // One that fails is due again.
            let _ = store.merge(Arc::new(lsmstore::KeepAll)).await;
        }
    }
    failed
}

/// Whether a store has what so many rounds wrote.
pub fn check(store: &Store, rounds: u32) {
    let view = store.view().unwrap();
    let mut scan = view.scan_prefix(b"key", view.read_sequence()).unwrap();
    let mut found = 0;
    while let Some((key, value)) = scan.next().unwrap() {
        let number: u32 = std::str::from_utf8(&key[3..]).unwrap().parse().unwrap();
        // Round r writes the keys r..r+50, so the last round that wrote it is this one.
        let expected = format!("value of round {}", number.min(rounds - 1));
        assert_eq!(std::str::from_utf8(value).unwrap(), expected, "key {number}");
        found += 1;
    }
    assert_eq!(found, 50 + rounds - 1);
}

async fn survives(faults: Vec<Fault>) {
    let server = server();
    let dir = tempfile::tempdir().unwrap();
    let store = open(&server, &dir).await.unwrap();
    server.set_faults(faults);
    rounds(&store, 0..20).await;
    check(&store, 20);
    assert!(server.struck() > 0, "no fault struck");
    server.up();
    drop(store);
    // From the bucket alone.
    let elsewhere = tempfile::tempdir().unwrap();
    check(&open(&server, &elsewhere).await.unwrap(), 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_requests_fail_before_they_take_effect() {
    survives(vec![Fault::always(Kind::Before).chance(0.2, 11)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_requests_take_effect_and_report_failure() {
    survives(vec![Fault::always(Kind::After).on(&[Operation::Put]).chance(0.3, 12)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_conditional_requests_are_answered_by_conflicts() {
    survives(vec![Fault::always(Kind::Conflict).chance(0.3, 13)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_everything_fails_a_little() {
    survives(vec![
        Fault::always(Kind::Before).chance(0.1, 1),
        Fault::always(Kind::After).chance(0.1, 2),
        Fault::always(Kind::Conflict).chance(0.1, 3),
        Fault::always(Kind::Cut).on(&[Operation::Get]).chance(0.2, 4),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_opens_on_a_bucket_whose_bodies_are_cut_now_and_then() {
    let server = server();
    let dir = tempfile::tempdir().unwrap();
    let store = open(&server, &dir).await.unwrap();
    rounds(&store, 0..10).await;
    drop(store);
    server.set_faults(vec![Fault::always(Kind::Cut).on(&[Operation::Get]).every(3)]);
    let elsewhere = tempfile::tempdir().unwrap();
    let mut attempts = 0;
    let store = loop {
        match open(&server, &elsewhere).await {
            Ok(store) => break store,
            Err(error) => assert!(attempts < 50, "{error}"),
        }
        attempts += 1;
    };
    check(&store, 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_older_of_two_writers_is_fenced_over_http_although_answers_get_lost() {
    let server = server();
    let (first_dir, second_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let first = open(&server, &first_dir).await.unwrap();
    rounds(&first, 0..3).await;
    server.set_faults(vec![Fault::always(Kind::After).on(&[Operation::Put]).every(2)]);
    let second = loop {
        // A manifest whose creation was reported as failed counts: the next attempt continues it.
        if let Ok(second) = open(&server, &second_dir).await {
            break second;
        }
    };
    first.apply(&batch(0, 99)).unwrap();
    let mut last = None;
    for _ in 0..20 {
        last = first.flush().await.err().map(|error| error.to_string());
        if last.as_ref().is_none_or(|error| error.contains("fenced")) {
            break;
        }
    }
    assert!(last.as_deref().is_some_and(|error| error.contains("fenced")), "{last:?}");
    rounds(&second, 3..6).await;
    check(&second, 6);
}

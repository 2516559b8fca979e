//! From the local disk to the bucket: what counts as waiting, and objects that are there already.

use std::sync::Arc;

use futures::TryStreamExt;
use lsmstore::{Durability, FlushOptions, KeepAll, LogChoice, Store, WriteError};
use object_store::{ObjectStore, ObjectStoreExt};

use crate::fixture::{Fault, Fixture, get, puts};

const LONG: usize = 1000;

/// Something that compresses, differently at different levels.
fn text(seed: usize) -> String {
    (0..200).map(|n| format!("{} of {seed}, ", n * seed * 7919 % 1009)).collect()
}

async fn flush_locally(store: &Store) {
    store.flush_local(FlushOptions::default()).await.unwrap();
}

#[tokio::test]
async fn what_a_merge_rewrites_does_not_hold_writers_up() {
    let fixture = Fixture::new();
    let config = fixture.config().max_pending_bytes(16 << 10);
    let store = fixture.open_with(config, LogChoice::Nobody).await;
    for n in 0..20 {
        store.apply(&puts(&[(&format!("k{n}"), &text(n))])).unwrap();
    }
    store.flush().await.unwrap();
    store.merge(Arc::new(KeepAll)).await.unwrap();
    fixture.objects.fail("", Fault::Before, LONG);
    // A little that is new makes a merge write all of it again.
    store.apply(&puts(&[("k5", "new")])).unwrap();
    flush_locally(&store).await;
    store.merge_local(Arc::new(KeepAll)).await.unwrap();
    let stats = store.stats();
    assert!(stats.pending_bytes > 16 << 10 && stats.backlog_bytes < 4 << 10, "{stats:?}");
    store.apply(&puts(&[("after", "x")])).unwrap();
}

#[tokio::test]
async fn what_was_new_before_a_merge_counts_after_it() {
    let fixture = Fixture::new();
    let store = fixture.open_with(fixture.config().max_pending_bytes(16 << 10), LogChoice::Nobody).await;
    fixture.objects.fail("", Fault::Before, LONG);
    let mut refused = None;
    for n in 0..100 {
        if let Err(error) = store.apply(&puts(&[(&format!("k{n}"), &text(n))])) {
            refused = Some(error);
            break;
        }
        flush_locally(&store).await;
        store.merge_local(Arc::new(KeepAll)).await.unwrap();
    }
    assert!(matches!(refused, Some(WriteError::Behind { limit: 16_384, .. })), "{refused:?}");
}

#[tokio::test]
async fn each_upload_makes_room_for_writers() {
    let fixture = Fixture::new();
    let store = fixture.open_with(fixture.config().max_pending_bytes(16 << 10), LogChoice::Nobody).await;
    for n in 0..8 {
        store.apply(&puts(&[(&format!("k{n}"), &text(n))])).unwrap();
        flush_locally(&store).await;
    }
    store.apply(&puts(&[("more", &text(9))])).unwrap_err();
    let before = store.stats().backlog_bytes;
    // The first objects get through, then the manifest does not.
    fixture.objects.fail("manifest/", Fault::Before, LONG);
    store.publish().await.unwrap_err();
    assert_eq!((store.stats().backlog_bytes, store.stats().pending_bytes), (0, 0), "of {before}");
    store.apply(&puts(&[("more", &text(9))])).unwrap();
    // Nor do they wait for an upload that fails beside others.
    for n in 10..18 {
        store.apply(&puts(&[(&format!("k{n}"), "x")])).unwrap();
        flush_locally(&store).await;
    }
    let before = store.stats().backlog_bytes;
    fixture.objects.heal();
    fixture.objects.fail("0000000000000009.sst", Fault::Before, LONG);
    for _ in 0..8 {
        store.publish().await.unwrap_err();
    }
    let left = store.stats().backlog_bytes;
    assert!(left > 0 && left < before, "{left} of {before}");
}

#[tokio::test]
async fn a_store_with_its_own_log_refuses_beyond_the_limit_and_stays_usable() {
    let fixture = Fixture::new();
    let config = || fixture.config().max_pending_bytes(8 << 10);
    let store = fixture.open_with(config(), LogChoice::Own).await;
    fixture.objects.fail("", Fault::Before, LONG);
    let mut written = 0;
    let refused = loop {
        match store.write(puts(&[(&format!("k{written}"), &text(written))]), Durability::Local).await {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
        flush_locally(&store).await;
    };
    assert!(matches!(refused, WriteError::Behind { limit: 8192, .. }), "{refused:?}");
    fixture.objects.heal();
    store.flush().await.unwrap();
    store.write(puts(&[("after", "x")]), Durability::Local).await.unwrap();
    drop(store);
    let store = fixture.try_open(config(), LogChoice::Own).await.unwrap();
    assert!((0..written).all(|n| get(&store, &format!("k{n}")) == Some(text(n))));
    assert_eq!(get(&store, "after").as_deref(), Some("x"));
    assert_eq!(get(&store, &format!("k{written}")), None, "what was refused was not logged");
}

async fn object(fixture: &Fixture) -> object_store::path::Path {
    let listed: Vec<_> = ObjectStore::list(&*fixture.objects, None).try_collect().await.unwrap();
    listed.into_iter().map(|meta| meta.location).find(|name| name.as_ref().contains("/sst/")).unwrap()
}

#[tokio::test]
async fn an_object_that_was_packed_otherwise_is_taken_for_ours_if_its_content_is() {
    let fixture = Fixture::new();
    // Blocks large enough for levels to differ.
    let config = |level| fixture.config().block_bytes(16 << 10).zstd_level(level);
    let store = fixture.open_with(config(1), LogChoice::Nobody).await;
    for n in 0..20 {
        store.apply(&puts(&[(&format!("k{n:02}"), &text(n))])).unwrap();
    }
    // The table's object is made, then nothing more is heard of the store.
    fixture.objects.fail("/sst/", Fault::After, 1);
    fixture.objects.fail("manifest/", Fault::Before, LONG);
    store.flush().await.unwrap_err();
    drop(store);
    fixture.objects.heal();
    let name = object(&fixture).await;
    let before = fixture.objects.get(&name).await.unwrap().bytes().await.unwrap();
    fixture.objects.puts.lock().unwrap().clear();
    let store = fixture.open_with(config(19), LogChoice::Nobody).await;
    assert!(fixture.objects.puts.lock().unwrap().iter().any(|put| name.as_ref() == put), "it was tried again");
    assert_eq!(get(&store, "k07"), Some(text(7)));
    drop(store);
    assert_eq!(fixture.objects.get(&name).await.unwrap().bytes().await.unwrap(), before);
    assert_eq!(get(&fixture.elsewhere().open().await, "k07"), Some(text(7)), "from the bucket alone");
}

#[tokio::test]
async fn an_object_of_other_content_is_named_with_the_mirror_that_it_is_not() {
    let fixture = Fixture::new();
    let other = Fixture::new();
    for (fixture, value) in [(&fixture, "ours"), (&other, "else")] {
        let store = fixture.open().await;
        store.apply(&puts(&[("k", value)])).unwrap();
        store.flush().await.unwrap();
    }
    let name = object(&other).await;
    let theirs = other.objects.get(&name).await.unwrap().bytes().await.unwrap();
    for wrong in [theirs.clone(), theirs.slice(..theirs.len() - 1), bytes::Bytes::from_static(b"something else")] {
        let fixture = Fixture::new();
        let store = fixture.open().await;
        fixture.objects.put(&name, wrong.into()).await.unwrap();
        store.apply(&puts(&[("k", "ours")])).unwrap();
        let error = store.flush().await.unwrap_err().to_string();
        assert!(error.contains(name.as_ref()) && error.contains(".lsm") && error.contains("mirror"), "{error}");
    }
}

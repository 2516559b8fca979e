//! One writer: who comes later fences who was before, and nobody is fenced by himself.

use lsmstore::{LogChoice, OpenError, Unusable, WriteError, peek};

use crate::fixture::{Fault, Fixture, get, puts};

#[tokio::test]
async fn the_older_of_two_writers_is_fenced_and_says_so() {
    let fixture = Fixture::new();
    let old = fixture.open().await;
    old.apply(&puts(&[("a", "old")])).unwrap();
    old.flush().await.unwrap();
    let held = old.view().unwrap();
    let other = fixture.elsewhere();
    let new = other.open().await;
    assert_eq!(get(&new, "a").as_deref(), Some("old"));
    assert!(new.epoch() > old.epoch());

    old.apply(&puts(&[("a", "zombie")])).unwrap();
    let error = old.flush().await.unwrap_err();
    assert!(error.to_string().contains("fenced"), "{error}");
    assert!(matches!(old.apply(&puts(&[("a", "x")])), Err(WriteError::Unusable(Unusable::Fenced { .. }))));
    assert!(matches!(old.view(), Err(Unusable::Fenced { .. })));
    assert!(old.flush().await.is_err());
    assert_eq!(held.get(b"a", held.read_sequence()).unwrap(), Some(&b"zombie"[..]), "a view held stays readable");

    new.apply(&puts(&[("b", "new")])).unwrap();
    new.flush().await.unwrap();
    drop(new);
    let third = fixture.elsewhere();
    let store = third.open().await;
    assert_eq!((get(&store, "a").as_deref(), get(&store, "b").as_deref()), (Some("old"), Some("new")));
}

#[tokio::test]
async fn a_manifest_put_that_took_effect_and_reported_failure_is_recognised_by_the_next_flush() {
    let fixture = Fixture::new();
    let store = fixture.open().await;
    store.apply(&puts(&[("a", "1")])).unwrap();
    fixture.objects.fail("manifest/", Fault::After, 1);
    store.flush().await.unwrap_err();
    assert_eq!(get(&store, "a").as_deref(), Some("1"));
    store.apply(&puts(&[("b", "2")])).unwrap();
    store.flush().await.unwrap();
    drop(store);
    let store = fixture.open().await;
    assert_eq!((get(&store, "a").as_deref(), get(&store, "b").as_deref()), (Some("1"), Some("2")));
}

#[tokio::test]
async fn a_table_put_that_took_effect_and_reported_failure_is_recognised_by_the_next_flush() {
    let fixture = Fixture::new();
    let store = fixture.open().await;
    store.apply(&puts(&[("a", "1")])).unwrap();
    fixture.objects.fail("sst/", Fault::After, 1);
    store.flush().await.unwrap_err();
    assert_eq!(get(&store, "a").as_deref(), Some("1"));
    store.flush().await.unwrap();
    let puts = fixture.objects.puts.lock().unwrap().clone();
    let tables: Vec<_> = puts.iter().filter(|name| name.contains("/sst/")).collect();
    assert_eq!(tables.len(), 2);
    assert_eq!(tables[0], tables[1], "the same table, the same bytes, the same name");
    drop(store);
    assert_eq!(get(&fixture.open().await, "a").as_deref(), Some("1"));
}

#[tokio::test]
async fn an_object_store_that_is_down_loses_nothing_and_the_flush_is_tried_again() {
    for name in ["sst/", "manifest/"] {
        let fixture = Fixture::new();
        let store = fixture.open().await;
        store.apply(&puts(&[("a", "1")])).unwrap();
        fixture.objects.fail(name, Fault::Before, usize::MAX);
        for _ in 0..3 {
            let error = store.flush().await.unwrap_err().to_string();
            assert!(error.contains("the object store is down"), "{error}");
            assert_eq!(get(&store, "a").as_deref(), Some("1"));
            store.apply(&puts(&[("b", "2")])).unwrap();
        }
        fixture.objects.heal();
        store.flush().await.unwrap();
        assert_eq!(store.stats().frozen, 0);
        drop(store);
        let store = fixture.open().await;
        assert_eq!((get(&store, "a").as_deref(), get(&store, "b").as_deref()), (Some("1"), Some("2")));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_who_open_at_once_only_the_last_can_publish() {
    let fixture = Fixture::new();
    let folders: Vec<_> = (0..6).map(|_| fixture.elsewhere()).collect();
    let opened = folders.iter().map(|folder| folder.try_open(folder.config(), LogChoice::Nobody));
    let mut stores: Vec<_> = futures::future::join_all(opened).await.into_iter().map(Result::unwrap).collect();
    stores.sort_by_key(|store| store.epoch());
    let epochs: Vec<_> = stores.iter().map(|store| store.epoch()).collect();
    assert_eq!(epochs, (1..=6).collect::<Vec<_>>());
    let last = stores.pop().unwrap();
    for store in stores {
        store.apply(&puts(&[("a", "zombie")])).unwrap();
        assert!(store.flush().await.is_err());
    }
    last.apply(&puts(&[("a", "last")])).unwrap();
    last.flush().await.unwrap();
}

#[tokio::test]
async fn a_folder_in_use_is_refused() {
    let fixture = Fixture::new();
    let _store = fixture.open().await;
    let refused = fixture.try_open(fixture.config(), LogChoice::Nobody).await;
    assert!(matches!(refused, Err(OpenError::InUse { .. })), "{refused:?}");
}

#[tokio::test]
async fn a_peek_tells_what_the_bucket_holds_and_writes_nothing() {
    let fixture = Fixture::new();
    let objects = std::sync::Arc::clone(&*fixture.objects);
    assert_eq!(peek(&objects, "test").await.unwrap(), None);
    let store = fixture.open().await;
    store.apply(&puts(&[("a", "1"), ("b", "2")])).unwrap();
    store.flush().await.unwrap();
    let puts_before = fixture.objects.puts.lock().unwrap().len();
    let info = peek(&objects, "test").await.unwrap().unwrap();
    assert_eq!(info, store.manifest());
    assert_eq!((info.epoch, info.last_sequence, info.tables, info.entries), (1, 2, 1, 2));
    assert_eq!(fixture.objects.puts.lock().unwrap().len(), puts_before);
}

#[tokio::test]
async fn a_closed_store_refuses_everything() {
    let fixture = Fixture::new();
    let store = fixture.open().await;
    let clone = store.clone();
    store.close().await.unwrap();
    assert_eq!(clone.view().unwrap_err(), Unusable::Closed);
    assert!(matches!(clone.apply(&puts(&[("a", "1")])), Err(WriteError::Unusable(Unusable::Closed))));
    assert!(clone.flush().await.is_err());
    drop(fixture.open().await);
}

//! Deletions of ranges: what they delete, whom they hide it from, and when they go themselves.

use std::collections::BTreeMap;
use std::sync::Arc;

use lsmstore::{Batch, BatchError, Durability, KeepAll, LogChoice, MergeEntry, MergePolicy, Store, WriteError};

use crate::fixture::{Fixture, get, puts};
use crate::levels::{self, fill, same, scattered, settle};
use crate::own_log;

fn delete(from: &str, to: &str) -> Batch {
    let mut batch = Batch::new();
    batch.delete_range(from.as_bytes(), to.as_bytes());
    batch
}

/// Keys forward, and the same backward.
fn keys(store: &Store, sequence: u64) -> Vec<String> {
    let view = store.view().unwrap();
    let mut iter = view.iter(sequence).unwrap();
    let text = |key: &[u8]| String::from_utf8(key.to_vec()).unwrap();
    let (mut found, mut back) = (Vec::new(), Vec::new());
    let mut standing = iter.seek_first().unwrap();
    while standing {
        found.push(text(iter.key()));
        standing = iter.next().unwrap();
    }
    standing = iter.seek_last().unwrap();
    while standing {
        back.insert(0, text(iter.key()));
        standing = iter.prev().unwrap();
    }
    assert_eq!(found, back);
    found
}

fn all_keys(store: &Store) -> Vec<String> {
    keys(store, store.view().unwrap().read_sequence())
}

#[tokio::test]
async fn its_begin_goes_and_its_end_stays_in_memory_in_a_table_and_after_a_merge() {
    let fixture = Fixture::new();
    let store = fixture.open().await;
    store.apply(&puts(&[("a", "1"), ("b", "1"), ("bb", "1"), ("c", "1"), ("d", "1")])).unwrap();
    store.apply(&delete("b", "c")).unwrap();
    store.apply(&puts(&[("bb", "2")])).unwrap();
    let check = |when: &str| {
        assert_eq!(all_keys(&store), ["a", "bb", "c", "d"], "{when}");
        let values = ["a", "b", "bb", "c"].map(|key| get(&store, key));
        assert_eq!(values.each_ref().map(Option::as_deref), [Some("1"), None, Some("2"), Some("1")], "{when}");
        let view = store.view().unwrap();
        let sequence = view.read_sequence();
        assert_eq!(view.get_version(b"b", sequence).unwrap().map(|version| version.value), gone(when), "{when}");
        assert_eq!(view.get_version(b"bc", sequence).unwrap().map(|version| version.value), gone(when), "{when}");
    };
    // A merge leaves nothing of it, for nothing lies below.
    fn gone(when: &str) -> Option<Option<&'static [u8]>> {
        (when != "merged").then_some(None)
    }
    check("in memory");
    store.flush().await.unwrap();
    check("in a table");
    store.merge(Arc::new(KeepAll)).await.unwrap();
    check("merged");
    let left: Vec<_> = store.view().unwrap().tables().map(|table| (table.entries, table.deletions)).collect();
    assert_eq!(left, [(4, 0)]);
}

#[tokio::test]
async fn writes_of_a_batch_before_it_go_and_those_after_it_stay() {
    let fixture = Fixture::new();
    let store = fixture.open().await;
    let mut batch = Batch::new();
    batch.put(b"a", b"1").put(b"b", b"1").delete_range(b"a", b"z").put(b"b", b"2");
    let applied = store.apply(&batch).unwrap();
    assert_eq!(applied.last - applied.first, 3, "each write has a number");
    assert_eq!(all_keys(&store), ["b"]);
    assert_eq!(keys(&store, applied.first + 1), ["a", "b"]);
    assert_eq!(keys(&store, applied.first + 2), Vec::<String>::new());
}

#[tokio::test]
async fn a_range_without_keys_deletes_nothing_and_one_that_ends_before_it_begins_is_refused() {
    let fixture = Fixture::new();
    let store = fixture.open().await;
    store.apply(&puts(&[("a", "1")])).unwrap();
    let nothing = store.apply(&delete("a", "a")).unwrap();
    assert!(nothing.last < nothing.first);
    let refused = store.apply(&delete("b", "a"));
    assert!(matches!(refused, Err(WriteError::Batch(BatchError::InvertedRange { .. }))), "{refused:?}");
    store.apply(&delete("0", "1")).unwrap();
    assert_eq!(all_keys(&store), ["a"]);
}

#[tokio::test]
async fn who_reads_at_an_older_number_sees_what_was_deleted_later() {
    let fixture = Fixture::new();
    let store = fixture.open().await;
    let mut seen = Vec::new();
    for round in 0..40 {
        let (from, to) = (round * 7 % 50, round * 7 % 50 + 1 + round % 9);
        let value = round.to_string();
        let some: Vec<_> = (0..10).map(|n| format!("{:02}", (round * 13 + n * 5) % 60)).collect();
        store.apply(&puts(&some.iter().map(|key| (&key[..], &value[..])).collect::<Vec<_>>())).unwrap();
        let applied = store.apply(&delete(&format!("{from:02}"), &format!("{to:02}"))).unwrap();
        seen.push((applied.last, all_keys(&store)));
        if round % 15 == 14 {
            store.flush().await.unwrap();
        }
        for (sequence, then) in &seen {
            assert_eq!(keys(&store, *sequence), *then, "in round {round}");
        }
    }
}

#[tokio::test]
async fn it_is_replayed_from_the_own_log_and_once_is_as_good_as_twice() {
    let fixture = Fixture::new();
    let store = own_log::open(&fixture).await;
    store.write(puts(&[("a", "1"), ("b", "1"), ("c", "1")]), Durability::Memory).await.unwrap();
    store.flush().await.unwrap();
    store.write(delete("a", "c"), Durability::Local).await.unwrap();
    store.write(puts(&[("b", "2")]), Durability::Local).await.unwrap();
    drop(store);
    for _ in 0..2 {
        let store = own_log::open(&fixture).await;
        assert_eq!((all_keys(&store), get(&store, "b").as_deref()), (vec!["b".into(), "c".into()], Some("2")));
        drop(store);
    }
}

#[tokio::test]
async fn many_in_one_memtable_are_all_found_whatever_they_overlap() {
    let fixture = Fixture::new();
    let store = fixture.open_with(fixture.config().memtable_bytes(1 << 20), LogChoice::Nobody).await;
    let mut model = BTreeMap::new();
    for n in 0..2000_u32 {
        model.insert(format!("{n:05}"), n.to_string());
    }
    let writes: Vec<_> = model.iter().map(|(key, value)| (&key[..], &value[..])).collect();
    store.apply(&puts(&writes)).unwrap();
    let mut number = 1_u64;
    for round in 0..600 {
        number = number.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let from = (number >> 33) % 2000;
        let to = from + 1 + (number >> 20) % 4;
        let (from, to) = (format!("{from:05}"), format!("{to:05}"));
        store.apply(&delete(&from, &to)).unwrap();
        model.retain(|key, _| *key < from || *key >= to);
        let key = format!("{:05}", (number >> 40) % 2000);
        assert_eq!(get(&store, &key).as_ref(), model.get(&key), "{key} in round {round}");
        if round % 100 == 99 {
            assert_eq!(all_keys(&store), model.keys().cloned().collect::<Vec<_>>());
        }
    }
}

/// Cannot be asked: a merge that reads has groups to judge.
struct Unread;

impl MergePolicy for Unread {
    fn judge(&self, group: &[MergeEntry<'_>], _bottommost: bool, _keep: &mut [bool]) {
        panic!("{:?} was read", group[0].key);
    }
}

#[tokio::test]
async fn tables_that_lie_within_a_range_go_unread_and_the_rest_stays() {
    let fixture = Fixture::new();
    let store = fixture.open_with(levels::config(&fixture), LogChoice::Nobody).await;
    let (mut model, _) = fill(&store, 20_000, scattered).await;
    let (tables, before) = (store.view().unwrap().tables().count(), store.view().unwrap());
    store.apply(&delete("00100000", "00950000")).unwrap();
    model.retain(|key, _| &key[..] < "00100000" || &key[..] >= "00950000");
    same(&store, &model);
    assert!(!store.wants_merge(), "nothing of it is durable yet");
    store.flush().await.unwrap();
    assert!(store.wants_merge());
    let merged = store.merge(Arc::new(Unread)).await.unwrap();
    assert!(merged.inputs > tables / 2 && merged.outputs == 0, "{merged:?} of {tables} tables");
    same(&store, &model);
    settle(&store, &(Arc::new(KeepAll) as _)).await;
    same(&store, &model);
    assert_eq!(before.tables().count(), tables, "a view that is held has them");
    drop((store, before));
    same(&fixture.elsewhere().open().await, &model);
}

#[tokio::test]
async fn ranges_go_down_cut_as_the_tables_are_and_vanish_when_nothing_older_is_left() {
    let fixture = Fixture::new();
    let store = fixture.open_with(levels::config(&fixture), LogChoice::Nobody).await;
    let (mut model, _) = fill(&store, 10_000, scattered).await;
    let policy: Arc<dyn MergePolicy> = Arc::new(KeepAll);
    for round in 0..60_u64 {
        let from = round * 17_000;
        let (from, to) = (format!("{from:08}"), format!("{:08}", from + 15_000));
        let mut batch = delete(&from, &to);
        model.retain(|key, _| *key < from || *key >= to);
        for n in 0..20 {
            let (key, value) = (format!("{:08}", scattered(20_000 + round * 20 + n)), b"new".to_vec());
            batch.put(key.as_bytes(), &value);
            model.insert(key, value);
        }
        store.apply(&batch).unwrap();
        store.flush().await.unwrap();
        settle(&store, &policy).await;
        if round % 10 == 9 {
            same(&store, &model);
        }
    }
    let view = store.view().unwrap();
    let entries: u64 = view.tables().map(|table| table.entries).sum();
    assert!(view.tables().any(|table| table.deletions > 0));
    assert!(entries < 10_000, "{entries} versions of {} keys", model.len());
    drop(view);
    let reopened = fixture.elsewhere().open().await;
    same(&reopened, &model);
    drop(reopened);
    // One range over all, and nothing is left, not of the ranges either.
    let other = fixture.elsewhere();
    let store = other.open_with(levels::config(&other), LogChoice::Nobody).await;
    store.apply(&delete("0", "1")).unwrap();
    store.flush().await.unwrap();
    store.apply(puts(&[("2", "")]).put(b"2", b"")).unwrap();
    store.flush().await.unwrap();
    for _ in 0..8 {
        store.merge(Arc::clone(&policy)).await.unwrap();
        settle(&store, &policy).await;
    }
    same(&store, &BTreeMap::from([("2".to_owned(), Vec::new())]));
    let left: Vec<_> = store.view().unwrap().tables().map(|table| (table.entries, table.deletions)).collect();
    assert_eq!(left, [(1, 0)]);
}

#[tokio::test]
async fn any_changed_byte_of_a_table_with_ranges_is_named_when_it_is_fetched() {
    use object_store::{ObjectStore, ObjectStoreExt};
    let fixture = Fixture::new();
    let store = fixture.open().await;
    store.apply(&puts(&[("a", "1"), ("d", "1")])).unwrap();
    store.apply(&delete("b", "c")).unwrap();
    store.flush().await.unwrap();
    drop(store);
    let listed: Vec<_> = futures::TryStreamExt::try_collect(ObjectStore::list(&*fixture.objects, None)).await.unwrap();
    let name = listed.into_iter().map(|meta| meta.location).find(|name| name.as_ref().contains("/sst/")).unwrap();
    let bytes = fixture.objects.get(&name).await.unwrap().bytes().await.unwrap().to_vec();
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 0x10;
        fixture.objects.put(&name, changed.into()).await.unwrap();
        let other = fixture.elsewhere();
        let opened = other.try_open(other.config(), LogChoice::Nobody).await;
        assert!(opened.is_err_and(|error| error.to_string().contains("at byte")), "byte {at} was not noticed");
    }
}

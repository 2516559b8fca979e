//! Merges: what stays, what goes, and what the owner decides.

use std::sync::Arc;

use lsmstore::{Batch, KeepAll, LogChoice, MergeEntry, MergePolicy, ReadError, Store};

use crate::fixture::{Fault, Fixture, get, puts};

async fn write(store: &Store, writes: &[(&str, &str)]) {
    store.apply(&puts(writes)).unwrap();
    store.flush().await.unwrap();
}

#[tokio::test]
async fn shadowed_versions_and_deletions_go_and_the_rest_stays_after_a_reopen() {
    let fixture = Fixture::new();
    let store = fixture.open().await;
    write(&store, &[("a", "1"), ("b", "1"), ("c", "1")]).await;
    write(&store, &[("a", "2")]).await;
    let mut batch = Batch::new();
    batch.delete(b"b");
    store.apply(&batch).unwrap();
    store.flush().await.unwrap();
    let old = store.view().unwrap();
    let merged = store.merge(Arc::new(KeepAll)).await.unwrap();
    assert_eq!((merged.inputs, merged.outputs, merged.dropped), (3, 1, 3));
    for store in [store.clone(), {
        drop(store);
        drop(old);
        fixture.elsewhere().open().await
    }] {
        assert_eq!(get(&store, "a").as_deref(), Some("2"));
        assert_eq!(get(&store, "b"), None);
        assert_eq!(get(&store, "c").as_deref(), Some("1"));
        let stats = store.stats();
        assert_eq!((stats.levels[0].tables, stats.levels[1].entries), (0, 2));
    }
}

#[tokio::test]
async fn a_view_from_before_a_merge_reads_old_sequences_and_a_later_one_refuses_them() {
    let fixture = Fixture::new();
    let store = fixture.open().await;
    write(&store, &[("a", "1")]).await;
    let before = store.view().unwrap();
    write(&store, &[("a", "2")]).await;
    store.merge(Arc::new(KeepAll)).await.unwrap();
    assert_eq!(before.get(b"a", 1).unwrap(), Some(&b"1"[..]));
    let after = store.view().unwrap();
    assert_eq!(after.get(b"a", 1), Err(ReadError::SequenceTooOld { asked: 1, floor: 2 }));
    assert_eq!(after.get(b"a", after.read_sequence()).unwrap(), Some(&b"2"[..]));
}

#[tokio::test]
async fn a_merge_that_fails_leaves_everything_readable_and_can_be_repeated() {
    for (name, fault) in [("sst/", Fault::Before), ("manifest/", Fault::Before), ("manifest/", Fault::After)] {
        let fixture = Fixture::new();
        let store = fixture.open().await;
        write(&store, &[("a", "1"), ("b", "1")]).await;
        write(&store, &[("a", "2")]).await;
        fixture.objects.fail(name, fault, 1);
        store.merge(Arc::new(KeepAll)).await.unwrap_err();
        assert_eq!((get(&store, "a").as_deref(), get(&store, "b").as_deref()), (Some("2"), Some("1")));
        write(&store, &[("c", "3")]).await;
        store.merge(Arc::new(KeepAll)).await.unwrap();
        drop(store);
        let store = fixture.open().await;
        assert_eq!((get(&store, "a").as_deref(), get(&store, "b").as_deref()), (Some("2"), Some("1")));
        assert_eq!(get(&store, "c").as_deref(), Some("3"));
    }
}

/// Rows `tid 0` and their marks `tid 1`: a row goes with its mark, only together.
struct Marked;

impl MergePolicy for Marked {
    fn group_len(&self, key: &[u8]) -> usize {
        key.len() - 1
    }

    fn judge(&self, group: &[MergeEntry<'_>], bottommost: bool, keep: &mut [bool]) {
        assert!(bottommost);
        if group.iter().any(|entry| entry.key.ends_with(b"0")) && group.iter().any(|entry| entry.key.ends_with(b"1")) {
            keep.fill(false);
        }
    }
}

#[tokio::test]
async fn a_row_and_its_mark_are_judged_together_whatever_tables_they_are_in() {
    let fixture = Fixture::new();
    let config = fixture.config().table_bytes(1024).block_bytes(64);
    let store = fixture.open_with(config, LogChoice::Nobody).await;
    let rows: Vec<_> = (0..100).map(|tid| format!("{tid:03}0")).collect();
    let padding = "x".repeat(100);
    let writes: Vec<_> = rows.iter().map(|key| (&key[..], &padding[..])).collect();
    // Twice, for one table alone would only be moved.
    write(&store, &writes).await;
    write(&store, &writes).await;
    store.merge(Arc::new(KeepAll)).await.unwrap();
    assert!(store.stats().levels[1].tables > 5);
    for tid in 0..100 {
        if tid % 3 == 0 {
            write(&store, &[(&format!("{tid:03}1"), "mark")]).await;
            store.merge(Arc::new(Marked)).await.unwrap();
        }
    }
    let view = store.view().unwrap();
    let mut scan = view.scan_prefix(b"", view.read_sequence()).unwrap();
    let mut found = Vec::new();
    while let Some((key, _)) = scan.next().unwrap() {
        found.push(String::from_utf8(key.to_vec()).unwrap());
    }
    let expected: Vec<_> = (0..100).filter(|tid| tid % 3 != 0).map(|tid| format!("{tid:03}0")).collect();
    assert_eq!(found, expected);
}

/// Goes on for so many groups.
struct Short(std::sync::atomic::AtomicUsize);

impl MergePolicy for Short {
    fn goes_on(&self) -> bool {
        use std::sync::atomic::Ordering::SeqCst;
        self.0.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok()
    }
}

#[tokio::test]
async fn a_merge_that_is_not_to_go_on_ends_at_once_and_leaves_nothing_behind() {
    let fixture = Fixture::new();
    let config = fixture.config().table_bytes(1024).block_bytes(64);
    let store = fixture.open_with(config, LogChoice::Nobody).await;
    let padding = "x".repeat(100);
    for round in ["1", "2"] {
        let rows: Vec<_> = (0..100).map(|tid| format!("{tid:03}{round}")).collect();
        write(&store, &rows.iter().map(|key| (&key[..], &padding[..])).collect::<Vec<_>>()).await;
    }
    let mirrors = || std::fs::read_dir(fixture.folder().join("mirror")).unwrap().count();
    let before = mirrors();
    // In the first of its tables, and after some.
    for groups in [0, 3, 60] {
        let merged = store.merge(Arc::new(Short(groups.into()))).await.unwrap();
        assert_eq!((merged.inputs, merged.outputs, mirrors()), (0, 0, before));
        assert_eq!(store.stats().levels[0].tables, 2);
    }
    assert_eq!(store.merge(Arc::new(KeepAll)).await.unwrap().inputs, 2);
    assert_eq!(get(&store, "0992").as_deref(), Some(&padding[..]));
}

#[tokio::test]
async fn writes_and_flushes_go_on_during_a_merge() {
    let fixture = Fixture::new();
    let store = fixture.open_with(fixture.config().memtable_bytes(8192), LogChoice::Nobody).await;
    for round in 0..5 {
        write(&store, &[("k", &round.to_string()), (&format!("r{round}"), "x")]).await;
    }
    let merging = store.merge(Arc::new(KeepAll));
    let writing = async {
        for round in 5..10 {
            write(&store, &[("k", &round.to_string()), (&format!("r{round}"), "x")]).await;
        }
    };
    let (merged, ()) = futures::join!(merging, writing);
    merged.unwrap();
    assert_eq!(get(&store, "k").as_deref(), Some("9"));
    drop(store);
    let store = fixture.open().await;
    assert_eq!(get(&store, "k").as_deref(), Some("9"));
    for round in 0..10 {
        assert_eq!(get(&store, &format!("r{round}")).as_deref(), Some("x"));
    }
}

//! Leveled compaction: what goes down when, what it costs, and that reads never notice.

use std::collections::BTreeMap;
use std::sync::Arc;

use lsmstore::{Batch, Config, KeepAll, LogChoice, MergeEntry, MergePolicy, Store};

use crate::fixture::Fixture;

const TABLE: u64 = 4096;
pub const LEVEL: u64 = 4 * TABLE;
const FACTOR: u64 = 4;

pub fn config(fixture: &Fixture) -> Config {
    let config = fixture.config().memtable_bytes(16 << 10).max_frozen(64).l0_merge_trigger(4);
    config.table_bytes(TABLE as usize).level_bytes(LEVEL).level_factor(FACTOR)
}

/// Merges until nothing is due; returns the bytes that were written.
pub async fn settle(store: &Store, policy: &Arc<dyn MergePolicy>) -> u64 {
    let mut bytes = 0;
    while store.wants_merge() {
        let merged = store.merge(Arc::clone(policy)).await.unwrap();
        assert!(merged.inputs > 0, "what is due must be done");
        bytes += merged.bytes;
    }
    bytes
}

/// Writes `count` keys in an order given by `number`, merging as a server does; returns what is in the store then, and the
/// bytes that merges wrote.
pub async fn fill(store: &Store, count: u64, number: impl Fn(u64) -> u64) -> (BTreeMap<String, Vec<u8>>, u64) {
    let (mut model, mut bytes) = (BTreeMap::new(), 0);
    let policy: Arc<dyn MergePolicy> = Arc::new(KeepAll);
    for begin in (0..count).step_by(100) {
        let mut batch = Batch::new();
        for at in begin..begin + 100 {
            let (key, value) = (format!("{:08}", number(at)), at.to_le_bytes().repeat(4));
            batch.put(key.as_bytes(), &value);
            model.insert(key, value);
        }
        store.apply(&batch).unwrap();
        store.flush().await.unwrap();
        bytes += settle(store, &policy).await;
    }
    (model, bytes)
}

pub fn same(store: &Store, model: &BTreeMap<String, Vec<u8>>) {
    let view = store.view().unwrap();
    let mut scan = view.scan_prefix(b"", view.read_sequence()).unwrap();
    let mut expected = model.iter();
    while let Some((key, value)) = scan.next().unwrap() {
        let (expected_key, expected_value) = expected.next().unwrap();
        assert_eq!((key, value), (expected_key.as_bytes(), &expected_value[..]));
    }
    assert!(expected.next().is_none());
    for (key, value) in model.iter().step_by(7) {
        assert_eq!(view.get(key.as_bytes(), view.read_sequence()).unwrap(), Some(&value[..]));
    }
}

/// Numbers below 2^20 in no order, each once.
pub fn scattered(at: u64) -> u64 {
    at.wrapping_mul(0x9_e379) & 0xf_ffff
}

#[tokio::test]
async fn keys_in_no_order_fill_level_after_level_and_each_stays_within_its_size() {
    let fixture = Fixture::new();
    let store = fixture.open_with(config(&fixture), LogChoice::Nobody).await;
    let (model, _) = fill(&store, 20_000, scattered).await;
    let levels = store.stats().levels;
    assert!(levels.len() > 3 && levels[3].tables > 0, "{levels:?}");
    let mut limit = LEVEL;
    for level in &levels[1..levels.len() - 1] {
        assert!(level.mirror_bytes < limit, "{levels:?}");
        limit *= FACTOR;
    }
    same(&store, &model);
    drop(store);
    same(&fixture.elsewhere().open().await, &model);
}

#[tokio::test]
async fn a_merge_reads_a_part_of_the_levels_not_all_of_them() {
    let fixture = Fixture::new();
    let store = fixture.open_with(config(&fixture), LogChoice::Nobody).await;
    let (_, written) = fill(&store, 20_000, scattered).await;
    let bytes: u64 = store.stats().levels.iter().map(|level| level.mirror_bytes).sum();
    // Three levels below L0, each about FACTOR times as large as the one above. To merge all each time would be 25 times.
    assert!(written < 14 * bytes, "{written} bytes were written for {bytes}");
    let view = store.view().unwrap();
    let small = view.tables().filter(|table| table.entries <= 1).count();
    // The last output of a merge takes what is left.
    assert!(small * 50 < view.tables().count(), "{small} tables of one key among {}", view.tables().count());
}

#[tokio::test]
async fn keys_in_order_are_moved_from_level_to_level_without_being_written_again() {
    let fixture = Fixture::new();
    let store = fixture.open_with(config(&fixture), LogChoice::Nobody).await;
    let (model, written) = fill(&store, 20_000, |at| at).await;
    let levels = store.stats().levels;
    assert!(levels.len() > 3 && levels[3].tables > 0, "{levels:?}");
    assert_eq!(written, 0);
    same(&store, &model);
    drop(store);
    same(&fixture.elsewhere().open().await, &model);
}

#[tokio::test]
async fn tables_of_deletions_go_down_until_nothing_is_left_of_them() {
    let fixture = Fixture::new();
    let store = fixture.open_with(config(&fixture), LogChoice::Nobody).await;
    let (model, _) = fill(&store, 10_000, scattered).await;
    let policy: Arc<dyn MergePolicy> = Arc::new(KeepAll);
    for keys in model.keys().collect::<Vec<_>>().chunks(200) {
        let mut batch = Batch::new();
        for key in keys {
            batch.delete(key.as_bytes());
        }
        store.apply(&batch).unwrap();
        store.flush().await.unwrap();
        settle(&store, &policy).await;
    }
    // The last deletions are in L0, and may be too new for the merge that takes them down.
    for _ in 0..2 {
        store.apply(crate::fixture::puts(&[("end", "")]).put(b"end", b"")).unwrap();
        store.flush().await.unwrap();
        store.merge(Arc::clone(&policy)).await.unwrap();
        settle(&store, &policy).await;
    }
    let left: u64 = store.stats().levels.iter().map(|level| level.entries).sum();
    assert!(left < 50, "{left} versions are left of {} keys that were deleted", model.len());
    same(&store, &BTreeMap::from([("end".to_owned(), Vec::new())]));
}

/// Rows `tid 0` and their marks `tid 1`: both go where they meet and nothing is below.
struct Marked;

impl MergePolicy for Marked {
    fn group_len(&self, key: &[u8]) -> usize {
        key.len() - 1
    }

    fn judge(&self, group: &[MergeEntry<'_>], bottommost: bool, keep: &mut [bool]) {
        let has = |end| group.iter().any(|entry| entry.key.ends_with(end) && entry.value.is_some());
        if bottommost && has(b"0") && has(b"1") {
            keep.fill(false);
        }
    }
}

#[tokio::test]
async fn rows_and_marks_that_meet_on_any_level_vanish_together_and_no_row_comes_back() {
    let fixture = Fixture::new();
    let store = fixture.open_with(config(&fixture), LogChoice::Nobody).await;
    let policy: Arc<dyn MergePolicy> = Arc::new(Marked);
    let tids: Vec<u64> = (0..6000).map(scattered).collect();
    let marked = |at: usize| at.is_multiple_of(3);
    for (number, some) in tids.chunks(100).enumerate() {
        let mut batch = Batch::new();
        for tid in some {
            batch.put(format!("{tid:08}0").as_bytes(), &[7; 30]);
        }
        // Marks of rows that are long written.
        if let Some(before) = number.checked_sub(20) {
            for (at, tid) in tids[before * 100..(before + 1) * 100].iter().enumerate().filter(|(at, _)| marked(*at)) {
                batch.put(format!("{tid:08}1").as_bytes(), &[at as u8]);
            }
        }
        store.apply(&batch).unwrap();
        store.flush().await.unwrap();
        settle(&store, &policy).await;
        let view = store.view().unwrap();
        let sequence = view.read_sequence();
        for (written, some) in tids.chunks(100).enumerate().take(number + 1) {
            for (at, tid) in some.iter().enumerate().step_by(9) {
                let row = view.get(format!("{tid:08}0").as_bytes(), sequence).unwrap().is_some();
                let mark = view.get(format!("{tid:08}1").as_bytes(), sequence).unwrap().is_some();
                let dead = marked(at) && written + 20 <= number;
                assert!(if dead { row == mark } else { row && !mark }, "row {tid}: {row}, mark {mark}, dead {dead}");
            }
        }
    }
    assert!(store.stats().levels.len() > 3);
}

#[tokio::test]
async fn tables_of_what_was_dropped_go_unread_from_every_level() {
    let fixture = Fixture::new();
    let store = fixture.open_with(config(&fixture), LogChoice::Nobody).await;
    let (model, _) = fill(&store, 20_000, scattered).await;
    let before = store.view().unwrap();
    let dead = |key: &[u8]| key >= &b"00200000"[..] && key < &b"00900000"[..];
    let dropped = store.drop_tables(move |low, high| dead(low) && dead(high)).await.unwrap();
    store.publish().await.unwrap();
    assert!(dropped > 50 && before.tables().count() - dropped == store.view().unwrap().tables().count());
    let left: u64 = store.view().unwrap().tables().map(|table| table.entries).sum();
    let live = model.keys().filter(|key| !dead(key.as_bytes())).count() as u64;
    // Those at the edges, and in L0, have keys of both.
    assert!(left < live + 1500, "{left} entries are left, {live} of them live");
    let check = |store: &Store| {
        let view = store.view().unwrap();
        for (key, value) in model.iter().filter(|(key, _)| !dead(key.as_bytes())).step_by(11) {
            assert_eq!(view.get(key.as_bytes(), view.read_sequence()).unwrap(), Some(&value[..]));
        }
    };
    check(&store);
    assert_eq!(before.tables().map(|table| table.entries).sum::<u64>(), model.len() as u64);
    drop((store, before));
    check(&fixture.elsewhere().open().await);
}

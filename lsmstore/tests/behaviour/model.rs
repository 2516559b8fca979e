//! Whatever is written, flushed, merged and reopened, the store reads as an ordered map does.

use std::collections::BTreeMap;
use std::sync::Arc;

use lsmstore::{Batch, Config, FlushOptions, KeepAll, LogChoice, Store, View, WriteError};
use proptest::prelude::*;

use crate::fixture::{Fixture, RecordingLog};

#[derive(Clone, Debug)]
enum Change {
    /// With the value's length.
    Put(u8, u16),
    Delete(u8),
    DeleteRange(u8, u8),
}

#[derive(Clone, Debug)]
enum Step {
    Write(Vec<Change>),
    Flush,
    Merge,
    Reopen { flushed: bool },
    Snapshot,
    Walk(u8, Vec<bool>),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let write = prop_oneof![
        7 => (any::<u8>(), 0_u16..400).prop_map(|(key, length)| Change::Put(key, length)),
        3 => any::<u8>().prop_map(Change::Delete),
        1 => any::<[u8; 2]>().prop_map(|[one, other]| Change::DeleteRange(one, other)),
    ];
    let step = prop_oneof![
        8 => prop::collection::vec(write, 0..12).prop_map(Step::Write),
        2 => Just(Step::Flush),
        2 => Just(Step::Merge),
        1 => any::<bool>().prop_map(|flushed| Step::Reopen { flushed }),
        1 => Just(Step::Snapshot),
        2 => (any::<u8>(), prop::collection::vec(any::<bool>(), 0..30)).prop_map(|(key, turns)| Step::Walk(key, turns)),
    ];
    prop::collection::vec(step, 1..60)
}

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

/// Few keys, of different lengths, with shared prefixes.
fn key(byte: u8) -> Vec<u8> {
    let mut key = b"key".to_vec();
    key.extend(std::iter::repeat_n(byte / 16, usize::from(byte % 4)));
    key.push(byte % 16);
    key
}

fn check(view: &View, sequence: u64, model: &Model) {
    for byte in 0..=255 {
        let key = key(byte);
        assert_eq!(view.get(&key, sequence).unwrap(), model.get(&key).map(|value| &value[..]), "get {key:?}");
    }
    let mut iter = view.iter(sequence).unwrap();
    let mut found = Vec::new();
    let mut standing = iter.seek_first().unwrap();
    while standing {
        found.push((iter.key().to_vec(), iter.value().to_vec()));
        standing = iter.next().unwrap();
    }
    assert_eq!(found, model.clone().into_iter().collect::<Vec<_>>(), "forward");
    let mut standing = iter.seek_last().unwrap();
    found.clear();
    while standing {
        found.push((iter.key().to_vec(), iter.value().to_vec()));
        standing = iter.prev().unwrap();
    }
    found.reverse();
    assert_eq!(found, model.clone().into_iter().collect::<Vec<_>>(), "backward");
}

/// A walk with turns, beside the same walk over the map.
fn walk(view: &View, sequence: u64, model: &Model, start: u8, turns: &[bool]) {
    let start = key(start);
    let mut iter = view.iter(sequence).unwrap();
    let mut expected = if turns.len().is_multiple_of(2) {
        iter.seek(&start).unwrap();
        model.range(start..).next()
    } else {
        iter.seek_for_prev(&start).unwrap();
        model.range(..=start).next_back()
    };
    for &forward in turns {
        assert_eq!(
            iter.valid().then(|| (iter.key().to_vec(), iter.value().to_vec())),
            expected.map(|(k, v)| (k.clone(), v.clone()))
        );
        let Some((at, _)) = expected else { return };
        use std::ops::Bound::{Excluded, Unbounded};
        if forward {
            iter.next().unwrap();
            expected = model.range::<Vec<u8>, _>((Excluded(at), Unbounded)).next();
        } else {
            iter.prev().unwrap();
            expected = model.range::<Vec<u8>, _>((Unbounded, Excluded(at))).next_back();
        }
    }
}

async fn apply(store: &Store, batch: &Batch) -> u64 {
    loop {
        match store.apply(batch) {
            Ok(applied) => return applied.first,
            Err(WriteError::Full { .. }) => drop(store.flush().await.unwrap()),
            Err(error) => panic!("{error}"),
        }
    }
}

fn run(steps: Vec<Step>, shared: bool) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let fixture = Fixture::new();
        let kind = if shared { lsmstore::RegionKind::Shared } else { lsmstore::RegionKind::Heap };
        let config = || {
            let config = Config::new(fixture.folder(), "model").memtable_bytes(4096).memtable_region(kind);
            config.block_bytes(128).max_frozen(2).table_bytes(1024).level_bytes(2048).level_factor(2)
        };
        let log = Arc::new(RecordingLog::default());
        let open = |log: &Arc<RecordingLog>| fixture.open_with(config(), LogChoice::External(Arc::clone(log) as _));
        let mut store = open(&log).await;
        let mut model = Model::new();
        let mut snapshots = Vec::new();
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Write(writes) => {
                    let mut batch = Batch::new();
                    for change in writes {
                        match change {
                            Change::Put(byte, length) => {
                                let value = vec![number as u8; usize::from(length)];
                                batch.put(&key(byte), &value);
                                model.insert(key(byte), value);
                            }
                            Change::Delete(byte) => {
                                batch.delete(&key(byte));
                                model.remove(&key(byte));
                            }
                            Change::DeleteRange(one, other) => {
                                let (from, to) = (key(one).min(key(other)), key(one).max(key(other)));
                                batch.delete_range(&from, &to);
                                model.retain(|key, _| *key < from || *key >= to);
                            }
                        }
                    }
                    let first = apply(&store, &batch).await;
                    log.append(first, &batch);
                }
                Step::Flush => drop(store.flush().await.unwrap()),
                Step::Merge => {
                    store.merge(Arc::new(KeepAll)).await.unwrap();
                    while store.wants_merge() {
                        assert!(store.merge(Arc::new(KeepAll)).await.unwrap().inputs > 0, "what is due must be done");
                    }
                }
                Step::Reopen { flushed } => {
                    if flushed {
                        store.flush_with(FlushOptions { clean: true, force: false }).await.unwrap();
                        store.close().await.unwrap();
                    } else {
                        drop(store);
                    }
                    store = open(&log).await;
                    log.replay(&store).await;
                    store.set_next_sequence(0);
                }
                Step::Snapshot => {
                    let view = store.view().unwrap();
                    let sequence = view.read_sequence();
                    snapshots.push((view, sequence, model.clone()));
                }
                Step::Walk(start, turns) => {
                    let view = store.view().unwrap();
                    walk(&view, view.read_sequence(), &model, start, &turns);
                }
            }
        }
        let view = store.view().unwrap();
        check(&view, view.read_sequence(), &model);
        for (view, sequence, model) in snapshots {
            check(&view, sequence, &model);
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_store_reads_as_an_ordered_map(steps in steps()) {
        run(steps, false);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 15, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_store_in_shared_memory_reads_as_an_ordered_map(steps in steps()) {
        run(steps, true);
    }
}

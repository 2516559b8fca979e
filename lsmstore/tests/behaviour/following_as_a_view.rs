//! Whatever is written, deleted and merged, a follower with next to no memory reads what a view of the store does.

use std::ops::Bound;
use std::sync::Arc;

use lsmstore::{
    Batch, Config, Env, Follower, FollowerConfig, KeepAll, LogChoice, Snapshot, SystemEnv, View, WriteError,
};
use proptest::prelude::*;

use crate::fixture::Fixture;

#[derive(Clone, Debug)]
enum Change {
    Put(u8, u16),
    Delete(u8),
    DeleteRange(u8, u8),
}

#[derive(Clone, Debug)]
enum Step {
    Write(Vec<Change>),
    Flush,
    Merge,
    Look { keep: bool },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let change = prop_oneof![
        7 => (any::<u8>(), 0_u16..400).prop_map(|(key, length)| Change::Put(key, length)),
        3 => any::<u8>().prop_map(Change::Delete),
        1 => any::<[u8; 2]>().prop_map(|[one, other]| Change::DeleteRange(one.min(other), one.max(other))),
    ];
    let step = prop_oneof![
        6 => prop::collection::vec(change, 0..40).prop_map(Step::Write),
        3 => Just(Step::Flush),
        1 => Just(Step::Merge),
        2 => any::<bool>().prop_map(|keep| Step::Look { keep }),
    ];
    prop::collection::vec(step, 1..30)
}

fn key(byte: u8) -> Vec<u8> {
    vec![b'k', byte / 16, byte % 16]
}

type Rows = Vec<(Vec<u8>, Vec<u8>)>;

fn rows(view: &View) -> Rows {
    let mut scan = view.scan_prefix(b"", view.read_sequence()).unwrap();
    let mut rows = Vec::new();
    while let Some((key, value)) = scan.next().unwrap() {
        rows.push((key.to_vec(), value.to_vec()));
    }
    rows
}

async fn check(snapshot: &Snapshot, expected: &Rows, (from, to): (u8, u8)) {
    let bounds = [
        (Bound::Unbounded, Bound::Unbounded),
        (Bound::Included(key(from)), Bound::Excluded(key(to))),
        (Bound::Excluded(key(from)), Bound::Included(key(to))),
    ];
    for bound in bounds {
        let inside = |key: &Vec<u8>| std::ops::RangeBounds::contains(&bound, key);
        let mut expected: Rows = expected.iter().filter(|(key, _)| inside(key)).cloned().collect();
        for forward in [true, false] {
            let keys = (bound.0.as_ref().map(|key| &key[..]), bound.1.as_ref().map(|key| &key[..]));
            let scan = snapshot.scan(keys);
            let mut scan = if forward { scan } else { scan.reverse() };
            let mut found = Vec::new();
            while let Some((key, value)) = scan.next().await.unwrap() {
                found.push((key.to_vec(), value.to_vec()));
            }
            assert_eq!(found, expected, "forward: {forward}");
            expected.reverse();
        }
    }
    for byte in (0..=255).step_by(7) {
        let at = expected.binary_search_by(|(found, _)| found.cmp(&key(byte)));
        let expected = at.ok().map(|at| &expected[at].1[..]);
        assert_eq!(snapshot.get(&key(byte)).await.unwrap().as_deref(), expected);
    }
}

fn run(steps: Vec<Step>, budget: u64, bounds: (u8, u8)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let fixture = Fixture::new();
        let config = Config::new(fixture.folder(), "test").memtable_bytes(4096).block_bytes(128).max_frozen(2);
        let config = config.table_bytes(1024).level_bytes(2048).level_factor(2);
        let store = fixture.open_with(config, LogChoice::Nobody).await;
        let env: Arc<dyn Env> = Arc::new(SystemEnv::new());
        let config = FollowerConfig::new("test").cache_bytes(budget);
        let follower = Follower::open(config, Arc::clone(&fixture.objects) as _, env).await.unwrap();
        let mut kept = Vec::new();
        for (number, step) in steps.into_iter().chain([Step::Flush, Step::Look { keep: true }]).enumerate() {
            match step {
                Step::Write(changes) => {
                    let mut batch = Batch::new();
                    for change in changes {
                        match change {
                            Change::Put(byte, length) => {
                                batch.put(&key(byte), &vec![number as u8; usize::from(length)]);
                            }
                            Change::Delete(byte) => drop(batch.delete(&key(byte))),
                            Change::DeleteRange(one, other) => drop(batch.delete_range(&key(one), &key(other))),
                        }
                    }
                    while let Err(error) = store.apply(&batch) {
                        assert!(matches!(error, WriteError::Full { .. }), "{error}");
                        store.flush().await.unwrap();
                    }
                }
                Step::Flush => drop(store.flush().await.unwrap()),
                Step::Merge => drop(store.merge(Arc::new(KeepAll)).await.unwrap()),
                Step::Look { keep } => {
                    store.flush().await.unwrap();
                    follower.refresh().await.unwrap();
                    let snapshot = follower.snapshot();
                    assert_eq!(snapshot.manifest().number, store.manifest().number);
                    let expected = rows(&store.view().unwrap());
                    check(&snapshot, &expected, bounds).await;
                    if keep {
                        kept.push((snapshot, expected));
                    }
                }
            }
        }
        for (snapshot, expected) in kept {
            check(&snapshot, &expected, bounds).await;
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 25, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_follower_reads_what_a_view_shows(
        steps in steps(),
        budget in prop_oneof![Just(1_u64), Just(3_000), Just(20_000), Just(1 << 20)],
        bounds in any::<(u8, u8)>(),
    ) {
        run(steps, budget, bounds);
    }
}

//! Whatever is done to an index, it has the rows that a plain list would have; refusals leave it as it was.

use std::collections::BTreeMap;

use proptest::prelude::*;
use vecindex::{
    AddError, Bf16, Encoding, F16, F32, I8, Index, MergeError, Metric, Search, SearchContext, SearchError, SplitF32,
    SplitI8, VectorError,
};

use crate::data::{distance, random};

#[derive(Debug, Clone)]
enum Step {
    Add(u64, Vec<f32>),
    Extend(Vec<(u64, Vec<f32>)>),
    Remove(u64),
    RemoveMany(u64, u64),
    Consolidate,
    Optimize,
    SaveAndOpen,
    Merge(Vec<(u64, Vec<f32>)>),
    Search(Vec<f32>, usize),
    SearchAmong(Vec<f32>, usize, u64),
}

/// Few different components, so that rows are equal and distances tie.
fn row() -> impl Strategy<Value = Vec<f32>> {
    proptest::collection::vec((-4i8..=4).prop_map(f32::from), 3)
        .prop_filter("cosine knows no row of length zero", |row| row.iter().any(|x| *x != 0.0))
}

fn step() -> impl Strategy<Value = Step> {
    let rows = |n| proptest::collection::vec((0u64..400, row()), 0..n);
    prop_oneof![
        8 => (0u64..400, row()).prop_map(|(key, row)| Step::Add(key, row)),
        3 => rows(150).prop_map(Step::Extend),
        6 => (0u64..400).prop_map(Step::Remove),
        2 => (0u64..400, 1u64..200).prop_map(|(from, n)| Step::RemoveMany(from, n)),
        2 => Just(Step::Consolidate),
        1 => Just(Step::Optimize),
        1 => Just(Step::SaveAndOpen),
        1 => rows(100).prop_map(Step::Merge),
        6 => (row(), 1usize..30).prop_map(|(query, k)| Step::Search(query, k)),
        4 => (row(), 1usize..30, 1u64..10).prop_map(|(query, k, of)| Step::SearchAmong(query, k, of)),
    ]
}

struct Model {
    metric: Metric,
    rows: BTreeMap<u64, Vec<f32>>,
}

impl Model {
    /// The distances of the nearest rows, nearest first.
    fn nearest(&self, query: &[f32], k: usize, allowed: impl Fn(u64) -> bool) -> Vec<f64> {
        let rows = self.rows.iter().filter(|(key, _)| allowed(**key));
        let mut distances: Vec<f64> = rows.map(|(_, row)| distance(self.metric, query, row)).collect();
        distances.sort_unstable_by(f64::total_cmp);
        distances.truncate(k);
        distances
    }

    /// With the whole index in view, each hit is a row of the model, none comes twice, and distances are the smallest there are.
    fn check(&self, hits: &[vecindex::Hit], query: &[f32], expected: &[f64]) {
        assert_eq!(hits.len(), expected.len());
        let mut keys: Vec<u64> = hits.iter().map(|hit| hit.key).collect();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), hits.len(), "a row came twice");
        for (hit, expected) in hits.iter().zip(expected) {
            let own = distance(self.metric, query, &self.rows[&hit.key]);
            assert!((own - expected).abs() < 1e-3, "key {} is at {own}, expected {expected}", hit.key);
            assert!((f64::from(hit.distance) - own).abs() < 1e-3, "key {} at {own} said {}", hit.key, hit.distance);
        }
    }
}

fn run<E: Encoding>(metric: Metric, steps: Vec<Step>, capacity: u32) {
    let folder = tempfile::tempdir().unwrap();
    let build = || Index::<E>::builder(3, metric).m(4).ef_construction(16).capacity(capacity).build().unwrap();
    let (mut index, mut model) = (build(), Model { metric, rows: BTreeMap::new() });
    let mut context = SearchContext::default();
    for step in steps {
        match step {
            Step::Add(key, row) => match index.add(key, &row) {
                Ok(()) => assert!(model.rows.insert(key, row).is_none()),
                Err(AddError::Duplicate { key: same }) => assert!(same == key && model.rows.contains_key(&key)),
                Err(e) => panic!("{e}"),
            },
            Step::Extend(mut rows) => {
                let mut seen: Vec<u64> = model.rows.keys().copied().collect();
                rows.retain(|(key, _)| {
                    !seen.contains(key) && {
                        seen.push(*key);
                        true
                    }
                });
                index.extend(rows.clone()).unwrap();
                model.rows.extend(rows);
            }
            Step::Remove(key) => assert_eq!(index.remove(key), model.rows.remove(&key).is_some()),
            Step::RemoveMany(from, n) => {
                for key in from..from + n {
                    assert_eq!(index.remove(key), model.rows.remove(&key).is_some());
                }
            }
            Step::Consolidate => {
                index.consolidate().unwrap();
                assert_eq!(index.removed(), 0);
            }
            Step::Optimize => index.optimize().unwrap(),
            Step::SaveAndOpen => {
                let path = folder.path().join("index");
                index.save(&path).unwrap();
                vecindex::snapshot::verify(&path).unwrap();
                index = Index::open(&path).unwrap();
                assert_eq!(index.removed(), 0);
            }
            Step::Merge(mut rows) => {
                let mut seen: Vec<u64> = model.rows.keys().copied().collect();
                rows.retain(|(key, _)| {
                    !seen.contains(key) && {
                        seen.push(*key);
                        true
                    }
                });
                let mut other = build();
                other.extend(rows.clone()).unwrap();
                index.merge(other).unwrap();
                model.rows.extend(rows);
            }
            Step::Search(query, k) => {
                let how = Search::new().ef(1000);
                let hits = index.search_with(&query, k, &how, &mut context).unwrap();
                model.check(&hits, &query, &model.nearest(&query, k, |_| true));
                assert_eq!(index.search_exactly(&query, k, &how).unwrap().len(), hits.len());
                assert_eq!(index.search_with(&query, k, &Search::new().ef(1), &mut context).unwrap().len(), hits.len());
            }
            Step::SearchAmong(query, k, of) => {
                let test = move |key| key % of == 0;
                let selection = index.select((0..400).filter(|key| test(*key)));
                assert_eq!(selection.len(), model.rows.keys().filter(|key| test(**key)).count());
                let expected = model.nearest(&query, k, test);
                for how in [Search::new().filter(&test), Search::new().among(&selection)] {
                    model.check(&index.search_with(&query, k, &how.ef(1000), &mut context).unwrap(), &query, &expected);
                    model.check(&index.search_exactly(&query, k, &how).unwrap(), &query, &expected);
                    let few = index.search_with(&query, k, &how.ef(1), &mut context).unwrap();
                    assert_eq!(few.len(), expected.len());
                    assert!(few.iter().all(|hit| test(hit.key)));
                }
            }
        }
        assert_eq!(index.len(), model.rows.len());
        let mut keys: Vec<u64> = index.all_keys().collect();
        keys.sort_unstable();
        assert!(keys.iter().eq(model.rows.keys()));
        for (key, row) in model.rows.iter().take(20) {
            let got = index.get(*key).unwrap();
            assert!(got.iter().zip(row).all(|(got, row)| (got - row).abs() < 1e-5), "{got:?} for {row:?}");
        }
        assert!(!index.contains(400) && index.get(400).is_none() && !index.remove(400));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn floats(steps in proptest::collection::vec(step(), 1..60), capacity in 0u32..500) {
        run::<SplitF32>(Metric::Cosine, steps.clone(), capacity);
        run::<F32>(Metric::L2, steps, capacity);
    }

    #[test]
    fn codes_with_exact_rows(steps in proptest::collection::vec(step(), 1..60), capacity in 0u32..500) {
        // All rows are in view, so the exact ones decide.
        run::<SplitI8>(Metric::L2, steps.clone(), capacity);
        run::<I8>(Metric::Cosine, steps, capacity);
    }

    #[test]
    fn halves(steps in proptest::collection::vec(step(), 1..40), capacity in 0u32..500) {
        run::<F16>(Metric::InnerProduct, steps.clone(), capacity);
        run::<Bf16>(Metric::L2, steps, capacity);
    }
}

#[test]
fn nothing_a_user_hands_in_is_more_than_refused() {
    let mut index = Index::<I8>::builder(2, Metric::Cosine).build().unwrap();
    let mut context = SearchContext::default();
    for k in [0, 1, usize::MAX] {
        assert_eq!(index.search(&[1.0, 2.0], k).unwrap(), []);
        assert_eq!(index.search_exactly(&[1.0, 2.0], k, &Search::new()).unwrap(), []);
    }
    index.consolidate().unwrap();
    index.optimize().unwrap();
    for (row, expected) in [
        (&[1.0][..], VectorError::Dimension { got: 1, expected: 2 }),
        (&[], VectorError::Dimension { got: 0, expected: 2 }),
        (&[1.0, f32::INFINITY], VectorError::NotFinite { at: 1, value: f32::INFINITY }),
        (&[0.0, 0.0], VectorError::Zero),
    ] {
        assert!(matches!(index.add(3, row), Err(AddError::Vector { key: 3, error }) if error == expected));
    }
    assert!(matches!(index.add(3, &[f32::NAN, 0.0]), Err(AddError::Vector { .. })));
    assert!(index.is_empty() && !index.contains(3));
    index.add(u64::MAX, &[1.0, 1.0]).unwrap();
    assert!(matches!(index.add(u64::MAX, &[2.0, 1.0]), Err(AddError::Duplicate { key: u64::MAX })));
    assert!(matches!(
        index.extend([(1, [1.0, 0.0]), (1, [0.0, 1.0]), (2, [0.0, 1.0])]),
        Err(AddError::Duplicate { key: 1 })
    ));
    assert_eq!((index.len(), index.contains(1), index.contains(2)), (2, true, false));
    for query in [&[1.0][..], &[f32::NAN, 1.0]] {
        assert!(matches!(index.search(query, 1), Err(SearchError::Vector(_))));
        assert!(matches!(index.search_many(&[query], 1, &Search::new()), Err(SearchError::Vector(_))));
        assert!(matches!(index.search_exactly(query, 1, &Search::new()), Err(SearchError::Vector(_))));
    }
    for (k, ef) in [(usize::MAX, 0), (0, usize::MAX), (usize::MAX, usize::MAX)] {
        let hits = index.search_with(&[1.0, 1.0], k, &Search::new().ef(ef), &mut context).unwrap();
        assert_eq!(hits.len(), k.min(2));
    }
    for builder in [
        Index::<I8>::builder(0, Metric::L2),
        Index::builder(usize::MAX, Metric::L2),
        Index::builder(4, Metric::L2).m(1),
        Index::builder(4, Metric::L2).m(1000),
        Index::builder(4, Metric::L2).ef_construction(2),
        Index::builder(4, Metric::L2).capacity(u32::MAX),
    ] {
        assert!(builder.build().is_err());
    }
    assert!(matches!(index.reserve(u32::MAX), Err(AddError::Full { .. })));
}

#[test]
fn a_selection_is_of_the_index_it_was_made_in_as_it_was() {
    let build = || {
        let mut index: Index = Index::builder(1, Metric::L2).build().unwrap();
        index.extend((0..10).map(|key| (key, [key as f32]))).unwrap();
        index
    };
    let (mut index, other) = (build(), build());
    let mut context = SearchContext::default();
    let selection = index.select([2, 4, 77]);
    assert_eq!((selection.len(), selection.is_empty()), (2, false));
    let among = Search::new().among(&selection);
    assert!(matches!(other.search_with(&[0.0], 5, &among, &mut context), Err(SearchError::Stale)));
    index.extend((10..5000).map(|key| (key, [key as f32]))).unwrap();
    index.remove(2);
    assert_eq!(index.search_with(&[0.0], 5, &among, &mut context).unwrap().len(), 1);
    index.consolidate().unwrap();
    assert!(matches!(index.search_with(&[0.0], 5, &among, &mut context), Err(SearchError::Stale)));
    assert!(matches!(index.search_exactly(&[0.0], 5, &among), Err(SearchError::Stale)));
}

#[test]
fn indexes_that_do_not_belong_together_are_not_merged() {
    let build = |dim, metric, exact| Index::<I8>::builder(dim, metric).keep_exact(exact).build().unwrap();
    let mut index = build(2, Metric::L2, true);
    index.add(1, &[1.0, 1.0]).unwrap();
    let refused = |index: &mut Index<I8>, other| index.merge(other).unwrap_err();
    assert!(matches!(refused(&mut index, build(3, Metric::L2, true)), MergeError::Dimension { got: 3, expected: 2 }));
    assert!(matches!(refused(&mut index, build(2, Metric::Cosine, true)), MergeError::Metric { .. }));
    assert!(matches!(refused(&mut index, build(2, Metric::L2, false)), MergeError::Exact));
    let mut other = build(2, Metric::L2, true);
    other.extend([(2, [0.0, 0.0]), (1, [0.0, 0.0])]).unwrap();
    assert!(matches!(refused(&mut index, other), MergeError::Duplicate { key: 1 }));
    assert_eq!(index.len(), 1);
}

#[test]
fn many_searches_at_once_answer_as_one_after_the_other() {
    let rows = random(31, 3000, 8);
    let mut index: Index = Index::builder(8, Metric::L2).build().unwrap();
    index.extend((0..).zip(&rows)).unwrap();
    let even = |key| key % 2 == 0;
    for how in [Search::new(), Search::new().ef(20).filter(&even)] {
        let answers = index.search_many(&rows[..200], 10, &how).unwrap();
        let mut context = SearchContext::default();
        for (query, answer) in rows.iter().zip(answers) {
            assert_eq!(answer, index.search_with(query, 10, &how, &mut context).unwrap());
        }
    }
}

#[test]
fn no_second_copy_is_kept_of_rows_that_are_exact_themselves() {
    fn copy_of<E: Encoding>() -> usize {
        let mut index = Index::<E>::builder(3, Metric::L2).keep_exact(true).build().unwrap();
        index.add(1, &[1.0, 2.0, 3.0]).unwrap();
        index.memory().exact
    }
    assert_eq!((copy_of::<F32>(), copy_of::<SplitF32>()), (0, 0));
    assert!(copy_of::<F16>() > 0 && copy_of::<Bf16>() > 0 && copy_of::<I8>() > 0);
    assert!(copy_of::<SplitI8>() > 0);
}

/// The file of an index that some rows were added to at once, and others merged into, by so many threads.
fn grown(rows: &[Vec<f32>], few: usize, threads: usize) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index");
    let grow = || {
        let build = || Index::<F32>::builder(16, Metric::L2).m(8).ef_construction(64).build().unwrap();
        let (mut index, mut other) = (build(), build());
        let (first, rest) = rows.split_at(3000);
        index.extend((0..).zip(first)).unwrap();
        index.extend((3000..).zip(&rest[..few])).unwrap();
        other.extend((4000..).zip(&rest[few..2 * few])).unwrap();
        index.merge(other).unwrap();
        index.save(&path).unwrap();
    };
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(grow);
    std::fs::read(path).unwrap()
}

#[test]
fn few_rows_are_added_to_many_the_same_by_any_threads() {
    let rows = random(32, 3600, 16);
    for few in [10, 200, 300] {
        let one = grown(&rows, few, 1);
        for threads in [2, 3] {
            assert!(one == grown(&rows, few, threads), "{few} rows, {threads} threads");
        }
    }
}

/// Set in the process in which there is no memory left.
const ALONE: &str = "VECINDEX_TEST_ALONE";

#[test]
fn a_merge_for_which_there_is_no_memory_changes_nothing() {
    if std::env::var_os(ALONE).is_none() {
        let name = format!("{}::a_merge_for_which_there_is_no_memory_changes_nothing", module_path!());
        let name = name.split_once("::").unwrap().1;
        let mut alone = std::process::Command::new(std::env::current_exe().unwrap());
        let output = alone.args(["--exact", name, "--nocapture"]).env(ALONE, "1").output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{output:?}");
        return;
    }
    const DIM: usize = 1 << 17;
    let build = |keys: std::ops::Range<u64>| {
        let builder = Index::<F32>::builder(DIM, Metric::L2).m(2).ef_construction(4);
        let mut index = builder.capacity(keys.clone().count() as u32).build().unwrap();
        index.extend(keys.map(|key| (key, vec![key as f32; DIM]))).unwrap();
        index
    };
    let (mut index, larger) = (build(0..3), build(100..164));
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let taken = status.lines().find_map(|line| line.strip_prefix("VmSize:")).unwrap();
    let taken: u64 = taken.trim().trim_end_matches(" kB").parse().unwrap();
    let limit = Some((taken << 10) + (16 << 20));
    let limit = rustix::process::Rlimit { current: limit, maximum: limit };
    rustix::process::setrlimit(rustix::process::Resource::As, limit).unwrap();
    assert!(matches!(index.merge(larger), Err(MergeError::Order(_))));
    let mut keys: Vec<u64> = index.all_keys().collect();
    keys.sort_unstable();
    assert_eq!((index.len(), keys), (3, vec![0, 1, 2]));
    assert_eq!(index.search(&vec![2.0; DIM], 1).unwrap()[0].key, 2);
}

#[test]
fn where_there_is_room_a_merge_leaves_rows_where_they_are() {
    let mut index: Index = Index::builder(1, Metric::L2).capacity(100).build().unwrap();
    index.extend((0..60).map(|key| (key, [key as f32]))).unwrap();
    index.remove(7);
    let selection = index.select(0..60);
    let mut other = Index::builder(1, Metric::L2).build().unwrap();
    other.extend((60..100).map(|key| (key, [key as f32]))).unwrap();
    index.merge(other).unwrap();
    assert_eq!((index.len(), index.removed()), (99, 1));
    let among = Search::new().among(&selection);
    let hits = index.search_with(&[90.0], 1, &among, &mut SearchContext::default()).unwrap();
    assert_eq!(hits[0].key, 59);
    assert_eq!(index.search(&[90.0], 1).unwrap()[0].key, 90);
}

/// Says that very many rows come.
struct Boaster(u64);

impl Iterator for Boaster {
    type Item = (u64, [f32; 1]);

    fn next(&mut self) -> Option<Self::Item> {
        self.0 = self.0.checked_sub(1)?;
        Some((self.0, [self.0 as f32]))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (usize::MAX, None)
    }
}

#[test]
fn an_iterator_that_promises_too_much_is_not_believed() {
    let mut index: Index = Index::builder(1, Metric::L2).build().unwrap();
    index.add(100, &[100.0]).unwrap();
    index.extend(Boaster(10)).unwrap();
    assert_eq!(index.len(), 11);
    assert!(index.memory().adding > 0 && index.memory().total() < 8 << 20, "{:?}", index.memory());
}

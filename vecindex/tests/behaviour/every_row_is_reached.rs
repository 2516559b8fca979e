//! Links lead to every row, whatever the rows are, in whatever order and by however many threads they are linked.

use std::path::Path;

use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use vecindex::{BuildContext, Hnsw, HnswParams, Metric, SearchCursor, exact};

use crate::data::{empty, params, random, vectors};

const METRICS: [Metric; 3] = [Metric::L2, Metric::Cosine, Metric::InnerProduct];

/// How rows come in.
#[derive(Debug, Clone, Copy)]
enum Order {
    /// Each is linked when it comes.
    OneByOne,
    /// All come, then all are linked, by two threads.
    TwoThreads,
    /// All come, and are linked in an order of chance.
    Shuffled(u64),
    /// Three threads link what comes while it comes.
    WhileTheyCome,
}

const ORDERS: [Order; 4] = [Order::OneByOne, Order::TwoThreads, Order::Shuffled(71), Order::WhileTheyCome];

fn build(metric: Metric, rows: &[Vec<f32>], params: HnswParams, order: Order) -> Hnsw {
    let hnsw = empty(metric, rows[0].len(), rows.len() as u32, params);
    let append = |row: &Vec<f32>| hnsw.append(row, [0, 0]).unwrap();
    let append_all = || rows.iter().map(append).collect::<Vec<u32>>();
    match order {
        Order::OneByOne => {
            let mut context = BuildContext::default();
            rows.iter().for_each(|row| hnsw.link(append(row), &mut context).unwrap());
        }
        Order::TwoThreads => {
            append_all();
            let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
            pool.install(|| hnsw.link_pending()).unwrap();
        }
        Order::Shuffled(seed) => {
            let mut ids = append_all();
            ids.shuffle(&mut StdRng::seed_from_u64(seed));
            let mut context = BuildContext::default();
            ids.iter().for_each(|id| hnsw.link(*id, &mut context).unwrap());
        }
        Order::WhileTheyCome => std::thread::scope(|scope| {
            for thread in 0..3 {
                let (hnsw, count) = (&hnsw, rows.len() as u32);
                scope.spawn(move || {
                    let mut context = BuildContext::default();
                    for id in (thread..count).step_by(3) {
                        while hnsw.len() <= id {
                            std::thread::yield_now();
                        }
                        hnsw.link(id, &mut context).unwrap();
                    }
                });
            }
            append_all();
        }),
    }
    assert_eq!(hnsw.linked() as usize, rows.len());
    hnsw
}

/// Every row is reached, and every row comes out of a search, at its distance.
fn check(hnsw: &Hnsw, queries: &[Vec<f32>], what: &str) {
    assert_eq!(hnsw.unreached(), [], "{what}");
    let mut cursor = SearchCursor::default();
    for query in queries {
        for ef in [1, 20] {
            cursor.start(hnsw, query, ef).unwrap();
            let mut found: Vec<_> = std::iter::from_fn(|| cursor.next(hnsw)).collect();
            let mut expected = exact(hnsw.storage(), query, hnsw.len() as usize).unwrap();
            // By what the caller sees: roots of two distances may be one number.
            found.sort_unstable();
            expected.sort_unstable();
            assert!(found == expected, "{what}, ef {ef}: {} rows of {}", found.len(), expected.len());
        }
    }
}

fn check_all(rows: &[Vec<f32>], what: &str) {
    let queries = [rows[0].clone(), rows[rows.len() / 2].clone()];
    for metric in METRICS {
        // A row without direction cannot be stored under cosine.
        let rows: Vec<Vec<f32>> =
            rows.iter().filter(|row| metric != Metric::Cosine || row.iter().any(|x| *x != 0.0)).cloned().collect();
        for order in ORDERS {
            for params in [params(), HnswParams { m: 2, ef_construction: 4, ..HnswParams::default() }] {
                check(
                    &build(metric, &rows, params, order),
                    &queries,
                    &format!("{what}, {metric:?}, {order:?}, {params:?}"),
                );
            }
        }
    }
}

#[test]
fn among_equal_rows_and_one_that_is_not() {
    let mut rows = vec![vec![1.0, 1.0]; 700];
    check_all(&rows, "all equal");
    rows[350] = vec![9.0, 9.0];
    rows.push(vec![-3.0, 9.0]);
    check_all(&rows, "all but two equal");
}

#[test]
fn among_copies_of_few_rows() {
    let few = random(61, 20, 3);
    let mut rows: Vec<Vec<f32>> = (0..1000).map(|i| few[i * 7 % 20].clone()).collect();
    check_all(&rows, "copies of 20");
    // Copies under cosine that are equal up to rounding only.
    for (i, row) in rows.iter_mut().enumerate() {
        row.iter_mut().for_each(|x| *x *= 1.0 + (i % 13) as f32);
    }
    check_all(&rows, "multiples of 20");
}

#[test]
fn in_clusters_that_are_far_from_each_other() {
    let mut rng = StdRng::seed_from_u64(62);
    let rows: Vec<Vec<f32>> = (0..1000)
        .map(|i| (0..6).map(|d| ((i / 100 * 37 + d * 11) % 101) as f32 * 1e3 + rng.random_range(-1e-3..1e-3)).collect())
        .collect();
    check_all(&rows, "one cluster after the other");
    let mixed: Vec<Vec<f32>> = (0..1000).map(|i| rows[i * 379 % 1000].clone()).collect();
    check_all(&mixed, "clusters in turns");
}

#[test]
fn of_all_lengths_zero_included() {
    let mut rows = random(63, 900, 5);
    for (i, row) in rows.iter_mut().enumerate() {
        // From 0 to 1e6: the inner product has everybody's nearest neighbours among the long ones.
        let length = if i % 50 == 0 { 0.0 } else { 10f32.powi((i % 13) as i32 - 6) };
        row.iter_mut().for_each(|x| *x *= length);
    }
    check_all(&rows, "lengths");
}

#[test]
fn on_a_grid_where_most_distances_are_equal() {
    let rows: Vec<Vec<f32>> =
        (0..1000).map(|i| vec![(i % 10) as f32, (i / 10 % 10) as f32, (i / 100) as f32]).collect();
    check_all(&rows, "grid");
}

#[test]
fn among_image_descriptors_and_texts() {
    for (base, queries, metrics) in [
        ("tiny/sift128/base.u8bin", "tiny/sift128/query.u8bin", &METRICS[..]),
        ("tiny/minilm384/base.f16bin", "tiny/minilm384/query.f16bin", &METRICS[1..]),
    ] {
        let (rows, queries) = (vectors(base), vectors(queries));
        for metric in metrics {
            for order in ORDERS {
                check(
                    &build(*metric, &rows, params(), order),
                    &queries[..3],
                    &format!("{base}, {metric:?}, {order:?}"),
                );
            }
        }
    }
}

/// Images, if the whole set lies beside the clone.
#[test]
fn among_images() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../shared/datasets/fashion-mnist-784-euclidean/query-1k.u8bin.gz");
    let Ok(file) = std::fs::File::open(&path) else {
        println!("{} is not there", path.display());
        return;
    };
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(file), &mut bytes).unwrap();
    let rows: Vec<Vec<f32>> =
        bytes[8..].chunks_exact(784).map(|row| row.iter().map(|x| f32::from(*x)).collect()).collect();
    for metric in METRICS {
        for order in ORDERS {
            check(&build(metric, &rows, params(), order), &rows[..3], &format!("{metric:?}, {order:?}"));
        }
    }
}

#[test]
fn a_search_of_few_rows_among_many_equal_ones_finds_them() {
    let mut rows = vec![vec![1.0, 1.0]; 20_000];
    rows[777] = vec![9.0, 9.0];
    rows[19_000] = vec![9.5, 9.0];
    for order in ORDERS {
        let hnsw = build(Metric::L2, &rows, params(), order);
        let found = hnsw.search(&[9.0, 9.0], 3, 10, &mut SearchCursor::default()).unwrap();
        assert_eq!(found.iter().map(|n| n.id).take(2).collect::<Vec<_>>(), [777, 19_000], "{order:?}");
        assert_eq!(rows[found[2].id as usize], [1.0, 1.0]);
    }
}

#[test]
fn at_every_moment_while_rows_are_linked() {
    let mut rows = random(64, 2500, 4);
    rows.extend((0..1500).map(|i| vec![(i % 40) as f32 / 40.0; 4]));
    rows.shuffle(&mut StdRng::seed_from_u64(65));
    let hnsw = empty(Metric::L2, 4, rows.len() as u32, HnswParams { m: 3, ef_construction: 10, ..params() });
    let count = rows.len() as u32;
    std::thread::scope(|scope| {
        let linkers: Vec<_> = (0..3)
            .map(|thread| {
                let hnsw = &hnsw;
                scope.spawn(move || {
                    let mut context = BuildContext::default();
                    for id in (thread..count).step_by(3) {
                        while hnsw.len() <= id {
                            std::thread::yield_now();
                        }
                        hnsw.link(id, &mut context).unwrap();
                    }
                })
            })
            .collect();
        rows.iter().for_each(|row| assert!(hnsw.append(row, [0, 0]).is_ok()));
        let mut looked = 0;
        while !linkers.iter().all(|linker| linker.is_finished()) {
            assert_eq!(hnsw.unreached(), [], "after {looked} looks");
            looked += 1;
        }
        println!("{looked} looks");
    });
    assert_eq!((hnsw.linked(), hnsw.unreached()), (count, vec![]));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn in_a_small_space_of_small_integers(
        points in proptest::collection::vec((-2i8..3, -1i8..2, 0i8..2), 1..250),
        (m, metric, seed) in (2usize..6, 0usize..3, any::<u64>()),
    ) {
        let rows: Vec<Vec<f32>> =
            points.iter().map(|(x, y, z)| vec![f32::from(*x), f32::from(*y), f32::from(*z) + 0.5]).collect();
        let params = HnswParams { m, ef_construction: 4.max(2 * m), seed };
        for order in [Order::OneByOne, Order::TwoThreads, Order::Shuffled(seed)] {
            check(&build(METRICS[metric], &rows, params, order), &rows[..1], "small integers");
        }
    }
}

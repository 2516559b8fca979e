//! Nearly all of the true neighbours are found, and exact search finds them all.

use vecindex::{IdSet, Metric, Neighbour, SearchCursor, exact, exact_among, exact_many};

use crate::data::{distance, index, random, truth, vectors};

/// Share of the first ten results that are no farther than the tenth true neighbour (so that ties do not matter).
fn recall(metric: Metric, base: &str, queries: &str, ids: &str, distances: &str, ef: usize) -> f64 {
    let rows = vectors(base);
    let hnsw = index(metric, &rows, rows.len());
    let mut cursor = SearchCursor::default();
    let (mut hits, mut all) = (0, 0);
    for (query, truth) in vectors(queries).iter().zip(truth(ids, distances)) {
        let bound = truth[9].distance + 1e-5 * truth[9].distance.abs() + 1e-6;
        let found = hnsw.search(query, 10, ef, &mut cursor).unwrap();
        hits += found.iter().filter(|n| n.distance <= bound).count();
        all += 10;
    }
    hits as f64 / f64::from(all)
}

#[test]
fn ninety_eight_in_a_hundred_neighbours_are_found_among_image_descriptors() {
    let r = recall(
        Metric::L2,
        "tiny/sift128/base.u8bin",
        "tiny/sift128/query.u8bin",
        "tiny/sift128/gt-l2.ibin",
        "tiny/sift128/gt-l2.dist.fbin",
        64,
    );
    assert!(r >= 0.98, "recall {r}");
}

#[test]
fn ninety_eight_in_a_hundred_neighbours_are_found_among_texts() {
    let (base, queries) = ("packages/base.f16bin.gz", "packages/query.fbin");
    let r = recall(Metric::Cosine, base, queries, "packages/gt-cosine.ibin", "packages/gt-cosine.dist.fbin", 64);
    assert!(r >= 0.98, "recall {r}");
}

#[test]
fn exact_search_agrees_with_the_published_truth() {
    let rows = vectors("tiny/sift128/base.u8bin");
    let hnsw = index(Metric::L2, &rows, 0);
    let truth = truth("tiny/sift128/gt-l2.ibin", "tiny/sift128/gt-l2.dist.fbin");
    for (query, truth) in vectors("tiny/sift128/query.u8bin").iter().zip(truth) {
        let found = exact(hnsw.storage(), query, truth.len()).unwrap();
        for (found, truth) in found.iter().zip(&truth) {
            assert!((found.distance - truth.distance).abs() <= 1e-4 * truth.distance, "{found:?} for {truth:?}");
        }
    }
}

#[test]
fn distances_are_those_of_the_metric() {
    let rows = random(11, 200, 37);
    for metric in [Metric::L2, Metric::Cosine, Metric::InnerProduct] {
        let hnsw = index(metric, &rows, 150);
        let found = hnsw.search(&rows[3], 200, 20, &mut SearchCursor::default()).unwrap();
        assert_eq!(found.len(), 200);
        for n in found {
            let expected = distance(metric, &rows[3], &rows[n.id as usize]);
            // The root of a difference of squares near zero keeps half of the digits.
            assert!((f64::from(n.distance) - expected).abs() < 1e-3, "{metric:?} {n:?} expected {expected}");
        }
    }
}

#[test]
fn one_thread_builds_the_same_graph_again() {
    let rows = random(5, 600, 16);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let build = || {
        let mut files = (Vec::new(), Vec::new());
        let hnsw = pool.install(|| index(Metric::L2, &rows, rows.len()));
        vecindex::seal(&hnsw, &mut files.0, &mut files.1).unwrap();
        files
    };
    assert!(build() == build());
}

#[test]
fn exact_searches_of_many_queries_or_some_rows_are_those_of_one_among_all() {
    let rows = random(12, 700, 9);
    let hnsw = index(Metric::InnerProduct, &rows, 0);
    let all = exact_many(hnsw.storage(), &rows[..50], 700).unwrap();
    let some: IdSet = (0..2000).filter(|id| id % 5 == 2).collect();
    for (query, all) in rows.iter().zip(all) {
        assert_eq!(all, exact(hnsw.storage(), query, usize::MAX).unwrap());
        let among: Vec<Neighbour> = all.into_iter().filter(|n| some.contains(n.id)).take(20).collect();
        assert_eq!(exact_among(hnsw.storage(), query, 20, &some).unwrap(), among);
    }
    assert!(exact_many(hnsw.storage(), &[&rows[0][..], &[1.0]], 1).is_err());
}

#[test]
fn recall_counts_ties_as_true_and_nothing_twice() {
    let row = |id, distance| Neighbour { id, distance };
    let truth = [row(1, 0.5), row(2, 1.0), row(3, 1.0)];
    for (found, expected) in [
        (vec![], 0.0),
        (vec![row(1, 0.5), row(9, 1.0), row(8, 1.0)], 1.0),
        (vec![row(1, 0.5), row(1, 0.5), row(8, 1.0)], 2.0 / 3.0),
        (vec![row(7, 2.0), row(6, 2.0), row(5, 2.0), row(1, 0.5)], 0.0),
        (vec![row(1, 0.5), row(8, 1.01)], 1.0 / 3.0),
    ] {
        assert_eq!(vecindex::recall(&found, &truth), expected, "{found:?}");
    }
    assert_eq!(vecindex::recall(&[row(1, 0.5)], &[]), 1.0);
    // Inner products are negative.
    assert_eq!(vecindex::recall(&[row(1, -3.0), row(4, -1.9)], &[row(1, -3.0), row(2, -2.0)]), 0.5);
}

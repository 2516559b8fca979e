//! A filtered search returns as many rows as it was asked for if so many are allowed, and nearly always the right ones.

use proptest::prelude::*;
use vecindex::{Filter, FilteredSearch, Hnsw, IdSet, Metric, Neighbour, Passing, Without, exact};

use crate::data::{index, random, vectors};

/// The allowed rows, nearest first.
fn truth(hnsw: &Hnsw, query: &[f32], filter: &impl Filter) -> Vec<Neighbour> {
    let all = exact(hnsw.storage(), query, hnsw.len() as usize).unwrap();
    all.into_iter().filter(|n| filter.allows(n.id)).collect()
}

/// Recall of the first ten, by distance; all that come are allowed and none comes twice.
fn recall(hnsw: &Hnsw, queries: &[Vec<f32>], filter: &impl Filter) -> f64 {
    let (mut hits, mut all) = (0, 0);
    let mut search = FilteredSearch::default();
    for query in queries {
        let truth = truth(hnsw, query, filter);
        let found = hnsw.search_filtered(query, 10, 64, filter, &mut search).unwrap();
        assert_eq!(found.len(), truth.len().min(10));
        assert!(found.iter().all(|n| filter.allows(n.id)));
        assert!(found.is_sorted_by(|a, b| a.distance <= b.distance));
        assert_eq!(found.iter().map(|n| n.id).collect::<IdSet>().len(), found.len());
        let Some(last) = truth.get(..10.min(truth.len())).and_then(<[_]>::last) else { continue };
        hits += found.iter().filter(|n| n.distance <= last.distance).count();
        all += found.len();
    }
    if all == 0 { 1.0 } else { hits as f64 / all as f64 }
}

#[test]
fn ninety_five_in_a_hundred_are_found_whatever_share_is_allowed() {
    for (metric, base, queries) in [
        (Metric::L2, "tiny/sift128/base.u8bin", "tiny/sift128/query.u8bin"),
        (Metric::Cosine, "packages/base.f16bin.gz", "packages/query.fbin"),
    ] {
        let (rows, queries) = (vectors(base), vectors(queries));
        let hnsw = index(metric, &rows, rows.len());
        let len = hnsw.len();
        for per_mille in [0, 1, 5, 10, 100, 200, 500, 900, 1000] {
            let hash = |id: u32| (id.wrapping_mul(0x9e37_79b1) ^ id.rotate_right(9)) >> 8 & 1023;
            let filter: IdSet = (0..len).filter(|id| hash(*id) * 1000 < per_mille * 1024).collect();
            let found = recall(&hnsw, &queries, &filter);
            assert!(found >= 0.95, "{base}: recall {found} with {} of {len} rows", filter.len());
            let found = recall(&hnsw, &queries, &Passing::new(|id| filter.contains(id)));
            assert!(found >= 0.95, "{base}: recall {found} with {} of {len} rows by a function", filter.len());
            let found = recall(&hnsw, &queries, &Without(&filter));
            assert!(found >= 0.95, "{base}: recall {found} without {} of {len} rows", filter.len());
        }
    }
}

#[test]
fn what_is_allowed_may_lie_far_from_the_query() {
    // Four clusters, far apart; one of them is allowed, and queries come from all.
    let rows: Vec<Vec<f32>> = random(21, 20_000, 8)
        .into_iter()
        .enumerate()
        .map(|(i, row)| row.into_iter().enumerate().map(|(d, x)| x + if d == i % 4 { 3.0 } else { 0.0 }).collect())
        .collect();
    let hnsw = index(Metric::L2, &rows, rows.len());
    for wanted in 0..4 {
        let found = recall(&hnsw, &rows[..40], &Passing::new(|id| id % 4 == wanted));
        assert!(found >= 0.95, "recall {found} in cluster {wanted}");
    }
    let found = recall(&hnsw, &rows[..40], &Passing::new(|id| id % 4 < 2));
    assert!(found >= 0.95, "recall {found} in two clusters");
}

#[test]
fn rows_that_are_pending_or_equal_are_found_as_others_are() {
    // Each row ten times.
    let rows: Vec<Vec<f32>> = random(22, 600, 6).into_iter().flat_map(|row| vec![row; 10]).collect();
    for linked in [0, 3333, 6000] {
        let hnsw = index(Metric::L2, &rows, linked);
        for rest in [0, 3, 9] {
            let found = recall(&hnsw, &rows[..20], &Passing::new(|id| id % 10 == rest));
            assert!(found >= 0.95, "recall {found} among the copies {rest}, {linked} linked");
        }
    }
}

#[test]
fn a_row_whose_equal_is_not_allowed_is_found() {
    let n = 10_000;
    let mut rows = random(25, n, 8);
    rows.extend_from_within(..);
    let hnsw = index(Metric::L2, &rows, rows.len());
    let queries = random(26, 200, 8);
    let hash = |id: u32| id.wrapping_mul(0x9e37_79b1) >> 20 & 1023;
    let mut search = FilteredSearch::default();
    // Of some vectors the first row is allowed, of others the second one.
    let filter = Passing::new(|id: u32| match id.checked_sub(n as u32) {
        None => hash(id) < 300,
        Some(id) => hash(id) >= 1024 - 100,
    });
    let (mut hits, mut all) = (0, 0);
    for query in &queries {
        let mut truth = truth(&hnsw, query, &filter);
        truth.truncate(10);
        truth.retain(|n| n.id as usize >= rows.len() / 2);
        let found = hnsw.search_filtered(query, 10, 64, &filter, &mut search).unwrap();
        hits += truth.iter().filter(|n| found.contains(n)).count();
        all += truth.len();
    }
    assert!(all > 400 && hits * 100 >= all * 99, "{hits} of {all} second rows");
}

#[test]
fn what_comes_is_in_order_even_where_all_that_is_near_is_not_allowed() {
    let rows = random(27, 20_000, 4);
    let hnsw = index(Metric::L2, &rows, rows.len());
    let mut search = FilteredSearch::default();
    for query in &rows[..20] {
        let nearest = exact(hnsw.storage(), query, 400).unwrap();
        for cut in [50, 100, 200, 400] {
            let gone: IdSet = nearest[..cut].iter().map(|n| n.id).collect();
            for (k, ef) in [(10, 10), (10, 64), (100, 100), (200, 64)] {
                let found = hnsw.search_filtered(query, k, ef, &Without(&gone), &mut search).unwrap();
                assert!(found.is_sorted_by(|a, b| a.distance <= b.distance), "k {k}, ef {ef}, {cut} not allowed");
            }
        }
    }
}

#[test]
fn many_nearest_rows_begin_with_the_few_nearest() {
    // Of few different distances.
    let rows: Vec<Vec<f32>> = (0..4000).map(|i| vec![(i * 7919 % 601) as f32]).collect();
    let hnsw = index(Metric::L2, &rows, 0);
    let mut all: Vec<Neighbour> =
        (0..).zip(&rows).map(|(id, row)| Neighbour { id, distance: (row[0] - 100.0).abs() }).collect();
    all.sort_by(|a, b| a.distance.total_cmp(&b.distance).then(a.id.cmp(&b.id)));
    for k in [0, 1, 1023, 1024, 1025, 1500, 3999, 4000, usize::MAX] {
        assert!(exact(hnsw.storage(), &[100.0], k).unwrap() == all[..k.min(4000)], "{k}");
    }
}

#[test]
fn a_wrong_estimate_costs_time_and_nothing_else() {
    let rows = random(23, 6000, 8);
    let hnsw = index(Metric::L2, &rows, rows.len());
    for about in [0, 1, 1500, 6000, usize::MAX] {
        for share in [1, 30, 1000, 3000, 6000] {
            let found = recall(&hnsw, &rows[..20], &Passing::new(|id| id % 6000 < share).about(about));
            assert!(found >= 0.95, "recall {found} with {share} of 6000 said to be {about}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn as_many_come_as_were_asked_for(
        n in 0usize..3000, seed in 0u64..1000, share in 0u32..1000, k in 0usize..200, ef in 0usize..300,
    ) {
        let rows = random(seed, n.max(1), 4);
        let hnsw = index(Metric::L2, &rows, n.max(1) - n / 10);
        let filter = |id: u32| id.wrapping_mul(0x9e37_79b1) >> 16 & 1023 < share;
        let allowed = (0..hnsw.len()).filter(|id| filter(*id)).count();
        let found = hnsw.search_filtered(&rows[0], k, ef, &Passing::new(filter), &mut FilteredSearch::default()).unwrap();
        prop_assert_eq!(found.len(), k.min(allowed));
        prop_assert!(found.iter().all(|n| filter(n.id)));
        let mut ids: Vec<u32> = found.iter().map(|n| n.id).collect();
        ids.sort_unstable();
        ids.dedup();
        prop_assert_eq!(ids.len(), found.len());
    }
}

#[test]
fn no_number_that_is_asked_for_is_too_large() {
    let rows = random(24, 500, 4);
    let hnsw = index(Metric::L2, &rows, 500);
    let mut search = FilteredSearch::default();
    for (k, ef) in [(usize::MAX, 1), (1, usize::MAX), (usize::MAX, usize::MAX), (0, 0)] {
        for share in [0, 100, 500] {
            let found = hnsw.search_filtered(&rows[0], k, ef, &Passing::new(|id| id < share), &mut search).unwrap();
            assert_eq!(found.len(), k.min(share as usize));
        }
    }
}

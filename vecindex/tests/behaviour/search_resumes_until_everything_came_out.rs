//! A cursor returns every row exactly once, whatever is linked, pending or unreachable.

use vecindex::{BuildContext, Hnsw, Metric, Neighbour, SearchCursor, exact};

use crate::data::{empty, index, params, random};

fn drain(hnsw: &Hnsw, cursor: &mut SearchCursor) -> Vec<Neighbour> {
    std::iter::from_fn(|| cursor.next(hnsw)).collect()
}

fn assert_all_once(found: &[Neighbour], n: u32) {
    let mut ids: Vec<u32> = found.iter().map(|n| n.id).collect();
    ids.sort_unstable();
    assert_eq!(ids, (0..n).collect::<Vec<_>>());
}

#[test]
fn every_row_comes_out_once_linked_or_pending() {
    let rows = random(1, 1500, 12);
    let mut cursor = SearchCursor::default();
    for metric in [Metric::L2, Metric::Cosine, Metric::InnerProduct] {
        for linked in [0, 1, 700, 1500] {
            let hnsw = index(metric, &rows, linked);
            for ef in [0, 1, 10, 64, 5000] {
                cursor.start(&hnsw, &rows[7], ef).unwrap();
                assert_all_once(&drain(&hnsw, &mut cursor), 1500);
                assert!(cursor.next(&hnsw).is_none());
            }
        }
    }
}

#[test]
fn a_pool_as_large_as_the_index_gives_the_exact_order() {
    let rows = random(2, 800, 10);
    let hnsw = index(Metric::L2, &rows, 500);
    let mut cursor = SearchCursor::default();
    cursor.start(&hnsw, &rows[0], 800).unwrap();
    let (found, truth) = (drain(&hnsw, &mut cursor), exact(hnsw.storage(), &rows[0], 800).unwrap());
    let late = found.windows(2).filter(|w| w[1] < w[0]).map(|w| w[1]).collect::<Vec<_>>();
    assert!(late.len() <= 1, "{late:?} came late");
    let mut sorted = found;
    sorted.sort_unstable();
    assert!(sorted == truth);
}

#[test]
fn later_rounds_are_nearly_in_order() {
    let rows = random(3, 3000, 8);
    let hnsw = index(Metric::L2, &rows, 3000);
    let mut cursor = SearchCursor::default();
    cursor.start(&hnsw, &rows[0], 100).unwrap();
    let found = drain(&hnsw, &mut cursor);
    let late = found.windows(2).filter(|w| w[1] < w[0]).count();
    // Only the seams between rounds can step back, and there are 30 of them.
    assert!(late <= 60, "{late} of 3000 steps go back");
    let truth = exact(hnsw.storage(), &rows[0], 1000).unwrap();
    let hits = found[..1000].iter().filter(|n| n.distance <= truth[999].distance).count();
    assert!(hits >= 950, "{hits} of the nearest 1000 came among the first 1000");
}

#[test]
fn a_pending_row_is_found_at_once_and_first() {
    let rows = random(4, 400, 8);
    let hnsw = empty(Metric::L2, 8, 400, params());
    for row in &rows[..399] {
        hnsw.append(row, [0, 0]).unwrap();
    }
    let id = hnsw.append(&rows[399], [9, 9]).unwrap();
    let found = hnsw.search(&rows[399], 1, 10, &mut SearchCursor::default()).unwrap();
    assert_eq!((found[0].id, hnsw.label(id)), (id, [9, 9]));
}

#[test]
fn rows_linked_out_of_order_come_out_once_too() {
    let rows = random(6, 500, 8);
    let hnsw = empty(Metric::L2, 8, 500, params());
    let mut context = BuildContext::default();
    let mut cursor = SearchCursor::default();
    for row in &rows {
        hnsw.append(row, [0, 0]).unwrap();
    }
    for id in (0..500).rev().filter(|id| id % 7 != 3) {
        hnsw.link(id, &mut context).unwrap();
        hnsw.link(id, &mut context).unwrap();
    }
    assert_eq!(hnsw.linked(), 3);
    cursor.start(&hnsw, &rows[250], 20).unwrap();
    assert_all_once(&drain(&hnsw, &mut cursor), 500);
    hnsw.link_pending().unwrap();
    assert_eq!(hnsw.linked(), 500);
    cursor.start(&hnsw, &rows[250], 20).unwrap();
    assert_all_once(&drain(&hnsw, &mut cursor), 500);
}

#[test]
fn rows_that_come_during_a_search_are_not_in_it() {
    let rows = random(7, 600, 8);
    let hnsw = empty(Metric::L2, 8, 600, params());
    for row in &rows[..300] {
        hnsw.append(row, [0, 0]).unwrap();
    }
    hnsw.link_pending().unwrap();
    let mut cursor = SearchCursor::default();
    cursor.start(&hnsw, &rows[0], 10).unwrap();
    let mut found: Vec<Neighbour> = std::iter::from_fn(|| cursor.next(&hnsw)).take(25).collect();
    for row in &rows[300..] {
        hnsw.append(row, [0, 0]).unwrap();
    }
    hnsw.link_pending().unwrap();
    found.extend(drain(&hnsw, &mut cursor));
    assert_all_once(&found, 300);
}

#[test]
fn thousands_of_equal_rows_all_come_out() {
    let mut rows = vec![vec![1.0, 2.0, 3.0]; 2000];
    rows.extend(random(8, 100, 3));
    let hnsw = index(Metric::L2, &rows, rows.len());
    let mut cursor = SearchCursor::default();
    cursor.start(&hnsw, &[0.0; 3], 16).unwrap();
    assert_all_once(&drain(&hnsw, &mut cursor), 2100);
}

#[test]
fn an_empty_index_and_a_foreign_cursor_return_nothing() {
    let (a, b) = (empty(Metric::L2, 2, 10, params()), empty(Metric::L2, 2, 10, params()));
    let mut cursor = SearchCursor::default();
    assert!(cursor.next(&a).is_none());
    cursor.start(&a, &[0.0; 2], 10).unwrap();
    assert!(cursor.next(&a).is_none());
    b.append(&[1.0; 2], [0, 0]).unwrap();
    assert!(cursor.next(&b).is_none());
    assert_eq!(a.label(0), vecindex::NO_LABEL);
}

#[test]
fn a_query_without_direction_is_at_distance_one_under_cosine() {
    let rows = random(9, 50, 4);
    let hnsw = index(Metric::Cosine, &rows, 25);
    let found = hnsw.search(&[0.0; 4], 50, 10, &mut SearchCursor::default()).unwrap();
    assert_all_once(&found, 50);
    assert!(found.iter().all(|n| n.distance == 1.0));
}

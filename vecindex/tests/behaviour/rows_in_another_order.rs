//! A copy in another order gives the same answers under the same labels; rows that the order does not name are gone.

use std::collections::BTreeSet;
use std::sync::Arc;

use kriya_region::Region;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use vecindex::{F32, Hnsw, Metric, OrderError, SearchCursor, seal, verify};

use crate::data::{index, label, random};

const METRICS: [Metric; 3] = [Metric::L2, Metric::Cosine, Metric::InnerProduct];

fn shuffled(n: u32, seed: u64) -> Vec<u32> {
    let mut order: Vec<u32> = (0..n).collect();
    order.shuffle(&mut StdRng::seed_from_u64(seed));
    order
}

/// Labels and distances of what a search hands out, `take` rows of it.
fn found(hnsw: &Hnsw, query: &[f32], ef: usize, take: usize) -> Vec<([u64; 2], u32)> {
    let mut cursor = SearchCursor::default();
    cursor.start(hnsw, query, ef).unwrap();
    std::iter::from_fn(|| cursor.next(hnsw)).take(take).map(|n| (hnsw.label(n.id), n.distance.to_bits())).collect()
}

#[test]
fn gives_the_same_answers_under_the_same_labels() {
    let rows = random(31, 3000, 12);
    for metric in METRICS {
        let hnsw = index(metric, &rows, rows.len());
        for order in [hnsw.locality_order(), shuffled(3000, 32), (0..3000).collect()] {
            let copy = hnsw.in_order(&order, 3000).unwrap();
            assert_eq!((copy.len(), copy.linked(), copy.unreached()), (3000, 3000, vec![]));
            for (at, id) in order.iter().enumerate() {
                assert_eq!(copy.label(at as u32), label(*id));
            }
            for query in &rows[..20] {
                assert_eq!(found(&copy, query, 20, 400), found(&hnsw, query, 20, 400), "{metric:?}");
            }
        }
    }
}

#[test]
fn locality_names_every_row_once_and_the_entry_first() {
    let mut rows = random(33, 500, 4);
    rows.extend(vec![rows[3].clone(); 20]);
    let hnsw = index(Metric::L2, &rows, 520);
    let order = hnsw.locality_order();
    assert_eq!(order.iter().copied().collect::<BTreeSet<u32>>(), (0..520).collect());
    assert_eq!(order.len(), 520);
    // Twins lie beside the row they are equal to.
    let at = |id: u32| order.iter().position(|row| *row == id).unwrap();
    assert!((500..520).all(|id| at(id).abs_diff(at(3)) <= 20));
    let empty = crate::data::empty(Metric::L2, 4, 10, crate::data::params());
    assert_eq!(empty.locality_order(), []);
    assert_eq!(empty.in_order(&[], 5).unwrap().len(), 0);
}

#[test]
fn rows_that_are_not_named_vanish() {
    let rows = random(34, 2000, 8);
    for metric in METRICS {
        let hnsw = index(metric, &rows, rows.len());
        let mut order = shuffled(2000, 35);
        order.truncate(1500);
        let copy = hnsw.in_order(&order, 1600).unwrap();
        assert_eq!((copy.len(), copy.capacity()), (1500, 1600));
        assert_eq!(copy.unreached(), []);
        let all = found(&copy, &rows[0], 30, usize::MAX);
        assert_eq!(all.len(), 1500);
        let labels: BTreeSet<[u64; 2]> = all.iter().map(|(label, _)| *label).collect();
        assert_eq!(labels, order.iter().map(|id| label(*id)).collect());
    }
}

#[test]
fn equal_rows_stay_together_when_the_one_in_the_graph_goes() {
    let few = random(36, 100, 3);
    let rows: Vec<Vec<f32>> = (0..1000).map(|i| few[i % 100].clone()).collect();
    let hnsw = index(Metric::L2, &rows, 1000);
    // Of rows equal to an even one, the first five go; all in turned order.
    let order: Vec<u32> = (0..1000).rev().filter(|id| id % 2 == 1 || *id >= 500).collect();
    let copy = hnsw.in_order(&order, 1000).unwrap();
    assert_eq!(copy.unreached(), []);
    for (at, query) in few.iter().enumerate() {
        let count = if at % 2 == 1 { 10 } else { 5 };
        let nearest = found(&copy, query, 64, count + 1);
        assert!(nearest[..count].iter().all(|(label, distance)| label[0] as usize % 100 == at && *distance == 0));
        assert!(nearest[count].1 > 0);
    }
    assert_eq!(found(&copy, &few[0], 10, usize::MAX).len(), order.len());
    let none = hnsw.in_order(&[], 1).unwrap();
    assert_eq!(found(&none, &few[0], 10, usize::MAX), []);
}

#[test]
fn a_copy_is_sealed_like_any_index() {
    let rows = random(37, 1200, 6);
    let hnsw = index(Metric::L2, &rows, 1200);
    for (capacity, keep) in [(1200, 1200), (2000, 700)] {
        let order: Vec<u32> = hnsw.locality_order().into_iter().take(keep).collect();
        let copy = hnsw.in_order(&order, capacity).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let open = |name: &str| {
            let path = folder.path().join(name);
            std::fs::File::options().read(true).write(true).create(true).truncate(true).open(path).unwrap()
        };
        let (mut rows_file, mut graph_file) = (open("rows"), open("graph"));
        seal(&copy, &mut rows_file, &mut graph_file).unwrap();
        let [rows_map, graph_map] = [rows_file, graph_file].map(|file| Arc::new(Region::open_file(&file).unwrap()));
        verify(&rows_map).unwrap();
        verify(&graph_map).unwrap();
        let sealed = Hnsw::<vecindex::Rows<F32>>::open_sealed(rows_map, graph_map).unwrap();
        for query in &rows[..5] {
            assert_eq!(found(&sealed, query, 20, 300), found(&copy, query, 20, 300));
        }
    }
}

#[test]
fn what_cannot_be_copied_is_refused() {
    let rows = random(38, 50, 4);
    let pending = index(Metric::L2, &rows, 30);
    assert!(matches!(pending.in_order(&[0], 1), Err(OrderError::Pending { linked: 30, len: 50 })));
    let hnsw = index(Metric::L2, &rows, 50);
    assert!(matches!(hnsw.in_order(&[0, 50], 9), Err(OrderError::Unknown { id: 50, len: 50 })));
    assert!(matches!(hnsw.in_order(&[4, 7, 4], 9), Err(OrderError::Twice { id: 4 })));
    assert!(matches!(hnsw.in_order(&[4, 7], 1), Err(OrderError::Full { rows: 2, capacity: 1 })));
    assert!(matches!(hnsw.in_order(&[], 0), Err(OrderError::Create(_))));
}

#[test]
fn a_copy_grows_like_any_index() {
    let rows = random(39, 1500, 6);
    let hnsw = index(Metric::L2, &rows, 1500);
    let order: Vec<u32> = hnsw.locality_order().into_iter().filter(|id| id % 3 != 0).collect();
    let copy = hnsw.in_order(&order, 1500).unwrap();
    for id in (0..1500).step_by(3) {
        copy.append(&rows[id as usize], label(id)).unwrap();
    }
    copy.link_pending().unwrap();
    assert_eq!((copy.linked(), copy.unreached()), (1500, vec![]));
    // A row that is there already hangs off its equal.
    let full = hnsw.in_order(&order, 1501).unwrap();
    let again = full.append(&rows[1], [7, 7]).unwrap();
    full.link_pending().unwrap();
    assert_eq!(full.graph().params(), hnsw.graph().params());
    let nearest = found(&full, &rows[1], 20, 2);
    assert!(nearest.contains(&(full.label(again), 0)) && nearest.contains(&(label(1), 0)), "{nearest:?}");
    for query in &rows[..50] {
        assert_eq!(found(&copy, query, 60, 1), found(&hnsw, query, 60, 1));
    }
}

//! The ground truth beside the checked-in vectors equals what an exact search finds.

use std::sync::atomic::{AtomicUsize, Ordering};

use kriya_datasets::{Matrix, Metric, Truth, bytes, exact, exact_telling, ids, recall, vectors};

use crate::data;

/// Compares by distance, so that rows at equal distance may stand in either order, and checks each id's own distance.
fn assert_same(truth: &Truth, ids: &Matrix<u32>, distances: &Matrix<f32>) {
    assert_eq!(truth.ids.len(), ids.len());
    for (q, (found, far)) in truth.ids.iter().zip(&truth.distances).enumerate() {
        for (place, (id, distance)) in found.iter().zip(far).enumerate() {
            let claimed = f64::from(distances.row(q)[place]);
            assert!((claimed - distance).abs() <= 1e-6 * distance.abs().max(1.0), "query {q}, place {place}");
            let tied = far.iter().filter(|other| (*other - distance).abs() < 1e-9).count() > 1;
            assert!(tied || *id == ids.row(q)[place], "query {q}, place {place}: {id}");
        }
    }
}

fn check(folder: &str, base: &str, query: &str, truth: &str, metric: Metric) {
    let read = |name: &str| vectors(&data(&format!("{folder}/{name}"))).unwrap();
    let wanted = ids(&data(&format!("{folder}/{truth}.ibin"))).unwrap();
    let found = exact(metric, &read(base), &read(query), wanted.dim()).unwrap();
    assert_same(&found, &wanted, &read(&format!("{truth}.dist.fbin")));
}

#[test]
fn ground_truth_of_the_tiny_sift_set() {
    check("tiny/sift128", "base.u8bin", "query.u8bin", "gt-l2", Metric::L2);
}

#[test]
fn ground_truth_of_the_tiny_sentence_set() {
    check("tiny/minilm384", "base.f16bin", "query.f16bin", "gt-cosine", Metric::Cosine);
}

#[test]
fn ground_truth_of_the_package_descriptions() {
    check("packages", "base.f16bin.gz", "query.fbin", "gt-cosine", Metric::Cosine);
}

#[test]
fn every_package_has_a_vector_and_its_attributes() {
    let base = vectors(&data("packages/base.f16bin.gz")).unwrap();
    let text = String::from_utf8(bytes(&data("packages/packages.tsv.gz")).unwrap()).unwrap();
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("id\tpackage\tsection\tpriority\tarch\tinstalled_size_kb\ttext"));
    let mut rows = 0;
    for line in lines {
        let fields: Vec<&str> = line.split('\t').collect();
        assert_eq!(fields.len(), 7, "{line}");
        assert_eq!(fields[0].parse(), Ok(rows), "ids count up from 0");
        assert!(fields[5].parse::<i32>().is_ok(), "{line}");
        rows += 1;
    }
    assert_eq!(rows, base.len());
    assert!(rows >= 5000, "the demo promises at least 5,000 descriptions");
}

#[test]
fn recall_counts_what_was_found_of_the_first_k() {
    let truth = Matrix::new(vec![1_u32, 2, 3, 4, 5, 6], 3).unwrap();
    let answers = vec![vec![2, 1, 9], vec![9, 9, 4]];
    assert!((recall(&answers, &truth, 2) - 0.5).abs() < 1e-12);
    assert!((recall(&answers, &truth, 3) - 0.5).abs() < 1e-12);
    assert_eq!(recall(&[], &truth, 3), 0.0);
}

#[test]
fn an_exact_search_tells_of_every_query() {
    let rows = Matrix::new(vec![3.0_f32, 1.0, 2.0], 1).unwrap();
    let told = AtomicUsize::new(0);
    let truth = exact_telling(Metric::L2, &rows, &rows, 3, &|| _ = told.fetch_add(1, Ordering::Relaxed)).unwrap();
    assert_eq!(told.into_inner(), 3);
    assert_eq!(truth.ids, [[0, 2, 1], [1, 2, 0], [2, 0, 1]], "equal distances are ordered by id");
    let nearest = exact(Metric::L2, &rows, &rows, 2).unwrap();
    assert_eq!(nearest.ids, [[0, 2], [1, 2], [2, 0]], "fewer neighbours are the first of them");
}

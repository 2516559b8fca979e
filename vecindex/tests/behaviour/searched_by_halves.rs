//! Rows that are searched by their upper halves come out at their exact distances, and are the rows that were given.

use vecindex::{AppendVectors, Metric, Neighbour, SearchCursor, SplitF32, VectorStorage, exact};

use crate::data::{index, random, vectors};
use crate::encodings::{index_of, stored};

const METRICS: [Metric; 3] = [Metric::L2, Metric::Cosine, Metric::InnerProduct];

#[test]
fn every_row_comes_out_once_at_its_exact_distance() {
    let mut rows = random(51, 1500, 21);
    // Equal rows hang off the first of them.
    rows.extend_from_within(..40);
    for metric in METRICS {
        let hnsw = index_of::<SplitF32>(metric, &rows);
        let mut cursor = SearchCursor::default();
        for (query, ef) in rows.iter().zip([1, 10, 64, 5000]) {
            cursor.start(&hnsw, query, ef).unwrap();
            let mut found: Vec<Neighbour> = std::iter::from_fn(|| cursor.next(&hnsw)).collect();
            let mut expected = exact(hnsw.storage(), query, rows.len()).unwrap();
            found.sort_unstable();
            expected.sort_unstable();
            assert!(found == expected, "{metric:?}, ef {ef}: {} rows", found.len());
        }
    }
}

#[test]
fn exact_distances_are_those_of_whole_rows() {
    let rows = random(52, 300, 77);
    for metric in METRICS {
        let (split, whole) = (stored::<SplitF32>(metric, &rows), stored::<vecindex::F32>(metric, &rows));
        for query in &rows[..10] {
            let (split, whole) = (exact(&split, query, 300).unwrap(), exact(&whole, query, 300).unwrap());
            for (split, whole) in split.iter().zip(&whole) {
                assert_eq!(split.id, whole.id, "{metric:?}");
                // The root of an error near nothing.
                let near = (split.distance - whole.distance).abs() <= 1e-4 * whole.distance.abs().max(1.0);
                assert!(near || split.distance.max(whole.distance) <= 1e-2, "{split:?} {whole:?}");
            }
        }
    }
}

#[test]
fn rows_are_read_as_they_were_given() {
    let mut rows = random(53, 20, 37);
    rows[3][5] = 1e18;
    rows[4][6] = f32::MIN_POSITIVE / 8.0;
    rows[5][7] = 1.003_906_2;
    let stored = stored::<SplitF32>(Metric::L2, &rows);
    let mut back = vec![f32::NAN; 37];
    for (id, row) in (0..).zip(&rows) {
        stored.read(id, &mut back);
        assert_eq!(&back, row);
    }
    assert!(stored.push(&[f32::NAN; 37]).is_err());
}

#[test]
fn results_are_in_order_and_as_good_as_those_of_whole_rows() {
    let (rows, queries) = (vectors("tiny/sift128/base.u8bin"), vectors("tiny/sift128/query.u8bin"));
    let (split, whole) = (index_of::<SplitF32>(Metric::L2, &rows), index(Metric::L2, &rows, rows.len()));
    let (mut a, mut b) = (SearchCursor::default(), SearchCursor::default());
    let (mut hits, mut expected) = (0, 0);
    for query in &queries {
        let truth = exact(whole.storage(), query, 10).unwrap();
        let found = split.search(query, 10, 40, &mut a).unwrap();
        assert!(found.is_sorted() && found.len() == 10);
        let count = |found: &[Neighbour]| found.iter().filter(|n| n.distance <= truth[9].distance).count();
        hits += count(&found);
        expected += count(&whole.search(query, 10, 40, &mut b).unwrap());
    }
    println!("{hits} of {}, {expected} by whole rows", 10 * queries.len());
    assert!(hits + 5 >= expected);
}

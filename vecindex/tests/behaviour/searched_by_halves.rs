//! Rows that are searched by their upper halves come out at the distances of what is stored, and floats are the rows that were
//! given.

use vecindex::{
    AppendVectors, Encoding, FilteredSearch, Index, Metric, Neighbour, Passing, Search, SearchContext, SearchCursor,
    SplitF32, SplitI8, VectorStorage, exact, exact_among,
};

use crate::data::{distance, index, random, vectors};
use crate::encodings::{index_of, stored};
use crate::rows_that_come_from_elsewhere::rows_for;

const METRICS: [Metric; 3] = [Metric::L2, Metric::Cosine, Metric::InnerProduct];

fn everything_comes_out<E: Encoding>() {
    let mut rows = random(51, 1500, 21);
    // Equal rows hang off the first of them.
    rows.extend_from_within(..40);
    for metric in METRICS {
        let hnsw = index_of::<E>(metric, &rows);
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
fn every_row_comes_out_once_at_its_exact_distance() {
    everything_comes_out::<SplitF32>();
    everything_comes_out::<SplitI8>();
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
fn exact_distances_of_codes_are_those_of_decoded_rows() {
    for dim in [1, 21, 64, 65, 128, 200, 300] {
        let rows = random(55, 40, dim);
        for metric in METRICS {
            let split = stored::<SplitI8>(metric, &rows);
            let mut decoded = vec![vec![0.0; dim]; rows.len()];
            (0..).zip(&mut decoded).for_each(|(id, row)| split.read(id, row));
            for (at, query) in decoded.iter().enumerate() {
                let to = |id: u32| distance(metric, query, &decoded[id as usize]);
                let length =
                    decoded.iter().map(|row| distance(Metric::InnerProduct, row, row).abs()).fold(1.0, f64::max);
                // As the row itself: at no distance.
                let own = split.distance_between(at as u32, at as u32);
                assert!(
                    metric == Metric::InnerProduct || own.abs() <= 0.02 * length as f32,
                    "{metric:?}, {dim}: {own}"
                );
                for n in exact(&split, query, rows.len()).unwrap() {
                    // A decoded row is its own code but for rounding of a scale; roots of an error near nothing are larger.
                    let slack = if metric == Metric::L2 { 2e-3 * length.sqrt() } else { 1e-5 * length };
                    let (got, expected) = (f64::from(n.distance), to(n.id));
                    assert!((got - expected).abs() <= slack, "{metric:?}, {dim}: {at} to {n:?}, expected {expected}");
                }
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

#[test]
fn whatever_hands_rows_out_does_so_at_exact_distances() {
    // So far from the origin that upper halves are off by more than neighbours are apart.
    let mut rows = random(54, 2600, 8);
    rows.iter_mut().flatten().for_each(|x| *x += 20.0);
    let hnsw = index_of::<SplitF32>(Metric::L2, &rows);
    let mut index = Index::<SplitF32>::builder(8, Metric::L2).build().unwrap();
    index.extend((0..).zip(&rows)).unwrap();
    let mut search = FilteredSearch::default();
    for query in rows.iter().step_by(100) {
        let right = |what: &str, id: u64, got: f32| {
            let expected = distance(Metric::L2, query, &rows[id as usize]);
            assert!((f64::from(got) - expected).abs() < 1e-4, "{what}: row {id} at {got}, expected {expected}");
        };
        // Compared one by one, walked to, met by an ordinary search.
        for (of, few) in [(50, 1), (20, 9), (3, 2)] {
            let some = Passing::new(|id| id % of < few);
            let keys = |key: u64| key % u64::from(of) < u64::from(few);
            let mut truth: Vec<u32> = (0..2600).filter(|id| id % of < few).collect();
            truth.sort_by(|a, b| {
                let to = |id: u32| distance(Metric::L2, query, &rows[id as usize]);
                to(*a).total_cmp(&to(*b))
            });
            let among = exact_among(hnsw.storage(), query, 10, &some).unwrap();
            assert!(among.iter().map(|n| n.id).eq(truth[..10].iter().copied()));
            for n in hnsw.search_filtered(query, 10, 20, &some, &mut search).unwrap() {
                right("filtered", n.id.into(), n.distance);
            }
            let how = Search::new().filter(&keys);
            let hits = index.search_exactly(query, 10, &how).unwrap();
            assert!(hits.iter().map(|hit| hit.key).eq(truth[..10].iter().map(|id| u64::from(*id))));
            let more = index.search_with(query, 10, &how, &mut SearchContext::default()).unwrap();
            hits.iter().chain(&more).for_each(|hit| right("index", hit.key, hit.distance));
        }
        index.search(query, 10).unwrap().iter().for_each(|hit| right("index, all", hit.key, hit.distance));
    }
}

#[test]
fn hostile_bytes_are_rows_at_distances_that_mean_nothing() {
    for dim in [1, 100, 65_536] {
        for metric in METRICS {
            let rows = rows_for::<SplitI8>(metric, dim, 8);
            for byte in [0x00, 0x01, 0x10, 0x7f, 0x80, 0xf0, 0xff] {
                rows.push_encoded(&vec![byte; rows.encoded_len()]).unwrap();
            }
            rows.push(&vec![1.0; dim]).unwrap();
            let (mut query, mut row) = (Default::default(), vec![0.0; dim]);
            let ids: Vec<u32> = (0..8).collect();
            for id in 0..8 {
                rows.read(id, &mut row);
                rows.prepare_row(id, &mut query);
                let mut distances = [0.0; 8];
                rows.distances(&query, &ids, &mut distances);
                rows.exact_distances(&query, &ids, &mut distances);
                distances.iter_mut().zip(&ids).for_each(|(d, other)| *d = rows.distance_between(id, *other));
            }
        }
    }
}

//! Encoded rows go elsewhere and come back as they were; a graph is built over rows that are there already.

use std::io::Write;
use std::sync::Arc;

use kriya_region::Region;
use vecindex::{
    Bf16, CreateError, Encoding, F16, F32, F32Rows, Graph, Hnsw, I8, Metric, PushError, Rows, SearchCursor, SplitF32,
    SplitI8, VectorError, VectorStorage, seal,
};

use crate::data::{index, label, params, random};
use crate::encodings::{index_of, stored};

const METRICS: [Metric; 3] = [Metric::L2, Metric::Cosine, Metric::InnerProduct];

pub fn rows_for<E: Encoding>(metric: Metric, dim: usize, capacity: u32) -> Rows<E> {
    let region = Region::heap(Rows::<E>::bytes_needed(dim, capacity).unwrap()).unwrap();
    Rows::create(Arc::new(region), metric, dim, capacity).unwrap()
}

#[test]
fn an_encoded_row_comes_back_bit_by_bit() {
    fn read<E: Encoding>(rows: &Rows<E>, id: usize) -> Vec<f32> {
        let mut row = vec![f32::NAN; rows.dim()];
        rows.read(id as u32, &mut row);
        row
    }
    fn check<E: Encoding>() {
        for metric in METRICS {
            let rows = random(91, 50, 21);
            let (first, second) = (stored::<E>(metric, &rows), rows_for::<E>(metric, 21, 50));
            for (id, row) in rows.iter().enumerate() {
                let bytes = first.encode(row).unwrap();
                assert_eq!((bytes.len(), Some(&bytes)), (first.encoded_len(), first.encoded(id as u32).as_ref()));
                assert_eq!(second.push_encoded(&bytes).unwrap(), id as u32);
                assert_eq!(first.norm(id as u32), second.norm(id as u32));
                assert!(second.encoded(id as u32).unwrap() == bytes && read(&first, id) == read(&second, id));
            }
            assert!(first.encoded(50).is_none());
            let distances =
                |rows: &Rows<E>| (1..50).map(|id| rows.distance_between(0, id).to_bits()).collect::<Vec<_>>();
            assert_eq!(distances(&first), distances(&second));
            assert!(matches!(second.push_encoded(&first.encoded(0).unwrap()), Err(PushError::Full { capacity: 50 })));
        }
    }
    check::<F32>();
    check::<F16>();
    check::<Bf16>();
    check::<I8>();
    check::<SplitF32>();
    check::<SplitI8>();
}

#[test]
fn what_cannot_be_stored_is_not_encoded_and_other_lengths_are_no_rows() {
    let rows = rows_for::<F16>(Metric::Cosine, 3, 4);
    assert!(matches!(rows.encode(&[0.0; 3]), Err(VectorError::Zero)));
    assert!(matches!(rows.encode(&[1.0; 4]), Err(VectorError::Dimension { got: 4, expected: 3 })));
    let error = rows.push_encoded(&[0; 9]).unwrap_err();
    assert!(matches!(error, PushError::Encoded { got: 9, expected: 10 }), "{error}");
    assert_eq!(rows.len(), 0);
}

#[test]
fn a_graph_over_rows_that_are_there_is_as_one_that_grew_with_them() {
    let mut rows = random(92, 900, 12);
    rows.extend_from_within(..100);
    let grown = index_of::<I8>(Metric::L2, &rows);

    // The same rows in memory, and in a file.
    let (mut rows_file, mut graph_file) = (tempfile::tempfile().unwrap(), Vec::new());
    seal(&grown, &mut rows_file, &mut graph_file).unwrap();
    rows_file.flush().unwrap();
    let mapped = Rows::<I8>::open(Arc::new(Region::open_file(&rows_file).unwrap())).unwrap();
    let new = || {
        let region = Region::heap(Graph::bytes_needed(1000, params().m).unwrap()).unwrap();
        Graph::create(Arc::new(region), params(), 1000).unwrap()
    };
    for storage in [mapped, stored::<I8>(Metric::L2, &rows)] {
        let over = Hnsw::over(storage, new(), |id| [u64::from(id), 0]).unwrap();
        assert_eq!((over.len(), over.linked()), (1000, 0));
        over.link_pending().unwrap();
        assert_eq!((over.linked(), over.unreached()), (1000, vec![]));
        let (mut a, mut b) = (SearchCursor::default(), SearchCursor::default());
        for query in rows.iter().step_by(40) {
            // Compared one by one: it does not matter which links threads chose.
            let found = over.search(query, 1000, 400, &mut a).unwrap();
            let expected = grown.search(query, 1000, 400, &mut b).unwrap();
            assert_eq!(found, expected);
        }
        assert!((0..1000).all(|id| over.label(id) == grown.label(id)));
    }
}

#[test]
fn only_a_new_graph_is_put_over_rows() {
    let rows = random(93, 80, 3);
    let graph = |capacity: u32| {
        let region = Region::heap(Graph::bytes_needed(capacity, params().m).unwrap()).unwrap();
        Graph::create(Arc::new(region), params(), capacity).unwrap()
    };
    let storage = || stored::<F32>(Metric::L2, &rows);
    assert!(matches!(Hnsw::over(storage(), graph(79), label), Err(CreateError::Mismatch(_))));
    // Without their towers and labels.
    assert!(matches!(Hnsw::new(storage(), graph(80)), Err(CreateError::Mismatch(why)) if why.contains("Hnsw::over")));
    let (mut rows_bytes, mut sealed) = (Vec::new(), tempfile::tempfile().unwrap());
    seal(&index(Metric::L2, &rows, 80), &mut rows_bytes, &mut sealed).unwrap();
    let sealed = Graph::open(Arc::new(Region::open_file(&sealed).unwrap())).unwrap();
    assert!(matches!(Hnsw::over(storage(), sealed, label), Err(CreateError::ReadOnly)));
    let empty = Hnsw::over(rows_for::<F32>(Metric::L2, 3, 5), graph(5), label).unwrap();
    empty.append(&rows[0], label(0)).unwrap();
    empty.link_pending().unwrap();
    assert_eq!((empty.linked(), empty.label(0)), (1, label(0)));
    let _: &Hnsw<F32Rows> = &empty;
}

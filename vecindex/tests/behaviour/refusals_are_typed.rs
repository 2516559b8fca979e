//! What cannot be done is an error that says why, and leaves everything as it was.

use std::sync::Arc;

use kriya_region::Region;
use vecindex::{
    BuildContext, CreateError, F32Rows, Graph, Hnsw, HnswParams, LinkError, Metric, OpenError, PushError, Rerank,
    RerankError, SearchCursor, SearchError, VectorError, VectorStorage,
};

use crate::data::{empty, params, random};

fn heap(bytes: usize) -> Arc<Region> {
    Arc::new(Region::heap(bytes).unwrap())
}

#[test]
fn vectors_that_cannot_be_compared_are_named_and_not_appended() {
    let hnsw = empty(Metric::L2, 3, 10, params());
    let push = |row: &[f32]| match hnsw.append(row, [0, 0]).unwrap_err() {
        PushError::Vector(e) => e,
        other => panic!("{other}"),
    };
    assert_eq!(push(&[1.0, 2.0]), VectorError::Dimension { got: 2, expected: 3 });
    assert!(matches!(push(&[1.0, f32::NAN, 0.0]), VectorError::NotFinite { at: 1, .. }));
    assert!(matches!(push(&[0.0, 0.0, f32::INFINITY]), VectorError::NotFinite { at: 2, .. }));
    assert!(matches!(push(&[3e38, 0.0, 0.0]), VectorError::TooLong { .. }));
    assert_eq!(hnsw.len(), 0);
    let mut cursor = SearchCursor::default();
    for query in [&[1.0][..], &[f32::NAN, 0.0, 0.0], &[1e30; 3]] {
        assert!(matches!(cursor.start(&hnsw, query, 5), Err(SearchError::Vector(_))));
        assert!(cursor.next(&hnsw).is_none());
    }
}

#[test]
fn a_vector_without_direction_is_refused_under_cosine_only() {
    let cosine = empty(Metric::Cosine, 3, 10, params());
    assert!(matches!(cosine.append(&[0.0; 3], [0, 0]), Err(PushError::Vector(VectorError::Zero))));
    assert!(matches!(cosine.append(&[1e-45, 0.0, 0.0], [0, 0]), Err(PushError::Vector(VectorError::Zero))));
    cosine.append(&[1e-30, 0.0, 0.0], [0, 0]).unwrap();
    cosine.append(&[1e30, 1e30, 0.0], [0, 0]).unwrap();
    empty(Metric::L2, 3, 10, params()).append(&[0.0; 3], [0, 0]).unwrap();
}

#[test]
fn what_is_read_back_is_what_was_appended() {
    for metric in [Metric::L2, Metric::Cosine, Metric::InnerProduct] {
        let hnsw = empty(metric, 19, 50, params());
        for row in random(51, 50, 19) {
            let id = hnsw.append(&row, [0, 0]).unwrap();
            let mut back = vec![0.0; 19];
            hnsw.storage().read(id, &mut back);
            assert!(row.iter().zip(&back).all(|(x, y)| (x - y).abs() <= 1e-6), "{metric:?}");
        }
    }
}

#[test]
fn a_full_index_says_how_many_rows_it_holds() {
    let hnsw = empty(Metric::L2, 1, 2, params());
    hnsw.append(&[1.0], [0, 0]).unwrap();
    hnsw.append(&[2.0], [0, 0]).unwrap();
    assert!(matches!(hnsw.append(&[3.0], [0, 0]), Err(PushError::Full { capacity: 2 })));
    assert_eq!(hnsw.link(2, &mut BuildContext::default()), Err(LinkError::Unknown { id: 2, len: 2 }));
}

#[test]
fn parameters_out_of_range_are_named() {
    let named = |e: CreateError| matches!(e, CreateError::Parameter { .. });
    assert!(named(F32Rows::bytes_needed(0, 1).unwrap_err()));
    assert!(named(F32Rows::bytes_needed(1 << 30, 1).unwrap_err()));
    assert!(named(F32Rows::bytes_needed(4, 0).unwrap_err()));
    assert!(named(F32Rows::bytes_needed(4, u32::MAX).unwrap_err()));
    assert!(named(Graph::bytes_needed(10, 1).unwrap_err()));
    assert!(named(Graph::bytes_needed(10, 101).unwrap_err()));
    assert!(named(HnswParams { m: 16, ef_construction: 31, seed: 0 }.check().unwrap_err()));
    assert!(named(HnswParams { m: 16, ef_construction: 1001, seed: 0 }.check().unwrap_err()));
}

#[test]
fn regions_that_do_not_fit_are_refused() {
    let needed = F32Rows::bytes_needed(4, 10).unwrap();
    let short = F32Rows::create(heap(needed - 1), Metric::L2, 4, 10).unwrap_err();
    assert!(matches!(short, CreateError::TooSmall { .. }), "{short}");
    let region = heap(needed);
    F32Rows::create(region.clone(), Metric::L2, 4, 10).unwrap();
    assert!(matches!(F32Rows::create(region.clone(), Metric::L2, 4, 10), Err(CreateError::NotEmpty)));
    assert!(matches!(Graph::open(region), Err(OpenError::Magic { .. })));
    assert!(matches!(F32Rows::open(heap(100)), Err(OpenError::Length { .. })));
    assert!(matches!(F32Rows::open(heap(10_000)), Err(OpenError::Magic { .. })));
}

#[test]
fn rows_and_graph_must_fit_together() {
    let rows = F32Rows::create(heap(F32Rows::bytes_needed(1, 5).unwrap()), Metric::L2, 1, 5).unwrap();
    let graph = heap(Graph::bytes_needed(3, 8).unwrap());
    Graph::create(graph.clone(), params(), 3).unwrap();
    let hnsw = Hnsw::new(rows, Graph::open(graph.clone()).unwrap()).unwrap();
    assert!(matches!(hnsw.append(&[1.0], [0, 0]), Err(PushError::ReadOnly)));
}

#[test]
fn reranking_gives_exact_distances_in_order_and_names_unknown_rows() {
    let rows = random(52, 30, 4);
    let hnsw = crate::data::index(Metric::L2, &rows, 30);
    let expected = hnsw.search(&rows[0], 30, 30, &mut SearchCursor::default()).unwrap();
    let mut found = expected.clone();
    found.reverse();
    found.iter_mut().for_each(|n| n.distance = 0.5);
    hnsw.storage().rerank(&rows[0], &mut found).unwrap();
    assert_eq!(found, expected);
    found[3].id = 30;
    assert!(matches!(hnsw.storage().rerank(&rows[0], &mut found), Err(RerankError::Unknown { id: 30, len: 30 })));
}

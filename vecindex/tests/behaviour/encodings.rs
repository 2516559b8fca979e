//! Rows of every encoding make an index that finds what an index of f32 finds, in a file as in memory.

use std::io::Write;
use std::sync::Arc;

use kriya_region::Region;
use vecindex::{
    AppendVectors, Bf16, CreateError, Encoding, F16, F32, F32Rows, Graph, Hnsw, I8, Metric, OpenError, PushError,
    Rerank, Rows, SearchCursor, SplitF32, SplitI8, VectorError, VectorStorage, exact, seal, verify,
};

use crate::data::{distance, params, random, vectors};

const METRICS: [Metric; 3] = [Metric::L2, Metric::Cosine, Metric::InnerProduct];

pub fn stored<E: Encoding>(metric: Metric, rows: &[Vec<f32>]) -> Rows<E> {
    let (dim, capacity) = (rows[0].len(), rows.len() as u32);
    let region = Arc::new(Region::heap(Rows::<E>::bytes_needed(dim, capacity).unwrap()).unwrap());
    let stored = Rows::<E>::create(region, metric, dim, capacity).unwrap();
    for row in rows {
        stored.push(row).unwrap();
    }
    stored
}

pub fn index_of<E: Encoding>(metric: Metric, rows: &[Vec<f32>]) -> Hnsw<Rows<E>> {
    let (dim, capacity) = (rows[0].len(), rows.len() as u32);
    let region = Arc::new(Region::heap(Rows::<E>::bytes_needed(dim, capacity).unwrap()).unwrap());
    let graph = Arc::new(Region::heap(Graph::bytes_needed(capacity, params().m).unwrap()).unwrap());
    let hnsw = Hnsw::new(
        Rows::<E>::create(region, metric, dim, capacity).unwrap(),
        Graph::create(graph, params(), capacity).unwrap(),
    )
    .unwrap();
    for (i, row) in rows.iter().enumerate() {
        hnsw.append(row, [i as u64, 0]).unwrap();
    }
    hnsw.link_pending().unwrap();
    hnsw
}

/// Distances are right up to `part` of the lengths of what is compared.
fn distances_are_near<E: Encoding>(part: f32) {
    let rows = random(5, 60, 131);
    for metric in METRICS {
        let stored = stored::<E>(metric, &rows);
        let mut query = <Rows<E> as VectorStorage>::Query::default();
        stored.prepare(&rows[0], &mut query).unwrap();
        let ids: Vec<u32> = (0..rows.len() as u32).collect();
        let mut found = vec![f32::NAN; rows.len()];
        stored.distances(&query, &ids, &mut found);
        let length = |row: &[f32]| row.iter().map(|x| x * x).sum::<f32>().sqrt();
        for (id, found) in ids.iter().zip(&found) {
            let row = &rows[*id as usize];
            let slack = match metric {
                Metric::L2 => part * (length(row) + length(&rows[0])),
                Metric::Cosine => 2.0 * part,
                Metric::InnerProduct => 2.0 * part * length(row) * length(&rows[0]),
            };
            let (found, expected) = (metric.to_user(*found), distance(metric, &rows[0], row) as f32);
            // A root turns a small error into a large one near nothing: the square is compared there.
            let near = (found - expected).abs() <= slack || (found.max(expected) <= slack);
            assert!(near, "{metric:?} row {id}: {found}, expected {expected}");
            let between = metric.to_user(stored.distance_between(0, *id));
            assert!(
                (between - found).abs() <= slack,
                "{metric:?} row {id}: {between} between rows, {found} to a query"
            );
            let mut asked = <Rows<E> as VectorStorage>::Query::default();
            stored.prepare_row(*id, &mut asked);
            let mut back = [f32::NAN];
            stored.distances(&asked, &[0], &mut back);
            let tight = if stored.is_coarse() { slack } else { 1e-5 * slack.max(1.0) };
            assert!((metric.to_user(back[0]) - between).abs() <= tight);
        }
    }
}

#[test]
fn distances_of_f32_are_near() {
    distances_are_near::<F32>(1e-5);
}

#[test]
fn distances_of_upper_halves_are_near() {
    distances_are_near::<SplitF32>(6e-3);
}

#[test]
fn distances_of_f16_are_near() {
    distances_are_near::<F16>(1e-3);
}

#[test]
fn distances_of_bf16_are_near() {
    distances_are_near::<Bf16>(6e-3);
}

#[test]
fn distances_of_codes_are_near() {
    distances_are_near::<I8>(6e-3);
}

#[test]
fn distances_of_upper_bits_of_codes_are_near() {
    distances_are_near::<SplitI8>(8e-2);
}

/// Share of the ten true neighbours among the first ten, and after exact comparison of the first twenty.
fn recall<E: Encoding>(metric: Metric, base: &str, queries: &str) -> (f64, f64) {
    let rows = vectors(base);
    let (hnsw, floats) = (index_of::<E>(metric, &rows), stored::<F32>(metric, &rows));
    let mut cursor = SearchCursor::default();
    let (mut before, mut after, mut all) = (0, 0, 0);
    for query in &vectors(queries) {
        let truth = exact(&floats, query, 10).unwrap();
        let bound = truth[9].distance + 1e-5 * truth[9].distance.abs() + 1e-6;
        let mut found = hnsw.search(query, 20, 100, &mut cursor).unwrap();
        before += found.iter().take(10).filter(|n| truth.iter().any(|t| t.id == n.id)).count();
        floats.rerank(query, &mut found).unwrap();
        after += found.iter().take(10).filter(|n| n.distance <= bound).count();
        all += 10;
    }
    (f64::from(before as u32) / f64::from(all), f64::from(after as u32) / f64::from(all))
}

#[test]
fn real_neighbours_are_found_whatever_the_encoding() {
    for (metric, base, queries) in [
        (Metric::L2, "tiny/sift128/base.u8bin", "tiny/sift128/query.u8bin"),
        (Metric::Cosine, "tiny/minilm384/base.f16bin", "tiny/minilm384/query.f16bin"),
    ] {
        for (name, (before, after), least) in [
            ("split f32", recall::<SplitF32>(metric, base, queries), 0.98),
            ("f16", recall::<F16>(metric, base, queries), 0.98),
            ("bf16", recall::<Bf16>(metric, base, queries), 0.95),
            ("i8", recall::<I8>(metric, base, queries), 0.94),
            ("split i8", recall::<SplitI8>(metric, base, queries), 0.93),
        ] {
            assert!(before >= least && after >= 0.98, "{name}, {metric:?}: {before} before reranking, {after} after");
        }
    }
}

fn sealed_is_the_same<E: Encoding>() {
    let rows = random(9, 500, 70);
    for metric in METRICS {
        let hnsw = index_of::<E>(metric, &rows);
        let (mut r, mut g) = (Vec::new(), Vec::new());
        seal(&hnsw, &mut r, &mut g).unwrap();
        let file = |bytes: &[u8]| {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(bytes).unwrap();
            Arc::new(Region::open_file(&file).unwrap())
        };
        let (r, g) = (file(&r), file(&g));
        verify(&r).unwrap();
        verify(&g).unwrap();
        let opened = Hnsw::<Rows<E>>::open_sealed(r.clone(), g).unwrap();
        for query in &rows[..20] {
            let found = |hnsw: &Hnsw<Rows<E>>| hnsw.search(query, 500, 40, &mut SearchCursor::default()).unwrap();
            assert_eq!(found(&hnsw), found(&opened));
        }
        let (mut a, mut b) = (vec![0.0; 70], vec![0.0; 70]);
        hnsw.storage().read(7, &mut a);
        opened.storage().read(7, &mut b);
        assert_eq!(a, b);
        if size_of::<E::Element>() != 4 {
            let error = F32Rows::open(r).unwrap_err();
            assert!(matches!(error, OpenError::Field { field: "element type", .. }), "{error}");
        }
    }
}

#[test]
fn a_sealed_index_answers_as_the_one_in_memory_whatever_the_encoding() {
    sealed_is_the_same::<F32>();
    sealed_is_the_same::<SplitF32>();
    sealed_is_the_same::<F16>();
    sealed_is_the_same::<Bf16>();
    sealed_is_the_same::<I8>();
    sealed_is_the_same::<SplitI8>();
}

#[test]
fn zeros_of_either_sign_and_equal_rows_are_the_same() {
    fn check<E: Encoding>() {
        let rows = [
            vec![0.0, 1.0, -2.0],
            vec![-0.0, 1.0, -2.0],
            vec![0.0, 1.0, -2.0],
            vec![0.0, 2.0, -4.0],
            vec![0.0, 0.0, 0.0],
        ];
        let rows = stored::<E>(Metric::InnerProduct, &rows);
        for same in [1, 2] {
            assert!(rows.same(0, same) && rows.digest(0) == rows.digest(same));
        }
        for other in [3, 4] {
            assert!(!rows.same(0, other) && rows.digest(0) != rows.digest(other));
        }
    }
    check::<F32>();
    check::<SplitF32>();
    check::<F16>();
    check::<Bf16>();
    check::<I8>();
    check::<SplitI8>();
}

#[test]
fn what_an_encoding_cannot_hold_is_refused() {
    let dim = 3;
    let region = Arc::new(Region::heap(Rows::<F16>::bytes_needed(dim, 4).unwrap()).unwrap());
    let rows = Rows::<F16>::create(region, Metric::L2, dim, 4).unwrap();
    let error = rows.push(&[0.0, 65_520.0, 0.0]).unwrap_err();
    assert!(matches!(error, PushError::Vector(VectorError::OutOfRange { at: 1, .. })), "{error}");
    assert_eq!(rows.len(), 0);
    rows.push(&[0.0, 65_504.0, -65_504.0]).unwrap();
    let error = Rows::<I8>::bytes_needed((1 << 16) + 1, 1).unwrap_err();
    assert!(matches!(error, CreateError::Parameter { max: 65_536, .. }), "{error}");
    Rows::<I8>::bytes_needed(1 << 16, 1).unwrap();
}

#[test]
fn codes_take_a_quarter_of_the_memory() {
    let bytes = |of: fn(usize, u32) -> Result<usize, CreateError>, dim| of(dim, 10_000).unwrap() as f64 / 1e4;
    for dim in [128, 384, 784] {
        assert!(bytes(Rows::<I8>::bytes_needed, dim) < (dim.next_multiple_of(64) + 17) as f64);
        assert!(bytes(Rows::<F16>::bytes_needed, dim) < ((2 * dim).next_multiple_of(64) + 5) as f64);
        assert!(bytes(F32Rows::bytes_needed, dim) < ((4 * dim).next_multiple_of(64) + 5) as f64);
    }
}

//! What the benches have in common: the checked-in vectors, and an index over them. `cargo bench` needs nothing that is
//! not in a clone.
#![forbid(unsafe_code)]

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kriya_datasets::Matrix;
use kriya_region::Region;
use vecindex::{AppendVectors, Encoding, Graph, Hnsw, HnswParams, Metric, Rows};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// A file of the checked-in data, for example `tiny/sift128/base.u8bin`.
pub fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../datasets").join(name)
}

/// An index over `base`, labelled by row number.
///
/// # Errors
/// What the index says of the rows, or the system of the memory.
pub fn index<E: Encoding>(base: &Matrix<f32>, metric: Metric, params: HnswParams) -> Outcome<Hnsw<Rows<E>>> {
    let capacity = u32::try_from(base.len())?;
    let rows = Arc::new(Region::heap(Rows::<E>::bytes_needed(base.dim(), capacity)?)?);
    let graph = Arc::new(Region::heap(Graph::bytes_needed(capacity, params.m)?)?);
    let rows = Rows::create(rows, metric, base.dim(), capacity)?;
    let index = Hnsw::new(rows, Graph::create(graph, params, capacity)?)?;
    for (row, label) in base.rows().zip(0_u64..) {
        index.append(row, [label, 0])?;
    }
    index.link_pending()?;
    Ok(index)
}

/// The rows of `base` alone.
///
/// # Errors
/// As [`index`].
pub fn rows<E: Encoding>(base: &Matrix<f32>, metric: Metric) -> Outcome<Rows<E>> {
    let capacity = u32::try_from(base.len())?;
    let region = Arc::new(Region::heap(Rows::<E>::bytes_needed(base.dim(), capacity)?)?);
    let rows = Rows::create(region, metric, base.dim(), capacity)?;
    for row in base.rows() {
        rows.push(row)?;
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use kriya_datasets::{ids, recall, vectors};
    use vecindex::{F32, HnswParams, Metric, SearchCursor};

    use super::{data, index};

    #[test]
    fn the_index_that_is_measured_finds_the_true_neighbours() {
        let base = vectors(&data("tiny/sift128/base.u8bin")).unwrap();
        let queries = vectors(&data("tiny/sift128/query.u8bin")).unwrap();
        let truth = ids(&data("tiny/sift128/gt-l2.ibin")).unwrap();
        let index = index::<F32>(&base, Metric::L2, HnswParams::default()).unwrap();
        let mut cursor = SearchCursor::default();
        let mut answers = Vec::new();
        for query in queries.rows() {
            cursor.start(&index, query, 100).unwrap();
            let found = (0..10).map(|_| index.label(cursor.next(&index).unwrap().id)[0] as i64);
            answers.push(found.collect());
        }
        let recall = recall(&answers, &truth, 10);
        assert!(recall >= 0.98, "recall@10 is {recall}");
    }
}

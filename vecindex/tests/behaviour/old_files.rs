//! Files of every version that there ever was are opened for ever, and say what was put into them.
//!
//! The files lie in `tests/fixtures`; the example `fixtures` tells how they are made.

use std::path::PathBuf;

use vecindex::snapshot::Snapshot;
use vecindex::{
    Bf16, ElementType, Encoding, F16, F32, I8, Metric, Rerank, SearchCursor, SplitF32, SplitI8, VectorStorage, snapshot,
};

use crate::data::distance;
use crate::fixture::{DIM, PARAMS, ROWS, label, row};

struct Old {
    name: &'static str,
    element: ElementType,
    metric: Metric,
    exact: bool,
    /// Of the file, so that nobody makes it anew without noticing.
    checksum: u32,
    /// Distances are right up to this.
    slack: f64,
}

fn open_it<E: Encoding>(old: &Old) {
    let Old { name, metric, slack, .. } = *old;
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!(crc32c::crc32c(&bytes), old.checksum, "{name} is not the file that was released");
    snapshot::verify(&path).unwrap();

    let opened = Snapshot::open(&path).unwrap();
    let info = opened.info();
    assert_eq!((info.element, info.metric, info.dim, info.rows), (old.element, metric, DIM, ROWS), "{name}");
    assert_eq!((info.params, info.exact, info.bytes), (PARAMS, old.exact, bytes.len() as u64), "{name}");
    let index = opened.index::<E>().unwrap();
    assert_eq!((index.linked(), index.unreached()), (ROWS, vec![]), "{name}");

    let mut cursor = SearchCursor::default();
    let mut decoded = vec![0.0; DIM];
    for id in 0..ROWS {
        let original = row(id);
        assert_eq!(index.label(id), label(id), "{name}");
        index.storage().read(id, &mut decoded);
        assert!(original.iter().zip(&decoded).all(|(a, b)| (a - b).abs() <= 0.01), "{name}: row {id} is {decoded:?}");

        // So small a pool that links are walked; everything comes out, at its distance.
        let found = index.search(&original, ROWS as usize, 4, &mut cursor).unwrap();
        let mut ids: Vec<u32> = found.iter().map(|n| n.id).collect();
        for n in &found {
            let expected = distance(metric, &original, &row(n.id));
            assert!((f64::from(n.distance) - expected).abs() <= slack, "{name}: {id} to {} is {n:?}", n.id);
        }
        ids.sort_unstable();
        assert_eq!(ids, (0..ROWS).collect::<Vec<_>>(), "{name}");
        if metric != Metric::InnerProduct {
            assert_eq!(row(found[0].id), original, "{name}: the nearest to row {id} is {}", found[0].id);
        }
    }
    if let Some(exact) = opened.exact().unwrap() {
        let mut found = index.search(&row(7), 20, 20, &mut cursor).unwrap();
        exact.rerank(&row(7), &mut found).unwrap();
        let right =
            |n: &vecindex::Neighbour| (f64::from(n.distance) - distance(metric, &row(7), &row(n.id))).abs() < 1e-6;
        assert!(found.iter().all(right) && found.is_sorted(), "{name}: {found:?}");
    }

    // What is written today is what was written then.
    let mut again = Vec::new();
    snapshot::write(&index, opened.exact().unwrap().as_ref(), &mut again).unwrap();
    assert!(again == bytes, "{name} is written in another way now: the version must change, and these files stay");
}

fn old(name: &'static str, element: ElementType, metric: Metric, checksum: u32, slack: f64) -> Old {
    Old { name, element, metric, exact: matches!(element, ElementType::I8 | ElementType::SplitI8), checksum, slack }
}

#[test]
fn files_of_version_1_are_opened_for_ever() {
    use ElementType as Of;
    open_it::<F32>(&old("v1-f32.kv", Of::F32, Metric::L2, 0x291f_63cd, 1e-5));
    open_it::<F16>(&old("v1-f16.kv", Of::F16, Metric::Cosine, 0x407b_b500, 1e-3));
    open_it::<Bf16>(&old("v1-bf16.kv", Of::Bf16, Metric::InnerProduct, 0x0b57_299d, 0.05));
    open_it::<I8>(&old("v1-i8.kv", Of::I8, Metric::Cosine, 0x7c6c_ea10, 0.02));
    open_it::<SplitF32>(&old("v1-split-f32.kv", Of::SplitF32, Metric::L2, 0x54ab_10c7, 1e-5));
    open_it::<SplitI8>(&old("v1-split-i8.kv", Of::SplitI8, Metric::L2, 0xa735_409a, 0.02));
}

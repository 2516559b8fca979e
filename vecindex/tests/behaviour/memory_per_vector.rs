//! What a row takes, byte by byte, with the default parameters (m = 16): the table in the README.
//!
//! Rows and the links of level 0 are what a search touches; labels, towers and the links above level 0 come to it.

use vecindex::{
    Bf16, CreateError, Encoding, F16, F32, Graph, HnswParams, I8, Metric, Rows, SplitF32, SplitI8, snapshot,
};

use crate::data::random;
use crate::encodings::index_of;

/// Sizes are differences of two capacities, so that headers and rounding to 64 bytes hardly count.
const FEW: u32 = 1 << 20;
const MANY: u32 = 3 << 20;

fn each(bytes: impl Fn(u32) -> Result<usize, CreateError>) -> f64 {
    (bytes(MANY).unwrap() - bytes(FEW).unwrap()) as f64 / f64::from(MANY - FEW)
}

/// Links of level 0, and all else that a graph has of a node.
fn graph() -> (f64, f64) {
    let m = HnswParams::default().m;
    let level0 = (2 * m * 4) as f64;
    (level0, each(|capacity| Graph::bytes_needed(capacity, m)) - level0)
}

#[test]
fn a_row_and_its_links_take_what_is_promised() {
    fn rows<E: Encoding>(dim: usize) -> f64 {
        each(|capacity| Rows::<E>::bytes_needed(dim, capacity))
    }
    let padded = |bytes: usize| bytes.next_multiple_of(64) as f64;
    let (level0, _) = graph();
    for dim in [1, 16, 17, 96, 100, 128, 384, 768, 784, 1536] {
        let exactly = [
            (rows::<F32>(dim), padded(4 * dim) + 4.0),
            (rows::<F16>(dim), padded(2 * dim) + 4.0),
            (rows::<Bf16>(dim), padded(2 * dim) + 4.0),
            (rows::<I8>(dim), padded(dim) + 16.0),
            (rows::<SplitF32>(dim), padded(4 * dim) + 4.0),
            (rows::<SplitI8>(dim), dim.next_multiple_of(128) as f64 + 16.0),
        ];
        for (at, (got, expected)) in exactly.into_iter().enumerate() {
            assert!((got - expected).abs() < 0.001, "dimension {dim}, encoding {at}: {got} bytes, expected {expected}");
        }
        assert!(rows::<F32>(dim) + level0 <= padded(4 * dim) + 144.0 + 0.001);
        assert!(rows::<I8>(dim) + level0 <= padded(dim) + 144.0 + 0.001);
    }
}

#[test]
fn labels_towers_and_upper_links_take_what_the_readme_says() {
    let (level0, rest) = graph();
    let all = |rows: f64| (rows + level0 + rest).round();
    let rows = [
        each(|capacity| Rows::<F32>::bytes_needed(384, capacity)),
        each(|capacity| Rows::<F16>::bytes_needed(384, capacity)),
        each(|capacity| Rows::<I8>::bytes_needed(384, capacity)),
        each(|capacity| Rows::<SplitF32>::bytes_needed(384, capacity)),
        each(|capacity| Rows::<SplitI8>::bytes_needed(384, capacity)),
    ];
    assert_eq!(rows.map(all), [1693.0, 925.0, 553.0, 1693.0, 553.0]);
    // 16 for a label, 4 for a tower, and 1.25 times 1/15 rows of 16 links of 4 bytes.
    assert_eq!(level0, 128.0);
    assert!((rest - (16.0 + 4.0 + 1.25 * 64.0 / 15.0)).abs() < 0.01, "{rest}");
}

#[test]
fn a_file_takes_no_more_than_memory_does_but_for_its_headers_and_checksums() {
    let (dim, n) = (40, 3000);
    let index = index_of::<I8>(Metric::L2, &random(61, n, dim));
    let bytes = snapshot::write(&index, None, &mut Vec::new()).unwrap();
    let rows = Rows::<I8>::bytes_needed(dim, n as u32).unwrap();
    let graph = Graph::bytes_needed(n as u32, index.params().m).unwrap();
    // One page of its own, padding behind two parts, two trailers.
    let more = 3 * 4096 + 2 * 64;
    assert!(bytes as usize <= rows + graph + more, "{bytes} bytes, in memory {rows} and {graph}");
}

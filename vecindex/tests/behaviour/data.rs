//! Small real data sets, random vectors with printed seeds, and indexes over them.

use std::io::Read;
use std::sync::Arc;

use kriya_region::Region;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use vecindex::{F32Rows, Graph, Hnsw, HnswParams, Metric, Neighbour};

fn bytes(name: &str) -> Vec<u8> {
    let path = format!("{}/../datasets/{name}", env!("CARGO_MANIFEST_DIR"));
    let raw = std::fs::read(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    if !name.ends_with(".gz") {
        return raw;
    }
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(&raw[..]).read_to_end(&mut bytes).unwrap();
    bytes
}

fn word(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
}

/// Rows of a `.u8bin`, `.f16bin` or `.fbin` file, each also with `.gz`.
pub fn vectors(name: &str) -> Vec<Vec<f32>> {
    let bytes = bytes(name);
    let (n, dim, body) = (word(&bytes, 0), word(&bytes, 4), &bytes[8..]);
    let values: Vec<f32> = match name.trim_end_matches(".gz").rsplit('.').next() {
        Some("u8bin") => body.iter().map(|b| f32::from(*b)).collect(),
        Some("f16bin") => {
            body.chunks_exact(2).map(|b| half::f16::from_le_bytes(b.try_into().unwrap()).to_f32()).collect()
        }
        _ => body.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect(),
    };
    assert_eq!(values.len(), n * dim, "{name}");
    values.chunks_exact(dim).map(<[f32]>::to_vec).collect()
}

/// Published nearest neighbours: ids and distances of each query.
pub fn truth(ids: &str, distances: &str) -> Vec<Vec<Neighbour>> {
    let (ids, distances) = (bytes(ids), vectors(distances));
    let k = word(&ids, 4);
    let ids: Vec<u32> = ids[8..].chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect();
    let row = |(ids, ds): (&[u32], Vec<f32>)| {
        ids.iter().zip(ds).map(|(id, distance)| Neighbour { id: *id, distance }).collect::<Vec<_>>()
    };
    ids.chunks_exact(k).zip(distances).map(row).collect()
}

pub fn random(seed: u64, n: usize, dim: usize) -> Vec<Vec<f32>> {
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    (0..n).map(|_| (0..dim).map(|_| rng.random_range(-1.0..1.0)).collect()).collect()
}

pub fn params() -> HnswParams {
    HnswParams { m: 8, ef_construction: 64, ..HnswParams::default() }
}

pub fn empty(metric: Metric, dim: usize, capacity: u32, params: HnswParams) -> Hnsw {
    let rows = Arc::new(Region::heap(F32Rows::bytes_needed(dim, capacity).unwrap()).unwrap());
    let graph = Arc::new(Region::heap(Graph::bytes_needed(capacity, params.m).unwrap()).unwrap());
    let rows = F32Rows::create(rows, metric, dim, capacity).unwrap();
    Hnsw::new(rows, Graph::create(graph, params, capacity).unwrap()).unwrap()
}

/// An index of all rows, each labelled (its id, 1,000,000 - its id), the first `linked` of them linked.
pub fn index(metric: Metric, rows: &[Vec<f32>], linked: usize) -> Hnsw {
    let hnsw = empty(metric, rows[0].len(), rows.len() as u32, params());
    for (i, row) in rows.iter().enumerate() {
        if i == linked {
            hnsw.link_pending().unwrap();
        }
        assert_eq!(hnsw.append(row, label(i as u32)).unwrap(), i as u32);
    }
    if linked == rows.len() {
        hnsw.link_pending().unwrap();
    }
    assert_eq!(hnsw.linked() as usize, linked);
    hnsw
}

pub fn label(id: u32) -> [u64; 2] {
    [u64::from(id), 1_000_000 - u64::from(id)]
}

/// Distances in f64, by the metric's definition.
pub fn distance(metric: Metric, a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    match metric {
        Metric::L2 => a.iter().zip(b).map(|(x, y)| (f64::from(*x) - f64::from(*y)).powi(2)).sum::<f64>().sqrt(),
        Metric::Cosine => 1.0 - dot(a, b) / (dot(a, a) * dot(b, b)).sqrt(),
        Metric::InnerProduct => -dot(a, b),
    }
}

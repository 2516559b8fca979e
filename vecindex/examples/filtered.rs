//! Recall and speed of filtered searches, beside comparing every allowed row.
//!
//! ```text
//! cargo run --release -p vecindex --example filtered -- BASE QUERIES [l2|cosine|ip] [LABELS.idx1] [CACHE]
//! ```
//! Filters: a share of the rows by a hash of the id, and, if there are labels, those of one label. CACHE names two files in which
//! the index is kept for the next run.

mod vectors;

use std::error::Error;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use vecindex::{F32Rows, FilteredSearch, Graph, Hnsw, HnswParams, IdSet, Metric, Region, VectorStorage, seal};
use vectors::{bytes, read, thread_seconds};

fn index(base: &str, metric: Metric, cache: Option<&String>) -> Result<Hnsw, Box<dyn Error>> {
    let cached = |part: &str| cache.map(|path| format!("{path}.{part}"));
    if let (Some(rows), Some(graph)) = (cached("rows"), cached("graph"))
        && Path::new(&graph).exists()
    {
        let open = |path: &str| Ok::<_, std::io::Error>(Arc::new(Region::open_file(&File::open(path)?)?));
        return Ok(Hnsw::open_sealed(open(&rows)?, open(&graph)?)?);
    }
    let base = read(base)?;
    let (n, dim, params) = (u32::try_from(base.len())?, base[0].len(), HnswParams::default());
    let rows = Arc::new(Region::heap(F32Rows::bytes_needed(dim, n)?)?);
    let graph = Arc::new(Region::heap(Graph::bytes_needed(n, params.m)?)?);
    let index = Hnsw::new(F32Rows::create(rows, metric, dim, n)?, Graph::create(graph, params, n)?)?;
    for row in &base {
        index.append(row, [0, 0])?;
    }
    index.link_pending()?;
    if let (Some(rows), Some(graph)) = (cached("rows"), cached("graph")) {
        seal(&index, &mut File::create(rows)?, &mut File::create(graph)?)?;
    }
    Ok(index)
}

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [base, queries, rest @ ..] = &args[..] else {
        return Err("usage: filtered BASE QUERIES [metric] [LABELS]".into());
    };
    let metric = match rest.first().map_or("l2", String::as_str) {
        "l2" => Metric::L2,
        "cosine" => Metric::Cosine,
        "ip" => Metric::InnerProduct,
        other => return Err(format!("metric \"{other}\", expected l2, cosine or ip").into()),
    };
    let index = index(base, metric, rest.get(2))?;
    let queries: Vec<Vec<f32>> = read(queries)?.into_iter().take(300).collect();
    let n = index.len();
    let by_share = |share: f64| {
        let hash = |id: u32| f64::from(id.wrapping_mul(0x9e37_79b1) ^ id.rotate_left(13) << 7) / f64::from(u32::MAX);
        (0..n).filter(|id| hash(id.wrapping_mul(0x85eb_ca6b).rotate_right(11)) < share).collect::<IdSet>()
    };
    let shares = [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9];
    let mut filters: Vec<(String, IdSet)> =
        shares.iter().map(|share| (format!("{}%", share * 100.0), by_share(*share))).collect();
    if let Some(labels) = rest.get(1).filter(|path| !path.is_empty()) {
        let labels = bytes(labels)?;
        for wanted in [&[0][..], &[1], &[8], &[0, 2, 4, 6, 8], &[1, 3]] {
            let ids = (0..n).filter(|id| wanted.contains(&labels[8 + *id as usize])).collect();
            filters.push((format!("labels {wanted:?}"), ids));
        }
    }
    let mut search = FilteredSearch::default();
    for (name, filter) in &filters {
        let ids: Vec<u32> = filter.iter().collect();
        // Comparing every allowed row, as an own loop would.
        let mut distances = vec![0.0; ids.len()];
        let mut prepared = Default::default();
        let start = thread_seconds();
        let mut bounds = Vec::new();
        for query in &queries {
            index.storage().prepare(query, &mut prepared)?;
            index.storage().distances(&prepared, &ids, &mut distances);
            let (_, tenth, _) = distances.select_nth_unstable_by(9, f32::total_cmp);
            bounds.push(metric.to_user(*tenth));
        }
        let exact = queries.len() as f64 / (thread_seconds() - start);
        print!("{name:>16} ({:5} rows): compared {exact:6.0}/s;", filter.len());
        for ef in [16, 32, 64, 128] {
            let (mut best, mut hits) = (f64::MAX, 0);
            for _ in 0..2 {
                hits = 0;
                let start = thread_seconds();
                for (query, bound) in queries.iter().zip(&bounds) {
                    let found = index.search_filtered(query, 10, ef, filter, &mut search)?;
                    assert_eq!(found.len(), 10);
                    hits += found.iter().filter(|n| n.distance <= *bound).count();
                }
                best = best.min(thread_seconds() - start);
            }
            print!("  ef {ef} {:.4} {:6.0}/s", hits as f64 / queries.len() as f64 / 10.0, queries.len() as f64 / best);
        }
        println!();
    }
    Ok(())
}

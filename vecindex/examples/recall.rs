//! Recall and speed of an index over a public data set, beside a given ground truth.
//!
//! ```text
//! cargo run --release -p vecindex --example recall -- BASE QUERIES TRUTH.ibin [l2|cosine|ip] [m] [ef_construction] [f32|f16|bf16|i8]
//! ```
//! BASE and QUERIES are `.fbin`, `.u8bin`, `.f16bin` (u32 n, u32 d, values) or `idx3-ubyte` images, each also with `.gz`.

use std::error::Error;
use std::io::Read;
use std::sync::Arc;
use std::time::Instant;

use kriya_region::Region;
use vecindex::{
    AppendVectors, Bf16, Encoding, F16, F32, F32Rows, Graph, Hnsw, HnswParams, I8, Metric, Rerank, Rows, SearchCursor,
    VectorStorage,
};

struct Vectors {
    dim: usize,
    values: Vec<f32>,
}

impl Vectors {
    fn rows(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.values.chunks_exact(self.dim)
    }
}

fn bytes(path: &str) -> Result<Vec<u8>, Box<dyn Error>> {
    let raw = std::fs::read(path).map_err(|e| format!("{path}: {e}"))?;
    if !path.ends_with(".gz") {
        return Ok(raw);
    }
    let mut out = Vec::new();
    flate2::read::GzDecoder::new(&raw[..]).read_to_end(&mut out)?;
    Ok(out)
}

fn word(bytes: &[u8], at: usize, big: bool) -> Result<usize, Box<dyn Error>> {
    let word: [u8; 4] = bytes.get(at..at + 4).ok_or("the file is cut short")?.try_into()?;
    Ok(if big { u32::from_be_bytes(word) } else { u32::from_le_bytes(word) } as usize)
}

fn read(path: &str) -> Result<Vectors, Box<dyn Error>> {
    let bytes = bytes(path)?;
    let name = path.trim_end_matches(".gz");
    if name.ends_with("idx3-ubyte") {
        let dim = word(&bytes, 8, true)? * word(&bytes, 12, true)?;
        return Ok(Vectors { dim, values: bytes[16..].iter().map(|b| f32::from(*b)).collect() });
    }
    let (dim, body) = (word(&bytes, 4, false)?, &bytes[8..]);
    let values = if name.ends_with(".u8bin") {
        body.iter().map(|b| f32::from(*b)).collect()
    } else if name.ends_with(".f16bin") {
        body.chunks_exact(2).map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32()).collect()
    } else {
        body.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    };
    Ok(Vectors { dim, values })
}

/// Seconds of processor time that this process has used.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<f64> = stat.rsplit(')').next().unwrap_or("").split(' ').filter_map(|f| f.parse().ok()).collect();
    // After the name and the state, user and system time are the 11th and 12th numbers, in hundredths.
    fields.get(10).zip(fields.get(11)).map_or(0.0, |(u, s)| (u + s) / 100.0)
}

/// Seconds of processor time that this thread has used, to the nanosecond.
fn thread_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    stat.split(' ').next().and_then(|ns| ns.parse::<f64>().ok()).unwrap_or(0.0) / 1e9
}

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [base, queries, truth, rest @ ..] = &args[..] else {
        return Err("usage: recall BASE QUERIES TRUTH.ibin [l2|cosine|ip] [m] [ef_construction]".into());
    };
    let metric = match rest.first().map_or("l2", String::as_str) {
        "l2" => Metric::L2,
        "cosine" => Metric::Cosine,
        "ip" => Metric::InnerProduct,
        other => return Err(format!("metric \"{other}\", expected l2, cosine or ip").into()),
    };
    let m = rest.get(1).map_or(Ok(16), |s| s.parse())?;
    let ef_construction = rest.get(2).map_or(Ok(200), |s| s.parse())?;
    let (base, queries, truth) = (read(base)?, read(queries)?, bytes(truth)?);
    let run = match rest.get(3).map_or("f32", String::as_str) {
        "f32" => sweep::<F32>,
        "f16" => sweep::<F16>,
        "bf16" => sweep::<Bf16>,
        "i8" => sweep::<I8>,
        other => return Err(format!("encoding \"{other}\", expected f32, f16, bf16 or i8").into()),
    };
    run(metric, m, ef_construction, &base, &queries, &truth)
}

fn sweep<E: Encoding>(
    metric: Metric,
    m: usize,
    ef_construction: usize,
    base: &Vectors,
    queries: &Vectors,
    truth: &[u8],
) -> Result<(), Box<dyn Error>> {
    let k_truth = word(truth, 4, false)?;
    let truth: Vec<u32> = truth[8..].chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();

    let n = u32::try_from(base.rows().len())?;
    let params = HnswParams { m, ef_construction, ..HnswParams::default() };
    let rows = Arc::new(Region::heap(Rows::<E>::bytes_needed(base.dim, n)?)?);
    let graph = Arc::new(Region::heap(Graph::bytes_needed(n, m)?)?);
    let index = Hnsw::new(Rows::<E>::create(rows, metric, base.dim, n)?, Graph::create(graph, params, n)?)?;
    let start = Instant::now();
    for (i, row) in base.rows().enumerate() {
        index.append(row, [i as u64, 0])?;
    }
    let appended = start.elapsed();
    let (start, cpu) = (Instant::now(), cpu_seconds());
    index.link_pending()?;
    println!(
        "{n} rows of {}, kernels {}: appended in {:.2} s, linked in {:.2} s ({:.1} s of processor time, {} threads)",
        base.dim,
        vecindex::kernel::select()?.name(),
        appended.as_secs_f64(),
        start.elapsed().as_secs_f64(),
        cpu_seconds() - cpu,
        rayon::current_num_threads()
    );

    // Whatever rows are not exact are compared once more.
    let exact = Arc::new(Region::heap(F32Rows::bytes_needed(base.dim, n)?)?);
    let exact = F32Rows::create(exact, metric, base.dim, n)?;
    if size_of::<E::Element>() < 4 {
        for row in base.rows() {
            exact.push(row)?;
        }
    }
    let k = 10;
    let mut cursor = SearchCursor::default();
    println!("queries/s are of processor time, one thread, best of three passes");
    for ef in [10, 16, 24, 32, 40, 48, 64, 96, 128, 200, 400] {
        let (mut hits, mut best) = (0, f64::MAX);
        for pass in 0..3 {
            let start = thread_seconds();
            for (q, query) in queries.rows().enumerate() {
                let mut found =
                    index.search(query, if exact.is_empty() { k } else { k + 5 }, ef.max(k + 5), &mut cursor)?;
                if !exact.is_empty() {
                    exact.rerank(query, &mut found)?;
                    found.truncate(k);
                }
                if pass == 0 {
                    let expected = &truth[q * k_truth..q * k_truth + k];
                    hits += found.iter().filter(|f| expected.contains(&f.id)).count();
                }
            }
            best = best.min(thread_seconds() - start);
        }
        let count = queries.rows().len();
        println!("ef {ef:4}: recall@10 {:.4}, {:7.0} queries/s", hits as f64 / (count * k) as f64, count as f64 / best);
    }
    Ok(())
}

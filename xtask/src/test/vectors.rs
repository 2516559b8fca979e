//! Sets of vectors and the measurement of the index alone: the large public files where they are there, and `bench ann` on
//! the checked-in ones.

use std::path::Path;
use std::process::Command;

use kriya_datasets::{Matrix, Metric, exact, ids, vectors};
use serde_json::Value;

use super::end_to_end::in_ci;
use super::tally::Tally;
use super::{Options, logs};
use crate::failure::{Failure, Outcome};
use crate::places;

/// The large files, which are not checked in: every format is read, different formats of the same set hold the same, and
/// exact search finds the neighbours that were published. Without them it is skipped, but a failure where `CI` is set.
///
/// # Errors
/// Files that cannot be read.
pub fn sets(tally: &mut Tally, options: &Options) -> Outcome<()> {
    let folder = options.datasets.clone().unwrap_or_else(places::shared_datasets);
    for (set, check) in SETS {
        let folder = folder.join(set);
        match folder.is_dir() {
            true => check(tally, &folder)?,
            false if in_ci() => {
                return Err(Failure::new(format!("{} is not there, and CI is set", folder.display())));
            }
            false => tally.skip(format!("sets: no {} (--datasets names another place)", folder.display())),
        }
    }
    Ok(())
}

/// How a set's folder is looked through.
type Check = fn(&mut Tally, &Path) -> Outcome<()>;

const SETS: [(&str, Check); 3] = [
    ("fashion-mnist-784-euclidean", images),
    ("sift-fmnist-128-euclidean", descriptors),
    ("deb-minilm-384-cosine", texts),
];

fn images(tally: &mut Tally, folder: &Path) -> Outcome<()> {
    let base = vectors(&folder.join("train-images-idx3-ubyte.gz"))?;
    tally.check((base.len(), base.dim()) == (60_000, 784), "a gzipped IDX file holds 60,000 images of 784 pixels");
    let tests = vectors(&folder.join("t10k-images-idx3-ubyte.gz"))?;
    let queries = vectors(&folder.join("query-1k.u8bin.gz"))?;
    let first: Vec<usize> = (0..queries.len()).collect();
    tally.check(tests.select(&first) == queries, "a gzipped u8bin file holds the first of the same images");
    neighbours(tally, Metric::L2, &base, &queries, &ids(&folder.join("gt-l2-1k.ibin"))?)
}

fn descriptors(tally: &mut Tally, folder: &Path) -> Outcome<()> {
    let table = |name: &str| folder.join(format!("sift-fmnist-128-euclidean.hdf5:{name}"));
    let base = vectors(&table("train"))?;
    tally.check(base == vectors(&folder.join("base.u8bin.gz"))?, "an HDF5 table holds what the u8bin file does");
    let queries = vectors(&table("test"))?;
    tally.check(queries == vectors(&folder.join("query.fvecs.gz"))?, "an HDF5 table holds what the fvecs file does");
    let truth = ids(&table("neighbors"))?;
    tally.check(truth == ids(&folder.join("gt-l2.ivecs"))?, "an HDF5 table holds what the ivecs file does");
    neighbours(tally, Metric::L2, &base, &queries, &truth)
}

fn texts(tally: &mut Tally, folder: &Path) -> Outcome<()> {
    let base = vectors(&folder.join("base.f16bin.gz"))?;
    tally
        .check((base.len(), base.dim()) == (58_000, 384), "a gzipped f16bin file holds 58,000 texts of 384 dimensions");
    let queries = vectors(&folder.join("query.fbin.gz"))?;
    for (metric, file) in [(Metric::Cosine, "gt-cosine.ibin"), (Metric::InnerProduct, "gt-ip.ibin")] {
        neighbours(tally, metric, &base, &queries, &ids(&folder.join(file))?)?;
    }
    Ok(())
}

/// Exact search of a few queries finds the published neighbours, where no two are equally far.
fn neighbours(
    tally: &mut Tally,
    metric: Metric,
    base: &Matrix<f32>,
    queries: &Matrix<f32>,
    truth: &Matrix<u32>,
) -> Outcome<()> {
    let few: Vec<usize> = (0..queries.len()).step_by(queries.len().div_ceil(8)).collect();
    let found = exact(metric, base, &queries.select(&few), 10)?;
    let right = few.iter().zip(found.ids.iter().zip(&found.distances)).all(|(q, (ids, distances))| {
        let tied = |place: usize| distances.iter().filter(|d| **d == distances[place]).count() > 1;
        ids.iter().enumerate().all(|(place, id)| tied(place) || truth.row(*q)[place] == *id)
    });
    tally.check(right, &format!("exact search finds the published neighbours under {metric:?}"));
    Ok(())
}

/// `cargo xtask bench ann --quick` on a checked-in set: it finds the neighbours, and every figure is there. The figures
/// themselves are nobody's business here.
///
/// # Errors
/// If the program cannot be run or its record not be read.
pub fn ann(tally: &mut Tally) -> Outcome<()> {
    let set = places::workspace().join("datasets/tiny/sift128/sift128.hdf5");
    let record = logs().join("bench-ann.jsonl");
    let program = std::env::current_exe().map_err(|e| Failure::new(format!("where is this program? {e}")))?;
    let bench = |arguments: &[&str]| {
        let mut command = Command::new(&program);
        command.args(["bench", "ann", "--quick", "--metric", "l2", "--rounds", "1", "--seconds", "0.01"]);
        let out = command.arg("--base").arg(&set).args(arguments).arg("--json").arg(&record).output();
        out.map_err(|e| Failure::new(format!("running bench ann: {e}")))
    };
    let lines_of = |arguments: &[&str]| -> Outcome<Vec<Value>> {
        let out = bench(arguments)?;
        if !out.status.success() {
            return Err(Failure::new(format!("bench ann: {}", String::from_utf8_lossy(&out.stderr))));
        }
        let text = std::fs::read_to_string(&record).map_err(Failure::doing("reading", &record))?;
        Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
    };
    let measured = |line: &Value| {
        let figures = ["recall", "qps", "p50_us", "p99_us", "cpu_us", "build_s", "bytes_per_vector", "build_threads"];
        figures.iter().all(|figure| line[figure].as_f64().is_some_and(|x| x > 0.0))
    };
    encodings(tally, &lines_of(&["--encoding", "f16,bf16,i8", "--ef", "100"])?, measured);
    filtered(tally, &lines_of(&["--encoding", "f32,i8", "--filter", "5%", "--ef", "40"])?, measured);
    let refused = bench(&["--filter", "0"])?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    tally.check(
        !refused.status.success() && said.contains("not a share"),
        "a filter that lets nothing through is refused",
    );
    let lines = lines_of(&["--ef", "10,100"])?;
    let [narrow, wide, verdict] = &lines[..] else {
        return Err(Failure::new(format!("bench ann wrote {} lines, expected 3", lines.len())));
    };
    tally.check(measured(narrow) && measured(wide), "every figure of the index alone is measured");
    let recall = wide["recall"].as_f64().unwrap_or(0.0);
    tally.check(recall >= 0.98, &format!("the wider search has recall 0.98 at least ({recall:.3})"));
    tally.check(verdict["verdict"] == "unchecked", "a run without hnswlib says that nothing was compared");
    Ok(())
}

/// What can be said of the lines of one width in encodings that are not exact.
fn encodings(tally: &mut Tally, lines: &[Value], measured: impl Fn(&Value) -> bool) {
    let names: Vec<_> = lines.iter().filter_map(|line| line["encoding"].as_str()).collect();
    tally.check(names == ["f16", "bf16", "i8"], &format!("every encoding is measured ({names:?})"));
    let subjects = || lines.iter().filter(|line| line["library"].is_string());
    tally.check(subjects().all(measured), "every figure of every encoding is measured");
    let recalls: Vec<f64> = subjects().filter_map(|line| line["recall"].as_f64()).collect();
    tally.check(
        recalls.iter().all(|r| *r >= 0.98),
        &format!("reranked answers have recall 0.98 at least ({recalls:?})"),
    );
    // What is kept for reranking is said beside what everything takes; a byte a component is half of two.
    let codes = |line: &Value| line["bytes_per_vector"].as_f64().zip(line["rerank_bytes"].as_f64()).map(|(a, b)| a - b);
    let saved = subjects().filter_map(codes).collect::<Vec<_>>();
    let right = matches!(saved[..], [f16, bf16, i8] if f16 == bf16 && (100.0..132.0).contains(&(f16 - i8)));
    tally.check(right, &format!("bytes a vector follow the encoding, without what it is reranked by ({saved:?})"));
}

/// What can be said of a search among some of the rows.
fn filtered(tally: &mut Tally, lines: &[Value], measured: impl Fn(&Value) -> bool) {
    let of = |library: &'static str| lines.iter().filter(move |line| line["library"] == library);
    let recalls = |library: &'static str| of(library).filter_map(|line| line["recall"].as_f64()).collect::<Vec<_>>();
    let (found, scanned) = (recalls("kriyadb"), recalls("kriyadb-scan"));
    tally.check(
        found.len() == 2 && scanned.len() == 2,
        "a filtered search is measured beside comparing all that is allowed",
    );
    tally.check(of("kriyadb").chain(of("kriyadb-scan")).all(measured), "every figure of a filtered search is measured");
    tally.check(found.iter().all(|r| *r >= 0.95), &format!("a filtered search has recall 0.95 at least ({found:?})"));
    tally.check(scanned.iter().all(|r| *r >= 0.999), &format!("comparing all that is allowed finds all ({scanned:?})"));
}

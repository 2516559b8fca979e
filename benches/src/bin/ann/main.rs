//! `vecindex` as a subject of `cargo xtask bench ann`: a process that builds an index and searches it when it is told to.
//! The peers are processes of the same kind (`xtask/src/bench/ann/peer.py`).
//!
//! Arguments: `METHOD BASE.fbin QUERIES.fbin METRIC M EF_CONSTRUCTION K ANSWERS FILTER ENCODING RERANK`, where METHOD is
//! `graph` or `scan` (every row that may be an answer is compared), FILTER is `-` or a file of row numbers, and RERANK is `-`
//! or `f32`: rows of f32 are kept beside those of ENCODING, and the first max(2 K, K + 10) found, of no more than the search
//! had in view, are compared once more with them. Then a line on the standard input is a command, and a line of JSON on the
//! standard output its answer:
//!
//! | command | answer |
//! | --- | --- |
//! | (start) | `version` |
//! | `build THREADS` | `build_s`, `bytes_per_vector`, `rerank_bytes`; rows are in memory before the clock runs |
//! | `search EF THREADS SECONDS` | `qps`, `p50_us`, `p99_us`, `cpu_us`; row numbers of K answers per query in ANSWERS (i32, -1 for none) |
//!
//! A search goes over all queries once to warm up, and again and again until SECONDS have passed, by THREADS threads: that
//! gives `qps`, and `cpu_us`, the processor's time per query. Then once more by one thread with a clock around each query:
//! that gives the percentiles.
#![forbid(unsafe_code)]

mod measure;
mod subject;
mod task;

use std::error::Error;
use std::io::{BufRead, Write};
use std::time::Instant;

use serde_json::json;
use vecindex::{Bf16, Encoding, F16, F32, I8, SplitF32, SplitI8};

use measure::measure;
use subject::Subject;
use task::Task;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

fn number<T: std::str::FromStr>(words: &[&str], at: usize) -> Outcome<T> {
    let word = words.get(at).ok_or("a number is missing")?;
    word.parse().map_err(|_| format!("{word:?} is not a number that fits").into())
}

/// Answers commands until there are no more.
fn serve<E: Encoding>(task: &Task) -> Outcome<()> {
    let mut out = std::io::stdout().lock();
    let mut built: Option<Subject<'_, E>> = None;
    writeln!(out, "{}", json!({ "version": env!("CARGO_PKG_VERSION") }))?;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split(' ').collect();
        let figures = match (words[0], &built) {
            ("build", _) => {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(number(&words, 1)?).build()?;
                // The old one makes room first.
                drop(built.take());
                let begin = Instant::now();
                let fresh = pool.install(|| Subject::build(task))?;
                let build_s = begin.elapsed().as_secs_f64();
                let (bytes, rerank) = fresh.bytes_per_vector()?;
                built = Some(fresh);
                json!({ "build_s": build_s, "bytes_per_vector": bytes, "rerank_bytes": rerank })
            }
            ("search", Some(subject)) => {
                let (figures, found) = measure(subject, number(&words, 1)?, number(&words, 2)?, number(&words, 3)?)?;
                let bytes: Vec<u8> = found.iter().flat_map(|id| id.to_le_bytes()).collect();
                std::fs::write(&task.answers, bytes)?;
                figures
            }
            ("search", None) => return Err("nothing was built yet".into()),
            (other, _) => return Err(format!("{other:?} is neither build nor search").into()),
        };
        writeln!(out, "{figures}")?;
        out.flush()?;
    }
    Ok(())
}

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (task, encoding) = Task::of(&arguments)?;
    match encoding {
        "f32" => serve::<F32>(&task),
        "split-f32" => serve::<SplitF32>(&task),
        "f16" => serve::<F16>(&task),
        "bf16" => serve::<Bf16>(&task),
        "i8" => serve::<I8>(&task),
        "split-i8" => serve::<SplitI8>(&task),
        other => Err(format!("encoding {other:?}, expected f32, split-f32, f16, bf16, i8 or split-i8").into()),
    }
}

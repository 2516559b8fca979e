//! `vecindex` as a subject of `cargo xtask bench ann`: a process that builds an index and searches it when it is told to.
//! The peers are processes of the same kind (`xtask/src/bench/ann/peer.py`).
//!
//! Arguments: `BASE.fbin QUERIES.fbin METRIC M EF_CONSTRUCTION K ANSWERS FILTER`, where FILTER is `-` or a file of row
//! numbers. Then a line on the standard input is a command, and a line of JSON on the standard output its answer:
//!
//! | command | answer |
//! | --- | --- |
//! | (start) | `version` |
//! | `build THREADS` | `build_s`, `bytes_per_vector`; rows are in memory before the clock runs |
//! | `search EF THREADS SECONDS` | `qps`, `p50_us`, `p99_us`, `cpu_us`; row numbers of K answers per query in ANSWERS (i32, -1 for none) |
//!
//! A search goes over all queries once to warm up, and again and again until SECONDS have passed, by THREADS threads: that
//! gives `qps`, and `cpu_us`, the processor's time per query. Then once more by one thread with a clock around each query:
//! that gives the percentiles.
#![forbid(unsafe_code)]

use std::error::Error;
use std::io::{BufRead, Write};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use kriya_benches::index;
use kriya_datasets::{Matrix, ids, vectors};
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};
use vecindex::{F32Rows, Hnsw, HnswParams, Metric, SearchCursor, SearchError};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// What is searched, and how.
struct Task {
    base: Matrix<f32>,
    queries: Matrix<f32>,
    metric: Metric,
    params: HnswParams,
    k: usize,
    /// Which rows may be answers; all of them if none.
    allowed: Option<Vec<bool>>,
}

impl Task {
    fn of(arguments: &[String]) -> Outcome<(Task, &str)> {
        let [base, queries, metric, m, ef_construction, k, answers, filter] = arguments else {
            return Err("usage: ann BASE QUERIES METRIC M EF_CONSTRUCTION K ANSWERS FILTER".into());
        };
        let metric = match metric.as_str() {
            "l2" => Metric::L2,
            "cosine" => Metric::Cosine,
            "ip" => Metric::InnerProduct,
            other => return Err(format!("metric {other:?}, expected l2, cosine or ip").into()),
        };
        let params = HnswParams { m: m.parse()?, ef_construction: ef_construction.parse()?, ..HnswParams::default() };
        let (base, queries) = (vectors(base.as_ref())?, vectors(queries.as_ref())?);
        let allowed = match filter.as_str() {
            "-" => None,
            file => Some(mask(&ids(file.as_ref())?, base.len())?),
        };
        Ok((Task { base, queries, metric, params, k: k.parse()?, allowed }, answers))
    }

    /// The answers to one query, into a row of `k`.
    fn search(
        &self,
        index: &Hnsw<F32Rows>,
        query: &[f32],
        ef: usize,
        cursor: &mut SearchCursor,
        row: &mut [i32],
    ) -> Result<(), SearchError> {
        cursor.start(index, query, ef.max(self.k))?;
        row.fill(-1);
        let mut next = 0;
        while next < row.len() {
            let Some(found) = cursor.next(index) else { break };
            if self.allowed.as_ref().is_none_or(|allowed| allowed[found.id as usize]) {
                // Rows were appended in their order, so an id is a row number, below 2^31 as ids of files are.
                row[next] = found.id as i32;
                next += 1;
            }
        }
        Ok(())
    }

    /// All queries once, shared out to threads query by query; the answers.
    fn pass(&self, index: &Hnsw<F32Rows>, ef: usize, threads: usize) -> Outcome<Vec<i32>> {
        let next = AtomicUsize::new(0);
        let work = || -> Outcome<Vec<(usize, Vec<i32>)>> {
            let (mut cursor, mut done) = (SearchCursor::default(), Vec::new());
            loop {
                // In pieces, so that threads do not wait for each other at the counter.
                let from = next.fetch_add(16, Ordering::Relaxed);
                let to = (from + 16).min(self.queries.len());
                if from >= to {
                    return Ok(done);
                }
                let mut rows = vec![-1; (to - from) * self.k];
                for (query, row) in (from..to).zip(rows.chunks_exact_mut(self.k)) {
                    self.search(index, self.queries.row(query), ef, &mut cursor, row)?;
                }
                done.push((from, rows));
            }
        };
        let done = std::thread::scope(|scope| {
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
            let mut all = work()?;
            for other in others {
                all.extend(other.join().map_err(|_| "a thread panicked")??);
            }
            Outcome::Ok(all)
        })?;
        let mut answers = vec![-1; self.queries.len() * self.k];
        for (from, rows) in done {
            answers[from * self.k..from * self.k + rows.len()].copy_from_slice(&rows);
        }
        Ok(answers)
    }

    fn measure(&self, index: &Hnsw<F32Rows>, ef: usize, threads: usize, seconds: f64) -> Outcome<(Value, Vec<i32>)> {
        let answers = self.pass(index, ef, threads)?;
        let (begin, cpu, mut passes) = (Instant::now(), processor_time(), 0);
        while passes == 0 || begin.elapsed().as_secs_f64() < seconds {
            self.pass(index, ef, threads)?;
            passes += 1;
        }
        let queries = (passes * self.queries.len()) as f64;
        let (qps, cpu) = (queries / begin.elapsed().as_secs_f64(), (processor_time() - cpu).as_secs_f64() / queries);
        let (mut cursor, mut row) = (SearchCursor::default(), vec![-1; self.k]);
        let mut taken = Vec::with_capacity(self.queries.len());
        for query in self.queries.rows() {
            let begin = Instant::now();
            self.search(index, query, ef, &mut cursor, &mut row)?;
            taken.push(begin.elapsed().as_secs_f64() * 1e6);
        }
        taken.sort_by(f64::total_cmp);
        let quantile = |q: f64| taken.get((taken.len().saturating_sub(1) as f64 * q).round() as usize);
        let figures = json!({ "qps": qps, "cpu_us": cpu * 1e6, "p50_us": quantile(0.5), "p99_us": quantile(0.99) });
        Ok((figures, answers))
    }
}

/// Which of `rows` rows a list names.
fn mask(list: &Matrix<u32>, rows: usize) -> Outcome<Vec<bool>> {
    let mut mask = vec![false; rows];
    for id in list.values() {
        *mask.get_mut(*id as usize).ok_or_else(|| format!("the filter names row {id}, there are {rows}"))? = true;
    }
    Ok(mask)
}

/// Of all threads of this process.
fn processor_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap_or_default()
}

fn number<T: std::str::FromStr>(words: &[&str], at: usize) -> Outcome<T> {
    let word = words.get(at).ok_or("a number is missing")?;
    word.parse().map_err(|_| format!("{word:?} is not a number that fits").into())
}

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (task, answers) = Task::of(&arguments)?;
    let mut out = std::io::stdout().lock();
    let mut built: Option<Hnsw<F32Rows>> = None;
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
                let fresh = pool.install(|| index(&task.base, task.metric, task.params))?;
                let build_s = begin.elapsed().as_secs_f64();
                let sealed = vecindex::seal(&fresh, &mut std::io::sink(), &mut std::io::sink())?;
                let bytes = (sealed.rows_bytes + sealed.graph_bytes) as f64 / f64::from(sealed.rows.max(1));
                built = Some(fresh);
                json!({ "build_s": build_s, "bytes_per_vector": bytes })
            }
            ("search", Some(index)) => {
                let (figures, found) =
                    task.measure(index, number(&words, 1)?, number(&words, 2)?, number(&words, 3)?)?;
                let bytes: Vec<u8> = found.iter().flat_map(|id| id.to_le_bytes()).collect();
                std::fs::write(Path::new(answers), bytes)?;
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

//! The clock: queries per second, processor time and percentiles of a search.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};
use vecindex::Encoding;

use super::Outcome;
use super::subject::{Context, Subject};

/// All queries once, shared out to threads query by query; the answers.
fn pass<E: Encoding>(subject: &Subject<'_, E>, ef: usize, threads: usize) -> Outcome<Vec<i32>> {
    let (queries, k) = (&subject.task.queries, subject.task.k);
    let next = AtomicUsize::new(0);
    let work = || -> Outcome<Vec<(usize, Vec<i32>)>> {
        let (mut context, mut done) = (Context::default(), Vec::new());
        loop {
            // In pieces, so that threads do not wait for each other at the counter.
            let from = next.fetch_add(16, Ordering::Relaxed);
            let to = (from + 16).min(queries.len());
            if from >= to {
                return Ok(done);
            }
            let mut rows = vec![-1; (to - from) * k];
            for (query, row) in (from..to).zip(rows.chunks_exact_mut(k)) {
                subject.search(queries.row(query), ef, &mut context, row)?;
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
    let mut answers = vec![-1; queries.len() * k];
    for (from, rows) in done {
        answers[from * k..from * k + rows.len()].copy_from_slice(&rows);
    }
    Ok(answers)
}

/// The figures of a search at one width, and its answers.
///
/// # Errors
/// A query that the index refuses.
pub fn measure<E: Encoding>(
    subject: &Subject<'_, E>,
    ef: usize,
    threads: usize,
    seconds: f64,
) -> Outcome<(Value, Vec<i32>)> {
    let answers = pass(subject, ef, threads)?;
    let (begin, cpu, mut passes) = (Instant::now(), processor_time(), 0);
    while passes == 0 || begin.elapsed().as_secs_f64() < seconds {
        pass(subject, ef, threads)?;
        passes += 1;
    }
    let queries = (passes * subject.task.queries.len()) as f64;
    let (qps, cpu) = (queries / begin.elapsed().as_secs_f64(), (processor_time() - cpu).as_secs_f64() / queries);
    let (mut context, mut row) = (Context::default(), vec![-1; subject.task.k]);
    let mut taken = Vec::with_capacity(subject.task.queries.len());
    for query in subject.task.queries.rows() {
        let begin = Instant::now();
        subject.search(query, ef, &mut context, &mut row)?;
        taken.push(begin.elapsed().as_secs_f64() * 1e6);
    }
    taken.sort_by(f64::total_cmp);
    let quantile = |q: f64| taken.get((taken.len().saturating_sub(1) as f64 * q).round() as usize);
    let figures = json!({ "qps": qps, "cpu_us": cpu * 1e6, "p50_us": quantile(0.5), "p99_us": quantile(0.99) });
    Ok((figures, answers))
}

/// Of all threads of this process.
fn processor_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap_or_default()
}

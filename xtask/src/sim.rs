//! `cargo xtask sim`: the deterministic simulation of the LSM engine, over as many seeds as one likes, on all cores.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use clap::Args;

use crate::failure::{Failure, Outcome};
use crate::{places, progress};

/// Seeds of one process.
const CHUNK: u64 = 250;

/// The test that simulates them.
const TEST: &str = "everything_holds_in_every_order_that_the_seeds_give";

/// Which seeds.
#[derive(Args)]
pub struct Options {
    /// How many seeds
    #[arg(long, default_value_t = 100_000)]
    seeds: u64,
    /// The first of them
    #[arg(long, default_value_t = 0)]
    from: u64,
}

/// Runs it.
///
/// # Errors
/// If a seed fails. What failed, and how to see it again, is printed.
pub fn run(options: &Options) -> Outcome<()> {
    let mut build = places::cargo();
    build.args(["test", "--quiet", "--package", "lsmstore", "--test", "sim", "--no-run"]);
    let built = build.status().map_err(|e| Failure::new(format!("running {}: {e}", progress::display(&build))))?;
    if !built.success() {
        return Err(Failure::new("the simulation does not compile"));
    }
    let end = options.from.saturating_add(options.seeds);
    let (next, done, failed) = (AtomicU64::new(options.from), AtomicU64::new(0), AtomicBool::new(false));
    let begin = Instant::now();
    let work = || -> Outcome<()> {
        loop {
            let from = next.fetch_add(CHUNK, Ordering::Relaxed);
            if from >= end {
                return Ok(());
            }
            let count = CHUNK.min(end - from);
            if !chunk(from, count)? {
                failed.store(true, Ordering::Relaxed);
            }
            let done = done.fetch_add(count, Ordering::Relaxed) + count;
            println!("{done} of {} seeds in {:.0} s", options.seeds, begin.elapsed().as_secs_f64());
        }
    };
    let cores = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| -> Outcome<()> {
        let workers: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            worker.join().map_err(|_| Failure::new("a worker panicked"))??;
        }
        Ok(())
    })?;
    match failed.load(Ordering::Relaxed) {
        true => Err(Failure::new("seeds fail; above it says which, and how to see them again")),
        false => Ok(()),
    }
}

/// Simulates some seeds in a process of their own, on one core, the first one twice; no if one of them fails, or does not
/// do the same the second time.
fn chunk(from: u64, count: u64) -> Outcome<bool> {
    let mut cargo = places::cargo();
    cargo.args(["test", "--quiet", "--package", "lsmstore", "--test", "sim", TEST, "--", "--exact", "--nocapture"]);
    cargo.env("LSMSTORE_SIM_FROM", from.to_string()).env("LSMSTORE_SIM_SEEDS", count.to_string());
    cargo.env("LSMSTORE_SIM_THREADS", "1").env("RUST_BACKTRACE", "0");
    let out = cargo.output().map_err(|e| Failure::new(format!("running {}: {e}", progress::display(&cargo))))?;
    let (told, errors) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    // A name that no test has any more is a success to cargo.
    let passed = out.status.success() && told.contains("1 passed");
    if !passed {
        print!("{told}{errors}");
    }
    Ok(passed)
}

//! A deterministic simulation: a store with all its background work, its users, several machines with their disks, and
//! a bucket behind a bad network, in an order that is drawn from a seed and in virtual time.
//!
//! `LSMSTORE_SIM_SEEDS` is how many seeds are tried, `LSMSTORE_SIM_FROM` the first of them; `LSMSTORE_SIM_TRACE=1` tells what
//! happens, `LSMSTORE_SIM_THREADS` is on how many threads (all cores). A seed that fails is printed with how to see it again.
#![allow(clippy::unwrap_used)]

mod actors;
mod bucket;
#[allow(dead_code, reason = "shared with tests that use more of it")]
#[path = "../behaviour/disk.rs"]
mod disk;
#[allow(dead_code, reason = "shared with tests that use more of it")]
#[path = "../behaviour/env.rs"]
mod env;
mod follower;
mod journal;
mod machine;
mod model;
mod rest;
mod settings;
mod tally;
mod world;

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use lsmstore::{DeterministicReactor, Reactor};

use world::World;

/// No seed needs more.
const MOST_STEPS: u64 = 3_000_000;

fn number(variable: &str, otherwise: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|error| panic!("{variable} is {text:?}: {error}")),
        Err(_) => otherwise,
    }
}

/// Tells what happens, if somebody wants to know.
fn tell(reactor: &DeterministicReactor, text: impl FnOnce() -> String) {
    static WANTED: OnceLock<bool> = OnceLock::new();
    if *WANTED.get_or_init(|| std::env::var_os("LSMSTORE_SIM_TRACE").is_some()) {
        println!("{:>12.6} {}", reactor.monotonic().as_secs_f64(), text());
    }
}

/// Runs a seed to its end; a hash of all that happened.
fn simulate(seed: u64) -> u64 {
    let reactor = DeterministicReactor::new(seed);
    reactor.limit(MOST_STEPS);
    let root = disk::quick_folder();
    let world = Arc::new(World::new(&reactor, root.path()));
    reactor.run(world.run()).unwrap_or_else(|stalled| panic!("{stalled}"));
    reactor.trace()
}

fn explain(seed: u64) {
    println!(
        "seed {seed} fails; to see it again: LSMSTORE_SIM_FROM={seed} LSMSTORE_SIM_SEEDS=1 LSMSTORE_SIM_TRACE=1 \
         cargo test -p lsmstore --test sim everything -- --nocapture"
    );
}

#[test]
fn everything_holds_in_every_order_that_the_seeds_give() {
    let (from, count) = (number("LSMSTORE_SIM_FROM", 0), number("LSMSTORE_SIM_SEEDS", 100));
    let (next, failed) = (AtomicU64::new(from), Mutex::new(BTreeSet::new()));
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= from + count {
                return;
            }
            // The first one twice, wherever this runs: nothing but the seed decides.
            let times = if seed == from { 2 } else { 1 };
            let traces =
                catch_unwind(AssertUnwindSafe(|| (0..times).map(|_| simulate(seed)).collect::<BTreeSet<u64>>()));
            if traces.map_or(true, |traces| traces.len() > 1) {
                explain(seed);
                failed.lock().unwrap().insert(seed);
            }
        }
    };
    // A seed has nothing to do with another one.
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    let threads = number("LSMSTORE_SIM_THREADS", cores);
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{} of {count} seeds fail: {failed:?}", failed.len());
    let counts = tally::counts();
    println!("{counts:?}");
    assert!(count < 1000 || counts.iter().all(|(_, times)| *times > 0), "some faults never came: {counts:?}");
}

#[test]
fn the_same_seed_gives_the_same_run_and_another_one_another() {
    let traces: Vec<u64> = (0..8).map(simulate).collect();
    let again: Vec<u64> = (0..8).map(simulate).collect();
    assert_eq!(traces, again, "something beside the seed decides what is done");
    let all: BTreeSet<u64> = traces.iter().copied().collect();
    assert_eq!(all.len(), traces.len());
}

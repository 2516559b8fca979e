//! A deterministic simulation: a store with all its background work, its users, several machines with their disks, and
//! a bucket behind a bad network, in an order that is drawn from a seed and in virtual time.
//!
//! `KRIYA_SIM_SEEDS` is how many seeds are tried, `KRIYA_SIM_FROM` the first of them; `KRIYA_SIM_TRACE=1` tells what
//! happens. A seed that fails is printed with how to see it again.
#![allow(clippy::unwrap_used)]

mod actors;
mod bucket;
#[allow(dead_code, reason = "shared with tests that use more of it")]
#[path = "../behaviour/disk.rs"]
mod disk;
#[allow(dead_code, reason = "shared with tests that use more of it")]
#[path = "../behaviour/env.rs"]
mod env;
mod machine;
mod model;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};

use lsmstore::{DeterministicReactor, Reactor};

use world::World;

/// No seed needs more.
const MOST_STEPS: u64 = 3_000_000;

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// Tells what happens, if somebody wants to know.
fn tell(reactor: &DeterministicReactor, text: impl FnOnce() -> String) {
    static WANTED: OnceLock<bool> = OnceLock::new();
    if *WANTED.get_or_init(|| std::env::var_os("KRIYA_SIM_TRACE").is_some()) {
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
        "seed {seed} fails; to see it again: KRIYA_SIM_FROM={seed} KRIYA_SIM_SEEDS=1 KRIYA_SIM_TRACE=1 \
         cargo test -p lsmstore --test sim everything -- --nocapture"
    );
}

#[test]
fn everything_holds_in_every_order_that_the_seeds_give() {
    let (from, count) = (number("KRIYA_SIM_FROM", 0), number("KRIYA_SIM_SEEDS", 100));
    let failed: Vec<u64> =
        (from..from + count).filter(|&seed| catch_unwind(AssertUnwindSafe(|| simulate(seed))).is_err()).collect();
    failed.iter().for_each(|seed| explain(*seed));
    assert!(failed.is_empty(), "{} of {count} seeds fail: {failed:?}", failed.len());
}

#[test]
fn the_same_seed_gives_the_same_run_and_another_one_another() {
    let traces: Vec<u64> = (0..8).map(simulate).collect();
    let again: Vec<u64> = (0..8).map(simulate).collect();
    assert_eq!(traces, again, "something beside the seed decides what is done");
    let all: std::collections::BTreeSet<u64> = traces.iter().copied().collect();
    assert_eq!(all.len(), traces.len());
}

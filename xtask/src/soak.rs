//! `cargo xtask soak crash`: the campaign of the server tests, for as many rounds as one likes: kills, deaths at fail
//! points and power cuts, on server after server, until something is lost. `cargo xtask soak lsm`: the engine alone, killed.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use kriya_testkit::campaign::{Attack, Campaign, Keep, LOAD_POINTS, PowerSupply};
use kriya_testkit::{Builder, Installation, Postgres, StopMode};

use crate::failure::{Failure, Outcome};
use crate::{extension, places, progress, setup};

/// What is soaked.
#[derive(Subcommand)]
pub enum Soak {
    /// Kill servers under load, and check after each kill that nothing acknowledged is lost
    Crash(CrashOptions),
    /// The same with the LSM engine alone
    Lsm {
        /// How often it is killed
        #[arg(long, default_value_t = 200)]
        kills: u32,
    },
}

/// How long, and where it starts.
#[derive(Args)]
pub struct CrashOptions {
    /// How often a server is attacked
    #[arg(long, default_value_t = 500)]
    rounds: usize,
    /// What all choices come from [default: the clock]
    #[arg(long)]
    seed: Option<u64>,
    /// Major version of PostgreSQL
    #[arg(long = "pg", value_name = "N", default_value_t = 17, value_parser = clap::value_parser!(u32).range(13..=18))]
    major: u32,
}

/// Attacks of one server, before the next one takes its place.
const ROUNDS_PER_SERVER: usize = 60;

/// Runs it.
///
/// # Errors
/// What was lost, with the seed of the server that lost it.
pub fn run(soak: &Soak) -> Outcome<()> {
    let options = match soak {
        Soak::Crash(options) => options,
        Soak::Lsm { kills } => return lsm(*kills),
    };
    let pg = setup::setup(options.major)?;
    extension::build(&pg)?;
    let clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |now| now.as_secs());
    let first = options.seed.unwrap_or_else(clock);
    let begin = Instant::now();
    let mut done = 0;
    for number in 0.. {
        if done >= options.rounds {
            break;
        }
        let rounds = ROUNDS_PER_SERVER.min(options.rounds - done);
        let seed = first.wrapping_add(number);
        println!("server {number}, seed {seed}: {rounds} rounds");
        let report = match number % 3 {
            0 => kills(&pg, busy, seed, rounds)?,
            1 => kills(&pg, |builder| builder, seed, rounds)?,
            _ => power_cuts(&pg, seed, rounds)?,
        };
        done += rounds;
        println!("  {report}\n  {done} rounds in {:.0} s", begin.elapsed().as_secs_f64());
    }
    Ok(())
}

/// The engine's own test, which kills a process of its own as often as it is told to.
fn lsm(kills: u32) -> Outcome<()> {
    let mut cargo = places::cargo();
    cargo.args(["test", "--quiet", "--package", "lsmstore", "--test", "behaviour", "killed::", "--", "--nocapture"]);
    let status = cargo.env("LSMSTORE_KILLS", kills.to_string()).status();
    match status.map_err(|e| Failure::new(format!("running {}: {e}", progress::display(&cargo))))?.success() {
        true => Ok(()),
        false => Err(Failure::new("a kill was not survived; above it says how")),
    }
}

/// Flushes and merges all the time.
fn busy(builder: Builder) -> Builder {
    builder.setting("lsm_s3.memtable_size_mb", "1").setting("lsm_s3.flush_interval_ms", "50")
}

fn kills(pg: &Installation, settings: fn(Builder) -> Builder, seed: u64, rounds: usize) -> Outcome<String> {
    let mut campaign = Campaign::start(settings(Postgres::builder(pg)), seed, true)?;
    for round in 0..rounds {
        if round % 4 == 3 {
            let name = LOAD_POINTS[round / 4 % LOAD_POINTS.len()].to_owned();
            campaign.attack(&Attack::FailPoint { name, first: None, then_all: round % 8 == 3 })?;
        } else {
            campaign.attack_somehow()?;
        }
    }
    Ok(campaign.report().to_string())
}

fn power_cuts(pg: &Installation, seed: u64, rounds: usize) -> Outcome<String> {
    let supply = PowerSupply::new()?;
    let mut campaign = Campaign::start(busy(supply.plug_in(Postgres::builder(pg))), seed, false)?;
    if seed.is_multiple_of(2) {
        campaign.asynchronous();
    }
    campaign.server().stop(StopMode::Fast)?;
    supply.switch_on(campaign.server())?;
    campaign.server().start()?;
    for round in 0..rounds {
        campaign.lose_power(&supply, if round % 2 == 0 { Keep::Synced } else { Keep::SomeSectors })?;
    }
    Ok(campaign.report().to_string())
}

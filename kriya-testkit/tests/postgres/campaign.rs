//! Servers that are killed again and again under load; see `kriya_testkit::campaign` for what is checked after each kill.

use kriya_testkit::campaign::{Attack, Campaign, Keep, LOAD_POINTS, PowerSupply, START_POINTS};

use crate::support::builder;

/// From `KRIYA_SEED`, or the clock; printed, so that a failure can be tried again.
fn seed(name: &str) -> u64 {
    let given = std::env::var("KRIYA_SEED").ok().and_then(|seed| seed.parse().ok());
    let clock =
        || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(1, |now| now.as_micros() as u64);
    let seed = given.unwrap_or_else(clock);
    println!("{name}: KRIYA_SEED={seed}");
    seed
}

/// Flushes, merges and seals all the time.
fn busy(builder: kriya_testkit::Builder) -> kriya_testkit::Builder {
    builder.setting("lsm_s3.memtable_size_mb", "1").setting("lsm_s3.flush_interval_ms", "50")
}

fn rounds(mut campaign: Campaign, count: usize) {
    for _ in 0..count {
        campaign.attack_somehow().unwrap_or_else(|error| panic!("{error}"));
    }
    println!("{}", campaign.report());
}

#[test]
fn what_was_acknowledged_survives_kills_while_everything_is_flushed_at_once() {
    rounds(Campaign::start(busy(builder()), seed("busy"), false).expect("a server"), 26);
}

#[test]
fn what_was_acknowledged_survives_kills_while_little_is_flushed() {
    rounds(Campaign::start(builder(), seed("calm"), false).expect("a server"), 26);
}

/// Every point is come by, dies there, and takes nothing with it.
fn fail_at_each_point(then_all: bool) {
    let under_load = Campaign::start(busy(builder()), seed("points"), true).expect("a server");
    // Nothing is flushed in between, so that there is something to replay.
    let builder = builder().setting("lsm_s3.flush_interval_ms", "600000");
    let restarting = Campaign::start(builder, seed("points of a start"), true).expect("a server");
    for (mut campaign, points, first) in
        [(under_load, &LOAD_POINTS[..], None), (restarting, &START_POINTS[..], Some(Box::new(Attack::KillWorker)))]
    {
        for name in points {
            let attack = Attack::FailPoint { name: (*name).into(), first: first.clone(), then_all };
            campaign.attack(&attack).unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        println!("{}", campaign.report());
    }
}

#[test]
fn a_process_that_dies_at_any_point_takes_nothing_acknowledged_with_it() {
    fail_at_each_point(false);
}

#[test]
fn a_server_that_dies_with_a_process_at_any_point_takes_nothing_acknowledged_with_it() {
    fail_at_each_point(true);
}

fn power_cuts(count: usize, asynchronous: bool, settings: fn(kriya_testkit::Builder) -> kriya_testkit::Builder) {
    let supply = PowerSupply::new().expect("a power supply");
    let builder = settings(supply.plug_in(builder()));
    let mut campaign = Campaign::start(builder, seed("power"), false).expect("a server");
    if asynchronous {
        campaign.asynchronous();
    }
    campaign.server().stop(kriya_testkit::StopMode::Fast).expect("a stop");
    supply.switch_on(campaign.server()).expect("a disk");
    campaign.server().start().expect("a start");
    for round in 0..count {
        if round == count / 2 {
            // What an orderly stop leaves behind must not be believed after a cut.
            campaign.attack(&Attack::StopServer).unwrap_or_else(|error| panic!("{error}"));
        }
        let keep = if round % 2 == 0 { Keep::Synced } else { Keep::SomeSectors };
        campaign.lose_power(&supply, keep).unwrap_or_else(|error| panic!("{error}"));
    }
    println!("{}", campaign.report());
}

#[test]
fn what_was_acknowledged_survives_power_cuts() {
    power_cuts(6, false, busy);
}

#[test]
fn what_was_acknowledged_survives_power_cuts_while_little_is_flushed() {
    power_cuts(4, false, |builder| builder);
}

#[test]
fn without_synchronous_commit_power_cuts_take_the_last_transactions_as_a_whole_and_in_order() {
    power_cuts(4, true, busy);
}

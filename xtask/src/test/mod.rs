//! `cargo xtask test`: every test there is, part by part, each with its time; the last line counts them.
//!
//! Nothing passes silently: a part that cannot run counts as a failure, one that is left out is skipped by name. A part
//! whose tool fails without a failing test (it did not compile, say) is a failure too.

mod alone;
mod cargo_tests;
mod end_to_end;
mod licences;
mod lint;
mod lsm;
mod moto;
mod neon;
mod regress;
mod tally;
mod vectors;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Args;
use kriya_testkit::Installation;

use crate::failure::{Failure, Outcome};
use crate::{extension, places, setup};
use tally::Tally;

/// What a test run can be told.
#[derive(Args)]
pub struct Options {
    /// Major version of PostgreSQL, for all parts that need one [default: 17, and 15 beside it]
    #[arg(long = "pg", value_name = "N", value_parser = clap::value_parser!(u32).range(13..=18))]
    major: Option<u32>,
    /// Only this part (may be repeated): format, lints, licences, crates, alone, sets, ann, lsm, glue, sql, server, sql-15, server-15,
    /// packages, bench, fashion-mnist, moto, neon
    #[arg(long, value_name = "NAME", value_parser = clap::builder::PossibleValuesParser::new(PARTS.map(|p| p.name)))]
    only: Vec<String>,
    /// Leave out what is slow (it is counted as skipped)
    #[arg(long)]
    quick: bool,
    /// Where the large public data sets are [default: ../shared/datasets beside the clone]
    #[arg(long, value_name = "DIR")]
    datasets: Option<PathBuf>,
}

/// One part of the run.
#[derive(Clone, Copy)]
struct Part {
    name: &'static str,
    when: When,
    run: Run,
}

/// The runs that a part belongs to; every run that names it does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum When {
    Always,
    /// Not those with --quick.
    NotQuick,
    /// No others.
    OnDemand,
}

/// What a part needs.
#[derive(Clone, Copy)]
enum Run {
    /// Nothing but the workspace.
    Plain(fn(&mut Tally) -> Outcome<()>),
    /// The large public sets, if they are there.
    WithSets(fn(&mut Tally, &Options) -> Outcome<()>),
    /// A Postgres with the extension in it.
    WithPostgres(fn(&mut Tally, &Installation, &Options) -> Outcome<()>),
    /// The same beside it, with the other version that is promised to work.
    WithOther(fn(&mut Tally, &Installation) -> Outcome<()>),
}

/// The PostgreSQL that everything is tried with, and the one beside it.
const MAJOR: u32 = 17;
const OTHER: u32 = 15;

const PARTS: [Part; 18] = [
    Part { name: "format", when: When::Always, run: Run::Plain(lint::format) },
    Part { name: "lints", when: When::Always, run: Run::Plain(lint::clippy) },
    Part { name: "licences", when: When::Always, run: Run::Plain(licences::check) },
    Part { name: "crates", when: When::Always, run: Run::Plain(cargo_tests::crates) },
    Part { name: "alone", when: When::Always, run: Run::Plain(alone::readme) },
    Part { name: "sets", when: When::NotQuick, run: Run::WithSets(vectors::sets) },
    Part { name: "ann", when: When::Always, run: Run::Plain(vectors::ann) },
    Part { name: "lsm", when: When::Always, run: Run::Plain(lsm::bench) },
    Part { name: "glue", when: When::Always, run: Run::WithPostgres(|tally, pg, _| lint::glue(tally, pg)) },
    Part { name: "sql", when: When::Always, run: Run::WithPostgres(|tally, pg, _| regress::run(tally, pg)) },
    Part {
        name: "server",
        when: When::Always,
        run: Run::WithPostgres(|tally, pg, _| cargo_tests::server(tally, pg, "server")),
    },
    Part { name: "sql-15", when: When::NotQuick, run: Run::WithOther(regress::run) },
    Part {
        name: "server-15",
        when: When::NotQuick,
        run: Run::WithOther(|tally, pg| cargo_tests::server(tally, pg, "server-15")),
    },
    Part {
        name: "packages",
        when: When::Always,
        run: Run::WithPostgres(|tally, pg, _| end_to_end::packages(tally, pg)),
    },
    Part { name: "bench", when: When::Always, run: Run::WithPostgres(|tally, pg, _| end_to_end::bench(tally, pg)) },
    Part { name: "fashion-mnist", when: When::NotQuick, run: Run::WithPostgres(end_to_end::fashion_mnist) },
    Part { name: "moto", when: When::OnDemand, run: Run::Plain(moto::run) },
    Part { name: "neon", when: When::OnDemand, run: Run::Plain(neon::run) },
];

/// Runs the tests and prints the count; fails if one has failed.
///
/// # Errors
/// Only if not even the logs can be written; failing tests are counted, not errors.
pub fn run(options: &Options) -> Outcome<ExitCode> {
    let logs = logs();
    std::fs::create_dir_all(&logs).map_err(Failure::doing("making", &logs))?;
    warn_of_little_room();
    let begin = Instant::now();
    let mut tally = Tally::default();
    let mut prepared = BTreeMap::new();
    for part in PARTS.iter().filter(|part| options.only.is_empty() || options.only.iter().any(|o| o == part.name)) {
        let left_out = match part.when {
            _ if !options.only.is_empty() => None,
            When::OnDemand => Some(format!("runs only with --only {}", part.name)),
            When::NotQuick if options.quick => Some("left out by --quick".to_owned()),
            When::Always | When::NotQuick => None,
        };
        if let Some(why) = left_out {
            tally.skip(format!("{}: {why}", part.name));
            continue;
        }
        let major = match part.run {
            Run::WithOther(_) => {
                if let Some(why) = without_other(options) {
                    tally.skip(format!("{}: {why}", part.name));
                    continue;
                }
                OTHER
            }
            _ => options.major.unwrap_or(MAJOR),
        };
        println!("== {}", part.name);
        let begin = Instant::now();
        let before = tally.passed();
        let outcome = match part.run {
            Run::Plain(run) => run(&mut tally),
            Run::WithSets(run) => run(&mut tally, options),
            Run::WithPostgres(_) | Run::WithOther(_) => {
                match (prepared.entry(major).or_insert_with(|| prepare(major)), part.run) {
                    (Ok(pg), Run::WithPostgres(run)) => run(&mut tally, pg, options),
                    (Ok(pg), Run::WithOther(run)) => run(&mut tally, pg),
                    (Err(failure), _) => Err(Failure::new(format!("it cannot run: {failure}"))),
                    (Ok(_), Run::Plain(_) | Run::WithSets(_)) => Ok(()),
                }
            }
        };
        if let Err(failure) = outcome {
            println!("{failure}");
            tally.fail(part.name.to_owned());
        }
        println!("== {}: {} passed in {:.1} s\n", part.name, tally.passed() - before, begin.elapsed().as_secs_f64());
    }
    println!(
        "all parts together: {:.1} s; the tools' own output is in {}",
        begin.elapsed().as_secs_f64(),
        logs.display()
    );
    Ok(tally.conclude())
}

/// Bytes that a first run of everything writes below the target folder, and that the servers of its tests need.
const ROOM: u64 = 6 << 30;

/// Says beforehand why a run may fail half way: compilers and servers word a full disk in many ways.
fn warn_of_little_room() {
    let Ok(disk) = rustix::fs::statvfs(places::target()) else { return };
    let free = disk.f_bavail * disk.f_frsize;
    if free < ROOM {
        let gb = |bytes: u64| bytes as f64 / f64::from(1 << 30);
        println!("the disk has {:.1} GiB free; a first run of everything takes up to {:.1}", gb(free), gb(ROOM));
    }
}

/// Why nothing runs with the other version.
fn without_other(options: &Options) -> Option<&'static str> {
    if options.major.is_some() {
        return Some("--pg names the only version to try");
    }
    let named = std::env::var_os("KRIYA_PG_CONFIG").is_some_and(|path| !path.is_empty());
    named.then_some("KRIYA_PG_CONFIG names the only PostgreSQL to try")
}

/// Postgres with the freshly built extension.
fn prepare(major: u32) -> Outcome<Installation> {
    let pg = setup::setup(major)?;
    extension::build(&pg)?;
    Ok(pg)
}

/// Where the output of the tools goes.
fn logs() -> PathBuf {
    places::state().join("test-logs")
}

//! `cargo xtask test`: every test there is, part by part, each with its time; the last line counts them.
//!
//! Nothing passes silently: a part that cannot run counts as a failure, one that is left out is skipped by name. A part
//! whose tool fails without a failing test (it did not compile, say) is a failure too.

mod cargo_tests;
mod end_to_end;
mod licences;
mod lint;
mod regress;
mod tally;

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
    /// Major version of PostgreSQL
    #[arg(long = "pg", value_name = "N", default_value_t = 17, value_parser = clap::value_parser!(u32).range(13..=18))]
    major: u32,
    /// Only this part (may be repeated): format, lints, licences, crates, sql, server, packages, bench,
    /// fashion-mnist
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
    slow: bool,
    run: Run,
}

/// What a part needs.
#[derive(Clone, Copy)]
enum Run {
    /// Nothing but the workspace.
    Plain(fn(&mut Tally) -> Outcome<()>),
    /// A Postgres with the extension in it.
    WithPostgres(fn(&mut Tally, &Installation, &Options) -> Outcome<()>),
}

const PARTS: [Part; 9] = [
    Part { name: "format", slow: false, run: Run::Plain(lint::format) },
    Part { name: "lints", slow: false, run: Run::Plain(lint::clippy) },
    Part { name: "licences", slow: false, run: Run::Plain(licences::check) },
    Part { name: "crates", slow: false, run: Run::Plain(cargo_tests::crates) },
    Part { name: "sql", slow: false, run: Run::WithPostgres(|tally, pg, _| regress::run(tally, pg)) },
    Part { name: "server", slow: false, run: Run::WithPostgres(|tally, pg, _| cargo_tests::server(tally, pg)) },
    Part { name: "packages", slow: false, run: Run::WithPostgres(|tally, pg, _| end_to_end::packages(tally, pg)) },
    Part { name: "bench", slow: false, run: Run::WithPostgres(|tally, pg, _| end_to_end::bench(tally, pg)) },
    Part { name: "fashion-mnist", slow: true, run: Run::WithPostgres(end_to_end::fashion_mnist) },
];

/// Runs the tests and prints the count; fails if one has failed.
///
/// # Errors
/// Only if not even the logs can be written; failing tests are counted, not errors.
pub fn run(options: &Options) -> Outcome<ExitCode> {
    let logs = logs();
    std::fs::create_dir_all(&logs).map_err(Failure::doing("making", &logs))?;
    let begin = Instant::now();
    let mut tally = Tally::default();
    let mut postgres = None;
    for part in PARTS.iter().filter(|part| options.only.is_empty() || options.only.iter().any(|o| o == part.name)) {
        if options.quick && part.slow && options.only.is_empty() {
            tally.skip(format!("{}: left out by --quick", part.name));
            continue;
        }
        println!("== {}", part.name);
        let begin = Instant::now();
        let before = tally.passed();
        let outcome = match part.run {
            Run::Plain(run) => run(&mut tally),
            Run::WithPostgres(run) => {
                let pg = postgres.get_or_insert_with(|| prepare(options.major));
                match pg {
                    Ok(pg) => run(&mut tally, pg, options),
                    Err(failure) => Err(Failure::new(format!("it cannot run: {failure}"))),
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

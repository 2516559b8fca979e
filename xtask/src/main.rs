//! `cargo xtask`: everything a newcomer types. `cargo xtask demo` shows what this is, `cargo xtask test` tells whether
//! it works; both get what they need by themselves (`setup`, `build`). `pg start`, `psql` and `pg stop` are for
//! playing and for developing.
#![forbid(unsafe_code)]

mod bench;
mod dataset;
mod demo;
mod extension;
mod failure;
mod pg;
mod places;
mod progress;
mod setup;
mod sim;
mod soak;
mod test;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use failure::Outcome;

/// KriyaDB: build it, try it, test it.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// Which PostgreSQL.
#[derive(Args, Clone, Copy)]
struct Major {
    /// Major version of PostgreSQL
    #[arg(long = "pg", value_name = "N", default_value_t = 17, value_parser = clap::value_parser!(u32).range(13..=18))]
    major: u32,
}

#[derive(Subcommand)]
enum Command {
    /// Find or make a PostgreSQL to build for, and install what the build needs
    Setup(Major),
    /// Build the extension and install it into that PostgreSQL
    Build(Major),
    /// Run every test there is; the last line counts them
    Test(test::Options),
    /// Disturb servers for a long time and look whether anything is lost
    #[command(subcommand)]
    Soak(soak::Soak),
    /// Simulate the LSM engine in orders that are drawn from seeds, and look whether anything goes wrong
    Sim(sim::Options),
    /// A private server with the extension
    #[command(subcommand)]
    Pg(PgCommand),
    /// Open psql on the server that was started last (by `pg start` or `demo`)
    Psql {
        /// What psql is to be given
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Search real data in plain English, on a private server
    Demo(demo::Options),
    /// Measurements
    #[command(subcommand)]
    Bench(BenchCommand),
    /// Sets of vectors: public ones, true neighbours, the checked-in data
    #[command(subcommand)]
    Dataset(dataset::DatasetCommand),
}

#[derive(Subcommand)]
enum PgCommand {
    /// Start a server (made if it does not exist yet) and print its connection URL; it stays
    Start(pg::StartOptions),
    /// Stop what `pg start` and `demo` have started
    Stop {
        /// Only the server on this port
        #[arg(long)]
        port: Option<u16>,
    },
}

#[derive(Subcommand)]
enum BenchCommand {
    /// Speed and recall through SQL, beside heap tables and pgvector, in turns on one server
    Pg(bench::Options),
    /// Speed and recall of the index alone, beside other libraries, in turns
    Ann(bench::ann::Options),
    /// The LSM engine beside other engines: filling, getting, scanning, opening, in turns
    Lsm(bench::lsm::Options),
    /// The records of `bench ann` as curves and a table
    Report(bench::ann::ReportOptions),
}

fn run(command: Command) -> Outcome<ExitCode> {
    match command {
        Command::Setup(Major { major }) => setup::setup(major).map(|_| ()),
        Command::Build(Major { major }) => setup::setup(major).and_then(|pg| extension::build(&pg)),
        Command::Test(options) => return test::run(&options),
        Command::Soak(soak) => soak::run(&soak),
        Command::Sim(options) => sim::run(&options),
        Command::Pg(PgCommand::Start(options)) => pg::start(&options),
        Command::Pg(PgCommand::Stop { port }) => pg::stop(port),
        Command::Psql { args } => pg::psql(&args),
        Command::Demo(options) => demo::run(&options),
        Command::Bench(BenchCommand::Pg(options)) => bench::run(&options),
        Command::Bench(BenchCommand::Ann(options)) => return bench::ann::run(&options),
        Command::Bench(BenchCommand::Lsm(options)) => bench::lsm::run(&options),
        Command::Bench(BenchCommand::Report(options)) => bench::ann::report(&options),
        Command::Dataset(command) => dataset::run(command),
    }
    .map(|()| ExitCode::SUCCESS)
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::FAILURE
        }
    }
}

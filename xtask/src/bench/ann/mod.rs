//! `cargo xtask bench ann`: recall and speed of the index alone, beside other libraries.
//!
//! Every subject is a process of its own that has read the same files. They build one after the other, and search in turns:
//! width by width, within each width subject by subject, in another order every round. A machine that is busy with something
//! else disturbs all alike. The widths are fixed beforehand. How a search is timed stands in `benches/src/bin/ann.rs`, and for
//! the peers, which are called through Python, in `peer.py`.

mod curve;
mod filter;
mod input;
mod peers;
mod record;
mod report;
mod subjects;
mod summary;
mod worker;

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use clap::builder::PossibleValuesParser;
use kriya_datasets::recall;
use serde_json::{Value, json};

use super::machine;
use super::point::rounded;
use crate::dataset::MetricName;
use crate::failure::{Failure, Outcome};
use crate::places;
use filter::Filter;
use input::Input;
use peers::Peers;
use record::{Line, Verdict};
pub use report::{ReportOptions, report};
use subjects::{Encoding, Subject};
use worker::Worker;

/// The exit code of a run that is void.
const VOID: u8 = 3;

/// What the measurement can be told.
#[derive(Args)]
pub struct Options {
    /// The rows: a file of vectors; of an HDF5 file that is named without a table, its queries and truth are taken as well
    #[arg(long, value_name = "FILE")]
    base: PathBuf,
    /// The queries
    #[arg(long, value_name = "FILE")]
    query: Option<PathBuf>,
    /// The true neighbours of each query [default: found by comparing with every row]
    #[arg(long, value_name = "FILE")]
    gt: Option<PathBuf>,
    /// How rows are compared
    #[arg(long, value_enum)]
    metric: MetricName,
    /// How vectors are stored; peers take part in those that they have, hnswlib always in f32. What is found in others than
    /// f32 is compared once more in f32, as many as max(2 k, k + 10), in view of the search
    #[arg(long, value_enum, value_name = "ENCODING,...", value_delimiter = ',', default_value = "f32")]
    encoding: Vec<Encoding>,
    /// Let stand what is found in other encodings than f32, and keep no vectors of f32
    #[arg(long)]
    no_rerank: bool,
    /// Links of a node (on the lowest level twice as many)
    #[arg(long, default_value_t = 16)]
    m: usize,
    /// Width of the search when a node is linked
    #[arg(long, value_name = "N", default_value_t = 200)]
    ef_construction: usize,
    /// Widths of the searches
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_values_t = [10, 16, 24, 32, 48, 64, 96, 128, 200, 400])]
    ef: Vec<usize>,
    /// Threads that search
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    threads: u16,
    /// Threads that build [default: one per core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    build_threads: Option<u16>,
    /// Neighbours that a query asks for
    #[arg(long, default_value_t = 10)]
    k: usize,
    /// Rows that may be answers: a share of all (0.005, 10%), drawn at random but always the same, or a file of row numbers
    /// (ibin, ivecs). Measured beside comparing all of them; --gt has to be the truth among them [default: found by that]
    #[arg(long, value_name = "SHARE|FILE")]
    filter: Option<Filter>,
    /// Libraries to measure beside
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', value_parser = PossibleValuesParser::new(peers::KNOWN.map(|p| p.name)))]
    peers: Vec<String>,
    /// How often everything is searched
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// In how many of the rounds, the first ones, the indexes are built anew
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    builds: u16,
    /// How long each subject searches at each width, at least
    #[arg(long, default_value_t = 0.5)]
    seconds: f64,
    /// What the set is called [default: after its HDF5 file or its folder]
    #[arg(long)]
    name: Option<String>,
    /// Also write every measurement to this file, one JSON object a line
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Earlier records, that hnswlib's speed is compared with [default: benches/records]
    #[arg(long, value_name = "DIR")]
    records: Option<PathBuf>,
    /// Only see whether this tool works: no optimised build, no figures worth keeping
    #[arg(long)]
    quick: bool,
}

/// Measures and tells.
///
/// # Errors
/// Data that do not fit, peers that cannot be had, subjects that give up.
pub fn run(options: &Options) -> Outcome<ExitCode> {
    if options.k == 0 || options.ef.is_empty() || options.ef.contains(&0) {
        return Err(Failure::new("--k and every --ef have to be 1 at least"));
    }
    let subjects = subjects::subjects(options)?;
    let earlier =
        record::read(&options.records.clone().unwrap_or_else(|| places::workspace().join("benches/records")))?;
    let peers = Peers::provide(&options.peers, &machine::cpu())?;
    let own = worker::own(!options.quick)?;
    let input = Input::read(options)?;
    println!("{}: {} x {} under {}", input.set, input.rows, input.dim, input.metric.name());
    let mut out = match &options.json {
        Some(path) => Some(BufWriter::new(File::create(path).map_err(Failure::doing("making", path))?)),
        None => None,
    };
    let mut write = |line: &Value| match &mut out {
        Some(out) => {
            writeln!(out, "{line}").and_then(|()| out.flush()).map_err(|e| Failure::new(format!("writing: {e}")))
        }
        None => Ok(()),
    };
    let (date, commit) = (machine::said("date", &["-u", "+%Y-%m-%dT%H:%M:%SZ"]), commit());
    let mut run: Vec<Line> = Vec::new();
    measure(options, subjects, &own, &peers, &input, &common(options, &input, &date, &commit), &mut |line| {
        write(&Value::Object(line.clone()))?;
        run.push(line);
        Ok(())
    })?;
    summary::print(&run);
    let verdict = Verdict::of(&run, &earlier);
    write(&verdict.line(&date, &commit))?;
    match verdict {
        Verdict::Kept(ratio) => println!("hnswlib ran at {ratio:.2} of its best earlier record"),
        Verdict::Unchecked(why) => println!("whether the machine was quiet is not known: {why}"),
        Verdict::Void(ratio) => {
            println!(
                "VOID: hnswlib ran at {ratio:.2} of its best earlier record, so the machine was busy; measure again"
            );
            return Ok(ExitCode::from(VOID));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Builds and searches, all subjects in turns; every measurement is handed to `keep`.
fn measure(
    options: &Options,
    subjects: Vec<Subject>,
    own: &Path,
    peers: &Peers,
    input: &Input,
    common: &Line,
    keep: &mut dyn FnMut(Line) -> Outcome<()>,
) -> Outcome<()> {
    let start = |subject| Worker::start(subject, own, peers, input);
    let mut subjects = subjects.into_iter().map(start).collect::<Outcome<Vec<_>>>()?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let build_threads = options.build_threads.map_or(cores, usize::from);
    let mut built = vec![record::Line::new(); subjects.len()];
    for round in 0..options.rounds {
        let mut order: Vec<usize> = (0..subjects.len()).collect();
        order.rotate_left(usize::from(round) % subjects.len().max(1));
        if round < options.builds {
            for at in &order {
                built[*at] = subjects[*at].build(build_threads)?;
                let seconds = record::figure(&built[*at], "build_s").unwrap_or_default();
                println!("  round {round}: {} built in {seconds:.1} s", subjects[*at].subject.shown());
            }
        }
        for ef in &options.ef {
            for at in &order {
                let worker = &mut subjects[*at];
                let (figures, answers) = worker.search(*ef, usize::from(options.threads), options.seconds)?;
                let mut line = common.clone();
                line.insert("library".into(), worker.subject.library.clone().into());
                line.insert("version".into(), worker.version.clone().into());
                line.insert("encoding".into(), worker.subject.encoding.name().into());
                line.insert("rerank".into(), worker.subject.rerank.into());
                line.insert("ef".into(), (*ef).into());
                line.insert("round".into(), round.into());
                line.insert("build_threads".into(), build_threads.into());
                line.insert("recall".into(), rounded(recall(&answers, &input.truth, input.k)).into());
                for (name, figure) in built[*at].iter().chain(&figures) {
                    line.insert(name.clone(), figure.as_f64().map(rounded).into());
                }
                keep(line)?;
            }
        }
    }
    Ok(())
}

/// What all lines of a run have in common.
fn common(options: &Options, input: &Input, date: &str, commit: &str) -> Line {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let common = json!({
        "set": input.set,
        "rows": input.rows,
        "dim": input.dim,
        "metric": input.metric.name(),
        "m": input.m,
        "ef_construction": input.ef_construction,
        "k": input.k,
        "threads": options.threads,
        "allowed": input.allowed,
        "machine": format!("{} x {cores}", machine::cpu()),
        "load_before": machine::load(),
        "profile": if options.quick { "dev" } else { "release" },
        "date": date,
        "commit": commit,
    });
    common.as_object().cloned().unwrap_or_default()
}

/// The commit that is measured.
fn commit() -> String {
    machine::said("git", &["describe", "--always", "--dirty", "--abbrev=12"])
}

//! `cargo xtask bench lsm`: our engine beside others, at the same work.
//!
//! Every engine does each workload in a process of its own, which ends before the next begins; within a workload they take
//! turns, in another order every round. A machine that is busy with something else disturbs all alike, and processor time
//! less than the clock. What the workloads are stands in `benches/lsm/src/lib.rs`.

mod subjects;
mod summary;

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use clap::builder::PossibleValuesParser;
use serde_json::{Map, Value, json};

use super::machine;
use super::point::rounded;
use crate::failure::{Failure, Outcome};
use crate::{places, progress};
use subjects::{PEERS, Subject};

/// What can be measured, in the order in which it is: the first makes what the others read.
const WORKLOADS: [&str; 9] = ["fill", "reopen", "get", "absent", "scan", "ranges", "durable", "cold", "follow"];
/// Those that are of no use to an engine without objects.
const REMOTE: [&str; 2] = ["cold", "follow"];
/// Those that only ours can do.
const OURS: [&str; 1] = ["follow"];

/// What the measurement can be told.
#[derive(Args)]
pub struct Options {
    /// Engines to measure beside ours
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', value_parser = PossibleValuesParser::new(PEERS))]
    peers: Vec<String>,
    /// How many keys
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "1000000")]
    keys: Vec<u64>,
    /// Bytes of their values
    #[arg(long, value_name = "N", default_value_t = 100)]
    value_bytes: u64,
    /// How many keys with values of 1,500 bytes are measured after that; 0 for none
    #[arg(long, value_name = "N", default_value_t = 200_000)]
    large: u64,
    /// Gets of a measurement
    #[arg(long, value_name = "N", default_value_t = 300_000, value_parser = clap::value_parser!(u64).range(1..))]
    ops: u64,
    /// Synced batches of a measurement
    #[arg(long, value_name = "N", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..))]
    batches: u64,
    /// Milliseconds that each request to the object store takes when nothing is on the local disk
    #[arg(long, value_name = "MS", default_value_t = 20)]
    latency: u64,
    /// How often everything is measured
    #[arg(long, value_name = "N", default_value_t = 1)]
    rounds: u16,
    /// Only these (`fill` is always among them)
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', value_parser = PossibleValuesParser::new(WORKLOADS))]
    workload: Vec<String>,
    /// Where the engines keep their data meanwhile [default: below the target folder]
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
    /// Also write every measurement to this file, one JSON object a line
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Only see whether this tool works: few keys, no optimised build, no figures worth keeping
    #[arg(long)]
    quick: bool,
}

/// A measurement by names.
type Line = Map<String, Value>;

/// How many rows of which size.
#[derive(Clone, Copy)]
struct Load {
    keys: u64,
    value_bytes: u64,
}

impl Options {
    fn loads(&self) -> Vec<Load> {
        if self.quick {
            return vec![Load { keys: 20_000, value_bytes: self.value_bytes }];
        }
        let mut loads: Vec<_> = self.keys.iter().map(|&keys| Load { keys, value_bytes: self.value_bytes }).collect();
        if self.large > 0 {
            loads.push(Load { keys: self.large, value_bytes: 1_500 });
        }
        loads
    }

    fn workloads(&self) -> Vec<&'static str> {
        let asked = |name: &str| self.workload.is_empty() || name == "fill" || self.workload.iter().any(|w| w == name);
        WORKLOADS.into_iter().filter(|name| asked(name)).collect()
    }

    /// Operations of a workload.
    fn ops(&self, workload: &str) -> u64 {
        match (workload, self.quick) {
            ("durable", true) => 5,
            ("durable", false) => self.batches,
            (_, true) => 2_000,
            (_, false) => self.ops,
        }
    }
}

/// Measures and tells.
///
/// # Errors
/// Peers that cannot be built, engines that give up or answer wrongly.
pub fn run(options: &Options) -> Outcome<()> {
    if options.keys.contains(&0) || options.value_bytes == 0 {
        return Err(Failure::new("--keys and --value-bytes have to be 1 at least"));
    }
    let subjects = subjects::provide(&options.peers, !options.quick)?;
    let mut out = match &options.json {
        Some(path) => Some(BufWriter::new(File::create(path).map_err(Failure::doing("making", path))?)),
        None => None,
    };
    if options.quick {
        println!("--quick: these figures show that the tool works, and nothing else");
    }
    let folder = options.folder.clone().unwrap_or_else(|| places::state().join("bench-lsm"));
    let common = common(options.quick);
    for load in options.loads() {
        let mut lines = Vec::new();
        println!("\n{} keys, values of {} bytes", load.keys, load.value_bytes);
        for round in 0..options.rounds {
            measure(options, &subjects, &folder, load, round, &common, &mut |line| {
                if let Some(out) = &mut out {
                    let written = writeln!(out, "{}", Value::Object(line.clone())).and_then(|()| out.flush());
                    written.map_err(|e| Failure::new(format!("writing: {e}")))?;
                }
                lines.push(line);
                Ok(())
            })?;
        }
        summary::print(&lines);
    }
    println!("\nload average at the end: {}", machine::load());
    Ok(())
}

/// All workloads of one load once, the engines in turns; every measurement is handed to `keep`.
fn measure(
    options: &Options,
    subjects: &[Subject],
    folder: &Path,
    load: Load,
    round: u16,
    common: &Line,
    keep: &mut dyn FnMut(Line) -> Outcome<()>,
) -> Outcome<()> {
    let clear = || match fs::remove_dir_all(folder) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Failure::doing("removing", folder)(e)),
        _ => Ok(()),
    };
    clear()?;
    let mut order: Vec<&Subject> = subjects.iter().collect();
    order.rotate_left(usize::from(round) % subjects.len().max(1));
    for workload in options.workloads() {
        for subject in order.iter().filter(|subject| subject.does(workload)) {
            let place = folder.join(&subject.name);
            fs::create_dir_all(&place).map_err(Failure::doing("making", &place))?;
            let before = machine::load();
            let latency = if REMOTE.contains(&workload) { options.latency } else { 0 };
            let arguments = [load.keys, load.value_bytes, options.ops(workload), latency].map(|n| n.to_string());
            let figures =
                progress::step(&format!("{workload}: {}", subject.name), || subject.run(workload, &place, &arguments))?;
            let mut line = Line::new();
            line.insert("engine".into(), subject.name.clone().into());
            line.insert("version".into(), subject.version.clone().into());
            line.insert("workload".into(), workload.into());
            line.insert("keys".into(), load.keys.into());
            line.insert("value_bytes".into(), load.value_bytes.into());
            for (name, figure) in figures {
                line.insert(name, figure.as_f64().map(rounded).into());
            }
            line.insert("round".into(), round.into());
            line.insert("load_before".into(), before.into());
            line.extend(common.clone());
            keep(line)?;
        }
    }
    clear()
}

/// What all lines of a run have in common.
fn common(quick: bool) -> Line {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let common = json!({
        "machine": format!("{} x {cores}", machine::cpu()),
        "profile": if quick { "dev" } else { "release" },
        "date": machine::said("date", &["-u", "+%Y-%m-%dT%H:%M:%SZ"]),
        "commit": machine::said("git", &["describe", "--always", "--dirty", "--abbrev=12"]),
    });
    common.as_object().cloned().unwrap_or_default()
}

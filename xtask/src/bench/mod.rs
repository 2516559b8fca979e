//! `cargo xtask bench pg`: speed and recall through SQL, on one temporary server, in turns.
//!
//! What is compared does the same work in the same server, one after the other within every round, each round in another
//! order: a machine that is busy with something else disturbs all alike, so ratios mean more than figures. Same vectors,
//! same parameters of the index, same settings, a server that waits for its disk. Before anything is measured the server
//! is brought to rest, so that nobody pays for what another left to be done in the background.

pub mod ann;
mod client;
mod data;
mod knn;
pub mod lsm;
mod machine;
mod pgvector;
mod point;
mod rows;
mod subject;
mod summary;

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use kriya_testkit::{Installation, Postgres};

use crate::extension::{self, Profile};
use crate::failure::{Failure, Outcome};
use crate::{places, progress, setup};
use data::{Data, Set};
use pgvector::Pgvector;
pub use point::Point;
pub use subject::{KRIYADB, KRIYADB_ON_HEAP, PGVECTOR, Subject};

/// Which sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Sets {
    FashionMnist,
    Packages,
    All,
}

/// What the measurement can be told.
#[derive(Args)]
pub struct Options {
    /// Major version of PostgreSQL
    #[arg(long = "pg", value_name = "N", default_value_t = 17, value_parser = clap::value_parser!(u32).range(13..=18))]
    major: u32,
    /// Also write every figure to this file, one JSON object a line
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Which vectors
    #[arg(long, value_enum, default_value = "all")]
    set: Sets,
    /// How often everything is measured
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=99))]
    rounds: u32,
    /// ef_construction of the indexes (may be repeated) [default: 64, which is pgvector's, and 200]
    #[arg(long, value_name = "N")]
    ef_construction: Vec<usize>,
    /// Only see whether this tool works: the checked-in set, few figures, no optimised build
    #[arg(long)]
    quick: bool,
    /// Where the large public data sets are [default: ../shared/datasets beside the clone]
    #[arg(long, value_name = "DIR")]
    datasets: Option<PathBuf>,
}

/// What is done, and how often.
pub struct Plan {
    /// Rounds of everything.
    pub rounds: usize,
    /// `m` of the indexes.
    pub m: usize,
    /// `ef_construction` of the indexes, one after the other.
    pub ef_constructions: Vec<usize>,
    /// Widths of the searches.
    pub widths: Vec<usize>,
    /// Rows inserted one by one, in each way.
    pub inserts: usize,
    /// Processes or threads that build an index.
    pub threads: usize,
    /// Who takes part.
    pub subjects: Vec<Subject>,
}

impl Plan {
    fn new(rounds: usize, ef_constructions: &[usize]) -> Plan {
        Plan {
            rounds,
            m: 16,
            ef_constructions: ef_constructions.to_vec(),
            widths: vec![10, 16, 24, 32, 40, 64, 100, 160, 250, 400],
            inserts: 500,
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            subjects: vec![KRIYADB, KRIYADB_ON_HEAP, PGVECTOR],
        }
    }

    /// To see whether the tool works.
    fn quick() -> Plan {
        Plan { widths: vec![20, 100], inserts: 50, ..Plan::new(1, &[64]) }
    }

    /// The subjects in the order of a round.
    pub fn in_turn(&self, round: usize) -> Vec<Subject> {
        let mut order = self.subjects.clone();
        order.rotate_left(round % self.subjects.len().max(1));
        order
    }
}

/// Measures and reports.
///
/// # Errors
/// What setting up, building, the server or the data say.
pub fn run(options: &Options) -> Outcome<()> {
    let pg = setup::setup(options.major)?;
    let profile = if options.quick { Profile::Dev } else { Profile::Release };
    extension::build_as(&pg, profile)?;
    let pgvector = Pgvector::provide(&pg)?;
    let facts = machine::facts(&pg, &pgvector.description(), profile);
    println!("{facts}");
    if options.quick {
        println!("--quick: these figures show that the tool works, and nothing else");
    }
    let mut out = match &options.json {
        Some(path) => Some(BufWriter::new(File::create(path).map_err(Failure::doing("making", path))?)),
        None => None,
    };
    let mut write = |line: &serde_json::Value| match &mut out {
        Some(out) => {
            writeln!(out, "{line}").and_then(|()| out.flush()).map_err(|e| Failure::new(format!("writing: {e}")))
        }
        None => Ok(()),
    };
    write(&facts)?;
    let plan = match (options.quick, &options.ef_construction[..]) {
        (true, _) => Plan::quick(),
        (false, []) => Plan::new(options.rounds as usize, &[64, 200]),
        (false, asked) => Plan::new(options.rounds as usize, asked),
    };
    let folder = options.datasets.clone().unwrap_or_else(places::shared_datasets);
    let sets: &[Set] = match options.set {
        _ if options.quick => &[Set::Packages],
        Sets::FashionMnist => &[Set::FashionMnist],
        Sets::Packages => &[Set::Packages],
        Sets::All => &[Set::FashionMnist, Set::Packages],
    };
    for set in sets {
        let data = Data::read(*set, &folder, options.quick)?;
        println!("\n{}: {} x {} under {}", data.name, data.base.len(), data.base.dim(), data.metric);
        let points = measure(&pg, Some(&pgvector), &plan, &data)?;
        points.iter().try_for_each(|point| write(&point.json()))?;
        summary::print(&points);
    }
    println!("\nload average at the end: {}", machine::load());
    Ok(())
}

/// The quick measurement of the checked-in set: whether this tool works. Also says why pgvector did not take part, if it
/// could not be had.
///
/// # Errors
/// What the server or the data say.
pub fn quick(pg: &Installation) -> Outcome<(Vec<Point>, Option<Failure>)> {
    let data = Data::read(Set::Packages, &places::shared_datasets(), true)?;
    match Pgvector::provide(pg) {
        Ok(pgvector) => Ok((measure(pg, Some(&pgvector), &Plan::quick(), &data)?, None)),
        Err(why) => {
            let plan = Plan { subjects: vec![KRIYADB, KRIYADB_ON_HEAP], ..Plan::quick() };
            Ok((measure(pg, None, &plan, &data)?, Some(why)))
        }
    }
}

fn measure(pg: &Installation, pgvector: Option<&Pgvector>, plan: &Plan, data: &Data) -> Outcome<Vec<Point>> {
    let server = server(pg, pgvector, plan)?;
    measure_on(&server, pgvector, plan, data)
        .map_err(|failure| Failure::new(format!("{failure}\nthe end of the server's log:\n{}", server.log_tail(20))))
}

/// A server like a small production one: memory for everything that is measured, and it waits for its disk.
fn server(pg: &Installation, pgvector: Option<&Pgvector>, plan: &Plan) -> Outcome<Postgres> {
    let helpers = plan.threads.saturating_sub(1).to_string();
    let library_path = pgvector.map_or_else(|| "$libdir".to_owned(), Pgvector::library_path);
    let settings = [
        ("shared_buffers", "1GB"),
        ("maintenance_work_mem", "1GB"),
        ("max_parallel_maintenance_workers", &helpers),
        ("max_wal_size", "16GB"),
        ("checkpoint_timeout", "1h"),
        ("autovacuum", "off"),
        ("dynamic_library_path", &library_path),
        ("lsm_s3.endpoint", "local"),
    ];
    let server = settings.iter().fold(Postgres::builder(pg), |server, (name, value)| server.setting(name, value));
    Ok(server.durable().start()?)
}

fn measure_on(server: &Postgres, pgvector: Option<&Pgvector>, plan: &Plan, data: &Data) -> Outcome<Vec<Point>> {
    let mut client = client::connect(server)?;
    client.batch_execute("CREATE EXTENSION kriya_pg")?;
    if let Some(pgvector) = pgvector {
        pgvector.create(&mut client)?;
    }
    let bytes = client::copy_bytes(&data.base)?;
    let mut points = progress::step("COPY", || rows::copies(&mut client, plan, data, &bytes))?;
    for ef_construction in plan.ef_constructions.iter().copied() {
        for round in 0..plan.rounds {
            progress::step(&format!("ef_construction {ef_construction}, round {round}"), || {
                points.extend(knn::builds(&mut client, plan, data, &bytes, ef_construction, round)?);
                points.extend(knn::searches(server, plan, data, ef_construction, round)?);
                points.extend(rows::inserts(&mut client, plan, data, ef_construction, round)?);
                Ok(())
            })?;
        }
    }
    Ok(points)
}

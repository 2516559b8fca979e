//! `cargo xtask dataset`: public sets of vectors are listed, fetched and given true neighbours; the checked-in cut is made.

mod checksum;
mod cut;
mod fetch;
mod get;
mod truth;

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use kriya_datasets::Metric;

use crate::failure::Outcome;
pub use cut::table;
pub use truth::style;

/// What can be done with sets of vectors.
#[derive(Subcommand)]
pub enum DatasetCommand {
    /// The public sets that are known by name
    List,
    /// Fetch a public set, or go on where an earlier attempt was broken off
    Get(GetOptions),
    /// Compute the true neighbours of queries by comparing them with every row
    Truth(TruthOptions),
    /// Make the checked-in cut of package descriptions from the whole data set
    Cut {
        /// The folder of the whole data set, `deb-minilm-384-cosine`
        #[arg(long, value_name = "DIR")]
        from: Option<PathBuf>,
        /// Where to write it
        #[arg(long, value_name = "DIR")]
        to: Option<PathBuf>,
    },
}

/// What fetching can be told.
#[derive(Args)]
pub struct GetOptions {
    /// The set's name, as `dataset list` shows it
    name: String,
    /// Where to put the folder of the set [default: ../shared/datasets beside the clone]
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
}

/// What is compared with what.
#[derive(Args)]
pub struct TruthOptions {
    /// The rows
    #[arg(long, value_name = "FILE")]
    base: PathBuf,
    /// The queries
    #[arg(long, value_name = "FILE")]
    query: PathBuf,
    /// How they are compared
    #[arg(long, value_enum)]
    metric: MetricName,
    /// Neighbours per query
    #[arg(long, default_value_t = 100)]
    k: usize,
    /// Only this many queries, the first ones
    #[arg(long, value_name = "N")]
    queries: Option<usize>,
    /// Writes PREFIX.ibin (row numbers) and PREFIX.dist.fbin (distances)
    #[arg(long, value_name = "PREFIX")]
    out: PathBuf,
}

/// A metric by the name it has on the command line and in records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum MetricName {
    /// Euclidean distance
    L2,
    /// 1 - cosine
    Cosine,
    /// Inner product, largest first
    Ip,
}

impl MetricName {
    /// The metric.
    pub fn metric(self) -> Metric {
        match self {
            MetricName::L2 => Metric::L2,
            MetricName::Cosine => Metric::Cosine,
            MetricName::Ip => Metric::InnerProduct,
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        name(self.metric())
    }
}

/// A metric's name.
fn name(metric: Metric) -> &'static str {
    match metric {
        Metric::L2 => "l2",
        Metric::Cosine => "cosine",
        Metric::InnerProduct => "ip",
    }
}

/// Does it.
///
/// # Errors
/// A sentence that says what cannot be had, read or written.
pub fn run(command: DatasetCommand) -> Outcome<()> {
    match command {
        DatasetCommand::List => {
            get::list();
            Ok(())
        }
        DatasetCommand::Get(options) => get::get(&options),
        DatasetCommand::Truth(options) => truth::truth(&options),
        DatasetCommand::Cut { from, to } => cut::cut(from, to),
    }
}

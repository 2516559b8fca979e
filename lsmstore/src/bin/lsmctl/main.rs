//! `lsmctl`: looks at what stores leave in buckets and folders. It takes nothing over and writes nothing but checkpoints, so a
//! store may be in use while it is looked at.
//!
//! Each subject has a file: its arguments, and what it prints for people and, with `--json`, for programs. What is read is
//! the library's (`lsmstore::inspect`).
#![forbid(unsafe_code)]
#![deny(clippy::unwrap_used, clippy::expect_used)]

/// Prints a line. Whoever reads it may stop doing so at any time, as `head` does: then there is nothing more to say.
macro_rules! say {
    ($($what:tt)*) => {
        $crate::show::line(format_args!($($what)*))
    };
}

mod checkpoint;
mod gc;
mod manifest;
mod scrub;
mod show;
mod sst;
mod stats;
mod wal;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Parser, Subcommand};
use lsmstore::inspect::{Bucket, UrlOptions, open_url};
use lsmstore::objects::ObjectStore;

/// Looks at the stores of lsmstore in buckets and folders. Nothing is written but checkpoints.
///
/// Exits with 1 if something is damaged, and with 2 if it cannot be looked at.
#[derive(Parser)]
#[command(version, disable_help_subcommand = true)]
struct Cli {
    #[command(flatten)]
    place: PlaceArgs,
    #[command(flatten)]
    output: Output,
    #[command(subcommand)]
    command: Command,
}

/// Where the store is.
#[derive(Args)]
struct PlaceArgs {
    /// Where the store is: file:///folder, or s3://bucket/prefix
    #[arg(short, long, global = true, value_name = "URL")]
    store: Option<String>,
    /// Address of the S3 endpoint, as in http://127.0.0.1:9000
    #[arg(long, global = true, value_name = "URL")]
    endpoint: Option<String>,
    /// Region that S3 requests are signed for
    #[arg(long, global = true)]
    region: Option<String>,
    /// Whether the S3 bucket is in the path instead of the host's name
    #[arg(long, global = true)]
    path_style: Option<bool>,
    /// Certificates (PEM) of authorities to be trusted besides those of the system
    #[arg(long, global = true, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Profile of the AWS files to sign S3 requests with
    #[cfg(feature = "s3")]
    #[arg(long, global = true)]
    profile: Option<String>,
}

impl PlaceArgs {
    fn bucket(&self) -> Result<Bucket, Failure> {
        let (objects, prefix) = self.open()?;
        Ok(Bucket::new(objects, &prefix))
    }

    /// The object store, and the prefix in it.
    fn open(&self) -> Result<(Arc<dyn ObjectStore>, String), Failure> {
        let Some(url) = &self.store else {
            return Err(Failure("which store? Give --store file:///folder or --store s3://bucket/prefix".into()));
        };
        let mut options = UrlOptions::default();
        options.endpoint.clone_from(&self.endpoint);
        options.region.clone_from(&self.region);
        options.path_style = self.path_style;
        options.ca_file.clone_from(&self.ca_file);
        #[cfg(feature = "s3")]
        options.credentials.profile.clone_from(&self.profile);
        Ok(open_url(url, &options)?)
    }
}

/// How things are printed.
#[derive(Args, Clone, Copy)]
struct Output {
    /// Print JSON: one object, or one a line
    #[arg(long, global = true)]
    json: bool,
    /// Print keys and values as hexadecimal digits
    #[arg(long, global = true)]
    hex: bool,
}

#[derive(Subcommand)]
enum Command {
    /// The manifests under a prefix
    #[command(subcommand)]
    Manifest(manifest::Manifest),
    /// One table
    #[command(subcommand)]
    Sst(sst::Sst),
    /// One segment of a store's own log
    #[command(subcommand)]
    Wal(wal::Wal),
    /// Check every checksum of everything that the newest manifest names
    Scrub(scrub::Scrub),
    /// What the store takes, level by level
    Stats,
    /// Objects that nothing needs
    Gc(gc::Gc),
    /// Manifests that are kept, with all that they name, for as long as somebody wants them
    #[command(subcommand)]
    Checkpoint(checkpoint::Command),
}

/// Why something cannot be looked at, as a sentence.
#[derive(Debug)]
struct Failure(String);

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Failure {
        Failure(error.to_string())
    }
}

/// Whether what was looked at is in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Fine,
    Damaged,
}

async fn run(cli: Cli) -> Result<Found, Failure> {
    let output = cli.output;
    match cli.command {
        Command::Manifest(command) => manifest::run(command, &cli.place, output).await,
        Command::Sst(command) => sst::run(command, &cli.place, output).await,
        Command::Wal(command) => wal::run(command, &cli.place, output).await,
        Command::Scrub(command) => scrub::run(&command, &cli.place.bucket()?, output).await,
        Command::Stats => stats::run(&cli.place.bucket()?, output).await,
        Command::Gc(command) => gc::run(&command, &cli.place, output).await,
        Command::Checkpoint(command) => checkpoint::run(command, &cli.place, output).await,
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("lsmctl: {error}");
            return ExitCode::from(2);
        }
    };
    match runtime.block_on(run(cli)) {
        Ok(Found::Fine) => ExitCode::SUCCESS,
        Ok(Found::Damaged) => ExitCode::from(1),
        Err(Failure(what)) => {
            eprintln!("lsmctl: {what}");
            ExitCode::from(2)
        }
    }
}

//! `cargo xtask demo`: real data, a private server, questions in plain English, and how good and how fast the answers
//! are. The server stays, so that one can go on with psql.

pub mod fashion;
pub mod latency;
pub mod packages;
pub mod sql;
mod store;

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use kriya_testkit::{Installation, Postgres};

use crate::failure::{Failure, Outcome};
use crate::{extension, pg, places, progress, setup};

/// The port of the demo's server, if it is free.
const PORT: u16 = 28818;

/// A set of vectors to show.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Dataset {
    /// 6,000 package descriptions, checked in
    Packages,
    /// 60,000 images of 784 pixels; the files are yours to bring
    FashionMnist,
}

/// What the demo can be told.
#[derive(Args)]
pub struct Options {
    /// Major version of PostgreSQL
    #[arg(long = "pg", value_name = "N", default_value_t = 17, value_parser = clap::value_parser!(u32).range(13..=18))]
    major: u32,
    /// Which data
    #[arg(long, value_enum, default_value = "packages")]
    dataset: Dataset,
    /// The folder of the data, for sets that are not checked in
    #[arg(long, value_name = "DIR")]
    path: Option<PathBuf>,
    /// Also write the figures of fashion-mnist to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    #[command(flatten)]
    store: store::Store,
}

/// Runs the demo.
///
/// # Errors
/// What setting up, building, the server or the data say.
pub fn run(options: &Options) -> Outcome<()> {
    let installation = setup::setup(options.major)?;
    extension::build(&installation)?;
    let server = progress::step("starting a private server", || fresh_server(&installation, &options.store))?;
    let mut client = server.connect()?;
    match options.dataset {
        Dataset::Packages => {
            let report = packages::run(&mut client, true)?;
            println!("\n  how it was found: {}", report.plan);
            println!("  recall@10 against exact search: {:.3}", report.recall);
            let (p50, p99) = (report.latency.quantile_ms(0.5), report.latency.quantile_ms(0.99));
            println!("  latency of a query, one session: p50 {p50:.2} ms, p99 {p99:.2} ms");
        }
        Dataset::FashionMnist => {
            let beside = places::shared_datasets().join("fashion-mnist-784-euclidean");
            let report = fashion::run(&mut client, options.path.as_deref().unwrap_or(&beside))?;
            if let Some(path) = &options.json {
                fs::write(path, format!("{:#}\n", report.json())).map_err(Failure::doing("writing", path))?;
            }
        }
    }
    client.batch_execute("SELECT lsm_s3_flush()")?;
    if let Some(folder) = options.store.folder(server.folder().root())? {
        show_storage(&folder);
    }
    println!(
        "\nthe server stays: {}\n`cargo xtask psql` opens a session, `cargo xtask pg stop` stops it",
        server.url()
    );
    Ok(())
}

/// A server in an empty folder; what an earlier demo left is stopped and removed.
fn fresh_server(installation: &Installation, store: &store::Store) -> Outcome<Postgres> {
    let root = pg::default_root("demo")?;
    pg::stop_quietly(&root)?;
    match fs::remove_dir_all(&root) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Failure::doing("removing", &root)(e)),
        _ => {}
    }
    let mut server = store.prepare(Postgres::builder(installation), &root)?;
    if TcpListener::bind((Ipv4Addr::LOCALHOST, PORT)).is_ok() {
        server = server.port(PORT);
    }
    pg::start_to_stay(server, &root)
}

/// Says where the data live: the largest files of the local object store, and all together.
fn show_storage(folder: &Path) {
    let mut files = Vec::new();
    collect(folder, &mut files);
    files.sort_unstable_by(|a, b| b.cmp(a));
    let total: u64 = files.iter().map(|(size, _)| size).sum();
    println!("\n  stored in {}: {} files, {:.1} MB", folder.display(), files.len(), total as f64 / 1e6);
    for (size, path) in files.iter().take(8) {
        println!("    {:>9.2} MB  {}", *size as f64 / 1e6, path.strip_prefix(folder).unwrap_or(path).display());
    }
}

fn collect(folder: &Path, files: &mut Vec<(u64, PathBuf)>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => collect(&entry.path(), files),
            Ok(metadata) if metadata.is_file() => files.push((metadata.len(), entry.path())),
            _ => {}
        }
    }
}

//! `cargo xtask pg start | pg stop | psql`: private servers that stay until they are stopped.
//!
//! One small file per port, in `<target>/kriya/servers/`, remembers the server's folder and its PostgreSQL, so that
//! `psql` and `pg stop` find it. Data live below the target folder where the servers' account can reach that, else
//! below the home of `setup`.

use std::ffi::OsString;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Args;
use kriya_testkit::{Account, Builder, Installation, LeftRunning, Postgres, home};

use crate::failure::{Failure, Outcome};
use crate::{extension, places, setup};

/// What `pg start` can be told.
#[derive(Args)]
pub struct StartOptions {
    /// Major version of PostgreSQL
    #[arg(long = "pg", value_name = "N", default_value_t = 17, value_parser = clap::value_parser!(u32).range(13..=18))]
    major: u32,
    /// The port to listen on, on 127.0.0.1
    #[arg(long, default_value_t = 28817)]
    port: u16,
    /// Where tables are kept: `local` (a folder in the data directory), `memory`, or the URL of an S3
    #[arg(long, default_value = "local")]
    endpoint: String,
    /// The server's folder; made if it does not exist
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

/// Starts a server, or says that it runs already.
///
/// # Errors
/// What setting up, building or starting says.
pub fn start(options: &StartOptions) -> Outcome<()> {
    if let Some(known) = known(options.port).filter(Known::is_running) {
        println!("the server in {} runs already:\n{}", known.root.display(), url(options.port));
        return Ok(());
    }
    let pg = setup::setup(options.major)?;
    if !extension::is_installed(&pg) {
        extension::build(&pg)?;
    }
    let root = match &options.data {
        Some(dir) => std::path::absolute(dir).map_err(Failure::doing("finding", dir))?,
        None => default_root(&format!("pg{}-{}", options.major, options.port))?,
    };
    let server = Postgres::builder(&pg).setting("lsm_s3.endpoint", &options.endpoint);
    let server = start_to_stay(server.port(options.port), &root)?;
    println!("{}", server.url());
    println!("data in {}; CREATE EXTENSION kriya_pg; opens it up", server.folder().data().display());
    println!("`cargo xtask psql` opens a session, `cargo xtask pg stop` stops it");
    Ok(())
}

/// Starts `server` in the folder `root` as one that stays, and remembers it.
///
/// # Errors
/// If it does not start, or cannot be remembered.
pub fn start_to_stay(server: Builder, root: &Path) -> Outcome<Postgres> {
    let server = server.stays().durable().folder(root).start()?;
    let folder = servers();
    fs::create_dir_all(&folder).map_err(Failure::doing("making", &folder))?;
    // The folder's server may have been known under another port before.
    for known in known_ports().into_iter().filter_map(known).filter(|known| known.root == root) {
        let path = folder.join(known.port.to_string());
        fs::remove_file(&path).map_err(Failure::doing("removing", &path))?;
    }
    let path = folder.join(server.port().to_string());
    let text = format!("{}\n{}\n", root.display(), server.installation().pg_config.display());
    fs::write(&path, text).map_err(Failure::doing("writing", &path))?;
    Ok(server)
}

/// The folder for a server called `name` of this clone: below the target folder, or, where the servers' account cannot
/// reach that (root's home is closed), below the home of `setup`.
///
/// # Errors
/// If the folder above it cannot be made.
pub fn default_root(name: &str) -> Outcome<PathBuf> {
    let near = places::state();
    fs::create_dir_all(&near).map_err(Failure::doing("making", &near))?;
    if Account::for_servers()?.can_traverse(&near) {
        return Ok(near.join(name));
    }
    // Clones must not take each other's data: FNV-1a of this clone's target folder keeps them apart.
    let clone = near
        .as_os_str()
        .as_encoded_bytes()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    Ok(home().join(format!("servers/{clone:016x}-{name}")))
}

/// Stops the server on `port`, or all that this clone has started and that still run.
///
/// # Errors
/// If there is none on `port`, or one does not stop.
pub fn stop(port: Option<u16>) -> Outcome<()> {
    let ports = port.map_or_else(known_ports, |port| vec![port]);
    let running: Vec<Known> = ports.iter().filter_map(|port| known(*port)).filter(Known::is_running).collect();
    if running.is_empty() {
        let which = port.map(|port| format!(" on port {port}")).unwrap_or_default();
        println!("no server of this clone is running{which}");
    }
    for server in running {
        LeftRunning::at(&server.installation, &server.root)?.stop()?;
        println!("stopped the server on port {}; its data stay in {}", server.port, server.root.display());
    }
    Ok(())
}

/// Stops what this clone has started in the folder `root` and still runs, without a word.
///
/// # Errors
/// If it does not stop.
pub fn stop_quietly(root: &Path) -> Outcome<()> {
    let known = known_ports().into_iter().filter_map(known).filter(|server| server.root == root);
    for server in known.filter(Known::is_running) {
        LeftRunning::at(&server.installation, &server.root)?.stop()?;
    }
    Ok(())
}

/// Becomes psql on the server that was started last and still runs.
///
/// # Errors
/// If none runs, or psql cannot be run.
pub fn psql(args: &[OsString]) -> Outcome<()> {
    let mut running: Vec<Known> = known_ports().iter().filter_map(|port| known(*port)).collect();
    running.sort_by_key(|server| fs::metadata(servers().join(server.port.to_string())).and_then(|m| m.modified()).ok());
    let server = running
        .into_iter()
        .rev()
        .find(Known::is_running)
        .ok_or_else(|| Failure::new("no server of this clone is running: `cargo xtask pg start` starts one"))?;
    let mut psql = Command::new(server.installation.program("psql"));
    for (name, default) in [("PGHOST", "127.0.0.1"), ("PGUSER", "postgres"), ("PGDATABASE", "postgres")] {
        psql.env(name, default);
    }
    psql.env("PGPORT", server.port.to_string()).env_remove("LD_LIBRARY_PATH").args(args);
    let failed = psql.exec();
    Err(Failure::new(format!("running {}: {failed}", server.installation.program("psql").display())))
}

/// How to reach the server on `port`.
fn url(port: u16) -> String {
    format!("postgresql://postgres@127.0.0.1:{port}/postgres")
}

/// A server that this clone has started once.
struct Known {
    port: u16,
    root: PathBuf,
    installation: Installation,
}

impl Known {
    fn is_running(&self) -> bool {
        LeftRunning::at(&self.installation, &self.root).is_ok_and(|server| server.is_running())
    }
}

fn servers() -> PathBuf {
    places::state().join("servers")
}

fn known_ports() -> Vec<u16> {
    let entries = fs::read_dir(servers()).into_iter().flatten().flatten();
    let mut ports: Vec<u16> = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    ports.sort_unstable();
    ports
}

fn known(port: u16) -> Option<Known> {
    let text = fs::read_to_string(servers().join(port.to_string())).ok()?;
    let mut lines = text.lines();
    let root = PathBuf::from(lines.next()?);
    let installation = Installation::at(Path::new(lines.next()?)).ok()?;
    Some(Known { port, root, installation })
}

//! pgvector to measure beside: built from Debian's source package for this very CPU, kept below the home of `setup`.
//!
//! It is not installed into the PostgreSQL that it is built for: its script is run with the library's path filled in, as
//! CREATE EXTENSION would do. So a measurement leaves nothing behind in a server that is somebody's own. Where it cannot
//! be built, one that is installed there is taken.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use kriya_testkit::postgres::Client;
use kriya_testkit::{Installation, home};

use crate::failure::{Failure, Outcome};
use crate::progress::{self, Log};
use crate::setup::source::{debian_mirror, download, make, remove};

/// The Debian release whose source package is taken.
const RELEASE: &str = "trixie";

/// A pgvector that servers can use.
#[derive(Debug)]
pub struct Pgvector {
    version: String,
    /// Where it was built; none if it is installed.
    built: Option<PathBuf>,
}

impl Pgvector {
    /// The one that was built for `pg` before, or a newly built one, or that which is installed.
    ///
    /// # Errors
    /// A sentence that says which step of building failed; none is installed.
    pub fn provide(pg: &Installation) -> Outcome<Pgvector> {
        // Another minor version of PostgreSQL, or another PostgreSQL of the same version, gets a build of its own.
        let place = pg.pkglibdir.display().to_string().replace(|c: char| !c.is_ascii_alphanumeric(), "-");
        let folder = home().join("bench").join(format!("pgvector{place}"));
        if let Some(version) = complete(&folder) {
            return Ok(Pgvector { version, built: Some(folder) });
        }
        match progress::step("building pgvector for this CPU", || build(pg, &folder)) {
            Ok(()) => {
                let version = complete(&folder).ok_or_else(|| {
                    Failure::new(format!("{} holds no pgvector after it was built", folder.display()))
                })?;
                Ok(Pgvector { version, built: Some(folder) })
            }
            Err(why) => {
                let installed = version(&pg.sharedir.join("extension")).ok_or(why)?;
                Ok(Pgvector { version: installed, built: None })
            }
        }
    }

    /// Which it is, for a record.
    pub fn description(&self) -> String {
        let origin = if self.built.is_some() { "built with -march=native" } else { "as installed" };
        format!("{}, {origin}", self.version)
    }

    /// The setting that lets the server find its library by name, as processes of a parallel build do.
    pub fn library_path(&self) -> String {
        self.built.as_ref().map_or_else(|| "$libdir".to_owned(), |folder| format!("{}:$libdir", folder.display()))
    }

    /// Makes its type, functions and access methods in the client's database.
    ///
    /// # Errors
    /// What the server says; a library that the server's account cannot read.
    pub fn create(&self, client: &mut Client) -> Outcome<()> {
        let Some(folder) = &self.built else { return Ok(client.batch_execute("CREATE EXTENSION vector")?) };
        let path = script(folder, &self.version);
        let script = fs::read_to_string(&path).map_err(Failure::doing("reading", &path))?;
        let library = folder.join("vector").display().to_string().replace('\'', "''");
        // The first line tells psql to stop.
        let lines = script.lines().filter(|line| !line.starts_with('\\'));
        let sql = lines.collect::<Vec<_>>().join("\n").replace("MODULE_PATHNAME", &library);
        Ok(client.batch_execute(&sql)?)
    }
}

/// The version of what was built in a folder, if everything is there.
fn complete(folder: &Path) -> Option<String> {
    let version = version(folder)?;
    (folder.join("vector.so").is_file() && script(folder, &version).is_file()).then_some(version)
}

/// What the control file in a folder says.
fn version(folder: &Path) -> Option<String> {
    let control = fs::read_to_string(folder.join("vector.control")).ok()?;
    let version = control.lines().find_map(|line| line.strip_prefix("default_version = '"))?.strip_suffix('\'')?;
    Some(version.to_owned())
}

fn script(folder: &Path, version: &str) -> PathBuf {
    folder.join(format!("sql/vector--{version}.sql"))
}

fn build(pg: &Installation, folder: &Path) -> Outcome<()> {
    let mirror = debian_mirror().ok_or_else(|| {
        Failure::new("pgvector is built from Debian's sources, and this machine uses no Debian mirror")
    })?;
    // What is built here is for the servers' account too.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let bench = home().join("bench");
    let aside = bench.join(format!(".building-{}", std::process::id()));
    let tree = aside.join("source");
    fs::create_dir_all(&tree).map_err(Failure::doing("making", &tree))?;
    let log = Log::create(bench.join("pgvector.log"))?;
    let archive = download(&log, &aside, &mirror, RELEASE, "pgvector")?;
    log.run(Command::new("tar").arg("xf").arg(&archive).args(["--strip-components=1", "-C"]).arg(&tree))?;
    let pg_config = format!("PG_CONFIG={}", pg.pg_config.display());
    log.run(make(&tree).args(["-s", "-j2", "OPTFLAGS=-march=native", "with_llvm=no", &pg_config]))?;
    remove(folder)?;
    fs::rename(&tree, folder).map_err(Failure::doing("renaming into place", folder))?;
    remove(&aside)
}

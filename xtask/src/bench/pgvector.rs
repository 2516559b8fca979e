//! pgvector to measure beside: built from Debian's source package for this very CPU, kept below the home of `setup`.
//!
//! It is not installed into the PostgreSQL that it is built for: its script is run with the library's path filled in, as
//! CREATE EXTENSION would do. So a measurement leaves nothing behind in a server that is somebody's own.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use kriya_testkit::postgres::Client;
use kriya_testkit::{Installation, home};

use crate::failure::{Failure, Outcome};
use crate::progress::{self, Log};
use crate::setup::source::{debian_mirror, download, make, remove};

/// The Debian release whose source package is taken.
const RELEASE: &str = "trixie";

/// A pgvector that was built here.
#[derive(Debug)]
pub struct Pgvector {
    /// Its version, for example `0.8.0`.
    pub version: String,
    folder: PathBuf,
}

impl Pgvector {
    /// The one that was built for `pg` before, or a newly built one.
    ///
    /// # Errors
    /// A sentence that says which step failed; this is no Debian or its kin.
    pub fn provide(pg: &Installation) -> Outcome<Pgvector> {
        // Another minor version of PostgreSQL, or another PostgreSQL of the same version, gets a build of its own.
        let place = pg.pkglibdir.display().to_string().replace(|c: char| !c.is_ascii_alphanumeric(), "-");
        let folder = home().join("bench").join(format!("pgvector{place}"));
        if let Some(ready) = Pgvector::in_folder(folder.clone()) {
            return Ok(ready);
        }
        progress::step("building pgvector for this CPU", || build(pg, &folder))?;
        Pgvector::in_folder(folder.clone())
            .ok_or_else(|| Failure::new(format!("{} holds no pgvector after it was built", folder.display())))
    }

    fn in_folder(folder: PathBuf) -> Option<Pgvector> {
        let control = fs::read_to_string(folder.join("vector.control")).ok()?;
        let version = control.lines().find_map(|line| line.strip_prefix("default_version = '"))?.strip_suffix('\'')?;
        let found = Pgvector { version: version.to_owned(), folder };
        (found.folder.join("vector.so").is_file() && found.script().is_file()).then_some(found)
    }

    fn script(&self) -> PathBuf {
        self.folder.join(format!("sql/vector--{}.sql", self.version))
    }

    /// The setting that lets the server find its library by name, as processes of a parallel build do.
    pub fn library_path(&self) -> String {
        format!("{}:$libdir", self.folder.display())
    }

    /// Makes its type, functions and access methods in the client's database.
    ///
    /// # Errors
    /// What the server says; a library that the server's account cannot read.
    pub fn create(&self, client: &mut Client) -> Outcome<()> {
        let path = self.script();
        let script = fs::read_to_string(&path).map_err(Failure::doing("reading", &path))?;
        let library = self.folder.join("vector").display().to_string().replace('\'', "''");
        // The first line tells psql to stop.
        let lines = script.lines().filter(|line| !line.starts_with('\\'));
        let sql = lines.collect::<Vec<_>>().join("\n").replace("MODULE_PATHNAME", &library);
        Ok(client.batch_execute(&sql)?)
    }
}

fn build(pg: &Installation, folder: &std::path::Path) -> Outcome<()> {
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

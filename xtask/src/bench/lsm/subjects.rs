//! The programs that are measured: ours, and the peers', which a workspace of its own builds when they are asked for.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use super::{Line, OURS, REMOTE};
use crate::failure::{Failure, Outcome};
use crate::{places, progress};

/// Our engine.
const OWN: &str = "lsmstore";
/// Engines that are known.
pub const PEERS: [&str; 3] = ["slatedb", "fjall", "rocksdb"];

/// An engine that takes part.
pub struct Subject {
    /// What it is called.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Whether it keeps its tables in an object store.
    pub objects: bool,
    program: PathBuf,
}

impl Subject {
    /// Whether a workload is of any use to it.
    pub fn does(&self, workload: &str) -> bool {
        (self.objects || !REMOTE.contains(&workload)) && (self.name == OWN || !OURS.contains(&workload))
    }

    /// Does a workload in a process of its own; its figures.
    ///
    /// # Errors
    /// If the program fails, with what it said.
    pub fn run(&self, workload: &str, folder: &Path, arguments: &[String]) -> Outcome<Line> {
        let mut command = Command::new(&self.program);
        command.args([&self.name, workload]).arg(folder).args(arguments);
        let shown = progress::display(&command);
        let out = command.stdin(Stdio::null()).output().map_err(|e| Failure::new(format!("running {shown}: {e}")))?;
        let said = String::from_utf8_lossy(&out.stdout);
        match (out.status.success(), said.lines().last().map(serde_json::from_str)) {
            (true, Some(Ok(Value::Object(figures)))) => Ok(figures),
            _ => Err(Failure::new(format!("{shown}: {}\n{}", out.status, String::from_utf8_lossy(&out.stderr).trim()))),
        }
    }
}

/// Ours and those that were asked for, freshly built.
///
/// # Errors
/// What does not compile.
pub fn provide(peers: &[String], optimised: bool) -> Outcome<Vec<Subject>> {
    let profile = if optimised { "release" } else { "debug" };
    let mut cargo = places::cargo();
    cargo.args(["build", "--quiet", "--package", "kriya-bench-lsm", "--bin", "lsm"]);
    build("building our program", cargo, optimised)?;
    let program = |name: &str| places::target().join(profile).join(name);
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let mut subjects = vec![Subject { name: OWN.into(), version, objects: true, program: program("lsm") }];
    if peers.is_empty() {
        return Ok(subjects);
    }
    let workspace = places::workspace().join("benches/lsm-peers");
    let mut cargo = places::cargo();
    cargo.current_dir(&workspace).args(["build", "--quiet", "--locked"]);
    if peers.iter().any(|peer| peer == "rocksdb") {
        cargo.args(["--features", "rocksdb"]);
    }
    build("building the peers' program", cargo, optimised)?;
    for name in peers {
        subjects.push(Subject {
            name: name.clone(),
            version: version_of(name, &workspace)?,
            objects: name == "slatedb",
            program: program("lsm-peers"),
        });
    }
    Ok(subjects)
}

fn build(what: &str, mut cargo: Command, optimised: bool) -> Outcome<()> {
    if optimised {
        cargo.arg("--release");
    }
    let status = progress::step(what, || {
        cargo.status().map_err(|e| Failure::new(format!("running {}: {e}", progress::display(&cargo))))
    })?;
    let hint = "RocksDB is the system's: librocksdb-dev on Debian";
    if status.success() { Ok(()) } else { Err(Failure::new(format!("{what} failed ({hint})"))) }
}

/// The version of a peer: as locked, or as the system's headers have it.
fn version_of(peer: &str, workspace: &Path) -> Outcome<String> {
    let read = |path: &Path| fs::read_to_string(path).map_err(Failure::doing("reading", path));
    if peer == "rocksdb" {
        let text = read(Path::new("/usr/include/rocksdb/version.h")).unwrap_or_default();
        let part = |name: &str| text.lines().find_map(|line| line.strip_prefix(&format!("#define ROCKSDB_{name} ")));
        let parts = ["MAJOR", "MINOR", "PATCH"].map(|name| part(name).unwrap_or("?").trim().to_owned());
        return Ok(parts.join("."));
    }
    let lock = read(&workspace.join("Cargo.lock"))?;
    let named = format!("name = \"{peer}\"");
    let line = lock.lines().skip_while(|line| *line != named).nth(1).unwrap_or_default();
    Ok(line.trim_start_matches("version = ").trim_matches('"').to_owned())
}

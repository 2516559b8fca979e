//! Where and with what a measurement was made: the first line of its record.

use std::fs;
use std::process::Command;

use kriya_testkit::Installation;
use serde_json::{Value, json};

use crate::extension::Profile;
use crate::places;

/// Machine, versions and the commit that was measured.
pub fn facts(pg: &Installation, pgvector: &str, profile: Profile) -> Value {
    json!({
        "cpu": cpu(),
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "kernel": said("uname", &["-sr"]),
        "date": said("date", &["-u", "+%Y-%m-%d"]),
        "commit": said("git", &["describe", "--always", "--dirty", "--abbrev=12"]),
        "rustc": said("rustc", &["--version"]),
        "postgres": pg.version,
        "pgvector": pgvector,
        "profile": profile.name(),
        "load_before": load(),
    })
}

/// Runnable processes, averaged over the last minute: above what the measurement itself runs, it was not alone.
pub fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or(0.0)
}

/// The processor's name.
pub fn cpu() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let named = |line: &str| Some(line.strip_prefix("model name")?.trim_start_matches([' ', '\t', ':']).to_owned());
    text.lines().find_map(named).unwrap_or_default()
}

/// What a program prints, run in the workspace.
pub fn said(program: &str, arguments: &[&str]) -> String {
    let out = Command::new(program).args(arguments).current_dir(places::workspace()).output();
    out.map(|out| String::from_utf8_lossy(&out.stdout).trim().to_owned()).unwrap_or_default()
}

//! Running Postgres's programs: as the servers' account, with an environment that leaks nothing into them, from a
//! folder that the account can stand in.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::account::Account;
use crate::error::Error;

/// A command that runs `program` as `account` with a cleaned environment.
///
/// Gone are: Postgres's own `PG*` variables, which would redirect clients and servers; what cargo sets for programs
/// that it runs; and `RUST_BACKTRACE`, which would put a backtrace into every error that Rust code reports in SQL.
pub(crate) fn command(account: &Account, program: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if leaks(&name) {
            command.env_remove(&name);
        }
    }
    command.current_dir("/").stdin(Stdio::null());
    account.apply(&mut command);
    command
}

fn leaks(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    ["PG", "CARGO", "RUST"].iter().any(|prefix| name.starts_with(prefix)) || name == "LD_LIBRARY_PATH"
}

/// Runs `command` to its end and returns its standard output.
///
/// # Errors
/// [`Error::Io`] if it cannot be started, [`Error::Failed`] with what it said if it fails.
pub(crate) fn run(command: &mut Command, what: &str) -> Result<String, Error> {
    let out = command.output().map_err(|source| Error::Io { doing: what.to_owned(), source })?;
    if out.status.success() {
        return Ok(String::from_utf8_lossy(&out.stdout).into_owned());
    }
    let said = [out.stderr, out.stdout].concat();
    Err(Error::Failed {
        what: what.to_owned(),
        said: format!("{}: {}", out.status, String::from_utf8_lossy(&said).trim()),
    })
}

/// The last `lines` lines of the file at `path`, empty if it cannot be read.
pub(crate) fn tail(path: &Path, lines: usize) -> String {
    let text = std::fs::read(path).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

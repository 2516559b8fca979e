//! Packages on Debian and its kin. Nothing is installed behind the back of somebody who is not root: the command is
//! named instead.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use kriya_testkit::home;

use crate::failure::{Failure, Outcome};
use crate::progress::{self, Log};

/// Whether this machine has apt.
pub fn is_there() -> bool {
    Path::new("/usr/bin/apt-get").is_file() && Path::new("/usr/bin/dpkg").is_file()
}

/// Whether this process may install packages.
fn may_install() -> bool {
    rustix::process::geteuid().is_root()
}

/// An `apt-get` that asks no questions.
pub fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C").arg("-q");
    command
}

/// Brings the package lists up to date, once per run. Somebody who is not root goes on with the lists that are there.
///
/// # Errors
/// If `apt-get update` fails.
pub fn update_once() -> Outcome<()> {
    static DONE: OnceLock<()> = OnceLock::new();
    if DONE.get().is_none() && may_install() {
        Log::create(home().join("setup-apt.log"))?.run(apt_get().arg("update"))?;
        // A second thread can only have done the same.
        let _already = DONE.set(());
    }
    Ok(())
}

/// Whether the distribution offers the package `name`.
pub fn offers(name: &str) -> bool {
    let out = Command::new("apt-cache").env("LC_ALL", "C").args(["policy", name]).stderr(Stdio::null()).output();
    out.is_ok_and(|out| {
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        text.lines().any(|line| {
            line.trim().strip_prefix("Candidate:").is_some_and(|version| !matches!(version.trim(), "" | "(none)"))
        })
    })
}

/// Which of `packages` are not installed.
pub fn missing<'a>(packages: &[&'a str]) -> Vec<&'a str> {
    let installed = |name: &str| {
        let out =
            Command::new("dpkg-query").args(["-W", "-f=${db:Status-Status}", name]).stderr(Stdio::null()).output();
        out.is_ok_and(|out| out.stdout == b"installed")
    };
    packages.iter().copied().filter(|name| !installed(name)).collect()
}

/// Installs what is missing of `packages`; `why` says what they are for.
///
/// # Errors
/// The command to type, if this is not root or not a machine with apt; what apt said, if it fails.
pub fn install(packages: &[&str], why: &str) -> Outcome<()> {
    if !is_there() {
        return Err(Failure::new(format!("missing: {why}. Install it (on Debian: {})", packages.join(" "))));
    }
    let missing = missing(packages);
    if missing.is_empty() {
        return Ok(());
    }
    if !may_install() {
        let list = missing.join(" ");
        return Err(Failure::new(format!("missing: {why}. As root: apt-get install --no-install-recommends {list}")));
    }
    progress::step("apt-get update", update_once)?;
    progress::step(&format!("apt-get install {}", missing.join(" ")), || {
        let log = Log::create(home().join("setup-apt.log"))?;
        log.run(apt_get().args(["install", "-y", "--no-install-recommends"]).args(&missing))
    })
}

/// Keeps Debian's server packages from creating and starting a server of their own on port 5432.
///
/// # Errors
/// If the setting cannot be written.
pub fn no_default_cluster() -> Outcome<()> {
    let path = Path::new("/etc/postgresql-common/createcluster.conf");
    let setting = "create_main_cluster";
    if std::fs::read_to_string(path).is_ok_and(|text| text.lines().any(|line| line.trim_start().starts_with(setting))) {
        return Ok(());
    }
    if !may_install() {
        return Ok(());
    }
    let write = || {
        std::fs::create_dir_all("/etc/postgresql-common")?;
        OpenOptions::new().create(true).append(true).open(path)?.write_all(b"create_main_cluster = false\n")
    };
    write().map_err(Failure::doing("writing", path))
}

//! The kernels for 64-bit ARM: compiled, and tested under an emulator of that processor.
//!
//! The compiler knows the target, but not every installation has its standard library. Where `rustup target add` was not
//! run, the library is built from its sources of exactly this compiler: those of rustup's `rust-src`, or Debian's package of
//! that name from the release that has the version, fetched as `setup` fetches PostgreSQL.

use std::path::{Path, PathBuf};
use std::process::Command;

use kriya_testkit::home;

use super::tally::Tally;
use super::{cargo_tests, logs};
use crate::failure::{Failure, Outcome};
use crate::places;
use crate::progress::{self, Log};
use crate::setup::{apt, source};

const TARGET: &str = "aarch64-unknown-linux-gnu";
/// Linker, C library and emulator.
const NEEDED: [&str; 3] = ["gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross", "qemu-user"];
/// Where Debian may have the sources of this compiler, newest last.
const RELEASES: [&str; 4] = ["trixie", "trixie-backports", "forky", "sid"];

/// Runs the tests of the kernels, with NEON's and those for `dotprod` required.
///
/// # Errors
/// If compiler, library or emulator cannot be had.
pub fn run(tally: &mut Tally) -> Outcome<()> {
    apt::install(&NEEDED, "what tests for 64-bit ARM need")?;
    let mut cargo = places::cargo();
    // Beside what is built for this machine: variables that only this build needs would have it all built anew.
    cargo.env("CARGO_TARGET_DIR", places::target().join("neon"));
    cargo.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", "aarch64-linux-gnu-gcc");
    cargo.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER", "qemu-aarch64 -cpu max -L /usr/aarch64-linux-gnu");
    cargo.args(["test", "--no-fail-fast", "--package", "vecindex", "--lib", "--target", TARGET]);
    if !has_library()? {
        let library = library_sources()?;
        // A stable compiler builds its own library only when it is told that it may.
        cargo.env("RUSTC_BOOTSTRAP", "1").env("__CARGO_TESTS_ONLY_SRC_ROOT", library).arg("-Zbuild-std");
    }
    // The emulator starts one process, not others; and takes thirty times as long as a processor.
    cargo.args(["--", "kernel::", "--skip", "a_process_takes_the_set"]);
    cargo.env("PROPTEST_CASES", "64").env("VECINDEX_TEST_MUST_HAVE", "neon,neondot");
    cargo_tests::run(tally, &mut cargo, "neon")
}

fn rustc(arguments: &[&str]) -> Outcome<String> {
    let out = Command::new("rustc").args(arguments).current_dir(places::workspace()).output();
    let out = out.map_err(|e| Failure::new(format!("running rustc: {e}")))?;
    Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned())
}

/// Whether the standard library is installed for the target.
fn has_library() -> Outcome<bool> {
    let folder = rustc(&["--print", "target-libdir", "--target", TARGET])?;
    let mut entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    Ok(entries.any(|entry| entry.file_name().to_string_lossy().starts_with("libstd-")))
}

/// The folder `library` of this compiler's sources.
fn library_sources() -> Outcome<PathBuf> {
    let installed = Path::new(&rustc(&["--print", "sysroot"])?).join("lib/rustlib/src/rust/library");
    if installed.is_dir() {
        return Ok(installed);
    }
    let version = rustc(&["--version"])?.split(' ').nth(1).unwrap_or_default().to_owned();
    let folder = home().join(format!("rust-src-{version}"));
    let library = folder.join(format!("usr/src/rustc-{version}/library"));
    if library.is_dir() {
        return Ok(library);
    }
    let aside = home().join(".fetching-rust-src");
    source::remove(&aside)?;
    std::fs::create_dir_all(&aside).map_err(Failure::doing("making", &aside))?;
    let log = Log::create(logs().join("neon-setup.log"))?;
    progress::step(&format!("sources of rustc {version}"), || fetch(&log, &aside, &version))?;
    source::remove(&folder)?;
    std::fs::rename(aside.join("tree"), &folder).map_err(Failure::doing("renaming into place", &folder))?;
    source::remove(&aside)?;
    if library.is_dir() { Ok(library) } else { Err(Failure::new(format!("there is no {}", library.display()))) }
}

/// Unpacks Debian's sources of a compiler into `aside/tree`.
fn fetch(log: &Log, aside: &Path, version: &str) -> Outcome<()> {
    let other_way = format!("`rustup target add {TARGET}` installs what is missing");
    let mirror = source::debian_mirror()
        .ok_or_else(|| Failure::new(format!("this machine uses no Debian mirror; {other_way}")))?;
    let apt = source::AptAside::of(aside, "deb", &mirror, &RELEASES)?;
    log.run(apt.get().arg("update"))?;
    let out = apt.cache().args(["madison", "rust-src"]).output();
    let out = out.map_err(|e| Failure::new(format!("running apt-cache: {e}")))?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let package = offered(&text, version)
        .ok_or_else(|| Failure::new(format!("Debian has no sources of rustc {version}; {other_way}")))?;
    log.run(apt.get().args(["download", &format!("rust-src={package}")]))?;
    let entries = std::fs::read_dir(aside).map_err(Failure::doing("reading", aside))?;
    let archive = entries.flatten().map(|entry| entry.path()).find(|path| path.extension().is_some_and(|e| e == "deb"));
    let archive = archive.ok_or_else(|| Failure::new("apt-get downloaded nothing"))?;
    log.run(Command::new("dpkg-deb").arg("-x").arg(archive).arg(aside.join("tree")))
}

/// Of `apt-cache madison`'s lines (`package | version | place`), the first version that was made of this compiler.
fn offered<'a>(lines: &'a str, version: &str) -> Option<&'a str> {
    let versions = lines.lines().filter_map(|line| line.split('|').nth(1)).map(str::trim);
    versions.into_iter().find(|offered| offered.strip_prefix(version).is_some_and(|rest| rest.starts_with(['+', '-'])))
}

#[cfg(test)]
mod tests {
    use super::offered;

    #[test]
    fn only_sources_of_the_very_compiler_are_taken() {
        let lines = " rust-src | 1.97.1+dfsg1-1 | somewhere\n rust-src | 1.95.0+dfsg1-2~bpo13+1 | somewhere\n";
        assert_eq!(offered(lines, "1.95.0"), Some("1.95.0+dfsg1-2~bpo13+1"));
        assert_eq!(offered(lines, "1.95"), None);
        assert_eq!(offered(lines, "1.96.0"), None);
    }
}

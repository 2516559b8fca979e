//! PostgreSQL from the source package of a newer Debian release, for a machine whose own release is older.
//!
//! The source comes from the mirror that the machine already uses, through an apt configuration of its own, so that
//! apt checks signature and hashes and the machine's package lists stay as they are. It is configured for its final
//! place, installed aside with `DESTDIR`, and renamed there: a setup that is killed leaves no half of a PostgreSQL.
//!
//! Only under the setup lock: what an earlier, killed build left behind is removed at the start.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::available_parallelism;

use kriya_testkit::home;

use crate::failure::{Failure, Outcome};
use crate::progress::{self, Log};
use crate::setup::apt;

/// What the build needs besides a C compiler.
const NEEDED: [&str; 11] = [
    "gcc",
    "libc6-dev",
    "make",
    "bzip2",
    "bison",
    "flex",
    "pkg-config",
    "libreadline-dev",
    "zlib1g-dev",
    "libicu-dev",
    "libssl-dev",
];

/// Extensions beside the server that are handy when developing one.
const CONTRIB: [&str; 4] = ["amcheck", "pageinspect", "pg_stat_statements", "postgres_fdw"];

/// The Debian release whose source package holds PostgreSQL `major`.
fn release(major: u32) -> Option<&'static str> {
    match major {
        15 => Some("bookworm"),
        17 => Some("trixie"),
        _ => None,
    }
}

/// Builds PostgreSQL `major` into `home()/pgN`.
///
/// # Errors
/// A sentence that says which step failed, with the end of what it printed.
pub fn build(major: u32) -> Outcome<()> {
    let other_way = format!(
        "install PostgreSQL {major} with its server headers from elsewhere (for example apt.postgresql.org) and name \
         its pg_config in KRIYA_PG_CONFIG"
    );
    let release = release(major)
        .ok_or_else(|| Failure::new(format!("this release offers no PostgreSQL {major} package: {other_way}")))?;
    let mirror = debian_mirror().ok_or_else(|| {
        Failure::new(format!(
            "this machine offers no PostgreSQL {major} package and uses no Debian mirror: {other_way}"
        ))
    })?;
    apt::install(&NEEDED, &format!("what building PostgreSQL {major} needs"))?;

    let prefix = home().join(format!("pg{major}"));
    let aside = home().join(format!(".building-pg{major}"));
    remove(&aside)?;
    std::fs::create_dir_all(&aside).map_err(Failure::doing("making", &aside))?;
    let log = Log::create(home().join(format!("setup-pg{major}.log")))?;

    let archive = progress::step(&format!("source package of {release}"), || {
        download(&log, &aside, &mirror, release, &format!("postgresql-{major}"))
    })?;
    let tree = aside.join("source");
    std::fs::create_dir_all(&tree).map_err(Failure::doing("making", &tree))?;
    log.run(Command::new("tar").arg("xf").arg(&archive).args(["--strip-components=1", "-C"]).arg(&tree))?;
    progress::step("configure", || {
        let mut configure = Command::new("./configure");
        configure.arg(format!("--prefix={}", prefix.display())).args(["--with-openssl", "CFLAGS=-O2 -g"]);
        log.run(configure.current_dir(&tree))
    })?;
    let jobs = format!("-j{}", available_parallelism().map_or(2, usize::from));
    progress::step("make", || log.run(make(&tree).args([&jobs, "-s"])))?;
    let stage = aside.join("stage");
    progress::step("make install", || {
        let destination = format!("DESTDIR={}", stage.display());
        log.run(make(&tree).args(["-s", "install", &destination]))?;
        // The top-level install leaves the tester of concurrent sessions out.
        let parts = CONTRIB.iter().map(|name| format!("contrib/{name}")).chain(["src/test/isolation".to_owned()]);
        for part in parts {
            log.run(make(&tree.join(part)).args([&jobs, "-s", "install", &destination]))?;
        }
        Ok(())
    })?;
    // DESTDIR/prefix, where prefix is absolute.
    let staged = stage.join(prefix.strip_prefix("/").unwrap_or(&prefix));
    // What stands there is not a usable PostgreSQL, or it would have been taken.
    remove(&prefix)?;
    std::fs::rename(&staged, &prefix).map_err(Failure::doing("renaming into place", &prefix))?;
    remove(&aside)
}

/// A `make` in `folder`.
pub fn make(folder: &Path) -> Command {
    let mut command = Command::new("make");
    // Cargo's job server is not ours to use.
    command.current_dir(folder).env_remove("MAKEFLAGS").env_remove("MAKELEVEL");
    command
}

/// Removes a folder with all that is in it, if it is there.
///
/// # Errors
/// If it cannot be removed.
pub fn remove(path: &Path) -> Outcome<()> {
    match std::fs::remove_dir_all(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Failure::doing("removing", path)(e)),
        _ => Ok(()),
    }
}

/// Downloads the source package `package` of a Debian release into the folder `aside` and returns the upstream archive
/// in it. The machine's own package lists are left alone.
///
/// # Errors
/// What apt said.
pub fn download(log: &Log, aside: &Path, mirror: &str, release: &str, package: &str) -> Outcome<PathBuf> {
    let apt = AptAside::of(aside, "deb-src", mirror, &[release])?;
    log.run(apt.get().arg("update"))?;
    log.run(apt.get().args(["source", "--download-only", package]))?;
    let entries = std::fs::read_dir(aside).map_err(Failure::doing("reading", aside))?;
    let mut archives = entries.flatten().map(|entry| entry.path());
    archives
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().contains(".orig.tar.")))
        .ok_or_else(|| Failure::new(format!("the source package {package} of {release} has no upstream archive")))
}

/// An apt with sources and lists of its own, in a folder; the machine's stay as they are.
pub struct AptAside(PathBuf);

impl AptAside {
    /// For some releases of a mirror; `kind` is `deb` or `deb-src`.
    ///
    /// # Errors
    /// If the folder cannot be written to.
    pub fn of(folder: &Path, kind: &str, mirror: &str, releases: &[&str]) -> Outcome<AptAside> {
        let (list, partial) = (folder.join("sources.list"), folder.join("lists/partial"));
        let keyring = Path::new("/usr/share/keyrings/debian-archive-keyring.gpg");
        let signed = if keyring.is_file() { format!("[signed-by={}] ", keyring.display()) } else { String::new() };
        std::fs::create_dir_all(&partial).map_err(Failure::doing("making", &partial))?;
        let lines = releases.iter().map(|release| format!("{kind} {signed}{mirror} {release} main\n"));
        std::fs::write(&list, lines.collect::<String>()).map_err(Failure::doing("writing", &list))?;
        Ok(AptAside(folder.to_owned()))
    }

    /// An `apt-get` with them, working in the folder.
    pub fn get(&self) -> Command {
        self.with(apt::apt_get())
    }

    /// An `apt-cache` with them.
    pub fn cache(&self) -> Command {
        self.with(Command::new("apt-cache"))
    }

    fn with(&self, mut command: Command) -> Command {
        command.current_dir(&self.0).env("LC_ALL", "C");
        for (option, value) in [
            ("Dir::Etc::SourceList", self.0.join("sources.list").as_path()),
            ("Dir::Etc::SourceParts", Path::new("/dev/null")),
            ("Dir::State::Lists", &self.0.join("lists")),
            ("Dir::Cache", &self.0),
        ] {
            command.arg("-o").arg(format!("{option}={}", value.display()));
        }
        // The sandbox user of apt cannot write to a private folder.
        command.args(["-o", "APT::Sandbox::User=root"]);
        command
    }
}

/// The address of the Debian mirror that this machine uses, from its own sources: the first that is not the security
/// archive.
pub fn debian_mirror() -> Option<String> {
    let folder = std::fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten().map(|e| e.path());
    let mut files: Vec<PathBuf> = folder.chain([PathBuf::from("/etc/apt/sources.list")]).collect();
    files.retain(|path| path.extension().is_some_and(|e| e == "sources" || e == "list"));
    files.sort();
    let texts: Vec<String> = files.iter().filter_map(|path| std::fs::read_to_string(path).ok()).collect();
    texts.iter().flat_map(|text| addresses(text)).find(|address| is_debian_archive(address))
}

/// The addresses named in an apt sources file of either format, comments left out.
fn addresses(text: &str) -> impl Iterator<Item = String> {
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    lines
        .filter(|line| ["URIs:", "deb ", "deb-src ", "deb\t"].iter().any(|start| line.starts_with(start)))
        .flat_map(|line| line.split_whitespace().filter(|word| word.contains(":/")).map(str::to_owned))
        .collect::<Vec<_>>()
        .into_iter()
}

fn is_debian_archive(address: &str) -> bool {
    address.trim_end_matches('/').ends_with("/debian")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_read_from_sources_of_either_format() {
        let deb822 = "Types: deb\n# http://old.example/debian\nURIs: http://mirror.example/debian\nSuites: bookworm\n";
        let one_line =
            "# deb http://old.example/debian x main\ndeb [arch=amd64] https://mirror.example/debian/ trixie main\n";
        for text in [deb822, one_line] {
            let found: Vec<String> = addresses(text).filter(|a| is_debian_archive(a)).collect();
            assert_eq!(found.len(), 1, "{text:?} gave {found:?}");
            assert!(found[0].contains("mirror.example"), "{found:?}");
        }
    }

    #[test]
    fn the_security_archive_and_other_distributions_are_no_mirror_of_newer_releases() {
        assert!(!is_debian_archive("http://mirror.example/debian-security"));
        assert!(!is_debian_archive("http://mirror.example/ubuntu/"));
        assert!(is_debian_archive("http://mirror.example/debian/"));
    }
}

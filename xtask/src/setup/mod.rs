//! `cargo xtask setup`: a PostgreSQL with headers, and clang for the bindings to it.
//!
//! What is there is taken; what is missing is installed where we know how (Debian and its kin, as root) and named
//! otherwise. Done again it finds everything in place and says so in a moment. Two setups at once wait for each other.

pub mod apt;
mod clang;
pub mod source;

use std::fs::File;

use kriya_testkit::{Installation, home};

use crate::failure::{Failure, Outcome};
use crate::progress;

/// Makes sure that PostgreSQL `major` with its headers and clang are there, and returns that PostgreSQL.
///
/// # Errors
/// A sentence that says what is missing and how to get it.
pub fn setup(major: u32) -> Outcome<Installation> {
    if let Some(ready) = ready(major)? {
        return Ok(ready);
    }
    // What is made here is for the servers' account too, however closed the caller's files usually are.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let home = home();
    std::fs::create_dir_all(&home).map_err(Failure::doing("making", &home))?;
    let path = home.join("setup.lock");
    let lock = File::create(&path).map_err(Failure::doing("making", &path))?;
    if lock.try_lock().is_err() {
        println!("waiting for another setup to end");
        lock.lock().map_err(Failure::doing("locking", &path))?;
    }
    // Somebody else may have done it while we waited.
    if let Some(ready) = ready(major)? {
        return Ok(ready);
    }
    println!("setting up PostgreSQL {major}");
    if !clang::is_there() {
        apt::install(&["clang", "libclang-dev"], "clang with its library, for the bindings to PostgreSQL")?;
    }
    if find(major)?.is_none() {
        provide(major)?;
    }
    ready(major)?.ok_or_else(|| Failure::new(format!("PostgreSQL {major} or clang is still missing after setup")))
}

/// Everything at hand, or none if something is missing.
fn ready(major: u32) -> Outcome<Option<Installation>> {
    let found = find(major)?.filter(|_| clang::is_there());
    if let Some(pg) = &found {
        println!("{} at {}", pg.version, pg.bindir.display());
    }
    Ok(found)
}

/// An installed PostgreSQL `major` with headers.
fn find(major: u32) -> Outcome<Option<Installation>> {
    match Installation::find(major) {
        Ok(pg) if pg.has_headers() => Ok(Some(pg)),
        Ok(pg) if std::env::var_os("KRIYA_PG_CONFIG").is_some() => Err(Failure::new(format!(
            "{} has no server headers ({} is missing): install its development package",
            pg.pg_config.display(),
            pg.includedir_server.join("postgres.h").display()
        ))),
        Ok(_) | Err(kriya_testkit::Error::NotFound { .. }) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// Installs PostgreSQL `major` from packages, or builds it from a newer release's source package.
fn provide(major: u32) -> Outcome<()> {
    if !apt::is_there() {
        return Err(Failure::new(format!(
            "no PostgreSQL {major} with server headers was found, and this is not a Debian or Ubuntu where it could be \
             installed: install PostgreSQL {major} with its development files, and name its pg_config in \
             KRIYA_PG_CONFIG if it is not in PATH"
        )));
    }
    progress::step("apt-get update", apt::update_once)?;
    let (server, headers) = (format!("postgresql-{major}"), format!("postgresql-server-dev-{major}"));
    if apt::offers(&server) && apt::offers(&headers) {
        apt::no_default_cluster()?;
        return apt::install(&[&server, &headers], &format!("PostgreSQL {major} with its headers"));
    }
    source::build(major)
}

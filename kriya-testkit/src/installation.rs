//! Finding a Postgres of a wanted major version by its `pg_config`, and what that says of itself.
//!
//! Order: `KRIYA_PG_CONFIG`, then self-built ones below [`home`], the places of the common distributions, `PATH`.
//! The first that answers with the wanted version is taken; one without server headers can run servers but not build
//! the extension, so those with headers win.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::Error;
use crate::process;

/// One installed Postgres.
#[derive(Debug, Clone)]
pub struct Installation {
    /// Its `pg_config`.
    pub pg_config: PathBuf,
    /// Its major version, for example 17.
    pub major: u32,
    /// Its full version as it says it, for example `PostgreSQL 17.11`.
    pub version: String,
    /// Where `postgres`, `initdb` and `psql` are.
    pub bindir: PathBuf,
    /// Where extension libraries are loaded from.
    pub pkglibdir: PathBuf,
    /// Below it, `extension/` holds control files and SQL scripts.
    pub sharedir: PathBuf,
    /// Where the headers for extensions are, if they are installed.
    pub includedir_server: PathBuf,
}

/// Where things that `cargo xtask setup` makes are kept: `KRIYA_HOME`, else `/opt/kriyadb` for root and
/// `~/.local/share/kriyadb` for others.
pub fn home() -> PathBuf {
    if let Some(home) = std::env::var_os("KRIYA_HOME").filter(|h| !h.is_empty()) {
        let home = PathBuf::from(home);
        return std::path::absolute(&home).unwrap_or(home);
    }
    match std::env::var_os("HOME") {
        Some(home) if !rustix::process::geteuid().is_root() => PathBuf::from(home).join(".local/share/kriyadb"),
        _ => PathBuf::from("/opt/kriyadb"),
    }
}

impl Installation {
    /// Asks the `pg_config` at `path` about its Postgres.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be run, [`Error::Unsuitable`] if it does not answer as `pg_config` does.
    pub fn at(path: &Path) -> Result<Installation, Error> {
        let out = process::run(
            Command::new(path).args(["--version", "--bindir", "--pkglibdir", "--sharedir", "--includedir-server"]),
            &format!("asking {}", path.display()),
        )?;
        let unsuitable = |why: &str| Error::Unsuitable { pg_config: path.to_owned(), why: why.to_owned() };
        let mut lines = out.lines();
        let mut next = || lines.next().ok_or_else(|| unsuitable("it answered with fewer than five lines"));
        let version = next()?.to_owned();
        let digits =
            version.strip_prefix("PostgreSQL ").ok_or_else(|| unsuitable("its version is not PostgreSQL's"))?;
        let digits: String = digits.chars().take_while(char::is_ascii_digit).collect();
        let major = digits.parse().map_err(|_| unsuitable(&format!("its version is {version:?}")))?;
        Ok(Installation {
            pg_config: path.to_owned(),
            major,
            version,
            bindir: next()?.into(),
            pkglibdir: next()?.into(),
            sharedir: next()?.into(),
            includedir_server: next()?.into(),
        })
    }

    /// The installed Postgres of version `major`, preferring one that has server headers.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is none, [`Error::Unsuitable`] if `KRIYA_PG_CONFIG` names one of another version.
    pub fn find(major: u32) -> Result<Installation, Error> {
        if let Some(named) = std::env::var_os("KRIYA_PG_CONFIG").filter(|p| !p.is_empty()) {
            let found = Installation::at(Path::new(&named))?;
            if found.major != major {
                let why = format!("KRIYA_PG_CONFIG names a {}, but version {major} was asked for", found.version);
                return Err(Error::Unsuitable { pg_config: found.pg_config, why });
            }
            return Ok(found);
        }
        let looked_at = places(major);
        let mut without_headers = None;
        for path in looked_at.iter().filter(|p| p.is_file()) {
            match Installation::at(path) {
                Ok(found) if found.major == major && found.can_run() => {
                    if found.has_headers() {
                        return Ok(found);
                    }
                    without_headers.get_or_insert(found);
                }
                _ => {}
            }
        }
        without_headers.ok_or(Error::NotFound { major, looked_at })
    }

    /// The path of one of its programs, for example `psql`.
    pub fn program(&self, name: &str) -> PathBuf {
        self.bindir.join(name)
    }

    /// Whether extensions can be compiled against it.
    pub fn has_headers(&self) -> bool {
        self.includedir_server.join("postgres.h").is_file()
    }

    /// Whether it has a server, not only a client.
    fn can_run(&self) -> bool {
        self.program("postgres").is_file() && self.program("initdb").is_file()
    }

    /// Where its `pg_regress` is, if it was installed with one.
    pub fn pg_regress(&self) -> Option<PathBuf> {
        let out = process::run(Command::new(&self.pg_config).arg("--pgxs"), "asking for pgxs").ok()?;
        // .../pgxs/src/makefiles/pgxs.mk stands beside .../pgxs/src/test/regress/pg_regress
        let src = Path::new(out.trim()).parent()?.parent()?.to_owned();
        Some(src.join("test/regress/pg_regress")).filter(|p| p.is_file())
    }
}

fn places(major: u32) -> Vec<PathBuf> {
    let mut places = vec![
        home().join(format!("pg{major}/bin/pg_config")),
        format!("/usr/lib/postgresql/{major}/bin/pg_config").into(),
        format!("/usr/pgsql-{major}/bin/pg_config").into(),
        format!("/opt/homebrew/opt/postgresql@{major}/bin/pg_config").into(),
        format!("/usr/local/opt/postgresql@{major}/bin/pg_config").into(),
    ];
    if let Some(path) = std::env::var_os("PATH") {
        places.extend(std::env::split_paths(&path).map(|dir| dir.join("pg_config")));
    }
    places
}

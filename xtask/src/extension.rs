//! `cargo xtask build`: compiles `kriya-pg` by plain cargo and puts the library, its control file and its SQL scripts
//! where one PostgreSQL looks for extensions.
//!
//! Each file is written aside and renamed, because running servers may have the old library mapped; what is already
//! there byte for byte is left alone.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use kriya_testkit::Installation;

use crate::failure::{Failure, Outcome};
use crate::{places, progress};

/// How the extension is compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// For tests and the demo: the hot crates are optimised, the rest is quick to build.
    Dev,
    /// For measurements: everything is optimised.
    Release,
}

impl Profile {
    /// What cargo calls it.
    pub fn name(self) -> &'static str {
        match self {
            Profile::Dev => "dev",
            Profile::Release => "release",
        }
    }

    /// The folder of its artefacts below the target folder.
    fn folder(self) -> &'static str {
        match self {
            Profile::Dev => "debug",
            Profile::Release => "release",
        }
    }
}

/// Builds the extension for `pg` and installs it there.
///
/// # Errors
/// If cargo fails, or the folders of `pg` cannot be written.
pub fn build(pg: &Installation) -> Outcome<()> {
    build_as(pg, Profile::Dev)
}

/// As [`build`], compiled as `profile` says. What was installed before is replaced.
///
/// # Errors
/// As [`build`].
pub fn build_as(pg: &Installation, profile: Profile) -> Outcome<()> {
    progress::step(&format!("building kriya_pg ({})", profile.name()), || compile(pg, profile))?;
    progress::step("installing kriya_pg", || install(pg, profile))?;
    println!("kriya_pg is installed in {}", pg.version);
    Ok(())
}

/// Whether the extension's library is installed in `pg`, of whatever age.
pub fn is_installed(pg: &Installation) -> bool {
    pg.pkglibdir.join("kriya_pg.so").is_file()
}

fn compile(pg: &Installation, profile: Profile) -> Outcome<()> {
    let mut cargo = places::cargo();
    cargo
        .args(["build", "--quiet", "--profile", profile.name(), "--package", "kriya-pg"])
        .args(["--no-default-features", "--features"])
        .arg(format!("pg{},s3", pg.major))
        .env("PGRX_PG_CONFIG_PATH", &pg.pg_config);
    let shown = progress::display(&cargo);
    let status = cargo.status().map_err(|e| Failure::new(format!("running {shown}: {e}")))?;
    status.success().then_some(()).ok_or_else(|| Failure::new(format!("{shown}: {status}")))
}

fn install(pg: &Installation, profile: Profile) -> Outcome<()> {
    let library = if cfg!(target_os = "macos") { "libkriya_pg.dylib" } else { "libkriya_pg.so" };
    let built = places::target().join(profile.folder()).join(library);
    put(&built, &pg.pkglibdir.join("kriya_pg.so"), 0o755)?;
    let source = places::workspace().join("kriya-pg");
    let extension = pg.sharedir.join("extension");
    put(&source.join("kriya_pg.control"), &extension.join("kriya_pg.control"), 0o644)?;
    for script in scripts(&source.join("sql"))? {
        let name = script.file_name().unwrap_or_default();
        put(&script, &extension.join(name), 0o644)?;
    }
    Ok(())
}

/// The SQL scripts of the extension: of each version, and of each update.
fn scripts(folder: &Path) -> Outcome<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).map_err(Failure::doing("reading", folder))?;
    let mut scripts: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            name.starts_with("kriya_pg--") && name.ends_with(".sql")
        })
        .collect();
    scripts.sort();
    Ok(scripts)
}

/// Copies `from` to `to` in one step, readable by everybody.
fn put(from: &Path, to: &Path, mode: u32) -> Outcome<()> {
    let bytes = fs::read(from).map_err(Failure::doing("reading", from))?;
    if fs::read(to).is_ok_and(|there| there == bytes) {
        return Ok(());
    }
    let folder = to.parent().unwrap_or(Path::new("/"));
    let name = to.file_name().unwrap_or_default().to_string_lossy();
    let aside = folder.join(format!(".{name}.{}", std::process::id()));
    let write = || {
        fs::write(&aside, &bytes)?;
        fs::set_permissions(&aside, fs::Permissions::from_mode(mode))?;
        fs::rename(&aside, to)
    };
    write().map_err(|e| {
        // Whatever was written aside is of no use now; that it may not exist is fine.
        let _gone = fs::remove_file(&aside);
        let who = match e.kind() {
            std::io::ErrorKind::PermissionDenied => {
                "; this PostgreSQL's folders belong to another user: run the command as that user (root for packages of \
                 the system), or name a PostgreSQL of your own in KRIYA_PG_CONFIG"
            }
            _ => "",
        };
        Failure::new(format!("installing {}: {e}{who}", to.display()))
    })
}

//! Power cuts: a server whose disk keeps only what was synced.
//!
//! A small C library (`power.c`, compiled here with `cc`) is preloaded into the server and keeps a shadow of the data
//! directory: synced content, synced names. A cut kills every process and puts the shadow in the directory's place. It
//! may also keep, of what was written but never synced, any 512-byte sectors, as disks do.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rand::Rng;
use rand::rngs::StdRng;
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

use crate::account::Account;
use crate::error::Error;
use crate::folder::ServerFolder;
use crate::process;
use crate::server::{Builder, Postgres};

const SOURCE: &str = include_str!("power.c");
const SECTOR: usize = 512;

/// What a power cut leaves of bytes that were written and not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Nothing.
    Synced,
    /// Each sector or not, at random; a file that was never synced may be there with some of them.
    SomeSectors,
}

/// The disk of one server.
#[derive(Debug)]
pub struct PowerSupply {
    root: PathBuf,
}

impl PowerSupply {
    /// Makes the folder of a server to be, and the library.
    ///
    /// # Errors
    /// If there is no `cc`, or no place.
    pub fn new() -> Result<PowerSupply, Error> {
        let account = Account::for_servers()?;
        let root = ServerFolder::temporary(&account)?.root().to_owned();
        let root = fs::canonicalize(&root).map_err(|e| Error::io("finding", &root, e))?;
        let supply = PowerSupply { root };
        let source = supply.root.join("power.c");
        fs::write(&source, SOURCE).map_err(|e| Error::io("writing", &source, e))?;
        let mut cc = Command::new("cc");
        cc.args(["-O2", "-shared", "-fPIC", "-Wall", "-Werror", "-o"]).arg(supply.library()).arg(&source);
        process::run(&mut cc, "compiling the power shim")?;
        fs::create_dir(supply.shadow()).map_err(|e| Error::io("making", &supply.shadow(), e))?;
        account.own(&supply.shadow())?;
        Ok(supply)
    }

    /// Puts a server on this disk. Its log comes in small segments, which are quick to copy.
    pub fn plug_in(&self, builder: Builder) -> Builder {
        let builder = builder.folder(&self.server()).durable().initdb("--wal-segsize=1");
        let data = self.server().join("data");
        builder
            .setting("wal_sync_method", "fdatasync")
            .setting("max_wal_size", "64MB")
            .environment("LD_PRELOAD", self.library())
            .environment("KRIYA_POWER_DATA", data)
            .environment("KRIYA_POWER_SHADOW", self.shadow())
    }

    /// From now on, what the stopped server has on disk is durable, and only what is synced will be.
    ///
    /// # Errors
    /// If the data cannot be copied.
    pub fn switch_on(&self, server: &Postgres) -> Result<(), Error> {
        let shadow = self.shadow();
        for name in ["on", "lock"] {
            let path = shadow.join(name);
            let _none = fs::remove_file(path);
        }
        for name in ["root", "ino", "at"] {
            let path = shadow.join(name);
            let _none = fs::remove_dir_all(&path);
            if name != "root" {
                fs::create_dir(&path).map_err(|e| Error::io("making", &path, e))?;
                server.account().own(&path)?;
            }
        }
        let (data, root) = (server.folder().data(), shadow.join("root"));
        process::run(Command::new("cp").arg("-a").arg(&data).arg(&root), "copying the data directory")?;
        for path in files(&data)? {
            let relative = path.strip_prefix(&data).unwrap_or(&path);
            let key = key(&path)?;
            let (content, at) = (shadow.join("ino").join(&key), shadow.join("at").join(&key));
            if content.exists() {
                // Another name of a file that was seen already.
                continue;
            }
            fs::hard_link(root.join(relative), &content).map_err(|e| Error::io("linking", &content, e))?;
            std::os::unix::fs::symlink(relative, &at).map_err(|e| Error::io("linking", &at, e))?;
        }
        let on = shadow.join("on");
        fs::write(&on, "").map_err(|e| Error::io("writing", &on, e))
    }

    /// Puts what is durable in the place of the data directory. Every process of the server is dead.
    ///
    /// # Errors
    /// If files cannot be read or written.
    pub fn cut(&self, server: &Postgres, keep: Keep, rng: &mut StdRng) -> Result<(), Error> {
        let (data, root) = (server.folder().data(), self.shadow().join("root"));
        if keep == Keep::SomeSectors {
            for path in files(&data)? {
                self.tear(&path, path.strip_prefix(&data).unwrap_or(&path), server.account(), rng)?;
            }
        }
        fs::remove_dir_all(&data).map_err(|e| Error::io("removing", &data, e))?;
        fs::rename(&root, &data).map_err(|e| Error::io("renaming", &root, e))?;
        // A machine that comes up again has other process ids.
        let _none = fs::remove_file(data.join("postmaster.pid"));
        self.switch_on(server)
    }

    /// Keeps some sectors of what a live file has and the durable one has not.
    fn tear(&self, live: &Path, relative: &Path, account: &Account, rng: &mut StdRng) -> Result<(), Error> {
        let key = key(live)?;
        let written = fs::read(live).map_err(|e| Error::io("reading", live, e))?;
        let place = match fs::read_link(self.shadow().join("at").join(&key)) {
            Ok(at) => self.shadow().join("root").join(at),
            Err(_) => {
                let place = self.shadow().join("root").join(relative);
                let parent_is_there = place.parent().is_some_and(Path::is_dir);
                if place.exists() || !parent_is_there || written.is_empty() || rng.random_bool(0.5) {
                    return Ok(());
                }
                File::create(&place).map_err(|e| Error::io("making", &place, e))?;
                account.own(&place)?;
                place
            }
        };
        let Ok(durable) = fs::read(&place) else { return Ok(()) };
        if durable == written {
            return Ok(());
        }
        let file = File::options().write(true).open(&place).map_err(|e| Error::io("opening", &place, e))?;
        for (number, sector) in written.chunks(SECTOR).enumerate() {
            let at = number * SECTOR;
            let old = durable.get(at..(at + sector.len()).min(durable.len())).unwrap_or_default();
            if old != sector && rng.random_bool(0.5) {
                file.write_all_at(sector, at as u64).map_err(|e| Error::io("writing", &place, e))?;
            }
        }
        Ok(())
    }

    fn library(&self) -> PathBuf {
        self.root.join("power.so")
    }

    fn shadow(&self) -> PathBuf {
        self.root.join("shadow")
    }

    fn server(&self) -> PathBuf {
        self.root.join("server")
    }
}

impl Drop for PowerSupply {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the disk of the server is kept: {}", self.root.display());
        } else {
            // Left-over files in a temporary place are no reason to fail a test that has passed.
            let _left = fs::remove_dir_all(&self.root);
        }
    }
}

/// The name that the library gives to a file: inode and time of birth.
fn key(path: &Path) -> Result<String, Error> {
    let flags = StatxFlags::INO | StatxFlags::BTIME;
    let x = statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, flags).map_err(|e| Error::io("looking at", path, e.into()))?;
    Ok(format!("{:x}-{:x}.{:x}", x.stx_ino, x.stx_btime.tv_sec, x.stx_btime.tv_nsec))
}

/// All regular files below `folder`.
fn files(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).map_err(|e| Error::io("reading", &folder, e))?.flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                Ok(kind) if kind.is_file() => found.push(entry.path()),
                _ => {}
            }
        }
    }
    Ok(found)
}

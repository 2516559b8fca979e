//! The user that servers run as. Postgres refuses to run as root, so root drops to `postgres`, or to an account
//! `kriya` that is made for the purpose; everybody else runs servers as themselves.
//!
//! Invariant: every folder that a server writes is owned by this account before the server sees it.

use std::os::unix::fs::{DirBuilderExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::error::Error;

/// An ordinary user to run Postgres as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    other: Option<Other>,
}

/// A user other than ourselves; only root can become one.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Other {
    name: String,
    uid: u32,
    gid: u32,
}

impl Account {
    /// The account for servers of this process: ourselves, or for root `postgres`, else `kriya` (made if need be).
    ///
    /// # Errors
    /// [`Error::NoAccount`] if root finds neither and cannot make one.
    pub fn for_servers() -> Result<Account, Error> {
        if !rustix::process::geteuid().is_root() {
            return Ok(Account { other: None });
        }
        if let Some(other) = lookup("postgres").or_else(|| lookup("kriya")) {
            return Ok(Account { other: Some(other) });
        }
        let made = Command::new("useradd")
            .args(["--system", "--user-group", "--no-create-home", "--shell", "/bin/sh", "kriya"])
            .output()
            .map_err(|e| Error::NoAccount { why: format!("running useradd: {e}") })?;
        lookup("kriya").map(|other| Account { other: Some(other) }).ok_or_else(|| Error::NoAccount {
            why: format!("useradd kriya: {}", String::from_utf8_lossy(&made.stderr).trim()),
        })
    }

    /// Makes `command` run as this account, with its home and name in the environment.
    pub fn apply(&self, command: &mut Command) {
        if let Some(other) = &self.other {
            // The standard library drops supplementary groups when root changes the user.
            command.uid(other.uid).gid(other.gid).env("USER", &other.name).env("LOGNAME", &other.name).env("HOME", "/");
        }
    }

    /// Gives `path` to this account.
    ///
    /// # Errors
    /// [`Error::Io`] if the owner cannot be changed.
    pub fn own(&self, path: &Path) -> Result<(), Error> {
        match &self.other {
            None => Ok(()),
            Some(other) => {
                chown(path, Some(other.uid), Some(other.gid)).map_err(|e| Error::io("changing the owner of", path, e))
            }
        }
    }

    /// Makes the folder `path`, closed to others, and gives it to this account. Parents are made as they are needed
    /// and stay ours. A folder that exists already is taken only if it is this account's, so that a server never
    /// changes the owner of something that was there before.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be made or given away.
    pub fn make_folder(&self, path: &Path) -> Result<(), Error> {
        if path.is_dir() {
            return self.can_write(path).then_some(()).ok_or_else(|| Error::Failed {
                what: format!("using the folder {}", path.display()),
                said: format!("{} may not write there", self.name()),
            });
        }
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(|e| Error::io("making", parent, e))?;
        }
        std::fs::DirBuilder::new().mode(0o700).create(path).map_err(|e| Error::io("making", path, e))?;
        self.own(path)
    }

    /// Whether this account can reach into the folder `path`, asked by trying as that account.
    pub fn can_traverse(&self, path: &Path) -> bool {
        self.test("-x", path)
    }

    fn can_write(&self, path: &Path) -> bool {
        self.test("-w", path) && self.test("-x", path)
    }

    fn test(&self, what: &str, path: &Path) -> bool {
        let mut command = Command::new("test");
        command.arg(what).arg(path).current_dir("/").stdin(Stdio::null()).stderr(Stdio::null());
        self.apply(&mut command);
        command.status().is_ok_and(|s| s.success())
    }

    /// How the account is called in messages.
    pub fn name(&self) -> &str {
        self.other.as_ref().map_or("this user", |o| &o.name)
    }
}

/// Asks `id`, which knows every source of users that the machine has.
fn lookup(name: &str) -> Option<Other> {
    let number = |flag: &str| -> Option<u32> {
        let out = Command::new("id").args([flag, name]).stderr(Stdio::null()).output().ok()?;
        if !out.status.success() {
            return None;
        }
        String::from_utf8(out.stdout).ok()?.trim().parse().ok()
    };
    let (uid, gid) = (number("-u")?, number("-g")?);
    (uid != 0).then(|| Other { name: name.to_owned(), uid, gid })
}

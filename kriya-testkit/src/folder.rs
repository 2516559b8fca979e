//! The folder of one server: `data/` (Postgres's own), `log`, and the Unix socket. A temporary one goes when its test
//! succeeds and stays when it fails, so that the failure can be looked at.
//!
//! Invariant: the servers' account can reach it. Root's home and a clone below it are closed to others, so a
//! temporary folder is looked for in several places and each is tried as that account.

use std::path::{Path, PathBuf};

use crate::account::Account;
use crate::error::Error;

/// Where a server lives.
#[derive(Debug, Clone)]
pub struct ServerFolder {
    root: PathBuf,
    temporary: bool,
}

/// What a socket's whole path may take, by the kernel's `sockaddr_un`.
const SOCKET_PATH_LIMIT: usize = 107;

impl ServerFolder {
    /// A folder at `root` that stays; made if it does not exist.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Failed`] if it cannot be made, or `account` cannot write to it.
    pub fn kept(root: &Path, account: &Account) -> Result<ServerFolder, Error> {
        account.make_folder(root)?;
        if !account.can_traverse(root) {
            return Err(Error::Failed {
                what: format!("using the folder {}", root.display()),
                said: format!("{} cannot reach it (a folder above it is closed to others)", account.name()),
            });
        }
        Ok(ServerFolder { root: root.to_owned(), temporary: false })
    }

    /// A fresh folder that is removed with the server that is built in it.
    ///
    /// # Errors
    /// [`Error::Failed`] if `account` can reach none of the places for temporary files.
    pub fn temporary(account: &Account) -> Result<ServerFolder, Error> {
        let mut last = None;
        for place in [std::env::temp_dir(), PathBuf::from("/tmp"), PathBuf::from("/var/tmp")] {
            if !account.can_traverse(&place) {
                continue;
            }
            match tempfile::Builder::new().prefix("kriya-pg-").tempdir_in(&place) {
                Ok(dir) => {
                    let root = dir.keep();
                    account.own(&root)?;
                    return Ok(ServerFolder { root, temporary: true });
                }
                Err(e) => last = Some(e),
            }
        }
        Err(Error::Failed {
            what: "making a temporary folder for a server".to_owned(),
            said: last.map_or_else(|| format!("{} can reach none", account.name()), |e| e.to_string()),
        })
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Postgres's data directory.
    pub fn data(&self) -> PathBuf {
        self.root.join("data")
    }

    /// What the server says.
    pub fn log(&self) -> PathBuf {
        self.root.join("log")
    }

    /// The folder for the Unix socket, or none if its path would be longer than the kernel takes.
    pub fn socket_dir(&self) -> Option<&Path> {
        let longest = self.root.as_os_str().len() + "/.s.PGSQL.65535.lock".len();
        (longest <= SOCKET_PATH_LIMIT).then_some(&*self.root)
    }

    /// Whether it goes with its server.
    pub fn is_temporary(&self) -> bool {
        self.temporary
    }

    /// Makes a temporary folder stay.
    pub fn keep(&mut self) {
        self.temporary = false;
    }
}

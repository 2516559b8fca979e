//! Servers that an earlier command has started and left running: asked after and stopped by their folder, through
//! Postgres's own `pg_ctl`, under the servers' account (which can signal nobody else's processes).

use std::path::{Path, PathBuf};

use crate::account::Account;
use crate::error::Error;
use crate::installation::Installation;
use crate::process;

/// A server known by its folder only.
#[derive(Debug, Clone)]
pub struct LeftRunning {
    installation: Installation,
    account: Account,
    data: PathBuf,
}

impl LeftRunning {
    /// The server of `installation` in the folder `root`, whether it runs or not.
    ///
    /// # Errors
    /// [`Error::NoAccount`] if there is no account for servers.
    pub fn at(installation: &Installation, root: &Path) -> Result<LeftRunning, Error> {
        let account = Account::for_servers()?;
        Ok(LeftRunning { installation: installation.clone(), account, data: root.join("data") })
    }

    /// Whether it runs.
    pub fn is_running(&self) -> bool {
        let mut status = process::command(&self.account, &self.installation.program("pg_ctl"));
        status.arg("-D").arg(&self.data).arg("status");
        status.output().is_ok_and(|out| out.status.success())
    }

    /// Ends its sessions, stops it orderly and waits for that.
    ///
    /// # Errors
    /// [`Error::Failed`] with what `pg_ctl` said.
    pub fn stop(&self) -> Result<(), Error> {
        let mut stop = process::command(&self.account, &self.installation.program("pg_ctl"));
        stop.arg("-D").arg(&self.data).args(["-m", "fast", "-w", "-t", "90", "stop"]);
        process::run(&mut stop, &format!("stopping the server in {}", self.data.display())).map(drop)
    }
}

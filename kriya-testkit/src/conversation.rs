//! Talking to a server: connections of the `postgres` crate for sessions that a test holds open, and `psql` for what a
//! user would type, with all that it printed.

use std::fmt;
use std::process::Command;

use crate::error::Error;
use crate::process;
use crate::server::Postgres;

/// Where a server answers; displays as a connection URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    /// The port on 127.0.0.1.
    pub port: u16,
    /// The database.
    pub database: String,
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "postgresql://postgres@127.0.0.1:{}/{}", self.port, self.database)
    }
}

/// What a program printed and how it ended.
#[derive(Debug, Clone)]
pub struct Captured {
    /// Whether it ended with status 0.
    pub success: bool,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Postgres {
    /// Where the server answers, for the database `postgres`.
    pub fn url(&self) -> Url {
        Url { port: self.port(), database: "postgres".to_owned() }
    }

    /// Opens a session in the database `postgres` as its superuser.
    ///
    /// # Errors
    /// [`Error::Sql`] if the server refuses.
    pub fn connect(&self) -> Result<postgres::Client, Error> {
        self.connect_to("postgres")
    }

    /// Opens a session in `database` as the superuser.
    ///
    /// # Errors
    /// [`Error::Sql`] if the server refuses.
    pub fn connect_to(&self, database: &str) -> Result<postgres::Client, Error> {
        let mut config = postgres::Config::new();
        config.host("127.0.0.1").port(self.port()).user("postgres").dbname(database);
        Ok(config.connect(postgres::NoTls)?)
    }

    /// A `psql` command for the database `postgres`, to which more arguments can be given. It reads no start-up file.
    pub fn psql_command(&self) -> Command {
        let mut command = process::command(self.account(), &self.installation().program("psql"));
        command.args(["-X", "-h", "127.0.0.1", "-U", "postgres", "-d", "postgres", "-p"]).arg(self.port().to_string());
        command
    }

    /// Runs `sql` in `psql`, stopping at the first error, with bare rows (no headers, `|` between columns).
    ///
    /// # Errors
    /// [`Error::Io`] if `psql` cannot be run; an SQL error is in what was captured.
    pub fn psql(&self, sql: &str) -> Result<Captured, Error> {
        let out = self
            .psql_command()
            .args(["-v", "ON_ERROR_STOP=1", "-A", "-t", "-q", "-c", sql])
            .output()
            .map_err(|source| Error::Io { doing: "running psql".to_owned(), source })?;
        Ok(Captured {
            success: out.status.success(),
            stdout: String::from_utf8_lossy(&out.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&out.stderr).into_owned(),
        })
    }
}

//! What can go wrong with a server for tests, as sentences that say what was tried, where, and what came back.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// A failure of a server, or of finding a Postgres to run one with.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// No Postgres of the wanted major version was found.
    NotFound {
        /// The major version that was looked for.
        major: u32,
        /// The `pg_config` files that were looked at, in order.
        looked_at: Vec<PathBuf>,
    },
    /// A `pg_config` exists but is not what was asked for, or does not answer as `pg_config` does.
    Unsuitable {
        /// The `pg_config` in question.
        pg_config: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A program could not be run at all, or a file could not be read or written.
    Io {
        /// What was being done, to which path.
        doing: String,
        /// What the system said.
        source: io::Error,
    },
    /// A program ran and failed.
    Failed {
        /// The program and what it was to do.
        what: String,
        /// Its exit status, and what it said.
        said: String,
    },
    /// The server did not come up, or not in time.
    NotReady {
        /// The server's folder.
        root: PathBuf,
        /// Why it was given up.
        why: String,
        /// The end of its log.
        log: String,
    },
    /// No ordinary account is there to run Postgres as, and none could be made.
    NoAccount {
        /// Why.
        why: String,
    },
    /// A connection or a statement failed.
    Sql(postgres::Error),
}

impl Error {
    /// Wraps what the system said with what was being done to which path.
    pub(crate) fn io(doing: &str, path: &Path, source: io::Error) -> Error {
        Error::Io { doing: format!("{doing} {}", path.display()), source }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::NotFound { major, looked_at } => {
                write!(f, "no PostgreSQL {major} found; looked at")?;
                for path in looked_at {
                    write!(f, " {}", path.display())?;
                }
                write!(f, " (`cargo xtask setup --pg {major}` provides one, KRIYA_PG_CONFIG names one)")
            }
            Error::Unsuitable { pg_config, why } => write!(f, "{} cannot be used: {why}", pg_config.display()),
            Error::Io { doing, source } => write!(f, "{doing}: {source}"),
            Error::Failed { what, said } => write!(f, "{what} failed: {said}"),
            Error::NotReady { root, why, log } => {
                write!(f, "the server in {} is not ready: {why}; the end of its log:\n{log}", root.display())
            }
            Error::NoAccount { why } => {
                write!(f, "Postgres refuses to run as root and there is no ordinary account to run it as: {why}")
            }
            Error::Sql(e) => match e.as_db_error() {
                Some(db) => write!(f, "{}: {} ({})", db.severity(), db.message(), db.code().code()),
                None => write!(f, "{e}"),
            },
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Io { source, .. } => Some(source),
            Error::Sql(e) => Some(e),
            _ => None,
        }
    }
}

impl From<postgres::Error> for Error {
    fn from(e: postgres::Error) -> Error {
        Error::Sql(e)
    }
}

//! What `cargo xtask` says when it cannot go on: one sentence, with what to do about it where that is known.

use std::fmt;
use std::path::Path;

/// Why a command was given up.
#[derive(Debug)]
pub struct Failure(String);

/// What a command gives back.
pub type Outcome<T> = Result<T, Failure>;

impl Failure {
    /// A failure that says `sentence`.
    pub fn new(sentence: impl Into<String>) -> Failure {
        Failure(sentence.into())
    }

    /// For `map_err`: what was being done to which path, and what the system said.
    pub fn doing<E: fmt::Display>(doing: &str, path: &Path) -> impl FnOnce(E) -> Failure {
        let what = format!("{doing} {}", path.display());
        move |e| Failure(format!("{what}: {e}"))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failure {}

impl From<kriya_testkit::Error> for Failure {
    fn from(e: kriya_testkit::Error) -> Failure {
        Failure(e.to_string())
    }
}

impl From<kriya_testkit::postgres::Error> for Failure {
    fn from(e: kriya_testkit::postgres::Error) -> Failure {
        kriya_testkit::Error::from(e).into()
    }
}

impl From<kriya_datasets::Error> for Failure {
    fn from(e: kriya_datasets::Error) -> Failure {
        Failure(e.to_string())
    }
}

//! Why a snapshot is refused: which file, which part of it, what is wrong there.

use std::error::Error;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::error::OpenError;

/// Why a snapshot cannot be opened, or is damaged.
#[derive(Debug)]
pub struct SnapshotError {
    path: Option<PathBuf>,
    part: Option<(&'static str, u64)>,
    problem: OpenError,
}

impl SnapshotError {
    pub(super) fn in_file(problem: OpenError) -> SnapshotError {
        SnapshotError { path: None, part: None, problem }
    }

    /// An error of the part called `name` that begins at byte `start`: places within it become places in the file.
    pub(super) fn in_part(name: &'static str, start: u64, mut problem: OpenError) -> SnapshotError {
        if let OpenError::Checksum { offset, .. } | OpenError::Padding { offset, .. } = &mut problem {
            *offset = offset.saturating_add(start);
        }
        SnapshotError { path: None, part: Some((name, start)), problem }
    }

    pub(super) fn at(mut self, path: Option<&Path>) -> SnapshotError {
        self.path = path.map(Path::to_owned);
        self
    }

    /// The file, if it was opened by its path.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// The part of the file that is at fault ("rows", "graph", "exact rows"), and the byte at which it begins. None if it
    /// is the file's own header, or the file as a whole.
    pub fn part(&self) -> Option<(&'static str, u64)> {
        self.part
    }

    /// What is wrong. Offsets are counted from the beginning of the file.
    pub fn problem(&self) -> &OpenError {
        &self.problem
    }
}

impl fmt::Display for SnapshotError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(path) = &self.path {
            write!(f, "{}: ", path.display())?;
        }
        if let Some((name, start)) = self.part {
            write!(f, "in the {name}, which begin at byte {start}: ")?;
        }
        self.problem.fmt(f)
    }
}

impl Error for SnapshotError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.problem.source()
    }
}

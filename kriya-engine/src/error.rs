//! What a damaged, foreign or hostile byte leads to: a sentence, never a panic.

use std::fmt;

/// Bytes that are not what they should be: which thing, what was expected, what was found.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FormatError {
    what: &'static str,
    detail: String,
}

impl FormatError {
    /// `what` names the thing that was read ("row header"), `detail` says what is wrong with it.
    pub fn new(what: &'static str, detail: impl Into<String>) -> FormatError {
        FormatError { what, detail: detail.into() }
    }

    pub(crate) fn short(what: &'static str, expected: usize, got: usize) -> FormatError {
        FormatError::new(what, format!("expected at least {expected} bytes, got {got}"))
    }

    pub(crate) fn version(what: &'static str, expected: u8, got: u8) -> FormatError {
        FormatError::new(what, format!("expected version {expected}, got {got}"))
    }
}

impl fmt::Display for FormatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot read a {}: {}", self.what, self.detail)
    }
}

impl std::error::Error for FormatError {}

/// The `N` bytes at `at`, which must lie in `bytes`.
pub(crate) fn array<const N: usize>(what: &'static str, bytes: &[u8], at: usize) -> Result<[u8; N], FormatError> {
    let end = at.saturating_add(N);
    bytes.get(at..end).and_then(|part| part.try_into().ok()).ok_or_else(|| FormatError::short(what, end, bytes.len()))
}

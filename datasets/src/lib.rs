//! datasets
use std::fmt;
/// What is wrong with a file of vectors.
#[derive(Debug)]
pub struct Error;
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str("bad") }
}

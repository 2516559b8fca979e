//! `cargo xtask dataset cut`.

use std::path::PathBuf;

use crate::failure::{Failure, Outcome};

pub fn cut(_from: Option<PathBuf>, _to: Option<PathBuf>) -> Outcome<()> {
    Err(Failure::new("dataset cut is not supported yet"))
}

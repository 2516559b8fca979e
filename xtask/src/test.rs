//! `cargo xtask test`.

use std::process::ExitCode;

use clap::Args;

use crate::failure::{Failure, Outcome};

/// What a test run can be told.
#[derive(Args)]
pub struct Options {}

pub fn run(_options: &Options) -> Outcome<ExitCode> {
    Err(Failure::new("the test run is not supported yet"))
}

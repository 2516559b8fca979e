//! `cargo xtask demo`.

use clap::Args;

use crate::failure::{Failure, Outcome};

/// What the demo can be told.
#[derive(Args)]
pub struct Options {}

pub fn run(_options: &Options) -> Outcome<()> {
    Err(Failure::new("the demo is not supported yet"))
}

//! The form of the code: rustfmt and clippy; for the Postgres glue apart, which needs a server's headers.

use kriya_testkit::Installation;

use crate::failure::Outcome;
use crate::places;
use crate::progress::Log;

use super::logs;
use super::tally::Tally;

/// `cargo fmt --check` over the whole workspace.
///
/// # Errors
/// What rustfmt says.
pub fn format(tally: &mut Tally) -> Outcome<()> {
    Log::create(logs().join("format.log"))?.run(places::cargo().args(["fmt", "--all", "--check"]))?;
    tally.pass(1);
    Ok(())
}

/// `cargo clippy` with warnings as errors.
///
/// # Errors
/// What clippy says.
pub fn clippy(tally: &mut Tally) -> Outcome<()> {
    let mut clippy = places::cargo();
    clippy.args(["clippy", "--quiet", "--workspace", "--exclude", "kriya-pg", "--all-targets"]);
    clippy.args(["--features", "lsmstore/vectors,lsmstore/ctl", "--", "-D", "warnings"]);
    Log::create(logs().join("lints.log"))?.run(&mut clippy)?;
    tally.pass(1);
    Ok(())
}

/// `cargo clippy` over the Postgres glue, for one version of PostgreSQL.
///
/// # Errors
/// What clippy says.
pub fn glue(tally: &mut Tally, pg: &Installation) -> Outcome<()> {
    let mut clippy = places::cargo();
    clippy
        .args(["clippy", "--quiet", "--no-deps", "--package", "kriya-pg", "--no-default-features", "--features"])
        .arg(format!("pg{},s3", pg.major))
        .args(["--", "-D", "warnings"])
        .env("PGRX_PG_CONFIG_PATH", &pg.pg_config);
    Log::create(logs().join("glue.log"))?.run(&mut clippy)?;
    tally.pass(1);
    Ok(())
}

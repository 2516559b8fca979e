//! The demo's own path as a test: real data through SQL, judged by recall against exact answers and by the plan.

use std::path::PathBuf;

use kriya_testkit::{Installation, Postgres};

use crate::demo::{fashion, packages as descriptions};
use crate::failure::{Failure, Outcome};
use crate::places;

use super::Options;
use super::tally::Tally;

/// The checked-in package descriptions: every row arrives, the index is used, and finds the true neighbours.
///
/// # Errors
/// What the server or the data say.
pub fn packages(tally: &mut Tally, pg: &Installation) -> Outcome<()> {
    let server = Postgres::builder(pg).setting("lsm_s3.endpoint", "local").start()?;
    let report = descriptions::run(&mut server.connect()?, false).map_err(with_log(&server))?;
    tally.check(report.rows == 6_000, &format!("COPY brings 6,000 descriptions into the table ({})", report.rows));
    tally.check(uses_index(&report.plan), &format!("an ordered search uses the index ({})", report.plan));
    tally.check(report.recall >= 0.95, &format!("recall@10 is at least 0.95 ({:.3})", report.recall));
    Ok(())
}

/// Fashion-MNIST, 60,000 images. Its files are not checked in: without them it is skipped, but a failure where `CI` is
/// set, so that it cannot get lost.
///
/// # Errors
/// What the server or the data say.
pub fn fashion_mnist(tally: &mut Tally, pg: &Installation, options: &Options) -> Outcome<()> {
    let datasets: PathBuf = options.datasets.clone().unwrap_or_else(places::shared_datasets);
    let data = datasets.join("fashion-mnist-784-euclidean");
    if !data.is_dir() {
        if std::env::var("CI").is_ok_and(|ci| ci == "true") {
            return Err(Failure::new(format!("{} is not there, and CI is set", data.display())));
        }
        tally.skip(format!("fashion-mnist: no data in {} (--datasets names another place)", datasets.display()));
        return Ok(());
    }
    let server = Postgres::builder(pg).setting("lsm_s3.endpoint", "local").start()?;
    let report = fashion::run(&mut server.connect()?, &data).map_err(with_log(&server))?;
    tally.check(report.rows == 60_000, &format!("COPY brings 60,000 images into the table ({})", report.rows));
    tally.check(uses_index(&report.plan), &format!("an ordered search uses the index ({})", report.plan));
    let widest = report.points.last().map_or(0.0, |point| point.recall);
    tally.check(widest >= 0.98, &format!("recall@10 at the widest search is at least 0.98 ({widest:.4})"));
    // Wider searches visit a superset of candidates; a little slack, for the pools differ.
    let rising = report.points.windows(2).all(|pair| pair[1].recall + 0.002 >= pair[0].recall);
    tally.check(rising, "a wider search does not find less");
    Ok(())
}

fn uses_index(plan: &str) -> bool {
    plan.contains("Index Scan using")
}

/// Adds the end of the server's log to a failure: it says why a session ended.
fn with_log(server: &Postgres) -> impl FnOnce(Failure) -> Failure {
    move |failure| Failure::new(format!("{failure}\nthe end of the server's log:\n{}", server.log_tail(20)))
}

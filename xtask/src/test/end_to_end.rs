//! The demo's own path as a test: real data through SQL, judged by recall against exact answers and by the plan.

use std::path::PathBuf;

use kriya_testkit::{Installation, Postgres};

use crate::bench;
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
        if in_ci() {
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

/// `cargo xtask bench pg --quick`: every workload of every subject is measured, and the searches find the neighbours. The
/// figures themselves are nobody's business here. Without pgvector its part is skipped, but a failure where `CI` is set.
///
/// # Errors
/// What the server or the data say.
pub fn bench(tally: &mut Tally, pg: &Installation) -> Outcome<()> {
    let (points, missing) = bench::quick(pg)?;
    let mut subjects = vec![bench::KRIYADB, bench::KRIYADB_ON_HEAP];
    match missing {
        None => subjects.push(bench::PGVECTOR),
        Some(why) if in_ci() => return Err(why),
        Some(why) => tally.skip(format!("bench beside pgvector: {why}")),
    }
    for subject in subjects {
        let name = format!("{} on {}", subject.library, subject.table_am);
        let of: Vec<&bench::Point> = points.iter().filter(|point| point.subject == subject).collect();
        let measured = |workload: &str, figure: &str| {
            of.iter().any(|point| point.workload == workload && point.figure(figure).is_some_and(|x| x > 0.0))
        };
        let inserts = ["insert", "insert_async_commit", "insert_one_transaction"];
        let all = measured("copy", "rows_per_s")
            && measured("copy_primary_key", "rows_per_s")
            && measured("build", "build_s")
            && measured("knn", "qps")
            && measured("knn_2_clients", "qps")
            && inserts.iter().all(|way| measured(way, "rows_per_s"));
        tally.check(all, &format!("every workload of {name} is measured"));
        let recall = of.iter().filter_map(|point| point.figure("recall")).fold(0.0, f64::max);
        tally.check(recall >= 0.95, &format!("the widest search of {name} has recall 0.95 at least ({recall:.3})"));
    }
    Ok(())
}

/// Whether this is a run that nothing may be missing in.
pub fn in_ci() -> bool {
    std::env::var("CI").is_ok_and(|ci| ci == "true")
}

fn uses_index(plan: &str) -> bool {
    plan.contains("Index Scan using")
}

/// Adds the end of the server's log to a failure: it says why a session ended.
fn with_log(server: &Postgres) -> impl FnOnce(Failure) -> Failure {
    move |failure| Failure::new(format!("{failure}\nthe end of the server's log:\n{}", server.log_tail(20)))
}

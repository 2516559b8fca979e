//! `cargo xtask dataset truth`: true neighbours of queries, in f64, by comparing each with every row.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use indicatif::{ProgressBar, ProgressStyle};
use kriya_datasets::{Matrix, Metric, exact_telling, vectors, write_fbin, write_ibin};

use super::TruthOptions;
use crate::failure::{Failure, Outcome};

/// Computes and writes them.
///
/// # Errors
/// If rows and queries cannot be read or do not fit, or the files not be written.
pub fn truth(options: &TruthOptions) -> Outcome<()> {
    let (base, queries) = (vectors(&options.base)?, vectors(&options.query)?);
    let wanted: Vec<usize> = (0..queries.len().min(options.queries.unwrap_or(usize::MAX))).collect();
    let queries = if wanted.len() < queries.len() { queries.select(&wanted) } else { queries };
    if options.k == 0 {
        return Err(Failure::new("--k is 0: there is nothing to look for"));
    }
    let bar = ProgressBar::new(queries.len() as u64);
    bar.set_style(style("{wide_bar} {pos}/{len} queries, {eta} left"));
    let truth = exact_telling(options.metric.metric(), &base, &queries, options.k, &|| bar.inc(1))?;
    bar.finish_and_clear();
    let matrix = || Failure::new("there are no queries");
    let ids = Matrix::new(truth.ids.concat(), options.k).ok_or_else(matrix)?;
    // Inner products are written as they are, the largest first, as public sets have them.
    let sign = if options.metric.metric() == Metric::InnerProduct { -1.0 } else { 1.0 };
    let distances = truth.distances.concat().iter().map(|d| (sign * d) as f32).collect();
    write_ibin(&with(&options.out, ".ibin"), &ids)?;
    write_fbin(&with(&options.out, ".dist.fbin"), &Matrix::new(distances, options.k).ok_or_else(matrix)?)?;
    println!("{} nearest of {} rows for {} queries in {}.*", options.k, base.len(), ids.len(), options.out.display());
    Ok(())
}

/// A bar's looks.
pub fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

fn with(prefix: &Path, end: &str) -> PathBuf {
    let mut path = OsString::from(prefix);
    path.push(end);
    path.into()
}

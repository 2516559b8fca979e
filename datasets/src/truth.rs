//! Exact nearest neighbours by looking at every row, in f64 throughout, and recall against them.
//!
//! This is the yardstick for approximate search, so it shares no code with it. Equal distances are ordered by id.

use rayon::prelude::*;

use crate::error::Error;
use crate::matrix::Matrix;

/// How far apart two vectors are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metric {
    /// Euclidean distance (the square root is taken).
    L2,
    /// 1 - cos; NaN if one of the vectors is zero.
    Cosine,
    /// The negative inner product, so that smaller is nearer.
    InnerProduct,
}

/// True neighbours: one row per query, nearest first.
#[derive(Debug, Clone, PartialEq)]
pub struct Truth {
    /// Row numbers in the base.
    pub ids: Vec<Vec<u32>>,
    /// Their distances, by the metric.
    pub distances: Vec<Vec<f64>>,
}

/// The distance between `a` and `b` in f64. Vectors of different length are compared over the shorter one's.
pub fn distance(metric: Metric, a: &[f32], b: &[f32]) -> f64 {
    // Plain loops: this runs without optimisation in tests.
    let (mut squares, mut dot, mut of_a, mut of_b) = (0.0, 0.0, 0.0, 0.0);
    for (x, y) in a.iter().zip(b) {
        let (x, y) = (f64::from(*x), f64::from(*y));
        match metric {
            Metric::L2 => squares += (x - y) * (x - y),
            Metric::InnerProduct => dot += x * y,
            Metric::Cosine => {
                dot += x * y;
                of_a += x * x;
                of_b += y * y;
            }
        }
    }
    match metric {
        Metric::L2 => f64::sqrt(squares),
        Metric::Cosine => 1.0 - dot / (f64::sqrt(of_a) * f64::sqrt(of_b)),
        Metric::InnerProduct => -dot,
    }
}

/// The `k` rows of `base` nearest to each query.
///
/// # Errors
/// [`Error::DimensionMismatch`]; [`Error::TooFewRows`] if `k` is more than there are.
pub fn exact(metric: Metric, base: &Matrix<f32>, queries: &Matrix<f32>, k: usize) -> Result<Truth, Error> {
    exact_telling(metric, base, queries, k, &|| {})
}

/// As [`exact`], calling `done` after each query, from any thread: this takes hours where there are many of them.
///
/// # Errors
/// As [`exact`].
pub fn exact_telling(
    metric: Metric,
    base: &Matrix<f32>,
    queries: &Matrix<f32>,
    k: usize,
    done: &(dyn Fn() + Sync),
) -> Result<Truth, Error> {
    if base.dim() != queries.dim() {
        return Err(Error::DimensionMismatch { base: base.dim(), queries: queries.dim() });
    }
    if k > base.len() || u32::try_from(base.len()).is_err() {
        return Err(Error::TooFewRows { wanted: k, rows: base.len() });
    }
    let nearest = |q: usize| -> (Vec<u32>, Vec<f64>) {
        let query = queries.row(q);
        // The number of rows was checked to fit.
        let rows = base.rows().enumerate().map(|(i, row)| (distance(metric, query, row), i as u32));
        let mut all: Vec<(f64, u32)> = rows.collect();
        let order = |a: &(f64, u32), b: &(f64, u32)| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1));
        if k < all.len() {
            // Sorting all rows would take longer than comparing them.
            all.select_nth_unstable_by(k, order);
            all.truncate(k);
        }
        all.sort_unstable_by(order);
        done();
        all.into_iter().map(|(distance, id)| (id, distance)).unzip()
    };
    let (ids, distances) = (0..queries.len()).into_par_iter().map(nearest).unzip();
    Ok(Truth { ids, distances })
}

/// The share of true neighbours that were found: of the first `k` of each row of `truth`, how many are among the first
/// `k` of the answers to the same query. 0 if there are no queries.
pub fn recall(answers: &[Vec<i64>], truth: &Matrix<u32>, k: usize) -> f64 {
    let mut hits = 0_usize;
    for (found, row) in answers.iter().zip(truth.rows()) {
        let found = &found[..found.len().min(k)];
        hits += row.iter().take(k).filter(|id| found.contains(&i64::from(**id))).count();
    }
    let wanted = answers.len() * k.min(truth.dim());
    if wanted == 0 { 0.0 } else { hits as f64 / wanted as f64 }
}

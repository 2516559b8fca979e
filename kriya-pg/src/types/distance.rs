//! Distances between vectors, as SQL calls them.
//!
//! The sums are those of the index's kernels, float4, and become float8 at the end. Nothing is allocated: both vectors
//! are read where Postgres holds them.

use super::error::VectorError;
use super::vector::{Detoasted, detoast};
use crate::sql_function;
use crate::types::fmgr::Call;
use pgrx::pg_sys;
use vecindex::{dot, l2_squared};

sql_function! {
    /// `lsm_l2_distance(lsmvector, lsmvector) -> float8`, the operator `<->`.
    fn lsm_l2_distance(call) {
        // SAFETY: declared so.
        unsafe { measured(call, |a, b| f64::from(l2_squared(a, b)).sqrt()) }
    }

    /// `lsm_l2_squared_distance(lsmvector, lsmvector) -> float8`: orders as `<->` does, without the root.
    fn lsm_l2_squared_distance(call) {
        // SAFETY: declared so.
        unsafe { measured(call, |a, b| f64::from(l2_squared(a, b))) }
    }

    /// `lsm_inner_product(lsmvector, lsmvector) -> float8`
    fn lsm_inner_product(call) {
        // SAFETY: declared so.
        unsafe { measured(call, |a, b| f64::from(dot(a, b))) }
    }

    /// `lsm_negative_inner_product(lsmvector, lsmvector) -> float8`, the operator `<#>`: indexes scan upwards.
    fn lsm_negative_inner_product(call) {
        // SAFETY: declared so.
        unsafe { measured(call, |a, b| f64::from(-dot(a, b))) }
    }

    /// `lsm_cosine_distance(lsmvector, lsmvector) -> float8`, the operator `<=>`: 0..=2, NaN if one is all zero.
    fn lsm_cosine_distance(call) {
        // SAFETY: declared so.
        unsafe {
            measured(call, |a, b| {
                let (product, a_squared, b_squared) = (dot(a, b), dot(a, a), dot(b, b));
                let similarity = f64::from(product) / (f64::from(a_squared) * f64::from(b_squared)).sqrt();
                // Rounding must not take it out of range. A NaN stays one.
                1.0 - similarity.clamp(-1.0, 1.0)
            })
        }
    }

    /// `lsm_l1_distance(lsmvector, lsmvector) -> float8`, the operator `<+>`.
    fn lsm_l1_distance(call) {
        // SAFETY: declared so.
        unsafe { measured(call, |a, b| f64::from(l1(a, b))) }
    }
}

/// Measures two vectors of the same dimensions.
///
/// # Safety
/// The call has two arguments of type `lsmvector`.
#[inline(always)]
unsafe fn measured(call: Call, measure: impl FnOnce(&[f32], &[f32]) -> f64) -> pg_sys::Datum {
    // SAFETY: the caller's promise.
    let (a, b) = unsafe { pair(call) };
    pg_sys::Datum::from(measure(a.as_slice(), b.as_slice()).to_bits())
}

/// Both arguments, which must have the same dimensions.
///
/// # Safety
/// The call has two arguments of type `lsmvector`.
#[inline(always)]
pub unsafe fn pair(call: Call) -> (Detoasted, Detoasted) {
    // SAFETY: the caller's promise.
    let (a, b) = unsafe { (detoast(call.datum(0)), detoast(call.datum(1))) };
    if a.dim() != b.dim() {
        VectorError::Different { left: a.dim(), right: b.dim() }.raise();
    }
    (a, b)
}

/// The sum of absolute differences, in eight lanes so that the compiler may add them side by side.
fn l1(a: &[f32], b: &[f32]) -> f32 {
    let (a_lanes, a_rest) = a.as_chunks::<8>();
    let (b_lanes, b_rest) = b.as_chunks::<8>();
    let mut sums = [0.0f32; 8];
    for (x, y) in a_lanes.iter().zip(b_lanes) {
        for lane in 0..8 {
            sums[lane] += (x[lane] - y[lane]).abs();
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(x, y)| (x - y).abs()).sum();
    sums.iter().sum::<f32>() + rest
}

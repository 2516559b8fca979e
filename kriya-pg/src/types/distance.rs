//! Distances between vectors, as SQL calls them.
//!
//! The sums are float4, as the index's are, and become float8 at the end; so a distance seen in SQL is the one the
//! index ordered by. Nothing is allocated: both vectors are read where Postgres holds them.

use super::error::VectorError;
use super::vector::{Detoasted, detoast};
use crate::sql_function;
use crate::types::fmgr::Call;
use pgrx::pg_sys;

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

fn l2_squared(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(x, y)| (x - y) * (x - y)).sum()
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

fn l1(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(x, y)| (x - y).abs()).sum()
}

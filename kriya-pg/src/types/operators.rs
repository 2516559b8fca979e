//! Order, arithmetic and properties of vectors.
//!
//! Vectors are ordered element by element, then by length, as Postgres orders arrays.

use super::distance::pair;
use super::error::VectorError;
use super::vector::{build, detoast};
use crate::sql_function;
use crate::types::fmgr::Call;
use pgrx::pg_sys;
use std::cmp::Ordering;

sql_function! {
    /// `lsm_vector_lt(lsmvector, lsmvector) -> boolean`
    fn lsm_vector_lt(call) {
        // SAFETY: declared so.
        pg_sys::Datum::from(unsafe { order(call) }.is_lt())
    }

    /// `lsm_vector_le(lsmvector, lsmvector) -> boolean`
    fn lsm_vector_le(call) {
        // SAFETY: declared so.
        pg_sys::Datum::from(unsafe { order(call) }.is_le())
    }

    /// `lsm_vector_eq(lsmvector, lsmvector) -> boolean`
    fn lsm_vector_eq(call) {
        // SAFETY: declared so.
        pg_sys::Datum::from(unsafe { order(call) }.is_eq())
    }

    /// `lsm_vector_ne(lsmvector, lsmvector) -> boolean`
    fn lsm_vector_ne(call) {
        // SAFETY: declared so.
        pg_sys::Datum::from(unsafe { order(call) }.is_ne())
    }

    /// `lsm_vector_ge(lsmvector, lsmvector) -> boolean`
    fn lsm_vector_ge(call) {
        // SAFETY: declared so.
        pg_sys::Datum::from(unsafe { order(call) }.is_ge())
    }

    /// `lsm_vector_gt(lsmvector, lsmvector) -> boolean`
    fn lsm_vector_gt(call) {
        // SAFETY: declared so.
        pg_sys::Datum::from(unsafe { order(call) }.is_gt())
    }

    /// `lsm_vector_cmp(lsmvector, lsmvector) -> integer`: -1, 0 or 1.
    fn lsm_vector_cmp(call) {
        // SAFETY: declared so.
        pg_sys::Datum::from(unsafe { order(call) } as i32)
    }

    /// `lsm_vector_add(lsmvector, lsmvector) -> lsmvector`, the operator `+`.
    fn lsm_vector_add(call) {
        // SAFETY: declared so.
        unsafe { combined(call, |a, b| a + b) }
    }

    /// `lsm_vector_sub(lsmvector, lsmvector) -> lsmvector`, the operator `-`.
    fn lsm_vector_sub(call) {
        // SAFETY: declared so.
        unsafe { combined(call, |a, b| a - b) }
    }

    /// `lsm_vector_dims(lsmvector) -> integer`
    fn lsm_vector_dims(call) {
        // SAFETY: declared so. 1..=16000 fits.
        pg_sys::Datum::from(unsafe { detoast(call.datum(0)) }.dim() as i32)
    }

    /// `lsm_vector_norm(lsmvector) -> float8`: the Euclidean length.
    fn lsm_vector_norm(call) {
        // SAFETY: declared so.
        let vector = unsafe { detoast(call.datum(0)) };
        pg_sys::Datum::from(norm(vector.as_slice()).to_bits())
    }

    /// `lsm_l2_normalize(lsmvector) -> lsmvector`: of length 1; all zero stays all zero.
    fn lsm_l2_normalize(call) {
        // SAFETY: declared so.
        let vector = unsafe { detoast(call.datum(0)) };
        let norm = norm(vector.as_slice());
        // SAFETY: Postgres called, and the dimensions are a vector's.
        unsafe {
            build(vector.dim(), |result| {
                if norm > 0.0 {
                    for (to, &from) in result.iter_mut().zip(vector.as_slice()) {
                        *to = (f64::from(from) / norm) as f32;
                    }
                }
                check_finite(result);
            })
        }
    }
}

/// The order of the two arguments.
///
/// # Safety
/// The call has two arguments of type `lsmvector`.
unsafe fn order(call: Call) -> Ordering {
    // SAFETY: the caller's promise.
    let (a, b) = unsafe { (detoast(call.datum(0)), detoast(call.datum(1))) };
    // Stored elements are finite, so every two compare; -0 equals 0.
    a.as_slice().partial_cmp(b.as_slice()).unwrap_or(Ordering::Equal)
}

/// The vector of `combine` over the elements of both arguments.
///
/// # Safety
/// The call has two arguments of type `lsmvector`.
unsafe fn combined(call: Call, combine: impl Fn(f32, f32) -> f32) -> pg_sys::Datum {
    // SAFETY: the caller's promise; Postgres called, and the dimensions are a vector's.
    unsafe {
        let (a, b) = pair(call);
        build(a.dim(), |result| {
            for ((to, &x), &y) in result.iter_mut().zip(a.as_slice()).zip(b.as_slice()) {
                *to = combine(x, y);
            }
            check_finite(result);
        })
    }
}

/// Raises Postgres's overflow error unless every element is finite.
fn check_finite(elements: &[f32]) {
    if !elements.iter().all(|element| element.is_finite()) {
        VectorError::Overflow.raise();
    }
}

fn norm(elements: &[f32]) -> f64 {
    elements.iter().map(|&element| f64::from(element) * f64::from(element)).sum::<f64>().sqrt()
}

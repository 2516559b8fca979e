//! The loops, once for all instruction sets.
//!
//! Four accumulators, for one multiply-add takes four cycles and two can start in each; rows of an index are aligned to
//! 64 bytes (an unaligned 64-byte load costs twice as much) and padded with zeros, so that they need no tail.

use super::LINE;
use super::isa::{Isa, prefetch_line};

/// How many rows ahead of the one being compared are asked for, and at most how many lines of each: the hardware
/// continues a row by itself once it is under way.
const AHEAD: usize = 2;
const LINES_AHEAD: usize = 16;

/// One term of a distance.
pub(super) trait Op {
    /// # Safety
    /// As [`Isa`].
    unsafe fn step<I: Isa>(a: I::V, b: I::V, sum: I::V) -> I::V;
}

pub(super) struct L2;
pub(super) struct Dot;

impl Op for L2 {
    #[inline(always)]
    unsafe fn step<I: Isa>(a: I::V, b: I::V, sum: I::V) -> I::V {
        // SAFETY: the caller's instruction set.
        unsafe {
            let d = I::sub(a, b);
            I::mul_add(d, d, sum)
        }
    }
}

impl Op for Dot {
    #[inline(always)]
    unsafe fn step<I: Isa>(a: I::V, b: I::V, sum: I::V) -> I::V {
        // SAFETY: the caller's instruction set.
        unsafe { I::mul_add(a, b, sum) }
    }
}

/// # Safety
/// As [`Isa`]; `n` floats at `a` and `b`, aligned to 64 bytes; `n` a multiple of [`LINE`].
#[inline(always)]
pub(super) unsafe fn aligned<I: Isa, O: Op>(a: *const f32, b: *const f32, n: usize) -> f32 {
    let step = 4 * I::LANES;
    let mut at = 0;
    // SAFETY: every load ends at or before `n`, and `at` is a multiple of the lanes, so of the vector's size.
    unsafe {
        let (mut s0, mut s1, mut s2, mut s3) = (I::zero(), I::zero(), I::zero(), I::zero());
        while at + step <= n {
            let (x, y) = (a.add(at), b.add(at));
            s0 = O::step::<I>(I::load_aligned(x), I::load_aligned(y), s0);
            s1 = O::step::<I>(I::load_aligned(x.add(I::LANES)), I::load_aligned(y.add(I::LANES)), s1);
            s2 = O::step::<I>(I::load_aligned(x.add(2 * I::LANES)), I::load_aligned(y.add(2 * I::LANES)), s2);
            s3 = O::step::<I>(I::load_aligned(x.add(3 * I::LANES)), I::load_aligned(y.add(3 * I::LANES)), s3);
            at += step;
        }
        while at < n {
            s0 = O::step::<I>(I::load_aligned(a.add(at)), I::load_aligned(b.add(at)), s0);
            at += I::LANES;
        }
        I::sum(I::add(I::add(s0, s1), I::add(s2, s3)))
    }
}

/// # Safety
/// As [`Isa`]; `n` floats at `a` and `b`.
#[inline(always)]
pub(super) unsafe fn any<I: Isa, O: Op>(a: *const f32, b: *const f32, n: usize) -> f32 {
    let step = 4 * I::LANES;
    let mut at = 0;
    // SAFETY: every load ends at or before `n`.
    unsafe {
        let (mut s0, mut s1, mut s2, mut s3) = (I::zero(), I::zero(), I::zero(), I::zero());
        while at + step <= n {
            let (x, y) = (a.add(at), b.add(at));
            s0 = O::step::<I>(I::load(x), I::load(y), s0);
            s1 = O::step::<I>(I::load(x.add(I::LANES)), I::load(y.add(I::LANES)), s1);
            s2 = O::step::<I>(I::load(x.add(2 * I::LANES)), I::load(y.add(2 * I::LANES)), s2);
            s3 = O::step::<I>(I::load(x.add(3 * I::LANES)), I::load(y.add(3 * I::LANES)), s3);
            at += step;
        }
        while at + I::LANES <= n {
            s0 = O::step::<I>(I::load(a.add(at)), I::load(b.add(at)), s0);
            at += I::LANES;
        }
        if at < n {
            s1 = O::step::<I>(I::load_first(a.add(at), n - at), I::load_first(b.add(at), n - at), s1);
        }
        I::sum(I::add(I::add(s0, s1), I::add(s2, s3)))
    }
}

/// The three sums of a cosine in one pass: a·b, a·a, b·b.
///
/// # Safety
/// As [`any`].
#[inline(always)]
pub(super) unsafe fn cosine<I: Isa>(a: *const f32, b: *const f32, n: usize) -> [f32; 3] {
    let mut at = 0;
    // SAFETY: every load ends at or before `n`.
    unsafe {
        let (mut ab, mut aa, mut bb) = (I::zero(), I::zero(), I::zero());
        while at + I::LANES <= n {
            let (x, y) = (I::load(a.add(at)), I::load(b.add(at)));
            ab = I::mul_add(x, y, ab);
            aa = I::mul_add(x, x, aa);
            bb = I::mul_add(y, y, bb);
            at += I::LANES;
        }
        if at < n {
            let (x, y) = (I::load_first(a.add(at), n - at), I::load_first(b.add(at), n - at));
            ab = I::mul_add(x, y, ab);
            aa = I::mul_add(x, x, aa);
            bb = I::mul_add(y, y, bb);
        }
        [I::sum(ab), I::sum(aa), I::sum(bb)]
    }
}

/// One query against many rows, asking memory for the rows ahead.
///
/// # Safety
/// As [`super::Kernels`] says for `rows_*`.
#[inline(always)]
pub(super) unsafe fn rows<I: Isa, O: Op>(
    query: *const f32,
    rows: *const f32,
    stride: usize,
    ids: &[u32],
    out: &mut [f32],
) {
    let lines = (stride / LINE).min(LINES_AHEAD);
    let mut asked = 0;
    for (i, (id, out)) in ids.iter().zip(out.iter_mut()).enumerate() {
        while asked < ids.len() && asked <= i + AHEAD {
            let row = rows.wrapping_add(ids[asked] as usize * stride);
            for line in 0..lines {
                prefetch_line(row.wrapping_add(line * LINE).cast());
            }
            asked += 1;
        }
        // SAFETY: the caller vouches for ids, stride and alignment.
        *out = unsafe { aligned::<I, O>(query, rows.add(*id as usize * stride), stride) };
    }
}

/// Compiles the loops for one instruction set into a table.
macro_rules! stamp {
    ($isa:ty, $name:literal $(, $features:literal)?) => {
        pub(in crate::kernel) static KERNELS: crate::kernel::Kernels = {
            use crate::kernel::generic::{self, Dot, L2};
            // Each function below hands its own contract (that of the table's field) on to the loop it wraps.
            $(#[target_feature(enable = $features)])?
            unsafe fn rows_l2(q: *const f32, r: *const f32, stride: usize, ids: &[u32], out: &mut [f32]) {
                // SAFETY: the table's contract.
                unsafe { generic::rows::<$isa, L2>(q, r, stride, ids, out) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn rows_dot(q: *const f32, r: *const f32, stride: usize, ids: &[u32], out: &mut [f32]) {
                // SAFETY: the table's contract.
                unsafe { generic::rows::<$isa, Dot>(q, r, stride, ids, out) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn pair_l2(a: *const f32, b: *const f32, n: usize) -> f32 {
                // SAFETY: the table's contract.
                unsafe { generic::aligned::<$isa, L2>(a, b, n) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn pair_dot(a: *const f32, b: *const f32, n: usize) -> f32 {
                // SAFETY: the table's contract.
                unsafe { generic::aligned::<$isa, Dot>(a, b, n) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn l2(a: *const f32, b: *const f32, n: usize) -> f32 {
                // SAFETY: the table's contract.
                unsafe { generic::any::<$isa, L2>(a, b, n) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn dot(a: *const f32, b: *const f32, n: usize) -> f32 {
                // SAFETY: the table's contract.
                unsafe { generic::any::<$isa, Dot>(a, b, n) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn cosine(a: *const f32, b: *const f32, n: usize) -> [f32; 3] {
                // SAFETY: the table's contract.
                unsafe { generic::cosine::<$isa>(a, b, n) }
            }
            crate::kernel::Kernels { name: $name, rows_l2, rows_dot, pair_l2, pair_dot, l2, dot, cosine }
        };
    };
}
pub(super) use stamp;

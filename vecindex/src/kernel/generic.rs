//! The loops, once for all instruction sets.
//!
//! Four accumulators, for one multiply-add takes four cycles and two can start in each; rows of an index are aligned to
//! 64 bytes (an unaligned 64-byte load costs twice as much) and padded with zeros, so that they need no tail.

use half::{bf16, f16};

use super::isa::{Isa, prefetch_line};

/// How many rows ahead of the one being compared are asked for, and at most how many lines of each: the hardware
/// continues a row by itself once it is under way.
const AHEAD: usize = 2;
const LINES_AHEAD: usize = 16;

/// Bytes of a cache line.
const LINE_BYTES: usize = 64;

/// What a row is stored as; every sum is of f32.
pub(super) trait Stored: Copy + Default {
    /// # Safety
    /// As [`Isa`]; the address is a multiple of what a vector of these takes.
    unsafe fn load_aligned<I: Isa>(from: *const Self) -> I::V;
    /// # Safety
    /// As [`Isa`].
    unsafe fn load<I: Isa>(from: *const Self) -> I::V;
    /// The first `n < LANES` elements, zeros behind them.
    ///
    /// # Safety
    /// As [`Isa`].
    #[inline(always)]
    unsafe fn load_first<I: Isa>(from: *const Self, n: usize) -> I::V {
        let mut lanes = [Self::default(); 16];
        // SAFETY: `n` elements are readable, and n < LANES <= 16 fit.
        unsafe {
            std::ptr::copy_nonoverlapping(from, lanes.as_mut_ptr(), n);
            Self::load::<I>(lanes.as_ptr())
        }
    }
}

impl Stored for f32 {
    #[inline(always)]
    unsafe fn load_aligned<I: Isa>(from: *const f32) -> I::V {
        // SAFETY: handed on.
        unsafe { I::load_aligned(from) }
    }
    #[inline(always)]
    unsafe fn load<I: Isa>(from: *const f32) -> I::V {
        // SAFETY: handed on.
        unsafe { I::load(from) }
    }
    #[inline(always)]
    unsafe fn load_first<I: Isa>(from: *const f32, n: usize) -> I::V {
        // SAFETY: handed on.
        unsafe { I::load_first(from, n) }
    }
}

impl Stored for f16 {
    #[inline(always)]
    unsafe fn load_aligned<I: Isa>(from: *const f16) -> I::V {
        // SAFETY: handed on.
        unsafe { I::load_f16(from) }
    }
    #[inline(always)]
    unsafe fn load<I: Isa>(from: *const f16) -> I::V {
        // SAFETY: handed on.
        unsafe { I::load_f16(from) }
    }
}

impl Stored for bf16 {
    #[inline(always)]
    unsafe fn load_aligned<I: Isa>(from: *const bf16) -> I::V {
        // SAFETY: handed on.
        unsafe { I::load_bf16(from) }
    }
    #[inline(always)]
    unsafe fn load<I: Isa>(from: *const bf16) -> I::V {
        // SAFETY: handed on.
        unsafe { I::load_bf16(from) }
    }
}

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
/// As [`Isa`]; `n` elements at `a` and `b`, aligned to 64 bytes; `n` a multiple of 16.
#[inline(always)]
pub(super) unsafe fn aligned<I: Isa, O: Op, A: Stored, B: Stored>(a: *const A, b: *const B, n: usize) -> f32 {
    let step = 4 * I::LANES;
    let mut at = 0;
    // SAFETY: every load ends at or before `n`, and `at` is a multiple of the lanes, so of the vector's size.
    unsafe {
        let (mut s0, mut s1, mut s2, mut s3) = (I::zero(), I::zero(), I::zero(), I::zero());
        while at + step <= n {
            let (x, y) = (a.add(at), b.add(at));
            s0 = O::step::<I>(A::load_aligned::<I>(x), B::load_aligned::<I>(y), s0);
            s1 = O::step::<I>(A::load_aligned::<I>(x.add(I::LANES)), B::load_aligned::<I>(y.add(I::LANES)), s1);
            s2 = O::step::<I>(A::load_aligned::<I>(x.add(2 * I::LANES)), B::load_aligned::<I>(y.add(2 * I::LANES)), s2);
            s3 = O::step::<I>(A::load_aligned::<I>(x.add(3 * I::LANES)), B::load_aligned::<I>(y.add(3 * I::LANES)), s3);
            at += step;
        }
        while at < n {
            s0 = O::step::<I>(A::load_aligned::<I>(a.add(at)), B::load_aligned::<I>(b.add(at)), s0);
            at += I::LANES;
        }
        I::sum(I::add(I::add(s0, s1), I::add(s2, s3)))
    }
}

/// # Safety
/// As [`Isa`]; `n` elements at `a` and `b`.
#[inline(always)]
pub(super) unsafe fn any<I: Isa, O: Op, T: Stored>(a: *const T, b: *const T, n: usize) -> f32 {
    let step = 4 * I::LANES;
    let mut at = 0;
    // SAFETY: every load ends at or before `n`.
    unsafe {
        let (mut s0, mut s1, mut s2, mut s3) = (I::zero(), I::zero(), I::zero(), I::zero());
        while at + step <= n {
            let (x, y) = (a.add(at), b.add(at));
            s0 = O::step::<I>(T::load::<I>(x), T::load::<I>(y), s0);
            s1 = O::step::<I>(T::load::<I>(x.add(I::LANES)), T::load::<I>(y.add(I::LANES)), s1);
            s2 = O::step::<I>(T::load::<I>(x.add(2 * I::LANES)), T::load::<I>(y.add(2 * I::LANES)), s2);
            s3 = O::step::<I>(T::load::<I>(x.add(3 * I::LANES)), T::load::<I>(y.add(3 * I::LANES)), s3);
            at += step;
        }
        while at + I::LANES <= n {
            s0 = O::step::<I>(T::load::<I>(a.add(at)), T::load::<I>(b.add(at)), s0);
            at += I::LANES;
        }
        if at < n {
            s1 = O::step::<I>(T::load_first::<I>(a.add(at), n - at), T::load_first::<I>(b.add(at), n - at), s1);
        }
        I::sum(I::add(I::add(s0, s1), I::add(s2, s3)))
    }
}

/// The three sums of a cosine in one pass: a·b, a·a, b·b.
///
/// # Safety
/// As [`any`].
#[inline(always)]
pub(super) unsafe fn cosine<I: Isa, T: Stored>(a: *const T, b: *const T, n: usize) -> [f32; 3] {
    let mut at = 0;
    // SAFETY: every load ends at or before `n`.
    unsafe {
        let (mut ab, mut aa, mut bb) = (I::zero(), I::zero(), I::zero());
        while at + I::LANES <= n {
            let (x, y) = (T::load::<I>(a.add(at)), T::load::<I>(b.add(at)));
            ab = I::mul_add(x, y, ab);
            aa = I::mul_add(x, x, aa);
            bb = I::mul_add(y, y, bb);
            at += I::LANES;
        }
        if at < n {
            let (x, y) = (T::load_first::<I>(a.add(at), n - at), T::load_first::<I>(b.add(at), n - at));
            ab = I::mul_add(x, y, ab);
            aa = I::mul_add(x, x, aa);
            bb = I::mul_add(y, y, bb);
        }
        [I::sum(ab), I::sum(aa), I::sum(bb)]
    }
}

/// Asks memory for the rows ahead of `at`.
#[inline(always)]
pub(super) fn ask_ahead(rows: *const u8, stride_bytes: usize, ids: &[u32], at: usize, asked: &mut usize) {
    let lines = (stride_bytes / LINE_BYTES).min(LINES_AHEAD);
    while *asked < ids.len() && *asked <= at + AHEAD {
        let row = rows.wrapping_add(ids[*asked] as usize * stride_bytes);
        for line in 0..lines {
            prefetch_line(row.wrapping_add(line * LINE_BYTES));
        }
        *asked += 1;
    }
}

/// One query against many rows, asking memory for the rows ahead.
///
/// # Safety
/// As [`super::FloatKernels`] says for `rows_*`.
#[inline(always)]
pub(super) unsafe fn rows<I: Isa, O: Op, T: Stored>(
    query: *const f32,
    rows: *const T,
    stride: usize,
    ids: &[u32],
    out: &mut [f32],
) {
    let mut asked = 0;
    for (i, (id, out)) in ids.iter().zip(out.iter_mut()).enumerate() {
        ask_ahead(rows.cast(), stride * size_of::<T>(), ids, i, &mut asked);
        // SAFETY: the caller vouches for ids, stride and alignment.
        *out = unsafe { aligned::<I, O, f32, T>(query, rows.add(*id as usize * stride), stride) };
    }
}

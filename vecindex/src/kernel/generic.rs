//! The loops, once for all instruction sets.
//!
//! Four accumulators, or eight, for one multiply-add takes four cycles and two can start in each; rows of an index are
//! aligned to 64 bytes (an unaligned 64-byte load costs twice as much) and padded with zeros, so that they need no tail.

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

/// Whether eight sums are kept, for which there have to be registers. With vectors of 64 bytes four do: two loads for each
/// multiply-add are then what takes the time, and shorter rows are summed up sooner.
const fn eight<I: Isa>() -> bool {
    I::MANY && I::LANES < 16
}

/// All sums together, in the order of a tree.
///
/// # Safety
/// As [`Isa`].
#[inline(always)]
unsafe fn total<I: Isa, const N: usize>(mut sums: [I::V; N]) -> f32 {
    let mut width = N / 2;
    while width > 0 {
        for i in 0..width {
            // SAFETY: the caller's instruction set.
            sums[i] = unsafe { I::add(sums[i], sums[i + width]) };
        }
        width /= 2;
    }
    // SAFETY: as above.
    unsafe { I::sum(sums[0]) }
}

/// # Safety
/// As [`aligned`]; N a power of two.
#[inline(always)]
unsafe fn aligned_by<I: Isa, O: Op, A: Stored, B: Stored, const N: usize>(a: *const A, b: *const B, n: usize) -> f32 {
    let mut at = 0;
    // SAFETY: every load ends at or before `n`, and `at` is a multiple of the lanes, so of the vector's size.
    unsafe {
        let mut sums = [I::zero(); N];
        while at + N * I::LANES <= n {
            for (i, sum) in sums.iter_mut().enumerate() {
                let at = at + i * I::LANES;
                *sum = O::step::<I>(A::load_aligned::<I>(a.add(at)), B::load_aligned::<I>(b.add(at)), *sum);
            }
            at += N * I::LANES;
        }
        // Fewer than N vectors are left: one for each sum, for none is to wait for another.
        for sum in &mut sums {
            if at < n {
                *sum = O::step::<I>(A::load_aligned::<I>(a.add(at)), B::load_aligned::<I>(b.add(at)), *sum);
                at += I::LANES;
            }
        }
        total::<I, N>(sums)
    }
}

/// # Safety
/// As [`Isa`]; `n` elements at `a` and `b`, aligned to 64 bytes; `n` a multiple of 16.
#[inline(always)]
pub(super) unsafe fn aligned<I: Isa, O: Op, A: Stored, B: Stored>(a: *const A, b: *const B, n: usize) -> f32 {
    // SAFETY: handed on.
    unsafe { if eight::<I>() { aligned_by::<I, O, A, B, 8>(a, b, n) } else { aligned_by::<I, O, A, B, 4>(a, b, n) } }
}

/// # Safety
/// As [`any`]; N a power of two.
#[inline(always)]
unsafe fn any_by<I: Isa, O: Op, T: Stored, const N: usize>(a: *const T, b: *const T, n: usize) -> f32 {
    let mut at = 0;
    // SAFETY: every load ends at or before `n`.
    unsafe {
        let mut sums = [I::zero(); N];
        while at + N * I::LANES <= n {
            for (i, sum) in sums.iter_mut().enumerate() {
                let at = at + i * I::LANES;
                *sum = O::step::<I>(T::load::<I>(a.add(at)), T::load::<I>(b.add(at)), *sum);
            }
            at += N * I::LANES;
        }
        for sum in &mut sums {
            if at + I::LANES <= n {
                *sum = O::step::<I>(T::load::<I>(a.add(at)), T::load::<I>(b.add(at)), *sum);
                at += I::LANES;
            }
        }
        if at < n {
            let last = N - 1;
            let (x, y) = (T::load_first::<I>(a.add(at), n - at), T::load_first::<I>(b.add(at), n - at));
            sums[last] = O::step::<I>(x, y, sums[last]);
        }
        total::<I, N>(sums)
    }
}

/// # Safety
/// As [`Isa`]; `n` elements at `a` and `b`.
#[inline(always)]
pub(super) unsafe fn any<I: Isa, O: Op, T: Stored>(a: *const T, b: *const T, n: usize) -> f32 {
    // SAFETY: handed on.
    unsafe { if eight::<I>() { any_by::<I, O, T, 8>(a, b, n) } else { any_by::<I, O, T, 4>(a, b, n) } }
}

/// The three sums of a cosine in one pass: a·b, a·a, b·b.
///
/// # Safety
/// As [`any`].
#[inline(always)]
pub(super) unsafe fn cosine<I: Isa, T: Stored>(a: *const T, b: *const T, n: usize) -> [f32; 3] {
    // SAFETY: handed on.
    unsafe { if I::MANY { cosine_by::<I, T, 4>(a, b, n) } else { cosine_by::<I, T, 1>(a, b, n) } }
}

/// # Safety
/// As [`any`]; N a power of two.
#[inline(always)]
unsafe fn cosine_by<I: Isa, T: Stored, const N: usize>(a: *const T, b: *const T, n: usize) -> [f32; 3] {
    let mut at = 0;
    // SAFETY: every load ends at or before `n`.
    unsafe {
        let (mut ab, mut aa, mut bb) = ([I::zero(); N], [I::zero(); N], [I::zero(); N]);
        while at + N * I::LANES <= n {
            for i in 0..N {
                let at = at + i * I::LANES;
                let (x, y) = (T::load::<I>(a.add(at)), T::load::<I>(b.add(at)));
                (ab[i], aa[i], bb[i]) = (I::mul_add(x, y, ab[i]), I::mul_add(x, x, aa[i]), I::mul_add(y, y, bb[i]));
            }
            at += N * I::LANES;
        }
        while at < n {
            let some = n - at;
            let (x, y) = if some >= I::LANES {
                (T::load::<I>(a.add(at)), T::load::<I>(b.add(at)))
            } else {
                (T::load_first::<I>(a.add(at), some), T::load_first::<I>(b.add(at), some))
            };
            (ab[0], aa[0], bb[0]) = (I::mul_add(x, y, ab[0]), I::mul_add(x, x, aa[0]), I::mul_add(y, y, bb[0]));
            at += I::LANES;
        }
        [total::<I, N>(ab), total::<I, N>(aa), total::<I, N>(bb)]
    }
}

/// Asks memory for the first `bytes` of the rows ahead of `at`.
#[inline(always)]
pub(super) fn ask_ahead(rows: *const u8, stride_bytes: usize, bytes: usize, ids: &[u32], at: usize, asked: &mut usize) {
    let lines = (bytes / LINE_BYTES).min(LINES_AHEAD);
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
        let bytes = stride * size_of::<T>();
        ask_ahead(rows.cast(), bytes, bytes, ids, i, &mut asked);
        // SAFETY: the caller vouches for ids, stride and alignment.
        *out = unsafe { aligned::<I, O, f32, T>(query, rows.add(*id as usize * stride), stride) };
    }
}

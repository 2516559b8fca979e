//! Rows of f32 that are searched by half of their bytes.
//!
//! Where the rows do not fit the processor's caches, a search waits for memory, and takes as long as the bytes it reads. So
//! a row keeps the upper halves of its numbers, which are the nearest bfloats, apart from the lower ones. A graph is walked by
//! the upper halves; what is handed out is compared once more by both, which are the row to the last bit.
//!
//! Distances by upper halves are off by about `|x| |x - y| / 300 / sqrt(d)`, which is nothing for data in which the nearest rows
//! are apart by a hundredth of their length or more; where they are nearer than that (points far from the origin,
//! say), [`F32`](super::F32) is the right encoding.

use super::encoding::{Base, Encoding, FloatQuery, Row, scaled};
use crate::kernel::{Kernels, join, split};
use crate::metric::Metric;

/// 4 bytes a component, exactly as given (under cosine: brought to length one), searched by 2 of them.
#[derive(Debug, Clone, Copy)]
pub enum SplitF32 {}

impl SplitF32 {
    /// The halves of a row of words.
    fn halves(words: &[u32]) -> &[u16] {
        // SAFETY: a word is two halves, and as well aligned.
        unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), 2 * words.len()) }
    }
}

impl Encoding for SplitF32 {
    type Element = u32;
    type Side = f32;
    type Query = FloatQuery;
    const CODE: u32 = 5;
    const COARSE: bool = true;
    const EXACT: bool = true;
    const PARTS: usize = 2;

    fn norm(side: &f32) -> f32 {
        *side
    }

    fn side_key(_: &f32) -> [u32; 3] {
        [0; 3]
    }

    fn encode(_: Metric, raw: &[f32], norm: f32, scale: f64, into: &mut [u32]) -> f32 {
        let n = into.len();
        // SAFETY: a word is two halves, and as well aligned; the slice is borrowed for as long.
        let halves = unsafe { std::slice::from_raw_parts_mut(into.as_mut_ptr().cast::<u16>(), 2 * n) };
        let (upper, lower) = halves.split_at_mut(n);
        for ((upper, lower), x) in upper.iter_mut().zip(lower).zip(raw) {
            // Zeros of either sign are one number, and are to be one pattern of bits.
            [*upper, *lower] = split(scaled(*x, scale) + 0.0);
        }
        norm
    }

    fn decode(row: &Row<'_, Self>, at: usize) -> f32 {
        let halves = Self::halves(row.elements);
        join(halves[at], halves[row.elements.len() + at])
    }

    fn prepare(_: Metric, raw: &[f32], scale: f64, stride: usize, query: &mut FloatQuery) {
        query.fill(stride, raw.iter().map(|x| scaled(*x, scale)));
    }

    fn prepare_row(row: &Row<'_, Self>, query: &mut FloatQuery) {
        let (upper, lower) = Self::halves(row.elements).split_at(row.elements.len());
        query.fill(row.elements.len(), upper.iter().zip(lower).map(|(upper, lower)| join(*upper, *lower)));
    }

    fn fits(query: &FloatQuery, stride: usize) -> bool {
        query.fits(stride)
    }

    unsafe fn distances(
        kernels: &Kernels,
        metric: Metric,
        query: &FloatQuery,
        base: &Base<Self>,
        ids: &[u32],
        out: &mut [f32],
    ) {
        let kernel = if metric == Metric::L2 { kernels.halves.upper_l2 } else { kernels.halves.upper_dot };
        // SAFETY: the caller's promise; rows begin at a multiple of 64 bytes and so does each, a stride is a multiple of 64
        // bytes, and the query is aligned by its type.
        unsafe { kernel(query.as_ptr(), base.rows.cast(), base.stride, ids, out) };
    }

    unsafe fn exact_distances(
        kernels: &Kernels,
        metric: Metric,
        query: &FloatQuery,
        base: &Base<Self>,
        ids: &[u32],
        out: &mut [f32],
    ) {
        let kernel = if metric == Metric::L2 { kernels.halves.whole_l2 } else { kernels.halves.whole_dot };
        // SAFETY: as in `distances`.
        unsafe { kernel(query.as_ptr(), base.rows.cast(), base.stride, ids, out) };
    }

    unsafe fn between(kernels: &Kernels, metric: Metric, base: &Base<Self>, a: u32, b: u32) -> f32 {
        let kernel = if metric == Metric::L2 { kernels.bf16.pair_l2 } else { kernels.bf16.pair_dot };
        // SAFETY: as in `distances`; the first half of a row is as many bfloats.
        unsafe {
            let (a, b) = (base.rows.add(a as usize * base.stride), base.rows.add(b as usize * base.stride));
            kernel(a.cast(), b.cast(), base.stride)
        }
    }
}

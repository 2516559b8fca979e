//! Rows of signed bytes that are searched by half of their bits.
//!
//! A code is `16 h + l`, both from -8 to 7. The `h` of a row, two in a byte, lie apart from its `l`: a graph is walked by the
//! former, which are half the bytes, and what is handed out is compared once more by both, which are the code. As
//! [`SplitF32`](super::SplitF32) does with floats, for the same reason.
//!
//! With `n` bytes to a part, byte `j` of it has component `j` in its lower four bits and component `n + j` in its upper
//! ones, each plus 8. So a query of codes in their order is met by both without being rearranged.
//!
//! By `h` alone a row `c` seems shorter than it is, one more than another: a product with it is multiplied by `c c / c (16 h)`,
//! which makes it exact for rows that lead the same way (as RaBitQ does, Gao and Long, 2024).

use super::codes::{BATCH, CodeQuery, CodeSide, I8, Line, quantise};
use super::encoding::{Base, Encoding, Row};
use crate::kernel::{Kernels, prefetch_line};
use crate::metric::Metric;

/// The largest code of which `h` and `l` are within their four bits.
const LARGEST: i8 = 7 * 16 + 7;
/// A row of which `h` alone knows less than one part in so many is not made up for.
const LEAST_KNOWN: f64 = 4.0;
/// What `h` and `l` are stored with on top.
const HALF: i32 = 8;
/// Bytes of a cache line.
const LINE: usize = 64;

/// 1 byte a component, with a scale for each row, searched by 4 bits of it. Coarser than [`I8`] where a graph is walked: to be
/// searched with somewhat larger `ef`, for which it takes less time if the rows do not fit the processor's caches and have some
/// hundreds of dimensions (up to 64, nothing is saved).
///
/// Where a component of a row is many times as large as most others, 4 bits say nothing of these: from about 15 times on,
/// [`I8`] is the right encoding.
#[derive(Debug, Clone, Copy)]
pub enum SplitI8 {}

/// What is known of a row.
#[derive(Debug, Default, Clone, Copy)]
#[repr(C)]
pub struct NibbleSide {
    /// Length of the original.
    norm: f32,
    /// A component is its code times this.
    scale: f32,
    /// Squared length of the decoded row.
    square: f32,
    /// The same as `scale` for what is known by `h` alone.
    upper: f32,
}

/// `h + 8` and `l + 8` of a code of at most [`LARGEST`].
fn split(code: i8) -> [u8; 2] {
    let lifted = (i32::from(code) + 16 * HALF + HALF) as u8;
    [lifted >> 4, lifted & 0xf]
}

/// The code of `h + 8` and `l + 8`. Padding, where both are 0, is no code: it becomes 0.
fn join(upper: u8, lower: u8) -> i8 {
    match upper << 4 | lower {
        0 => 0,
        // No row that was encoded holds one that is too small.
        lifted => (i32::from(lifted) - 16 * HALF - HALF).max(i8::MIN.into()) as i8,
    }
}

/// The number of four bits that stands for a component in a part.
fn nibble(part: &[u8], at: usize) -> u8 {
    if at < part.len() { part[at] & 0xf } else { part[at - part.len()] >> 4 }
}

impl NibbleSide {
    /// The internal distance, short of the user's order, where a component of the row is its code times `scale`.
    #[inline(always)]
    fn distance(&self, metric: Metric, scale: f32, query: &CodeSide, product: i32) -> f32 {
        let product = product as f32 * scale * query.scale;
        match metric {
            // Rounding may make it less than nothing.
            Metric::L2 => (self.square + query.square - 2.0 * product).max(0.0),
            Metric::Cosine | Metric::InnerProduct => product,
        }
    }
}

/// `sum u q` of the numbers in one part of each row.
///
/// # Safety
/// As [`Encoding::distances`]; `at` is where the part begins; no more than [`BATCH`] ids.
#[inline(always)]
unsafe fn products(
    kernels: &Kernels,
    query: &CodeQuery,
    base: &Base<SplitI8>,
    at: usize,
    ids: &[u32],
    products: &mut [i32],
) {
    let (rows, n) = (base.rows.wrapping_add(at), base.stride / 2);
    // SAFETY: the caller's promise; parts are a multiple of 64 bytes, of which MAX_DIM bounds the number.
    unsafe { (kernels.codes.nibbles)(query.lines.as_ptr().cast(), rows, base.stride, n, ids, products) }
}

impl Encoding for SplitI8 {
    type Element = u8;
    type Side = NibbleSide;
    type Query = CodeQuery;
    const CODE: u32 = 6;
    const MAX_DIM: usize = I8::MAX_DIM;
    const COARSE: bool = true;
    const PARTS: usize = 2;
    const PADDED_TO: usize = 2 * LINE;

    fn part_len(dim: usize, padded: usize) -> usize {
        dim.min(padded)
    }

    fn norm(side: &NibbleSide) -> f32 {
        side.norm
    }

    fn side_key(side: &NibbleSide) -> [u32; 3] {
        [side.scale.to_bits(), side.square.to_bits(), side.upper.to_bits()]
    }

    fn encode(metric: Metric, raw: &[f32], norm: f32, scale: f64, into: &mut [u8]) -> NibbleSide {
        let (upper, lower) = into.split_at_mut(into.len() / 2);
        let n = upper.len();
        let (mut square, mut known) = (0i64, 0i64);
        let side = quantise(metric, raw, norm, scale, LARGEST, |at, code| {
            let [h, l] = split(code);
            let (place, shift) = if at < n { (at, 0) } else { (at - n, 4) };
            upper[place] |= h << shift;
            lower[place] |= l << shift;
            square += i64::from(code).pow(2);
            known += i64::from(code) * 16 * (i64::from(h) - i64::from(HALF));
        });
        let known = if known > 0 { (square as f64 / known as f64).min(LEAST_KNOWN) } else { 1.0 };
        let upper = (f64::from(side.scale) * known) as f32;
        NibbleSide { norm, scale: side.scale, square: side.square, upper }
    }

    fn decode(row: &Row<'_, Self>, at: usize) -> f32 {
        let (upper, lower) = row.elements.split_at(row.elements.len() / 2);
        f32::from(join(nibble(upper, at), nibble(lower, at))) * row.side.scale
    }

    fn prepare(metric: Metric, raw: &[f32], scale: f64, stride: usize, query: &mut CodeQuery) {
        // As rows are: one is at no distance from itself.
        query.fill(metric, raw, scale, stride, LARGEST);
    }

    fn prepare_row(row: &Row<'_, Self>, query: &mut CodeQuery) {
        let (upper, lower) = row.elements.split_at(row.elements.len() / 2);
        let code = |at| join(nibble(upper, at), nibble(lower, at));
        let line = |line: usize| Line(std::array::from_fn(|at| code(line * LINE + at)));
        query.lines.clear();
        query.lines.extend((0..row.elements.len() / LINE).map(line));
        let sum = query.lines.iter().flat_map(|line| line.0).map(i32::from).sum();
        let NibbleSide { norm, scale, square, .. } = *row.side;
        query.side = CodeSide { norm, scale, square, sum };
    }

    fn fits(query: &CodeQuery, stride: usize) -> bool {
        I8::fits(query, stride)
    }

    unsafe fn distances(
        kernels: &Kernels,
        metric: Metric,
        query: &CodeQuery,
        base: &Base<Self>,
        ids: &[u32],
        out: &mut [f32],
    ) {
        let mut upper = [0; BATCH];
        let lift = HALF * query.side.sum;
        for (ids, out) in ids.chunks(BATCH).zip(out.chunks_mut(BATCH)) {
            // They are there by the time the products are.
            ids.iter().for_each(|id| prefetch_line(base.sides.wrapping_add(*id as usize).cast()));
            // SAFETY: the caller's promise.
            unsafe { products(kernels, query, base, 0, ids, &mut upper[..ids.len()]) };
            for ((id, upper), out) in ids.iter().zip(upper).zip(out) {
                // SAFETY: as many sides as rows, each written with its row.
                let side = unsafe { &*base.sides.add(*id as usize) };
                *out = side.distance(metric, side.upper, &query.side, 16 * (upper - lift));
            }
        }
    }

    unsafe fn exact_distances(
        kernels: &Kernels,
        metric: Metric,
        query: &CodeQuery,
        base: &Base<Self>,
        ids: &[u32],
        out: &mut [f32],
    ) {
        let (mut upper, mut lower) = ([0; BATCH], [0; BATCH]);
        let lift = HALF * query.side.sum;
        for (ids, out) in ids.chunks(BATCH).zip(out.chunks_mut(BATCH)) {
            // SAFETY: the caller's promise.
            unsafe {
                products(kernels, query, base, 0, ids, &mut upper[..ids.len()]);
                products(kernels, query, base, base.stride / 2, ids, &mut lower[..ids.len()]);
            }
            for (((id, upper), lower), out) in ids.iter().zip(upper).zip(lower).zip(out) {
                // SAFETY: as many sides as rows, each written with its row.
                let side = unsafe { &*base.sides.add(*id as usize) };
                *out = side.distance(metric, side.scale, &query.side, 16 * (upper - lift) + lower - lift);
            }
        }
    }

    /// As [`Encoding::distances`] has it, where row `a` is the query.
    unsafe fn between(kernels: &Kernels, metric: Metric, base: &Base<Self>, a: u32, b: u32) -> f32 {
        let n = base.stride / 2;
        // SAFETY: the caller's promise: a row is `2 n` bytes, and has a side.
        let (row, side, other) = unsafe {
            let row = std::slice::from_raw_parts(base.rows.add(a as usize * base.stride), base.stride);
            (row, &*base.sides.add(a as usize), &*base.sides.add(b as usize))
        };
        let (upper, lower) = row.split_at(n);
        let mut product = 0;
        for at in (0..n).step_by(LINE) {
            let mut codes = [Line([0; LINE]); 2];
            for (place, (upper, lower)) in upper[at..at + LINE].iter().zip(&lower[at..]).enumerate() {
                codes[0].0[place] = join(upper & 0xf, lower & 0xf);
                codes[1].0[place] = join(upper >> 4, lower >> 4);
            }
            let sum: i32 = codes.iter().flat_map(|line| line.0).map(i32::from).sum();
            let there = base.rows.wrapping_add(b as usize * base.stride + at);
            let mut products = [0];
            // SAFETY: a line of row `b`, and two of codes.
            unsafe { (kernels.codes.nibbles)(codes.as_ptr().cast(), there, 0, LINE, &[0], &mut products) };
            product += 16 * (products[0] - HALF * sum);
        }
        let NibbleSide { norm, scale, square, .. } = *side;
        other.distance(metric, other.upper, &CodeSide { norm, scale, square, sum: 0 }, product)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_what_its_halves_say_and_padding_is_nothing() {
        for code in -LARGEST..=LARGEST {
            let [h, l] = split(code);
            assert!(h < 16 && l < 16);
            assert_eq!(join(h, l), code);
            assert_eq!(16 * (i32::from(h) - HALF) + i32::from(l) - HALF, i32::from(code));
            assert_ne!([h, l], [0, 0]);
        }
        assert_eq!(join(0, 0), 0);
    }
}

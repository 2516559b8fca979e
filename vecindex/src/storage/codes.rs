//! Rows as signed bytes with a scale each: a quarter of the memory, integer products, no training.
//!
//! The largest component of a row becomes 127 or -127. Distances are those of the decoded rows, exactly: with `x = s c`,
//! `|x - y|² = |x|² + |y|² - 2 s t (c · d)`, where the lengths are those of the decoded rows and not of the originals, or
//! else rows that agree in everything would seem apart. Under cosine the scale makes the decoded row's length one.

use super::encoding::{Base, Encoding, Row, scaled};
use crate::kernel::{Kernels, prefetch_line};
use crate::metric::Metric;

/// Ids whose products are computed in one call.
pub(super) const BATCH: usize = 64;
/// The largest code.
const LARGEST: i8 = i8::MAX;

/// 1 byte a component, with a scale for each row.
#[derive(Debug, Clone, Copy)]
pub enum I8 {}

/// What is known of a row of codes.
#[derive(Debug, Default, Clone, Copy)]
#[repr(C)]
pub struct CodeSide {
    /// Length of the original.
    pub(super) norm: f32,
    /// A component is its code times this.
    pub(super) scale: f32,
    /// Squared length of the decoded row.
    pub(super) square: f32,
    /// Sum of the codes.
    pub(super) sum: i32,
}

/// A query against rows of codes.
#[derive(Debug, Default, Clone)]
pub struct CodeQuery {
    pub(super) lines: Vec<Line>,
    pub(super) side: CodeSide,
}

#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
pub(super) struct Line(pub(super) [i8; 64]);

impl CodeQuery {
    /// Makes components a query of codes, of which the largest become `most`.
    pub(super) fn fill(&mut self, metric: Metric, raw: &[f32], scale: f64, stride: usize, most: i8) {
        self.lines.clear();
        self.lines.resize(stride / 64, Line([0; 64]));
        let lines = &mut self.lines;
        self.side = quantise(metric, raw, 0.0, scale, most, |at, code| lines[at / 64].0[at % 64] = code);
    }
}

/// The nearest integer, the even one of two, for numbers up to 2^51: without fraction is what is as large as this.
#[inline]
fn round(x: f64) -> f64 {
    const LARGE: f64 = (3u64 << 51) as f64;
    (x + LARGE) - LARGE
}

/// The codes of a row, of which the largest become `most`, and what is known of it.
pub(super) fn quantise(
    metric: Metric,
    raw: &[f32],
    norm: f32,
    scale: f64,
    most: i8,
    mut each: impl FnMut(usize, i8),
) -> CodeSide {
    let most = f32::from(most);
    let largest = raw.iter().fold(0.0f32, |max, x| max.max(scaled(*x, scale).abs()));
    // Nothing but zeros, or so near to it that codes cannot be told apart from zeros.
    let (up, down) =
        if largest < f32::MIN_POSITIVE { (0.0, 0.0) } else { (f64::from(most) / f64::from(largest), largest / most) };
    let (mut sum, mut square) = (0i32, 0i64);
    for (at, x) in raw.iter().enumerate() {
        let code = round(f64::from(*x) * scale * up) as i8;
        each(at, code);
        sum += i32::from(code);
        square += i64::from(code).pow(2);
    }
    let down = match metric {
        Metric::Cosine if square > 0 => (1.0 / (square as f64).sqrt()) as f32,
        _ => down,
    };
    let square = (square as f64 * f64::from(down) * f64::from(down)) as f32;
    CodeSide { norm, scale: down, square, sum }
}

impl CodeSide {
    /// The internal distance, short of the user's order, for the integer product of two rows' codes.
    #[inline(always)]
    fn distance(&self, metric: Metric, other: &CodeSide, product: i32) -> f32 {
        let product = product as f32 * self.scale * other.scale;
        match metric {
            // Rounding may make it less than nothing.
            Metric::L2 => (self.square + other.square - 2.0 * product).max(0.0),
            Metric::Cosine | Metric::InnerProduct => product,
        }
    }
}

impl Encoding for I8 {
    type Element = u8;
    type Side = CodeSide;
    type Query = CodeQuery;
    const CODE: u32 = 4;
    /// Sums of more products might not fit an i32.
    const MAX_DIM: usize = 1 << 16;

    fn norm(side: &CodeSide) -> f32 {
        side.norm
    }

    fn side_key(side: &CodeSide) -> [u32; 3] {
        [side.scale.to_bits(), side.square.to_bits(), side.sum as u32]
    }

    fn encode(metric: Metric, raw: &[f32], norm: f32, scale: f64, into: &mut [u8]) -> CodeSide {
        quantise(metric, raw, norm, scale, LARGEST, |at, code| into[at] = code as u8 ^ 0x80)
    }

    fn decode(row: &Row<'_, Self>, at: usize) -> f32 {
        f32::from((row.elements[at] ^ 0x80) as i8) * row.side.scale
    }

    fn prepare(metric: Metric, raw: &[f32], scale: f64, stride: usize, query: &mut CodeQuery) {
        query.fill(metric, raw, scale, stride, LARGEST);
    }

    fn prepare_row(row: &Row<'_, Self>, query: &mut CodeQuery) {
        query.lines.clear();
        // The padding becomes -128 here and is nothing in the row: their product is nothing.
        let signed = |chunk: &[u8]| Line(std::array::from_fn(|at| chunk.get(at).map_or(0, |code| (code ^ 0x80) as i8)));
        query.lines.extend(row.elements.chunks(64).map(signed));
        query.side = *row.side;
    }

    fn fits(query: &CodeQuery, stride: usize) -> bool {
        query.lines.len() * 64 == stride
    }

    unsafe fn distances(
        kernels: &Kernels,
        metric: Metric,
        query: &CodeQuery,
        base: &Base<Self>,
        ids: &[u32],
        out: &mut [f32],
    ) {
        let mut products = [0; BATCH];
        let shift = query.side.sum.wrapping_mul(128);
        for (ids, out) in ids.chunks(BATCH).zip(out.chunks_mut(BATCH)) {
            // They are there by the time the products are.
            ids.iter().for_each(|id| prefetch_line(base.sides.wrapping_add(*id as usize).cast()));
            let products = &mut products[..ids.len()];
            // SAFETY: the caller's promise; strides are multiples of 64 and MAX_DIM bounds them.
            unsafe {
                (kernels.codes.rows)(query.lines.as_ptr().cast(), base.rows, base.stride, ids, products);
            }
            for ((id, product), out) in ids.iter().zip(products).zip(out) {
                // SAFETY: as many sides as rows, each written with its row.
                let side = unsafe { &*base.sides.add(*id as usize) };
                *out = side.distance(metric, &query.side, product.wrapping_sub(shift));
            }
        }
    }

    unsafe fn between(kernels: &Kernels, metric: Metric, base: &Base<Self>, a: u32, b: u32) -> f32 {
        let (a, b) = (a as usize, b as usize);
        // SAFETY: as in `distances`.
        unsafe {
            let (x, y) = (&*base.sides.add(a), &*base.sides.add(b));
            let product =
                (kernels.codes.pair)(base.rows.add(a * base.stride), base.rows.add(b * base.stride), base.stride);
            x.distance(metric, y, product.wrapping_sub(y.sum.wrapping_mul(128)))
        }
    }
}

//! How rows are stored: what every encoding says of itself, and the floats.

use std::fmt::Debug;

use half::{bf16, f16};

use crate::error::VectorError;
use crate::kernel::{FloatKernels, Kernels};
use crate::metric::Metric;

/// Floats in a 64-byte line.
const LINE: usize = 16;

/// One row: its elements, padding included, and what else is known of it.
#[derive(Debug)]
pub struct Row<'a, E: Encoding> {
    pub(super) elements: &'a [E::Element],
    pub(super) side: &'a E::Side,
}

/// All rows: where they lie.
#[derive(Debug)]
pub struct Base<E: Encoding> {
    pub(super) rows: *const E::Element,
    pub(super) sides: *const E::Side,
    /// In elements.
    pub(super) stride: usize,
}

/// How the elements of a row are stored. Implemented by [`F32`], [`SplitF32`](super::SplitF32), [`F16`],
/// [`Bf16`], [`I8`](super::I8) and [`SplitI8`](super::SplitI8) alone.
///
/// What a caller hands to the functions here has been checked by [`Rows`](super::Rows).
pub trait Encoding: sealed::Sealed + Debug + Sized + Send + Sync + 'static {
    /// One stored element; all zeros is a valid one.
    #[doc(hidden)]
    type Element: Copy + Debug + Send + Sync;
    /// What is kept of a row besides its elements; all zeros is valid.
    #[doc(hidden)]
    type Side: Copy + Debug + Send + Sync;
    /// A query made ready: padded, aligned.
    type Query: Default + Clone + Debug + Send + Sync;

    /// The number in the header of a file.
    #[doc(hidden)]
    const CODE: u32;
    /// The most dimensions that there may be.
    #[doc(hidden)]
    const MAX_DIM: usize = crate::format::MAX_DIM;
    /// Whether `distances` are of less than what is stored.
    #[doc(hidden)]
    const COARSE: bool = false;
    /// Whether a row is stored as it is given: there is nothing more exact to keep beside it.
    #[doc(hidden)]
    const EXACT: bool = false;
    /// Parts of equal length that a row is stored in, each with padding of its own.
    #[doc(hidden)]
    const PARTS: usize = 1;
    /// Bytes that a stored row is padded to a multiple of.
    #[doc(hidden)]
    const PADDED_TO: usize = 64;

    /// Bytes of each part of a row of `dim` components that are not padding, where a part is `padded` bytes long.
    #[doc(hidden)]
    fn part_len(dim: usize, _padded: usize) -> usize {
        dim * size_of::<Self::Element>() / Self::PARTS
    }

    /// The Euclidean length that the row was appended with.
    #[doc(hidden)]
    fn norm(side: &Self::Side) -> f32;

    /// What of the side counts when two rows are asked to be equal, beside all of their elements.
    #[doc(hidden)]
    fn side_key(side: &Self::Side) -> [u32; 3];

    /// Whether a component can be stored.
    #[doc(hidden)]
    fn holds(_component: f32) -> bool {
        true
    }

    /// Stores a row: its components, each to be multiplied by `scale` first, into zeros.
    #[doc(hidden)]
    fn encode(metric: Metric, raw: &[f32], norm: f32, scale: f64, into: &mut [Self::Element]) -> Self::Side;

    /// Component `at` of a row as it is stored, before its norm is given back to it.
    #[doc(hidden)]
    fn decode(row: &Row<'_, Self>, at: usize) -> f32;

    /// Makes components, each to be multiplied by `scale` first, a query against rows of `stride` elements.
    #[doc(hidden)]
    fn prepare(metric: Metric, raw: &[f32], scale: f64, stride: usize, query: &mut Self::Query);

    /// Makes a row a query, without rounding anew.
    #[doc(hidden)]
    fn prepare_row(row: &Row<'_, Self>, query: &mut Self::Query);

    /// Whether a query was made ready for rows of `stride` elements.
    #[doc(hidden)]
    fn fits(query: &Self::Query, stride: usize) -> bool;

    /// Internal distances, short of [`user_order`].
    ///
    /// # Safety
    /// Every id leads to a row that is complete; `query` fits; `out` is as long as `ids`; the kernels can run here.
    #[doc(hidden)]
    unsafe fn distances(
        kernels: &Kernels,
        metric: Metric,
        query: &Self::Query,
        base: &Base<Self>,
        ids: &[u32],
        out: &mut [f32],
    );

    /// As `distances`, of all that is stored.
    ///
    /// # Safety
    /// As [`Encoding::distances`].
    #[doc(hidden)]
    unsafe fn exact_distances(
        kernels: &Kernels,
        metric: Metric,
        query: &Self::Query,
        base: &Base<Self>,
        ids: &[u32],
        out: &mut [f32],
    ) {
        // SAFETY: the caller's promise.
        unsafe { Self::distances(kernels, metric, query, base, ids, out) };
    }

    /// The internal distance of two rows, short of [`user_order`].
    ///
    /// # Safety
    /// As [`Encoding::distances`].
    #[doc(hidden)]
    unsafe fn between(kernels: &Kernels, metric: Metric, base: &Base<Self>, a: u32, b: u32) -> f32;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::F32 {}
    impl Sealed for super::F16 {}
    impl Sealed for super::Bf16 {}
    impl Sealed for crate::storage::I8 {}
    impl Sealed for crate::storage::SplitF32 {}
    impl Sealed for crate::storage::SplitI8 {}
}

/// A product becomes an internal distance; for L2 it is one already.
#[inline]
pub(super) fn user_order(metric: Metric, out: &mut [f32]) {
    match metric {
        Metric::L2 => {}
        Metric::Cosine => out.iter_mut().for_each(|d| *d = 1.0 - *d),
        Metric::InnerProduct => out.iter_mut().for_each(|d| *d = -*d),
    }
}

/// `x * scale`, rounded once.
#[inline]
pub(super) fn scaled(x: f32, scale: f64) -> f32 {
    if scale == 1.0 { x } else { (f64::from(x) * scale) as f32 }
}

/// 4 bytes a component, exactly as given (under cosine: brought to length one).
#[derive(Debug, Clone, Copy)]
pub enum F32 {}

/// 2 bytes a component, 11 significant bits; components up to 65,504.
#[derive(Debug, Clone, Copy)]
pub enum F16 {}

/// 2 bytes a component, 8 significant bits, the range of f32.
#[derive(Debug, Clone, Copy)]
pub enum Bf16 {}

/// A query against rows of floats: padded, aligned, and of length one under cosine.
#[derive(Debug, Default, Clone)]
pub struct FloatQuery {
    lines: Vec<Line>,
}

#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
struct Line([f32; LINE]);

impl FloatQuery {
    pub(super) fn as_ptr(&self) -> *const f32 {
        self.lines.as_ptr().cast()
    }

    /// Whether it was made ready for rows of `stride` elements.
    pub(super) fn fits(&self, stride: usize) -> bool {
        self.lines.len() * LINE == stride
    }

    pub(super) fn fill(&mut self, stride: usize, values: impl Iterator<Item = f32>) {
        self.lines.clear();
        self.lines.resize(stride.div_ceil(LINE), Line([0.0; LINE]));
        for (slot, value) in self.lines.iter_mut().flat_map(|l| l.0.iter_mut()).zip(values) {
            *slot = value;
        }
    }
}

/// The error for a component that cannot be stored.
pub(super) fn check<E: Encoding>(raw: &[f32], scale: f64) -> Result<(), VectorError> {
    match raw.iter().enumerate().find(|(_, x)| !E::holds(scaled(**x, scale))) {
        Some((at, value)) => Err(VectorError::OutOfRange { at, value: *value }),
        None => Ok(()),
    }
}

macro_rules! floats {
    ($encoding:ty, $element:ty, $code:literal, $exact:literal, $table:ident, $holds:expr, $to:expr, $from:expr) => {
        impl Encoding for $encoding {
            type Element = $element;
            type Side = f32;
            type Query = FloatQuery;
            const CODE: u32 = $code;
            const EXACT: bool = $exact;

            fn norm(side: &f32) -> f32 {
                *side
            }

            fn side_key(_: &f32) -> [u32; 3] {
                [0; 3]
            }

            fn holds(component: f32) -> bool {
                let holds: fn(f32) -> bool = $holds;
                holds(component)
            }

            fn encode(_: Metric, raw: &[f32], norm: f32, scale: f64, into: &mut [$element]) -> f32 {
                let to: fn(f32) -> $element = $to;
                for (slot, x) in into.iter_mut().zip(raw) {
                    let element = to(scaled(*x, scale));
                    // Zeros of either sign are one number, and are to be one pattern of bits.
                    *slot = if element == <$element>::default() { <$element>::default() } else { element };
                }
                norm
            }

            fn decode(row: &Row<'_, Self>, at: usize) -> f32 {
                let from: fn($element) -> f32 = $from;
                from(row.elements[at])
            }

            fn prepare(_: Metric, raw: &[f32], scale: f64, stride: usize, query: &mut FloatQuery) {
                query.fill(stride, raw.iter().map(|x| scaled(*x, scale)));
            }

            fn prepare_row(row: &Row<'_, Self>, query: &mut FloatQuery) {
                let from: fn($element) -> f32 = $from;
                query.fill(row.elements.len(), row.elements.iter().map(|x| from(*x)));
            }

            fn fits(query: &FloatQuery, stride: usize) -> bool {
                query.lines.len() * LINE == stride
            }

            unsafe fn distances(
                kernels: &Kernels,
                metric: Metric,
                query: &FloatQuery,
                base: &Base<Self>,
                ids: &[u32],
                out: &mut [f32],
            ) {
                let table: &FloatKernels<$element> = &kernels.$table;
                let kernel = if metric == Metric::L2 { table.rows_l2 } else { table.rows_dot };
                // SAFETY: the caller's promise; rows begin at a multiple of 64 bytes and so does each, a stride is a
                // multiple of 64 bytes, and the query is aligned by its type.
                unsafe { kernel(query.lines.as_ptr().cast(), base.rows, base.stride, ids, out) };
            }

            unsafe fn between(kernels: &Kernels, metric: Metric, base: &Base<Self>, a: u32, b: u32) -> f32 {
                let table: &FloatKernels<$element> = &kernels.$table;
                let kernel = if metric == Metric::L2 { table.pair_l2 } else { table.pair_dot };
                // SAFETY: as in `distances`.
                unsafe {
                    let (a, b) = (base.rows.add(a as usize * base.stride), base.rows.add(b as usize * base.stride));
                    kernel(a, b, base.stride)
                }
            }
        }
    };
}

floats!(F32, f32, 1, true, f32, |_| true, |x| x, |x| x);
floats!(F16, f16, 2, false, f16, |x| f16::from_f32(x).is_finite(), f16::from_f32, f16::to_f32);
floats!(Bf16, bf16, 3, false, bf16, |x| bf16::from_f32(x).is_finite(), bf16::from_f32, bf16::to_f32);

//! What vectors that are compared by themselves, outside of an index, may consist of.

use half::{bf16, f16};

use super::codes::AT_ONCE;
use super::{FloatKernels, Kernels};

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for half::f16 {}
    impl Sealed for half::bf16 {}
    impl Sealed for i8 {}
}

/// An element of a vector: `f32`, [`half::f16`], [`half::bf16`] or `i8`.
pub trait Element: sealed::Sealed + Copy {
    /// What products are summed up in: f32 for floats; i64 for bytes, whose sums are exact.
    type Sum: Copy;

    #[doc(hidden)]
    fn l2_squared(kernels: &Kernels, a: &[Self], b: &[Self]) -> Self::Sum;
    #[doc(hidden)]
    fn dot(kernels: &Kernels, a: &[Self], b: &[Self]) -> Self::Sum;
    #[doc(hidden)]
    fn cosine_distance(kernels: &Kernels, a: &[Self], b: &[Self]) -> f32;
}

/// Both slices have the same length: the public functions have seen to it.
macro_rules! floats {
    ($type:ty, $table:ident) => {
        impl Element for $type {
            type Sum = f32;

            fn l2_squared(kernels: &Kernels, a: &[Self], b: &[Self]) -> f32 {
                // SAFETY: as many elements in both; a table exists only where its instructions do (`available`).
                unsafe { (kernels.$table.l2)(a.as_ptr(), b.as_ptr(), a.len().min(b.len())) }
            }

            fn dot(kernels: &Kernels, a: &[Self], b: &[Self]) -> f32 {
                // SAFETY: as above.
                unsafe { (kernels.$table.dot)(a.as_ptr(), b.as_ptr(), a.len().min(b.len())) }
            }

            fn cosine_distance(kernels: &Kernels, a: &[Self], b: &[Self]) -> f32 {
                cosine(&kernels.$table, a, b)
            }
        }
    };
}

floats!(f32, f32);
floats!(f16, f16);
floats!(bf16, bf16);

fn cosine<T: Copy + Into<f64>>(kernels: &FloatKernels<T>, a: &[T], b: &[T]) -> f32 {
    // SAFETY: as many elements in both; a table exists only where its instructions do (`available`).
    let [dot, aa, bb] = unsafe { (kernels.cosine)(a.as_ptr(), b.as_ptr(), a.len().min(b.len())) };
    let product = f64::from(aa) * f64::from(bb);
    if product.is_normal() && dot.is_finite() && aa > 1e-30 && bb > 1e-30 {
        return from_sums(f64::from(dot), product);
    }
    // Squares overflow or vanish in f32; f64 holds any product of two.
    let (mut dot, mut aa, mut bb) = (0.0f64, 0.0f64, 0.0f64);
    for (x, y) in a.iter().zip(b) {
        let (x, y): (f64, f64) = ((*x).into(), (*y).into());
        dot += x * y;
        aa += x * x;
        bb += y * y;
    }
    if aa == 0.0 || bb == 0.0 {
        return 1.0;
    }
    (1.0 - dot / aa.sqrt() / bb.sqrt()).clamp(0.0, 2.0) as f32
}

/// The cosine distance of a product and the product of two squared lengths, which is not zero.
fn from_sums(dot: f64, lengths: f64) -> f32 {
    (1.0 - dot / lengths.sqrt()).clamp(0.0, 2.0) as f32
}

/// `[sum a b, sum a a, sum b b]`
fn sums(kernels: &Kernels, a: &[i8], b: &[i8]) -> [i64; 3] {
    let parts = a.chunks(AT_ONCE).zip(b.chunks(AT_ONCE));
    parts.fold([0; 3], |[ab, aa, bb], (a, b)| {
        // SAFETY: as many bytes in both, no more than AT_ONCE; a table exists only where its instructions do.
        let [x, y, z] = unsafe { (kernels.codes.sums)(a.as_ptr(), b.as_ptr(), a.len().min(b.len())) };
        [ab + i64::from(x), aa + i64::from(y), bb + i64::from(z)]
    })
}

/// A sum over two runs of bytes, of parts of at most `most` each.
///
/// # Safety
/// The kernel runs on this machine, and takes so many bytes.
unsafe fn in_parts(kernel: unsafe fn(*const i8, *const i8, usize) -> i32, most: usize, a: &[i8], b: &[i8]) -> i64 {
    // SAFETY: as many bytes in both, no more than the kernel takes.
    let part = |a: &[i8], b: &[i8]| i64::from(unsafe { kernel(a.as_ptr(), b.as_ptr(), a.len().min(b.len())) });
    if a.len() <= most {
        return part(a, b);
    }
    a.chunks(most).zip(b.chunks(most)).map(|(a, b)| part(a, b)).sum()
}

impl Element for i8 {
    type Sum = i64;

    fn l2_squared(kernels: &Kernels, a: &[i8], b: &[i8]) -> i64 {
        // SAFETY: half of AT_ONCE is what the table says; it exists only where its instructions do.
        unsafe { in_parts(kernels.codes.l2, AT_ONCE / 2, a, b) }
    }

    fn dot(kernels: &Kernels, a: &[i8], b: &[i8]) -> i64 {
        // SAFETY: as above.
        unsafe { in_parts(kernels.codes.dot, AT_ONCE, a, b) }
    }

    fn cosine_distance(kernels: &Kernels, a: &[i8], b: &[i8]) -> f32 {
        let [ab, aa, bb] = sums(kernels, a, b);
        if aa == 0 || bb == 0 { 1.0 } else { from_sums(ab as f64, aa as f64 * bb as f64) }
    }
}

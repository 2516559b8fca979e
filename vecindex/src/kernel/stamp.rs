//! Compiling the loops for one instruction set.

/// Compiles the loops for the floats of one set and the bytes of another into a table.
macro_rules! stamp {
    ($isa:ty, $bytes:ty, $name:literal $(, $features:literal)?) => {
        pub(in crate::kernel) static KERNELS: crate::kernel::Kernels = {
            use crate::kernel::generic::{self, Dot, L2, Stored};
            use crate::kernel::{CodeKernels, FloatKernels, HalvesKernels, codes, halves};
            // Each function below hands its own contract (that of the table's field) on to the loop it wraps.
            $(#[target_feature(enable = $features)])?
            unsafe fn rows_l2<T: Stored>(q: *const f32, r: *const T, stride: usize, ids: &[u32], out: &mut [f32]) {
                // SAFETY: the table's contract.
                unsafe { generic::rows::<$isa, L2, T>(q, r, stride, ids, out) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn rows_dot<T: Stored>(q: *const f32, r: *const T, stride: usize, ids: &[u32], out: &mut [f32]) {
                // SAFETY: the table's contract.
                unsafe { generic::rows::<$isa, Dot, T>(q, r, stride, ids, out) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn pair_l2<T: Stored>(a: *const T, b: *const T, n: usize) -> f32 {
                // SAFETY: the table's contract.
                unsafe { generic::aligned::<$isa, L2, T, T>(a, b, n) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn pair_dot<T: Stored>(a: *const T, b: *const T, n: usize) -> f32 {
                // SAFETY: the table's contract.
                unsafe { generic::aligned::<$isa, Dot, T, T>(a, b, n) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn l2<T: Stored>(a: *const T, b: *const T, n: usize) -> f32 {
                // SAFETY: the table's contract.
                unsafe { generic::any::<$isa, L2, T>(a, b, n) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn dot<T: Stored>(a: *const T, b: *const T, n: usize) -> f32 {
                // SAFETY: the table's contract.
                unsafe { generic::any::<$isa, Dot, T>(a, b, n) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn cosine<T: Stored>(a: *const T, b: *const T, n: usize) -> [f32; 3] {
                // SAFETY: the table's contract.
                unsafe { generic::cosine::<$isa, T>(a, b, n) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn code_rows(q: *const i8, r: *const u8, stride: usize, ids: &[u32], out: &mut [i32]) {
                // SAFETY: the table's contract.
                unsafe { codes::rows::<$bytes>(q, r, stride, ids, out) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn nibbles(q: *const i8, r: *const u8, stride: usize, n: usize, ids: &[u32], out: &mut [i32]) {
                // SAFETY: the table's contract.
                unsafe { codes::nibbles::<$bytes>(q, r, stride, n, ids, out) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn code_pair(a: *const u8, b: *const u8, n: usize) -> i32 {
                // SAFETY: the table's contract.
                unsafe { codes::dot::<$bytes, true>(a, b, n) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn code_dot(a: *const i8, b: *const i8, n: usize) -> i32 {
                // SAFETY: the table's contract.
                unsafe { codes::dot_any::<$bytes>(a, b, n) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn code_l2(a: *const i8, b: *const i8, n: usize) -> i32 {
                // SAFETY: the table's contract.
                unsafe { codes::l2_any::<$bytes>(a, b, n) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn code_sums(a: *const i8, b: *const i8, n: usize) -> [i32; 3] {
                // SAFETY: the table's contract.
                unsafe { codes::sums::<$bytes>(a, b, n) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn upper_l2(q: *const f32, r: *const u16, n: usize, ids: &[u32], out: &mut [f32]) {
                // SAFETY: the table's contract.
                unsafe { halves::rows::<$isa, L2, false>(q, r, n, ids, out) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn upper_dot(q: *const f32, r: *const u16, n: usize, ids: &[u32], out: &mut [f32]) {
                // SAFETY: the table's contract.
                unsafe { halves::rows::<$isa, Dot, false>(q, r, n, ids, out) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn whole_l2(q: *const f32, r: *const u16, n: usize, ids: &[u32], out: &mut [f32]) {
                // SAFETY: the table's contract.
                unsafe { halves::rows::<$isa, L2, true>(q, r, n, ids, out) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn whole_dot(q: *const f32, r: *const u16, n: usize, ids: &[u32], out: &mut [f32]) {
                // SAFETY: the table's contract.
                unsafe { halves::rows::<$isa, Dot, true>(q, r, n, ids, out) }
            }
            const fn floats<T: Stored>() -> FloatKernels<T> {
                FloatKernels {
                    rows_l2: rows_l2::<T>,
                    rows_dot: rows_dot::<T>,
                    pair_l2: pair_l2::<T>,
                    pair_dot: pair_dot::<T>,
                    l2: l2::<T>,
                    dot: dot::<T>,
                    cosine: cosine::<T>,
                }
            }
            crate::kernel::Kernels {
                name: $name,
                f32: floats(),
                f16: floats(),
                bf16: floats(),
                halves: HalvesKernels { upper_l2, upper_dot, whole_l2, whole_dot },
                codes: CodeKernels {
                    rows: code_rows,
                    nibbles,
                    pair: code_pair,
                    l2: code_l2,
                    dot: code_dot,
                    sums: code_sums,
                },
            }
        };
    };
}
pub(super) use stamp;

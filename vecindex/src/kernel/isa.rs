//! The few vector operations that the loops need.
//!
//! Every method is `#[inline(always)]` in its implementation and is called from functions that `stamp!` compiles for the
//! instruction set, which is what lets the intrinsics be inlined. No closures between them: a closure does not inherit the
//! caller's instruction set.

/// One instruction set.
///
/// # Safety
/// All methods: the processor has the instructions. Loads: the floats named are readable; `load_aligned` needs alignment
/// to the vector's size.
pub(super) trait Isa {
    /// A vector of [`Isa::LANES`] floats.
    type V: Copy;
    /// Floats in a vector: a power of two, at most 16.
    const LANES: usize;

    unsafe fn zero() -> Self::V;
    unsafe fn load(from: *const f32) -> Self::V;
    unsafe fn load_aligned(from: *const f32) -> Self::V;
    /// The first `n < LANES` floats, zeros behind them.
    unsafe fn load_first(from: *const f32, n: usize) -> Self::V;
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`
    unsafe fn mul_add(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    unsafe fn sum(a: Self::V) -> f32;
}

/// Asks for the cache line of an address. A hint: any address is allowed.
#[inline(always)]
pub(crate) fn prefetch_line(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch never faults, and SSE is part of the baseline.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

//! The few vector operations that the loops need.
//!
//! Every method is `#[inline(always)]` in its implementation and is called from functions that `stamp!` compiles for the
//! instruction set, which is what lets the intrinsics be inlined. No closures between them: a closure does not inherit the
//! caller's instruction set.

use half::{bf16, f16};

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
    /// Whether the processor has registers for twelve sums at once.
    const MANY: bool;

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
    /// The first [`Isa::LANES`] half-precision floats, widened.
    unsafe fn load_f16(from: *const f16) -> Self::V;
    /// The first [`Isa::LANES`] bfloats, widened.
    unsafe fn load_bf16(from: *const bf16) -> Self::V;
}

/// Integer dot products of one instruction set: bytes without sign (a stored code plus 128) by bytes with one (a query's).
///
/// # Safety
/// As [`Isa`]; loads need no alignment.
pub(super) trait Bytes {
    /// A vector of [`Bytes::BYTES`] bytes.
    type B: Copy;
    /// A vector of i32 sums.
    type S: Copy;
    /// Bytes in a vector: a divisor of 64.
    const BYTES: usize;
    /// Whether products are made so fast that it takes eight sums to keep up with them.
    const MANY: bool;

    unsafe fn zero() -> Self::S;
    unsafe fn load(from: *const u8) -> Self::B;
    /// The first `n < BYTES` bytes, zeros behind them.
    #[inline(always)]
    unsafe fn load_first(from: *const u8, n: usize) -> Self::B {
        let mut bytes = [0; 64];
        // SAFETY: `n` bytes are readable, and n < BYTES <= 64 fit.
        unsafe {
            std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), n);
            Self::load(bytes.as_ptr())
        }
    }
    /// Stored codes with their sign back: each byte minus 128.
    unsafe fn signed(codes: Self::B) -> Self::B;
    /// `sum` plus the products of bytes without sign and bytes with one, added up in any order. Never saturates.
    unsafe fn dot(unsigned: Self::B, signed: Self::B, sum: Self::S) -> Self::S;
    /// The lower four bits of each byte.
    unsafe fn lower(bytes: Self::B) -> Self::B;
    /// The upper four bits of each byte.
    unsafe fn upper(bytes: Self::B) -> Self::B;
    /// How far bytes with sign are apart, without sign.
    unsafe fn apart(a: Self::B, b: Self::B) -> Self::B;
    /// `sum` plus the squares of bytes without sign, added up in any order. Never saturates.
    unsafe fn squares(unsigned: Self::B, sum: Self::S) -> Self::S;
    unsafe fn add(a: Self::S, b: Self::S) -> Self::S;
    unsafe fn sub(a: Self::S, b: Self::S) -> Self::S;
    unsafe fn sum(a: Self::S) -> i32;
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

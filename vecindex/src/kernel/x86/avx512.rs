//! AVX-512F: sixteen floats at a time, a whole cache line; tails by masks.

use std::arch::x86_64::*;

use crate::kernel::generic::stamp;
use crate::kernel::isa::Isa;

struct Avx512;

// SAFETY of every block below: the trait's contract (the instructions exist, the floats are readable).
#[allow(clippy::undocumented_unsafe_blocks)]
impl Isa for Avx512 {
    type V = __m512;
    const LANES: usize = 16;

    #[inline(always)]
    unsafe fn zero() -> __m512 {
        unsafe { _mm512_setzero_ps() }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m512 {
        unsafe { _mm512_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn load_aligned(from: *const f32) -> __m512 {
        unsafe { _mm512_load_ps(from) }
    }
    #[inline(always)]
    unsafe fn load_first(from: *const f32, n: usize) -> __m512 {
        // A masked load touches only the lanes whose bit is set.
        unsafe { _mm512_maskz_loadu_ps((1u16 << n) - 1, from) }
    }
    #[inline(always)]
    unsafe fn add(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn mul_add(a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn sum(a: __m512) -> f32 {
        unsafe { _mm512_reduce_add_ps(a) }
    }
}

stamp!(Avx512, "avx512", "avx512f");

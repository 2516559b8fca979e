//! AVX-512: sixteen floats at a time, a whole cache line; tails by masks. Codes by VNNI where there is VNNI: products of
//! four bytes and their sum in one instruction.

use std::arch::x86_64::*;

use half::{bf16, f16};

use crate::kernel::isa::{Bytes, Isa};

struct Avx512;
struct Vnni;

// SAFETY of every block below: the trait's contract (the instructions exist, the floats are readable).
#[allow(clippy::undocumented_unsafe_blocks)]
impl Isa for Avx512 {
    type V = __m512;
    const LANES: usize = 16;
    const MANY: bool = true;

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
    #[inline(always)]
    unsafe fn load_f16(from: *const f16) -> __m512 {
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> __m512 {
        unsafe {
            let words = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(words))
        }
    }
}

macro_rules! bytes {
    ($isa:ty, $dot:item) => {
        // SAFETY of every block below: as above.
        #[allow(clippy::undocumented_unsafe_blocks)]
        impl Bytes for $isa {
            type B = __m512i;
            type S = __m512i;
            const BYTES: usize = 64;
            const MANY: bool = true;

            #[inline(always)]
            unsafe fn zero() -> __m512i {
                unsafe { _mm512_setzero_si512() }
            }
            #[inline(always)]
            unsafe fn load(from: *const u8) -> __m512i {
                unsafe { _mm512_loadu_si512(from.cast()) }
            }
            #[inline(always)]
            unsafe fn load_first(from: *const u8, n: usize) -> __m512i {
                // A masked load touches only the bytes whose bit is set.
                unsafe { _mm512_maskz_loadu_epi8((1u64 << n) - 1, from.cast()) }
            }
            #[inline(always)]
            unsafe fn signed(codes: __m512i) -> __m512i {
                unsafe { _mm512_xor_si512(codes, _mm512_set1_epi8(-128)) }
            }
            #[inline(always)]
            $dot
            #[inline(always)]
            unsafe fn lower(bytes: __m512i) -> __m512i {
                unsafe { _mm512_and_si512(bytes, _mm512_set1_epi8(0xf)) }
            }
            #[inline(always)]
            unsafe fn upper(bytes: __m512i) -> __m512i {
                unsafe { _mm512_and_si512(_mm512_srli_epi16::<4>(bytes), _mm512_set1_epi8(0xf)) }
            }
            #[inline(always)]
            unsafe fn apart(a: __m512i, b: __m512i) -> __m512i {
                unsafe { _mm512_sub_epi8(_mm512_max_epi8(a, b), _mm512_min_epi8(a, b)) }
            }
            #[inline(always)]
            unsafe fn squares(unsigned: __m512i, sum: __m512i) -> __m512i {
                unsafe {
                    let even = _mm512_and_si512(unsigned, _mm512_set1_epi16(0xff));
                    let odd = _mm512_srli_epi16::<8>(unsigned);
                    _mm512_add_epi32(sum, _mm512_add_epi32(_mm512_madd_epi16(even, even), _mm512_madd_epi16(odd, odd)))
                }
            }
            #[inline(always)]
            unsafe fn add(a: __m512i, b: __m512i) -> __m512i {
                unsafe { _mm512_add_epi32(a, b) }
            }
            #[inline(always)]
            unsafe fn sub(a: __m512i, b: __m512i) -> __m512i {
                unsafe { _mm512_sub_epi32(a, b) }
            }
            #[inline(always)]
            unsafe fn sum(a: __m512i) -> i32 {
                unsafe { _mm512_reduce_add_epi32(a) }
            }
        }
    };
}

bytes!(
    Avx512,
    unsafe fn dot(unsigned: __m512i, signed: __m512i, sum: __m512i) -> __m512i {
        // Even and odd bytes apart, as in AVX2.
        unsafe {
            let even = _mm512_and_si512(unsigned, _mm512_set1_epi16(0xff));
            let odd = _mm512_srli_epi16::<8>(unsigned);
            let signed_even = _mm512_srai_epi16::<8>(_mm512_slli_epi16::<8>(signed));
            let signed_odd = _mm512_srai_epi16::<8>(signed);
            let products = _mm512_add_epi32(_mm512_madd_epi16(even, signed_even), _mm512_madd_epi16(odd, signed_odd));
            _mm512_add_epi32(sum, products)
        }
    }
);

bytes!(
    Vnni,
    unsafe fn dot(unsigned: __m512i, signed: __m512i, sum: __m512i) -> __m512i {
        unsafe { _mm512_dpbusd_epi32(sum, unsigned, signed) }
    }
);

pub(in crate::kernel) mod plain {
    crate::kernel::stamp::stamp!(super::Avx512, super::Avx512, "avx512", "avx512f,avx512bw");
}

pub(in crate::kernel) mod vnni {
    crate::kernel::stamp::stamp!(super::Avx512, super::Vnni, "avx512vnni", "avx512f,avx512bw,avx512vnni");
}

//! AVX2 with fused multiply-add: eight floats at a time. Codes by VNNI where there is VNNI without AVX-512: products of four
//! bytes and their sum in one instruction.

use std::arch::x86_64::*;

use half::{bf16, f16};

use crate::kernel::isa::{Bytes, Isa};

struct Avx2;
struct AvxVnni;

/// Eight set lanes, then eight clear ones: a window into it masks the first n lanes.
static MASK: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];

// SAFETY of every block below: the trait's contract (the instructions exist, the floats are readable).
#[allow(clippy::undocumented_unsafe_blocks)]
impl Isa for Avx2 {
    type V = __m256;
    const LANES: usize = 8;
    const MANY: bool = true;

    #[inline(always)]
    unsafe fn zero() -> __m256 {
        unsafe { _mm256_setzero_ps() }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m256 {
        unsafe { _mm256_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn load_aligned(from: *const f32) -> __m256 {
        unsafe { _mm256_load_ps(from) }
    }
    #[inline(always)]
    unsafe fn load_first(from: *const f32, n: usize) -> __m256 {
        // A masked load touches only the lanes whose mask is set.
        unsafe { _mm256_maskload_ps(from, _mm256_loadu_si256(MASK.as_ptr().add(8 - n).cast())) }
    }
    #[inline(always)]
    unsafe fn add(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_add_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_sub_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn mul_add(a: __m256, b: __m256, c: __m256) -> __m256 {
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn sum(a: __m256) -> f32 {
        unsafe {
            let four = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        }
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const f16) -> __m256 {
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.cast())) }
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> __m256 {
        unsafe {
            let words = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(words))
        }
    }
}

macro_rules! bytes {
    ($isa:ty, $many:literal, $dot:item) => {
        // SAFETY of every block below: as above.
        #[allow(clippy::undocumented_unsafe_blocks)]
        impl Bytes for $isa {
            type B = __m256i;
            type S = __m256i;
            const BYTES: usize = 32;
            const MANY: bool = $many;

            #[inline(always)]
            unsafe fn zero() -> __m256i {
                unsafe { _mm256_setzero_si256() }
            }
            #[inline(always)]
            unsafe fn load(from: *const u8) -> __m256i {
                unsafe { _mm256_loadu_si256(from.cast()) }
            }
            #[inline(always)]
            unsafe fn signed(codes: __m256i) -> __m256i {
                unsafe { _mm256_xor_si256(codes, _mm256_set1_epi8(-128)) }
            }
            #[inline(always)]
            $dot
            #[inline(always)]
            unsafe fn lower(bytes: __m256i) -> __m256i {
                unsafe { _mm256_and_si256(bytes, _mm256_set1_epi8(0xf)) }
            }
            #[inline(always)]
            unsafe fn upper(bytes: __m256i) -> __m256i {
                unsafe { _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), _mm256_set1_epi8(0xf)) }
            }
            #[inline(always)]
            unsafe fn apart(a: __m256i, b: __m256i) -> __m256i {
                unsafe { _mm256_sub_epi8(_mm256_max_epi8(a, b), _mm256_min_epi8(a, b)) }
            }
            #[inline(always)]
            unsafe fn squares(unsigned: __m256i, sum: __m256i) -> __m256i {
                unsafe {
                    let even = _mm256_and_si256(unsigned, _mm256_set1_epi16(0xff));
                    let odd = _mm256_srli_epi16::<8>(unsigned);
                    _mm256_add_epi32(sum, _mm256_add_epi32(_mm256_madd_epi16(even, even), _mm256_madd_epi16(odd, odd)))
                }
            }
            #[inline(always)]
            unsafe fn add(a: __m256i, b: __m256i) -> __m256i {
                unsafe { _mm256_add_epi32(a, b) }
            }
            #[inline(always)]
            unsafe fn sub(a: __m256i, b: __m256i) -> __m256i {
                unsafe { _mm256_sub_epi32(a, b) }
            }
            #[inline(always)]
            unsafe fn sum(a: __m256i) -> i32 {
                unsafe {
                    let four = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256::<1>(a));
                    let two = _mm_add_epi32(four, _mm_shuffle_epi32::<0b00_00_11_10>(four));
                    _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32::<0b00_00_00_01>(two)))
                }
            }
        }
    };
}

bytes!(
    Avx2,
    false,
    unsafe fn dot(unsigned: __m256i, signed: __m256i, sum: __m256i) -> __m256i {
        // The instruction that multiplies bytes saturates at 16 bits: even and odd bytes apart, as words, do not.
        unsafe {
            let even = _mm256_and_si256(unsigned, _mm256_set1_epi16(0xff));
            let odd = _mm256_srli_epi16::<8>(unsigned);
            let signed_even = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(signed));
            let signed_odd = _mm256_srai_epi16::<8>(signed);
            let products = _mm256_add_epi32(_mm256_madd_epi16(even, signed_even), _mm256_madd_epi16(odd, signed_odd));
            _mm256_add_epi32(sum, products)
        }
    }
);

bytes!(
    AvxVnni,
    true,
    unsafe fn dot(unsigned: __m256i, signed: __m256i, sum: __m256i) -> __m256i {
        unsafe { _mm256_dpbusd_avx_epi32(sum, unsigned, signed) }
    }
);

pub(in crate::kernel) mod plain {
    crate::kernel::stamp::stamp!(super::Avx2, super::Avx2, "avx2", "avx2,fma,f16c");
}

pub(in crate::kernel) mod vnni {
    crate::kernel::stamp::stamp!(super::Avx2, super::AvxVnni, "avx2vnni", "avx2,fma,f16c,avxvnni");
}

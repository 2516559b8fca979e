//! NEON: four floats at a time. Codes by `sdot` where the processor has it, else by widening products.

use std::arch::aarch64::*;
use std::arch::asm;

use half::{bf16, f16};

use super::isa::{Bytes, Isa};

struct Neon;
struct DotProduct;

/// `sum` plus the products of bytes with sign, four to a lane. Its intrinsic is not stable yet.
///
/// # Safety
/// The processor has the instruction, and the caller is compiled for it: as [`Bytes`] of `DotProduct`.
#[inline(always)]
unsafe fn sdot(mut sum: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: one instruction over the registers that are named; it touches neither memory nor flags.
    unsafe {
        asm!(
            "sdot {sum:v}.4s, {a:v}.16b, {b:v}.16b",
            sum = inout(vreg) sum, a = in(vreg) a, b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sum
}

// SAFETY of every block below: the trait's contract (the instructions exist, the elements are readable).
#[allow(clippy::undocumented_unsafe_blocks)]
impl Isa for Neon {
    type V = float32x4_t;
    const LANES: usize = 4;
    const MANY: bool = true;

    #[inline(always)]
    unsafe fn zero() -> float32x4_t {
        unsafe { vdupq_n_f32(0.0) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> float32x4_t {
        unsafe { vld1q_f32(from) }
    }
    #[inline(always)]
    unsafe fn load_aligned(from: *const f32) -> float32x4_t {
        unsafe { vld1q_f32(from) }
    }
    #[inline(always)]
    unsafe fn load_first(from: *const f32, n: usize) -> float32x4_t {
        let mut lanes = [0.0; 4];
        unsafe {
            std::ptr::copy_nonoverlapping(from, lanes.as_mut_ptr(), n);
            vld1q_f32(lanes.as_ptr())
        }
    }
    #[inline(always)]
    unsafe fn add(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        unsafe { vaddq_f32(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        unsafe { vsubq_f32(a, b) }
    }
    #[inline(always)]
    unsafe fn mul_add(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        unsafe { vfmaq_f32(c, a, b) }
    }
    #[inline(always)]
    unsafe fn sum(a: float32x4_t) -> f32 {
        unsafe { vaddvq_f32(a) }
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const f16) -> float32x4_t {
        // Part of every aarch64; its intrinsic is not stable yet.
        unsafe {
            let halves = vld1_u16(from.cast());
            let floats: float32x4_t;
            asm!(
                "fcvtl {floats:v}.4s, {halves:v}.4h",
                floats = lateout(vreg) floats, halves = in(vreg) halves,
                options(pure, nomem, nostack, preserves_flags)
            );
            floats
        }
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> float32x4_t {
        unsafe { vreinterpretq_f32_u32(vshll_n_u16::<16>(vld1_u16(from.cast()))) }
    }
}

macro_rules! bytes {
    ($isa:ty, $dot:item) => {
        // SAFETY of every block below: as above.
        #[allow(clippy::undocumented_unsafe_blocks)]
        impl Bytes for $isa {
            type B = uint8x16_t;
            type S = int32x4_t;
            const BYTES: usize = 16;
            const MANY: bool = true;

            #[inline(always)]
            unsafe fn zero() -> int32x4_t {
                unsafe { vdupq_n_s32(0) }
            }
            #[inline(always)]
            unsafe fn load(from: *const u8) -> uint8x16_t {
                unsafe { vld1q_u8(from) }
            }
            #[inline(always)]
            unsafe fn signed(codes: uint8x16_t) -> uint8x16_t {
                unsafe { veorq_u8(codes, vdupq_n_u8(0x80)) }
            }
            #[inline(always)]
            $dot
            #[inline(always)]
            unsafe fn lower(bytes: uint8x16_t) -> uint8x16_t {
                unsafe { vandq_u8(bytes, vdupq_n_u8(0xf)) }
            }
            #[inline(always)]
            unsafe fn upper(bytes: uint8x16_t) -> uint8x16_t {
                unsafe { vshrq_n_u8::<4>(bytes) }
            }
            #[inline(always)]
            unsafe fn apart(a: uint8x16_t, b: uint8x16_t) -> uint8x16_t {
                unsafe { vreinterpretq_u8_s8(vabdq_s8(vreinterpretq_s8_u8(a), vreinterpretq_s8_u8(b))) }
            }
            #[inline(always)]
            unsafe fn squares(unsigned: uint8x16_t, sum: int32x4_t) -> int32x4_t {
                unsafe {
                    let low = vmull_u8(vget_low_u8(unsigned), vget_low_u8(unsigned));
                    let sums = vpadalq_u16(vreinterpretq_u32_s32(sum), low);
                    vreinterpretq_s32_u32(vpadalq_u16(sums, vmull_high_u8(unsigned, unsigned)))
                }
            }
            #[inline(always)]
            unsafe fn add(a: int32x4_t, b: int32x4_t) -> int32x4_t {
                unsafe { vaddq_s32(a, b) }
            }
            #[inline(always)]
            unsafe fn sub(a: int32x4_t, b: int32x4_t) -> int32x4_t {
                unsafe { vsubq_s32(a, b) }
            }
            #[inline(always)]
            unsafe fn sum(a: int32x4_t) -> i32 {
                unsafe { vaddvq_s32(a) }
            }
        }
    };
}

bytes!(
    Neon,
    unsafe fn dot(unsigned: uint8x16_t, signed: uint8x16_t, sum: int32x4_t) -> int32x4_t {
        unsafe {
            let signed = vreinterpretq_s8_u8(signed);
            let (low, high) = (vmovl_u8(vget_low_u8(unsigned)), vmovl_high_u8(unsigned));
            let (low, high) = (vreinterpretq_s16_u16(low), vreinterpretq_s16_u16(high));
            let (x, y) = (vmovl_s8(vget_low_s8(signed)), vmovl_high_s8(signed));
            let sum = vmlal_high_s16(vmlal_s16(sum, vget_low_s16(low), vget_low_s16(x)), low, x);
            vmlal_high_s16(vmlal_s16(sum, vget_low_s16(high), vget_low_s16(y)), high, y)
        }
    }
);

bytes!(
    DotProduct,
    unsafe fn dot(unsigned: uint8x16_t, signed: uint8x16_t, sum: int32x4_t) -> int32x4_t {
        // The instruction takes two bytes with sign: u = (u - 128) + 128, and 128 is twice what a byte with sign can say.
        unsafe {
            let codes = vreinterpretq_s8_u8(veorq_u8(unsigned, vdupq_n_u8(0x80)));
            let signed = vreinterpretq_s8_u8(signed);
            let halves = sdot(vdupq_n_s32(0), vdupq_n_s8(64), signed);
            vaddq_s32(sdot(sum, codes, signed), vaddq_s32(halves, halves))
        }
    }
);

pub(in crate::kernel) mod plain {
    crate::kernel::stamp::stamp!(super::Neon, super::Neon, "neon", "neon");
}

pub(in crate::kernel) mod dotprod {
    crate::kernel::stamp::stamp!(super::Neon, super::DotProduct, "neondot", "neon,dotprod");
}

//! Eight floats at a time by the `wide` crate: what the target's baseline offers (SSE2 on x86-64, NEON on ARM).

use wide::f32x8;

use super::generic::stamp;
use super::isa::Isa;

struct Portable;

impl Isa for Portable {
    type V = f32x8;
    const LANES: usize = 8;

    #[inline(always)]
    unsafe fn zero() -> f32x8 {
        f32x8::ZERO
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> f32x8 {
        // SAFETY: eight floats are readable by the trait's contract; an array of them needs no more alignment than one.
        f32x8::new(unsafe { *from.cast::<[f32; 8]>() })
    }
    #[inline(always)]
    unsafe fn load_aligned(from: *const f32) -> f32x8 {
        // SAFETY: the same contract and more.
        unsafe { Self::load(from) }
    }
    #[inline(always)]
    unsafe fn load_first(from: *const f32, n: usize) -> f32x8 {
        let mut lanes = [0.0; 8];
        // SAFETY: `n` floats are readable, and n < 8 fit.
        unsafe { std::ptr::copy_nonoverlapping(from, lanes.as_mut_ptr(), n) };
        f32x8::new(lanes)
    }
    #[inline(always)]
    unsafe fn add(a: f32x8, b: f32x8) -> f32x8 {
        a + b
    }
    #[inline(always)]
    unsafe fn sub(a: f32x8, b: f32x8) -> f32x8 {
        a - b
    }
    #[inline(always)]
    unsafe fn mul_add(a: f32x8, b: f32x8, c: f32x8) -> f32x8 {
        a.mul_add(b, c)
    }
    #[inline(always)]
    unsafe fn sum(a: f32x8) -> f32 {
        a.reduce_add()
    }
}

stamp!(Portable, "portable");

//! One float at a time: works everywhere, and is simple enough to be believed.

use super::generic::stamp;
use super::isa::Isa;

struct Scalar;

impl Isa for Scalar {
    type V = f32;
    const LANES: usize = 1;

    #[inline(always)]
    unsafe fn zero() -> f32 {
        0.0
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> f32 {
        // SAFETY: readable by the trait's contract; slices of f32 are aligned for f32.
        unsafe { *from }
    }
    #[inline(always)]
    unsafe fn load_aligned(from: *const f32) -> f32 {
        // SAFETY: as above.
        unsafe { *from }
    }
    #[inline(always)]
    unsafe fn load_first(_: *const f32, _: usize) -> f32 {
        0.0
    }
    #[inline(always)]
    unsafe fn add(a: f32, b: f32) -> f32 {
        a + b
    }
    #[inline(always)]
    unsafe fn sub(a: f32, b: f32) -> f32 {
        a - b
    }
    #[inline(always)]
    unsafe fn mul_add(a: f32, b: f32, c: f32) -> f32 {
        a * b + c
    }
    #[inline(always)]
    unsafe fn sum(a: f32) -> f32 {
        a
    }
}

stamp!(Scalar, "scalar");

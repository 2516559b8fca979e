//! One float at a time: works everywhere, and is simple enough to be believed.

use half::{bf16, f16};

use super::isa::{Bytes, Isa};
use super::stamp::stamp;

struct Scalar;

impl Isa for Scalar {
    type V = f32;
    const LANES: usize = 1;
    const MANY: bool = false;

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
    #[inline(always)]
    unsafe fn load_f16(from: *const f16) -> f32 {
        // SAFETY: as above.
        unsafe { (*from).to_f32() }
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> f32 {
        // SAFETY: as above.
        unsafe { (*from).to_f32() }
    }
}

impl Bytes for Scalar {
    type B = u8;
    type S = i32;
    const BYTES: usize = 1;
    const MANY: bool = false;

    #[inline(always)]
    unsafe fn zero() -> i32 {
        0
    }
    #[inline(always)]
    unsafe fn load(from: *const u8) -> u8 {
        // SAFETY: readable by the trait's contract.
        unsafe { *from }
    }
    #[inline(always)]
    unsafe fn signed(code: u8) -> u8 {
        code ^ 0x80
    }
    #[inline(always)]
    unsafe fn dot(unsigned: u8, signed: u8, sum: i32) -> i32 {
        sum + i32::from(unsigned) * i32::from(signed as i8)
    }
    #[inline(always)]
    unsafe fn lower(byte: u8) -> u8 {
        byte & 0xf
    }
    #[inline(always)]
    unsafe fn upper(byte: u8) -> u8 {
        byte >> 4
    }
    #[inline(always)]
    unsafe fn apart(a: u8, b: u8) -> u8 {
        (a as i8).abs_diff(b as i8)
    }
    #[inline(always)]
    unsafe fn squares(unsigned: u8, sum: i32) -> i32 {
        sum + i32::from(unsigned) * i32::from(unsigned)
    }
    #[inline(always)]
    unsafe fn add(a: i32, b: i32) -> i32 {
        a + b
    }
    #[inline(always)]
    unsafe fn sub(a: i32, b: i32) -> i32 {
        a - b
    }
    #[inline(always)]
    unsafe fn sum(a: i32) -> i32 {
        a
    }
}

stamp!(Scalar, Scalar, "scalar");

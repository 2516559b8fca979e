//! Eight floats at a time by the `wide` crate: what the target's baseline offers (SSE2 on x86-64, NEON on ARM).

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use wide::{f32x8, i16x16, i32x8};

use super::isa::{Bytes, Isa};
use super::stamp::stamp;

struct Portable;

impl Isa for Portable {
    type V = f32x8;
    const LANES: usize = 8;
    const MANY: bool = false;

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
        unsafe { <Self as Isa>::load(from) }
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
    #[inline(always)]
    unsafe fn load_f16(from: *const f16) -> f32x8 {
        let mut lanes = [0.0; 8];
        // SAFETY: eight elements are readable by the trait's contract.
        unsafe { &*from.cast::<[f16; 8]>() }.convert_to_f32_slice(&mut lanes);
        f32x8::new(lanes)
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> f32x8 {
        // SAFETY: eight elements are readable by the trait's contract.
        let halves = unsafe { *from.cast::<[u16; 8]>() };
        f32x8::new(halves.map(|bits| f32::from_bits(u32::from(bits) << 16)))
    }
}

impl Bytes for Portable {
    type B = [u8; 16];
    type S = i32x8;
    const BYTES: usize = 16;
    const MANY: bool = false;

    #[inline(always)]
    unsafe fn zero() -> i32x8 {
        i32x8::ZERO
    }
    #[inline(always)]
    unsafe fn load(from: *const u8) -> [u8; 16] {
        // SAFETY: sixteen bytes are readable by the trait's contract.
        unsafe { *from.cast() }
    }
    #[inline(always)]
    unsafe fn signed(codes: [u8; 16]) -> [u8; 16] {
        codes.map(|code| code ^ 0x80)
    }
    #[inline(always)]
    unsafe fn dot(unsigned: [u8; 16], signed: [u8; 16], sum: i32x8) -> i32x8 {
        let unsigned = i16x16::new(unsigned.map(i16::from));
        let signed = i16x16::new(signed.map(|byte| i16::from(byte as i8)));
        sum + unsigned.dot(signed)
    }
    #[inline(always)]
    unsafe fn lower(bytes: [u8; 16]) -> [u8; 16] {
        bytes.map(|byte| byte & 0xf)
    }
    #[inline(always)]
    unsafe fn upper(bytes: [u8; 16]) -> [u8; 16] {
        bytes.map(|byte| byte >> 4)
    }
    #[inline(always)]
    unsafe fn apart(a: [u8; 16], b: [u8; 16]) -> [u8; 16] {
        std::array::from_fn(|i| (a[i] as i8).abs_diff(b[i] as i8))
    }
    #[inline(always)]
    unsafe fn squares(unsigned: [u8; 16], sum: i32x8) -> i32x8 {
        let unsigned = i16x16::new(unsigned.map(i16::from));
        sum + unsigned.dot(unsigned)
    }
    #[inline(always)]
    unsafe fn add(a: i32x8, b: i32x8) -> i32x8 {
        a + b
    }
    #[inline(always)]
    unsafe fn sub(a: i32x8, b: i32x8) -> i32x8 {
        a - b
    }
    #[inline(always)]
    unsafe fn sum(a: i32x8) -> i32 {
        a.reduce_add()
    }
}

stamp!(Portable, Portable, "portable");

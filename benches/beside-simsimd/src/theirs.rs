//! SimSIMD's functions by instruction set, as its C interface names them.

use std::ffi::c_void;
use std::mem::transmute;

use half::{bf16, f16};
use simsimd as _;
use vecindex::Metric;

/// What both libraries compare.
pub trait Known: Copy + 'static {
    /// As in the table.
    const NAME: &'static str;
    /// `simsimd_datatype_t`.
    const CODE: u32;
}

impl Known for f32 {
    const NAME: &'static str = "f32";
    const CODE: u32 = 1 << 11;
}

impl Known for f16 {
    const NAME: &'static str = "f16";
    const CODE: u32 = 1 << 12;
}

impl Known for bf16 {
    const NAME: &'static str = "bf16";
    const CODE: u32 = 1 << 13;
}

impl Known for i8 {
    const NAME: &'static str = "i8";
    const CODE: u32 = 1 << 2;
}

/// `simsimd_capability_t`: the names of its bits that are met on x86-64, and NEON's.
const SETS: [(u32, &str); 9] = [
    (1, "serial"),
    (1 << 10, "haswell"),
    (1 << 11, "skylake"),
    (1 << 12, "ice"),
    (1 << 13, "genoa"),
    (1 << 14, "sapphire"),
    (1 << 15, "turin"),
    (1 << 16, "sierra"),
    (1 << 20, "neon"),
];

type Kernel = unsafe extern "C" fn(*const c_void, *const c_void, u64, *mut f64);

unsafe extern "C" {
    fn simsimd_capabilities() -> u32;
    fn simsimd_find_kernel_punned(
        kind: u32,
        datatype: u32,
        supported: u32,
        allowed: u32,
        kernel: *mut *const c_void,
        capability: *mut u32,
    );
}

/// Their function for a distance, of AVX2 alone or the best that this machine can run, and the set that it is of.
pub fn find<T: Known>(metric: Metric, avx2: bool) -> (impl Fn(&[T], &[T]) -> f64, &'static str) {
    let kind = match metric {
        Metric::L2 => 'e',
        Metric::InnerProduct => 'i',
        Metric::Cosine => 'c',
    };
    let allowed = if avx2 { 1 << 10 } else { 0x7fff_ffff };
    let (mut kernel, mut capability) = (std::ptr::null(), 0);
    // SAFETY: both outputs are written through valid pointers; the numbers are those of its header.
    unsafe {
        let supported = simsimd_capabilities();
        simsimd_find_kernel_punned(u32::from(kind), T::CODE, supported, allowed, &mut kernel, &mut capability);
    }
    assert!(!kernel.is_null(), "SimSIMD has no such function");
    // SAFETY: a distance of two dense vectors has this signature.
    let kernel: Kernel = unsafe { transmute(kernel) };
    let set = SETS.iter().find(|(bit, _)| *bit == capability).map_or("?", |(_, name)| name);
    let call = move |a: &[T], b: &[T]| {
        assert_eq!(a.len(), b.len());
        let mut distance = 0.0;
        // SAFETY: as many elements in both, and a place for the result; the set was found among those supported.
        unsafe { kernel(a.as_ptr().cast(), b.as_ptr().cast(), a.len() as u64, &mut distance) };
        distance
    };
    (call, set)
}

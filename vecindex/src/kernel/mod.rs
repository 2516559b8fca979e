//! Distances between vectors of f32, f16, bf16 and i8, as fast as the processor allows.
//!
//! Each operation is one generic loop (`generic` for floats, `codes` for bytes) over a tiny vector trait (`isa`); one thin
//! module per instruction set implements the traits, and `stamp!` compiles the loops once for each. The set is chosen once
//! per process: the best one the processor has, or the one that the environment variable `VECINDEX_ISA` names (`scalar`,
//! `portable`, `avx2`, `avx2vnni`, `avx512`, `avx512vnni`, `neon`, `neondot`).
//!
//! Sums of floats are accumulated in f32 lanes: the result is within `(d / lanes + log2 lanes + 5) * 2^-24 * sum |t_i|` of
//! the true value, where `t_i` are the terms, `x_i y_i` or `(x_i - y_i)^2`. Different sets may differ in the last digits; one
//! process uses one set only. Sums of bytes are exact.

mod codes;
mod element;
mod generic;
mod halves;
mod isa;
mod portable;
mod scalar;
mod stamp;
#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(target_arch = "aarch64")]
mod arm;

#[cfg(test)]
mod tests;

use std::error::Error;
use std::fmt;
use std::sync::OnceLock;

use half::{bf16, f16};

pub use element::Element;
pub(crate) use halves::{join, split};
pub(crate) use isa::prefetch_line;

/// The functions of one instruction set for one type of float.
///
/// `rows_*`: the query and every row are 64-byte aligned and `stride` elements long, a multiple of 16; every id times
/// stride lies within the row array; `out` is as long as `ids`. `pair_*`: the same for two rows. The others take any
/// length and alignment.
pub(crate) struct FloatKernels<T> {
    pub rows_l2: unsafe fn(*const f32, *const T, usize, &[u32], &mut [f32]),
    pub rows_dot: unsafe fn(*const f32, *const T, usize, &[u32], &mut [f32]),
    pub pair_l2: unsafe fn(*const T, *const T, usize) -> f32,
    pub pair_dot: unsafe fn(*const T, *const T, usize) -> f32,
    l2: unsafe fn(*const T, *const T, usize) -> f32,
    dot: unsafe fn(*const T, *const T, usize) -> f32,
    cosine: unsafe fn(*const T, *const T, usize) -> [f32; 3],
}

/// The functions of one instruction set for bytes.
///
/// `rows`: `sum u q` for a query of bytes with sign and rows of stored codes `u`, each `stride` bytes long, a multiple of 64
/// and at most 65,536; every id times stride lies within the row array; `out` is as long as `ids`. `nibbles`: as
/// `rows`, of the first `n` bytes of rows of `stride` bytes, each two numbers `u` of four bits: the lower ones are met by the
/// first `n` bytes of the query, the upper ones by as many behind them; `n` a multiple of 64 and at most 32,768.
/// `pair`: `sum u (v - 128)` for two rows. `dot` and `sums`: `sum a b` and `[sum a b, sum a a, sum b b]` of any two runs of at most 65,536 bytes with sign.
/// `l2`: `sum (a - b)^2` of half as many.
pub(crate) struct CodeKernels {
    pub rows: unsafe fn(*const i8, *const u8, usize, &[u32], &mut [i32]),
    pub nibbles: unsafe fn(*const i8, *const u8, usize, usize, &[u32], &mut [i32]),
    pub pair: unsafe fn(*const u8, *const u8, usize) -> i32,
    l2: unsafe fn(*const i8, *const i8, usize) -> i32,
    dot: unsafe fn(*const i8, *const i8, usize) -> i32,
    sums: unsafe fn(*const i8, *const i8, usize) -> [i32; 3],
}

/// The functions of one instruction set for rows of f32 whose upper and lower halves lie apart.
///
/// The query is 64-byte aligned and `n` floats long, `n` a multiple of 16; a row is `2 n` halves; every id leads to a row within
/// the row array; `out` is as long as `ids`.
pub(crate) struct HalvesKernels {
    pub upper_l2: unsafe fn(*const f32, *const u16, usize, &[u32], &mut [f32]),
    pub upper_dot: unsafe fn(*const f32, *const u16, usize, &[u32], &mut [f32]),
    pub whole_l2: unsafe fn(*const f32, *const u16, usize, &[u32], &mut [f32]),
    pub whole_dot: unsafe fn(*const f32, *const u16, usize, &[u32], &mut [f32]),
}

/// The functions of one instruction set.
pub struct Kernels {
    name: &'static str,
    pub(crate) f32: FloatKernels<f32>,
    pub(crate) f16: FloatKernels<f16>,
    pub(crate) bf16: FloatKernels<bf16>,
    pub(crate) codes: CodeKernels,
    pub(crate) halves: HalvesKernels,
}

impl fmt::Debug for Kernels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Kernels").field(&self.name).finish()
    }
}

impl Kernels {
    /// The instruction set's name, as `VECINDEX_ISA` takes it.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Squared Euclidean distance.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn l2_squared<T: Element>(&self, a: &[T], b: &[T]) -> T::Sum {
        assert_eq!(a.len(), b.len(), "vectors of different length");
        T::l2_squared(self, a, b)
    }

    /// Inner product.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn dot<T: Element>(&self, a: &[T], b: &[T]) -> T::Sum {
        assert_eq!(a.len(), b.len(), "vectors of different length");
        T::dot(self, a, b)
    }

    /// One minus the cosine, within 0..=2; 1 if either vector has no length (it is at right angles to everything).
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn cosine_distance<T: Element>(&self, a: &[T], b: &[T]) -> f32 {
        assert_eq!(a.len(), b.len(), "vectors of different length");
        T::cosine_distance(self, a, b)
    }
}

/// `VECINDEX_ISA` names an instruction set that there is not.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct IsaError {
    /// The name that was asked for.
    pub asked: String,
    /// The names that would work here.
    pub available: Vec<&'static str>,
}

impl fmt::Display for IsaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VECINDEX_ISA is \"{}\", expected one of {} on this machine", self.asked, self.available.join(", "))
    }
}

impl Error for IsaError {}

/// All sets that this machine can run, the best one last.
pub fn available() -> Vec<&'static Kernels> {
    #[allow(unused_mut)]
    let mut all: Vec<&'static Kernels> = vec![&scalar::KERNELS, &portable::KERNELS];
    #[cfg(target_arch = "x86_64")]
    {
        let fma = is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
        if is_x86_feature_detected!("avx2") && fma {
            all.push(&x86::avx2::plain::KERNELS);
            if is_x86_feature_detected!("avxvnni") {
                all.push(&x86::avx2::vnni::KERNELS);
            }
        }
        if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw") {
            all.push(&x86::avx512::plain::KERNELS);
            if is_x86_feature_detected!("avx512vnni") {
                all.push(&x86::avx512::vnni::KERNELS);
            }
        }
    }
    #[cfg(target_arch = "aarch64")]
    {
        all.push(&arm::plain::KERNELS);
        if std::arch::is_aarch64_feature_detected!("dotprod") {
            all.push(&arm::dotprod::KERNELS);
        }
    }
    all
}

/// The kernels of this process, chosen at the first call.
///
/// # Errors
/// `VECINDEX_ISA` names a set that this machine does not have.
pub fn select() -> Result<&'static Kernels, IsaError> {
    static CHOICE: OnceLock<Result<&'static Kernels, IsaError>> = OnceLock::new();
    CHOICE.get_or_init(|| choose(std::env::var("VECINDEX_ISA").ok().as_deref())).clone()
}

fn choose(pinned: Option<&str>) -> Result<&'static Kernels, IsaError> {
    let all = available();
    match pinned {
        None | Some("") => Ok(all.last().copied().unwrap_or(&scalar::KERNELS)),
        Some(name) => all
            .iter()
            .copied()
            .find(|k| k.name == name)
            .ok_or_else(|| IsaError { asked: name.to_owned(), available: all.iter().map(|k| k.name).collect() }),
    }
}

/// For the functions that cannot fail: what `select` says, else the scalar loops.
fn chosen() -> &'static Kernels {
    select().unwrap_or(&scalar::KERNELS)
}

/// Squared Euclidean distance of two vectors of the same length, any length and alignment.
///
/// # Panics
/// If the lengths differ.
pub fn l2_squared<T: Element>(a: &[T], b: &[T]) -> T::Sum {
    chosen().l2_squared(a, b)
}

/// Inner product of two vectors of the same length, any length and alignment.
///
/// # Panics
/// If the lengths differ.
pub fn dot<T: Element>(a: &[T], b: &[T]) -> T::Sum {
    chosen().dot(a, b)
}

/// One minus the cosine of the angle between two vectors of the same length, within 0..=2; 1 if either has no length.
///
/// # Panics
/// If the lengths differ.
pub fn cosine_distance<T: Element>(a: &[T], b: &[T]) -> f32 {
    chosen().cosine_distance(a, b)
}

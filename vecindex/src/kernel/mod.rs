//! Distances between f32 vectors, as fast as the processor allows.
//!
//! Each operation is one generic loop (`generic`) over a tiny vector trait (`isa`); one thin module per instruction set
//! implements the trait, and `stamp!` compiles the loops once for each. The set is chosen once per process: the best one
//! the processor has, or the one that the environment variable `VECINDEX_ISA` names (`scalar`, `portable`, `avx2`,
//! `avx512`).
//!
//! Sums are accumulated in f32 lanes: the result is within `(d / lanes + log2 lanes) * 2^-24 * sum |x_i y_i|` of the true
//! value. Different sets may differ in the last digits; one process uses one set only.

mod generic;
mod isa;
mod portable;
mod scalar;
#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(test)]
mod tests;

use std::error::Error;
use std::fmt;
use std::sync::OnceLock;

pub(crate) use isa::prefetch_line;

/// Floats in a 64-byte line: rows are padded to a multiple of it.
pub(crate) const LINE: usize = 16;

/// The functions of one instruction set.
///
/// `rows_*`: the query and every row are 64-byte aligned and `stride` floats long, a multiple of 16; every id times
/// stride lies within the row array; `out` is as long as `ids`. `pair_*`: the same for two rows. The others take any
/// length and alignment.
pub struct Kernels {
    name: &'static str,
    pub(crate) rows_l2: unsafe fn(*const f32, *const f32, usize, &[u32], &mut [f32]),
    pub(crate) rows_dot: unsafe fn(*const f32, *const f32, usize, &[u32], &mut [f32]),
    pub(crate) pair_l2: unsafe fn(*const f32, *const f32, usize) -> f32,
    pub(crate) pair_dot: unsafe fn(*const f32, *const f32, usize) -> f32,
    l2: unsafe fn(*const f32, *const f32, usize) -> f32,
    dot: unsafe fn(*const f32, *const f32, usize) -> f32,
    cosine: unsafe fn(*const f32, *const f32, usize) -> [f32; 3],
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
    pub fn l2_squared(&self, a: &[f32], b: &[f32]) -> f32 {
        assert_eq!(a.len(), b.len(), "vectors of different length");
        // SAFETY: both slices have a.len() floats; a table exists only where its instructions do (`available`).
        unsafe { (self.l2)(a.as_ptr(), b.as_ptr(), a.len()) }
    }

    /// Inner product.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn dot(&self, a: &[f32], b: &[f32]) -> f32 {
        assert_eq!(a.len(), b.len(), "vectors of different length");
        // SAFETY: as in `l2_squared`.
        unsafe { (self.dot)(a.as_ptr(), b.as_ptr(), a.len()) }
    }

    /// One minus the cosine, within 0..=2; 1 if either vector has no length (it is at right angles to everything).
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn cosine_distance(&self, a: &[f32], b: &[f32]) -> f32 {
        assert_eq!(a.len(), b.len(), "vectors of different length");
        // SAFETY: as in `l2_squared`.
        let [dot, aa, bb] = unsafe { (self.cosine)(a.as_ptr(), b.as_ptr(), a.len()) };
        let product = f64::from(aa) * f64::from(bb);
        if product.is_normal() && dot.is_finite() && aa > 1e-30 && bb > 1e-30 {
            return (1.0 - f64::from(dot) / product.sqrt()).clamp(0.0, 2.0) as f32;
        }
        cosine_of_extremes(a, b)
    }
}

/// Cosine where squares overflow or vanish in f32; f64 holds any product of two f32.
fn cosine_of_extremes(a: &[f32], b: &[f32]) -> f32 {
    let (mut dot, mut aa, mut bb) = (0.0f64, 0.0f64, 0.0f64);
    for (x, y) in a.iter().zip(b).map(|(x, y)| (f64::from(*x), f64::from(*y))) {
        dot += x * y;
        aa += x * x;
        bb += y * y;
    }
    if aa == 0.0 || bb == 0.0 {
        return 1.0;
    }
    (1.0 - dot / aa.sqrt() / bb.sqrt()).clamp(0.0, 2.0) as f32
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
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            all.push(&x86::avx2::KERNELS);
        }
        if is_x86_feature_detected!("avx512f") {
            all.push(&x86::avx512::KERNELS);
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
pub fn l2_squared(a: &[f32], b: &[f32]) -> f32 {
    chosen().l2_squared(a, b)
}

/// Inner product of two vectors of the same length, any length and alignment.
///
/// # Panics
/// If the lengths differ.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    chosen().dot(a, b)
}

/// One minus the cosine of the angle between two vectors of the same length, within 0..=2; 1 if either has no length.
///
/// # Panics
/// If the lengths differ.
pub fn cosine_distance(a: &[f32], b: &[f32]) -> f32 {
    chosen().cosine_distance(a, b)
}

//! Distances of two vectors, hot in the first cache and aligned to 64 bytes: nanoseconds of ours beside SimSIMD's.
//!
//! `cargo run --release` in this folder runs itself once for each instruction set (`VECINDEX_ISA` names one alone). SimSIMD is
//! pinned to the same one: those of AVX2 are its `haswell`, the AVX-512 ones are the best that it has for this processor. `slices` are
//! the functions for two slices of any length; `pairs` and `rows` are what an index calls: two rows, and one query with some
//! rows, per row, asking memory for the next ones. `reading` loads both vectors and does nothing with them: nothing is faster.
//!
//! All take turns, thousands of times, and the fastest turn of each counts: what else the machine does only makes turns
//! slower.

mod theirs;

use std::error::Error;
use std::hint::black_box;
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use half::{bf16, f16};
use kriya_region::Region;
use vecindex::kernel::Kernels;
use vecindex::{AppendVectors, Encoding, Metric, Rows, VectorStorage};

const DIMS: [usize; 4] = [128, 384, 768, 1536];
/// Rows that fit the first cache beside their query.
const ROWS: usize = 4;
const TURNS: usize = 4000;
/// Nanoseconds that a turn should take: long beside the clock, short beside a time slice.
const TURN: f64 = 10_000.0;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Values at the beginning of a cache line.
struct Aligned<T> {
    memory: Vec<T>,
    from: usize,
    len: usize,
}

impl<T: Copy> Aligned<T> {
    fn of(values: &[T]) -> Aligned<T> {
        let spare = 256 / size_of::<T>();
        let mut memory = vec![values[0]; values.len() + spare];
        let from = memory.as_ptr().align_offset(64);
        memory[from..from + values.len()].copy_from_slice(values);
        Aligned { memory, from, len: values.len() }
    }

    fn get(&self) -> &[T] {
        &self.memory[self.from..self.from + self.len]
    }
}

/// Numbers between -1 and 1 in no order.
fn numbers(n: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(0x915f_77f5).wrapping_add(0x3c6e_f372);
        (state >> 8) as f32 / 8_388_608.0 - 1.0
    })
    .take(n)
    .collect()
}

/// One of those that take turns: how many pairs a call compares, and what makes so many calls. Inputs need not be hidden from
/// the compiler: all functions are called through pointers that it does not know.
type Turn<'a> = (usize, Box<dyn FnMut(usize) + 'a>);

/// The least nanoseconds per pair of each.
fn race<const N: usize>(mut turns: [Turn<'_>; N]) -> [f64; N] {
    let mut best = [f64::MAX; N];
    let mut calls = [1; N];
    for turn in 0..TURNS {
        for ((best, calls), (pairs, call)) in best.iter_mut().zip(&mut calls).zip(&mut turns) {
            let begin = Instant::now();
            call(*calls);
            let each = begin.elapsed().as_secs_f64() * 1e9 / *calls as f64;
            if turn > 10 {
                *best = best.min(each / *pairs as f64);
            }
            // The first turns only find out how many calls a turn has.
            if turn <= 10 {
                *calls = ((TURN / each.max(1.0)) as usize).max(1);
            }
        }
    }
    best
}

fn stored<E: Encoding>(rows: &[Vec<f32>], metric: Metric) -> Outcome<(Rows<E>, E::Query)> {
    let dim = rows[0].len();
    let region = Arc::new(Region::heap(Rows::<E>::bytes_needed(dim, ROWS as u32)?)?);
    let stored = Rows::create(region, metric, dim, ROWS as u32)?;
    for row in rows.iter().take(ROWS) {
        stored.push(row)?;
    }
    let mut query = E::Query::default();
    stored.prepare(&rows[ROWS], &mut query)?;
    Ok((stored, query))
}

/// Loads both vectors and does nothing with them.
fn read<T>(a: &[T], b: &[T], isa: &str) {
    #[cfg(target_arch = "x86_64")]
    for at in (0..size_of_val(a)).step_by(256) {
        let (a, b) = (a.as_ptr().wrapping_byte_add(at), b.as_ptr().wrapping_byte_add(at));
        // SAFETY: every length here is a multiple of 128 bytes, and there are 128 more behind; the set was found on this
        // machine; nothing but registers that are named changes.
        unsafe {
            if isa.starts_with("avx512") {
                std::arch::asm!(
                    "vmovaps zmm0, [{a}]", "vmovaps zmm1, [{b}]", "vmovaps zmm0, [{a} + 64]", "vmovaps zmm1, [{b} + 64]",
                    "vmovaps zmm0, [{a} + 128]", "vmovaps zmm1, [{b} + 128]", "vmovaps zmm0, [{a} + 192]",
                    "vmovaps zmm1, [{b} + 192]",
                    a = in(reg) a, b = in(reg) b, out("zmm0") _, out("zmm1") _, options(nostack, readonly)
                );
            } else {
                std::arch::asm!(
                    "vmovaps ymm0, [{a}]", "vmovaps ymm1, [{b}]", "vmovaps ymm0, [{a} + 32]", "vmovaps ymm1, [{b} + 32]",
                    "vmovaps ymm0, [{a} + 64]", "vmovaps ymm1, [{b} + 64]", "vmovaps ymm0, [{a} + 96]",
                    "vmovaps ymm1, [{b} + 96]", "vmovaps ymm0, [{a} + 128]", "vmovaps ymm1, [{b} + 128]",
                    "vmovaps ymm0, [{a} + 160]", "vmovaps ymm1, [{b} + 160]", "vmovaps ymm0, [{a} + 192]",
                    "vmovaps ymm1, [{b} + 192]", "vmovaps ymm0, [{a} + 224]", "vmovaps ymm1, [{b} + 224]",
                    a = in(reg) a, b = in(reg) b, out("ymm0") _, out("ymm1") _, options(nostack, readonly)
                );
            }
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (a, b, isa);
}

/// One line of the table: SimSIMD's, ours for slices, for two rows, for several rows, and only reading both.
fn compare<T: theirs::Known + vecindex::kernel::Element, E: Encoding>(
    kernels: &Kernels,
    dim: usize,
    metric: Metric,
    slices: fn(&Kernels, &[T], &[T], usize),
    to: fn(f32) -> T,
) -> Outcome<()> {
    let raw: Vec<Vec<f32>> = (0..=ROWS as u32).map(|seed| numbers(dim, seed)).collect();
    let aligned = |row: &[f32]| Aligned::of(&row.iter().map(|x| to(*x)).collect::<Vec<T>>());
    let (a, b) = (aligned(&raw[0]), aligned(&raw[1]));
    let (a, b) = (a.get(), b.get());
    let (pinned, set) = theirs::find::<T>(metric, kernels.name().starts_with("avx2"));
    let (rows, query) = stored::<E>(&raw, metric)?;
    let (ids, mut out): (Vec<u32>, _) = ((0..ROWS as u32).collect(), [0.0; ROWS]);
    let [theirs, slices, pairs, rows, reading] = race([
        (
            1,
            Box::new(|calls| {
                (0..calls).for_each(|_| {
                    black_box(pinned(a, b));
                })
            }),
        ),
        (1, Box::new(|calls| slices(kernels, a, b, calls))),
        (
            1,
            Box::new(|calls| {
                (0..calls).for_each(|_| {
                    black_box(rows.distance_between(0, 1));
                })
            }),
        ),
        (ROWS, Box::new(|calls| (0..calls).for_each(|_| rows.distances(&query, &ids, black_box(&mut out))))),
        (1, Box::new(|calls| (0..calls).for_each(|_| read(a, b, kernels.name())))),
    ]);
    println!(
        "| {:<10} | {set:<8} | {:<4} | {metric:<12?} | {dim:>4} | {theirs:>6.1} | {slices:>6.1} | {pairs:>6.1} | {rows:>6.1} | {reading:>6.1} | {:>5.2} | {:>5.2} | {:>5.2} |",
        kernels.name(),
        T::NAME,
        theirs / slices,
        theirs / pairs,
        theirs / rows
    );
    Ok(())
}

macro_rules! operations {
    ($kernels:expr, $type:ty, $encoding:ty, $to:expr) => {
        for dim in DIMS {
            let (k, to) = ($kernels, $to as fn(f32) -> $type);
            compare::<$type, $encoding>(
                k,
                dim,
                Metric::L2,
                |k, a, b, calls| {
                    for _ in 0..calls {
                        black_box(k.l2_squared(a, b));
                    }
                },
                to,
            )?;
            compare::<$type, $encoding>(
                k,
                dim,
                Metric::InnerProduct,
                |k, a, b, calls| {
                    for _ in 0..calls {
                        black_box(k.dot(a, b));
                    }
                },
                to,
            )?;
            compare::<$type, $encoding>(
                k,
                dim,
                Metric::Cosine,
                |k, a, b, calls| {
                    for _ in 0..calls {
                        black_box(k.cosine_distance(a, b));
                    }
                },
                to,
            )?;
        }
    };
}

fn main() -> Outcome<()> {
    if std::env::var_os("VECINDEX_ISA").is_none() {
        println!(
            "| ours       | SimSIMD  | type | distance     |  dim | SimSIMD | slices | pairs | rows | reading | slices x | pairs x | rows x |"
        );
        println!("|---|---|---|---|---|---|---|---|---|---|---|---|---|");
        let sets = vecindex::kernel::available().into_iter().map(Kernels::name);
        for set in sets.filter(|set| set.starts_with("avx2") || *set == "avx512vnni" || set.starts_with("neon")) {
            let mut again = Command::new(std::env::current_exe()?);
            let status = again.args(std::env::args_os().skip(1)).env("VECINDEX_ISA", set).status()?;
            if !status.success() {
                return Err(format!("{set}: {status}").into());
            }
        }
        return Ok(());
    }
    let kernels = vecindex::kernel::select()?;
    let only = std::env::args().nth(1);
    let wanted = |name: &str| only.as_deref().is_none_or(|only| only == name);
    if wanted("f32") {
        operations!(kernels, f32, vecindex::F32, |x| x);
    }
    if wanted("i8") {
        operations!(kernels, i8, vecindex::I8, |x| (x * 127.0) as i8);
    }
    if wanted("f16") {
        operations!(kernels, f16, vecindex::F16, f16::from_f32);
    }
    if wanted("bf16") {
        operations!(kernels, bf16, vecindex::Bf16, bf16::from_f32);
    }
    Ok(())
}

//! The loops over rows of f32 whose upper and lower halves lie apart.
//!
//! `n` upper halves come first, then `n` lower ones. An upper half is the nearest bfloat; the lower half is what the bits of
//! the whole are above or below it, with sign. So the first half of a row's bytes is nearly the row, and both together are
//! the row to the last bit.

use half::bf16;

use super::generic::Op;
use super::isa::{Isa, prefetch_line};

/// How many rows ahead of the one being compared are asked for.
const AHEAD: usize = 2;
/// Bytes of a cache line.
const LINE_BYTES: usize = 64;
/// The most lanes that a vector of any set has.
const MOST_LANES: usize = 16;

/// The halves of a number.
pub(crate) fn split(x: f32) -> [u16; 2] {
    let bits = x.to_bits();
    // Half of the lower half's range rounds up, away from zero: no finite number that a row may hold overflows by it.
    let upper = bits.wrapping_add(0x8000) >> 16;
    [upper as u16, bits.wrapping_sub(upper << 16) as u16]
}

/// The number that was split.
#[inline(always)]
pub(crate) fn join(upper: u16, lower: u16) -> f32 {
    f32::from_bits((u32::from(upper) << 16).wrapping_add_signed(i32::from(lower as i16)))
}

/// # Safety
/// As [`Isa`]; LANES upper halves and as many lower ones are readable.
#[inline(always)]
unsafe fn load_joined<I: Isa>(upper: *const u16, lower: *const u16) -> I::V {
    let mut lanes = [0.0; MOST_LANES];
    // SAFETY: the caller's promise; LANES <= MOST_LANES.
    unsafe {
        for (at, lane) in lanes.iter_mut().enumerate().take(I::LANES) {
            *lane = join(upper.add(at).read(), lower.add(at).read());
        }
        I::load(lanes.as_ptr())
    }
}

/// The distance from a query to a row, by the upper halves or by both.
///
/// # Safety
/// As [`Isa`]; `n` floats at `query`, aligned to 64 bytes, `2 n` halves at `row`; `n` a multiple of 16.
#[inline(always)]
unsafe fn distance<I: Isa, O: Op, const WHOLE: bool>(query: *const f32, row: *const u16, n: usize) -> f32 {
    let mut at = 0;
    // SAFETY: every load ends at or before `n`, the lower halves' at or before `2 n`.
    unsafe {
        let mut sums = [I::zero(); 4];
        while at < n {
            for (i, sum) in sums.iter_mut().enumerate() {
                let at = at + i * I::LANES;
                if at < n {
                    let upper = row.add(at);
                    let there =
                        if WHOLE { load_joined::<I>(upper, upper.add(n)) } else { I::load_bf16(upper.cast::<bf16>()) };
                    *sum = O::step::<I>(I::load_aligned(query.add(at)), there, *sum);
                }
            }
            at += 4 * I::LANES;
        }
        let [a, b, c, d] = sums;
        I::sum(I::add(I::add(a, b), I::add(c, d)))
    }
}

/// One query against many rows, asking memory for the rows ahead.
///
/// # Safety
/// As [`super::HalvesKernels`] says.
#[inline(always)]
pub(super) unsafe fn rows<I: Isa, O: Op, const WHOLE: bool>(
    query: *const f32,
    rows: *const u16,
    n: usize,
    ids: &[u32],
    out: &mut [f32],
) {
    let row = |id: u32| rows.wrapping_add(id as usize * 2 * n);
    let lines = (if WHOLE { 4 * n } else { 2 * n }).div_ceil(LINE_BYTES);
    let mut ahead = ids.iter();
    let mut ask = || {
        if let Some(id) = ahead.next() {
            (0..lines).for_each(|line| prefetch_line(row(*id).cast::<u8>().wrapping_add(line * LINE_BYTES)));
        }
    };
    (0..AHEAD).for_each(|_| ask());
    for (id, out) in ids.iter().zip(out) {
        ask();
        // SAFETY: the caller vouches for ids and alignment.
        *out = unsafe { distance::<I, O, WHOLE>(query, row(*id), n) };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::kernel::available;

    #[repr(align(64))]
    struct Aligned<const N: usize>([f32; N]);

    proptest! {
        #[test]
        fn halves_make_the_number_and_the_upper_one_is_nearest(bits: u32) {
            let x = f32::from_bits(bits);
            prop_assume!(x.abs() < 1e38);
            let [upper, lower] = split(x);
            prop_assert_eq!(join(upper, lower).to_bits(), bits);
            let (near, rounded) = (bf16::from_bits(upper).to_f32(), bf16::from_f32(x).to_f32());
            prop_assert!((near - x).abs() <= (rounded - x).abs());
        }
    }

    #[test]
    fn every_set_compares_by_the_upper_halves_and_by_both() {
        const N: usize = 112;
        let number = |i: usize, step: f64| ((i as f64 * step).fract() * 2.0 - 1.0) as f32;
        let query = Aligned::<N>(std::array::from_fn(|i| number(i, 2f64.sqrt())));
        let rows: Vec<[f32; N]> = (0..7).map(|r| std::array::from_fn(|i| number(i + 1000 * r, 3f64.sqrt()))).collect();
        let halves: Vec<u16> = (rows.iter())
            .flat_map(|row| row.iter().map(|x| split(*x)[0]).chain(row.iter().map(|x| split(*x)[1])))
            .collect();
        let ids = [3, 0, 6, 6, 1, 2];
        let expect = |upper: bool, l2: bool| -> Vec<f64> {
            let there = |x: f32| f64::from(if upper { bf16::from_bits(split(x)[0]).to_f32() } else { x });
            let term = |q: f32, x: f64| if l2 { (f64::from(q) - x).powi(2) } else { f64::from(q) * x };
            let row = |id: &usize| rows[*id].iter().zip(&query.0).map(|(x, q)| term(*q, there(*x))).sum();
            ids.iter().map(row).collect()
        };
        for kernels in available() {
            let table = &kernels.halves;
            for (kernel, upper, l2) in [
                (table.upper_l2, true, true),
                (table.upper_dot, true, false),
                (table.whole_l2, false, true),
                (table.whole_dot, false, false),
            ] {
                let mut out = [f32::NAN; 6];
                // SAFETY: the query is aligned and N floats long, rows are 2 N halves each, all ids are rows.
                unsafe { kernel(query.0.as_ptr(), halves.as_ptr(), N, &ids.map(|id| id as u32), &mut out) };
                for (got, expected) in out.iter().zip(expect(upper, l2)) {
                    let near = (f64::from(*got) - expected).abs() < 1e-4;
                    assert!(near, "{} {upper} {l2}: {got}, expected {expected}", kernels.name());
                }
            }
        }
    }
}

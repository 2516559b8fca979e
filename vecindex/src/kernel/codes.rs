//! The loops over bytes, once for all instruction sets.
//!
//! A stored code is a signed byte plus 128, for the fast instructions multiply bytes without sign by bytes with one. With
//! `u = a + 128` the product wanted is `sum a b = sum u b - 128 sum b`; whoever holds the codes knows `sum b`.

use super::generic::ask_ahead;
use super::isa::Bytes;

/// Bytes that one call may sum up: 255 * 128 times as many still fit an i32.
pub(super) const AT_ONCE: usize = 1 << 16;

/// # Safety
/// As [`Bytes`]; a vector of bytes at each address.
#[inline(always)]
unsafe fn step<I: Bytes, const STORED: bool>(codes: *const u8, other: *const u8, sum: I::S) -> I::S {
    // SAFETY: handed on.
    unsafe {
        let other = I::load(other);
        I::dot(I::load(codes), if STORED { I::signed(other) } else { other }, sum)
    }
}

/// All sums together, in the order of a tree.
///
/// # Safety
/// As [`Bytes`].
#[inline(always)]
unsafe fn total<I: Bytes, const N: usize>(mut sums: [I::S; N]) -> i32 {
    let mut width = N / 2;
    while width > 0 {
        for i in 0..width {
            // SAFETY: the caller's instruction set.
            sums[i] = unsafe { I::add(sums[i], sums[i + width]) };
        }
        width /= 2;
    }
    // SAFETY: as above.
    unsafe { I::sum(sums[0]) }
}

/// # Safety
/// As [`dot`]; N a power of two.
#[inline(always)]
unsafe fn dot_by<I: Bytes, const STORED: bool, const N: usize>(codes: *const u8, other: *const u8, n: usize) -> i32 {
    let mut at = 0;
    // SAFETY: every load ends at or before `n`.
    unsafe {
        let mut sums = [I::zero(); N];
        while at + N * I::BYTES <= n {
            for (i, sum) in sums.iter_mut().enumerate() {
                let at = at + i * I::BYTES;
                *sum = step::<I, STORED>(codes.add(at), other.add(at), *sum);
            }
            at += N * I::BYTES;
        }
        // Fewer than N vectors are left: one for each sum, for none is to wait for another.
        for sum in &mut sums {
            if at < n {
                *sum = step::<I, STORED>(codes.add(at), other.add(at), *sum);
                at += I::BYTES;
            }
        }
        total::<I, N>(sums)
    }
}

/// `sum u b` for stored codes `u` and bytes with sign `b`; with `STORED` the `b` are stored codes, too.
///
/// # Safety
/// As [`Bytes`]; `n` bytes at each address, `n` a multiple of 64 and at most [`AT_ONCE`].
#[inline(always)]
pub(super) unsafe fn dot<I: Bytes, const STORED: bool>(codes: *const u8, other: *const u8, n: usize) -> i32 {
    // SAFETY: handed on.
    unsafe { if I::MANY { dot_by::<I, STORED, 8>(codes, other, n) } else { dot_by::<I, STORED, 4>(codes, other, n) } }
}

/// `sum a b` of bytes with sign, any length up to [`AT_ONCE`].
///
/// # Safety
/// As [`Bytes`]; `n` bytes at each address.
#[inline(always)]
pub(super) unsafe fn dot_any<I: Bytes>(a: *const i8, b: *const i8, n: usize) -> i32 {
    let (a, b) = (a.cast::<u8>(), b.cast::<u8>());
    let mut at = 0;
    // SAFETY: every load ends at or before `n`.
    unsafe {
        let halves = I::load([0x80; 64].as_ptr());
        let (mut sums, mut shifts) = ([I::zero(); 4], [I::zero(); 4]);
        while at + 4 * I::BYTES <= n {
            for i in 0..4 {
                let (p, q) = (I::load(a.add(at + i * I::BYTES)), I::load(b.add(at + i * I::BYTES)));
                // The same step takes 128 away as adds it.
                sums[i] = I::dot(I::signed(p), q, sums[i]);
                shifts[i] = I::dot(halves, q, shifts[i]);
            }
            at += 4 * I::BYTES;
        }
        // One vector for each sum, the last one perhaps in part.
        for i in 0..4 {
            if at < n {
                let (p, q) = load_up_to::<I>(a.add(at), b.add(at), n - at);
                sums[i] = I::dot(I::signed(p), q, sums[i]);
                shifts[i] = I::dot(halves, q, shifts[i]);
                at += I::BYTES;
            }
        }
        for (sum, shift) in sums.iter_mut().zip(shifts) {
            *sum = I::sub(*sum, shift);
        }
        total::<I, 4>(sums)
    }
}

/// `sum (a - b)^2` of bytes with sign, any length up to half of [`AT_ONCE`]: 65,025 times as many still fit an i32.
///
/// # Safety
/// As [`Bytes`]; `n` bytes at each address.
#[inline(always)]
pub(super) unsafe fn l2_any<I: Bytes>(a: *const i8, b: *const i8, n: usize) -> i32 {
    let (a, b) = (a.cast::<u8>(), b.cast::<u8>());
    let mut at = 0;
    // SAFETY: every load ends at or before `n`.
    unsafe {
        let mut sums = [I::zero(); 4];
        while at + 4 * I::BYTES <= n {
            for (i, sum) in sums.iter_mut().enumerate() {
                let (p, q) = (I::load(a.add(at + i * I::BYTES)), I::load(b.add(at + i * I::BYTES)));
                *sum = I::squares(I::apart(p, q), *sum);
            }
            at += 4 * I::BYTES;
        }
        // One vector for each sum, the last one perhaps in part.
        for sum in &mut sums {
            if at < n {
                let (p, q) = load_up_to::<I>(a.add(at), b.add(at), n - at);
                *sum = I::squares(I::apart(p, q), *sum);
                at += I::BYTES;
            }
        }
        total::<I, 4>(sums)
    }
}

/// A vector of each, of no more than `n` bytes, zeros behind them.
///
/// # Safety
/// As [`Bytes`]; `n > 0` bytes at each address.
#[inline(always)]
unsafe fn load_up_to<I: Bytes>(a: *const u8, b: *const u8, n: usize) -> (I::B, I::B) {
    // SAFETY: handed on.
    unsafe { if n >= I::BYTES { (I::load(a), I::load(b)) } else { (I::load_first(a, n), I::load_first(b, n)) } }
}

/// One query, bytes with sign, against many rows of stored codes.
///
/// # Safety
/// As [`super::CodeKernels`] says for `rows`.
#[inline(always)]
pub(super) unsafe fn rows<I: Bytes>(query: *const i8, rows: *const u8, stride: usize, ids: &[u32], out: &mut [i32]) {
    let mut asked = 0;
    for (i, (id, out)) in ids.iter().zip(out.iter_mut()).enumerate() {
        ask_ahead(rows, stride, stride, ids, i, &mut asked);
        // SAFETY: the caller vouches for ids and stride.
        *out = unsafe { dot::<I, false>(rows.add(*id as usize * stride), query.cast(), stride) };
    }
}

/// `sum u q` for `2 n` numbers `u` of four bits, the first `n` of them the lower bits of `n` bytes, the others the upper ones.
///
/// # Safety
/// As [`Bytes`]; `n` bytes at `bytes` and twice as many at `query`; `n` a multiple of 64.
#[inline(always)]
unsafe fn dot_nibbles<I: Bytes>(query: *const u8, bytes: *const u8, n: usize) -> i32 {
    let mut at = 0;
    // SAFETY: every load ends at or before `n`, or `2 n` of the query: BYTES divides 64, and 64 divides `n`.
    unsafe {
        let mut sums = [I::zero(); 4];
        while at < n {
            for i in [0, 2] {
                if at < n {
                    let both = I::load(bytes.add(at));
                    sums[i] = I::dot(I::lower(both), I::load(query.add(at)), sums[i]);
                    sums[i + 1] = I::dot(I::upper(both), I::load(query.add(n + at)), sums[i + 1]);
                    at += I::BYTES;
                }
            }
        }
        total::<I, 4>(sums)
    }
}

/// One query, bytes with sign, against the first `n` bytes of many rows, as numbers of four bits.
///
/// # Safety
/// As [`super::CodeKernels`] says for `nibbles`.
#[inline(always)]
pub(super) unsafe fn nibbles<I: Bytes>(
    query: *const i8,
    rows: *const u8,
    stride: usize,
    n: usize,
    ids: &[u32],
    out: &mut [i32],
) {
    let mut asked = 0;
    for (i, (id, out)) in ids.iter().zip(out.iter_mut()).enumerate() {
        ask_ahead(rows, stride, n, ids, i, &mut asked);
        // SAFETY: the caller vouches for ids, stride and `n`.
        *out = unsafe { dot_nibbles::<I>(query.cast(), rows.add(*id as usize * stride), n) };
    }
}

/// `[sum a b, sum a a, sum b b]` of bytes with sign, any length up to [`AT_ONCE`].
///
/// # Safety
/// As [`Bytes`]; `n` bytes at each address.
#[inline(always)]
pub(super) unsafe fn sums<I: Bytes>(a: *const i8, b: *const i8, n: usize) -> [i32; 3] {
    let (a, b) = (a.cast::<u8>(), b.cast::<u8>());
    let mut at = 0;
    // SAFETY: every load ends at or before `n`.
    unsafe {
        let halves = I::load([0x80; 64].as_ptr());
        let mut sums = [I::zero(); 5];
        while at < n {
            let (p, q) = load_up_to::<I>(a.add(at), b.add(at), n - at);
            // The same step takes 128 away as adds it.
            let (u, v) = (I::signed(p), I::signed(q));
            sums = [
                I::dot(u, q, sums[0]),
                I::dot(u, p, sums[1]),
                I::dot(v, q, sums[2]),
                I::dot(halves, p, sums[3]),
                I::dot(halves, q, sums[4]),
            ];
            at += I::BYTES;
        }
        let [ab, aa, bb, a128, b128] = sums;
        // No closure: it would be compiled for another instruction set.
        [I::sum(I::sub(ab, b128)), I::sum(I::sub(aa, a128)), I::sum(I::sub(bb, b128))]
    }
}

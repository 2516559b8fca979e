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

/// `sum u b` for stored codes `u` and bytes with sign `b`; with `STORED` the `b` are stored codes, too.
///
/// # Safety
/// As [`Bytes`]; `n` bytes at each address, `n` a multiple of 64 and at most [`AT_ONCE`].
#[inline(always)]
pub(super) unsafe fn dot<I: Bytes, const STORED: bool>(codes: *const u8, other: *const u8, n: usize) -> i32 {
    let mut at = 0;
    // SAFETY: every load ends at or before `n`.
    unsafe {
        let (mut s0, mut s1, mut s2, mut s3) = (I::zero(), I::zero(), I::zero(), I::zero());
        while at + 4 * I::BYTES <= n {
            let (x, y) = (codes.add(at), other.add(at));
            s0 = step::<I, STORED>(x, y, s0);
            s1 = step::<I, STORED>(x.add(I::BYTES), y.add(I::BYTES), s1);
            s2 = step::<I, STORED>(x.add(2 * I::BYTES), y.add(2 * I::BYTES), s2);
            s3 = step::<I, STORED>(x.add(3 * I::BYTES), y.add(3 * I::BYTES), s3);
            at += 4 * I::BYTES;
        }
        while at < n {
            s0 = step::<I, STORED>(codes.add(at), other.add(at), s0);
            at += I::BYTES;
        }
        I::sum(I::add(I::add(s0, s1), I::add(s2, s3)))
    }
}

/// One query, bytes with sign, against many rows of stored codes.
///
/// # Safety
/// As [`super::CodeKernels`] says for `rows`.
#[inline(always)]
pub(super) unsafe fn rows<I: Bytes>(query: *const i8, rows: *const u8, stride: usize, ids: &[u32], out: &mut [i32]) {
    let mut asked = 0;
    for (i, (id, out)) in ids.iter().zip(out.iter_mut()).enumerate() {
        ask_ahead(rows, stride, ids, i, &mut asked);
        // SAFETY: the caller vouches for ids and stride.
        *out = unsafe { dot::<I, false>(rows.add(*id as usize * stride), query.cast(), stride) };
    }
}

/// `[sum a b, sum a a, sum b b]` of bytes with sign, any length up to [`AT_ONCE`].
///
/// # Safety
/// As [`Bytes`]; `n` bytes at each address.
#[inline(always)]
pub(super) unsafe fn sums<I: Bytes>(a: *const i8, b: *const i8, n: usize) -> [i32; 3] {
    let whole = n / I::BYTES * I::BYTES;
    // The last few, with zeros behind them.
    let (mut x, mut y) = ([0u8; 64], [0u8; 64]);
    // SAFETY: every load ends at or before `n`, or lies in the arrays; fewer than BYTES <= 64 are left over.
    unsafe {
        std::ptr::copy_nonoverlapping(a.cast::<u8>().add(whole), x.as_mut_ptr(), n - whole);
        std::ptr::copy_nonoverlapping(b.cast::<u8>().add(whole), y.as_mut_ptr(), n - whole);
        let halves = I::load([0x80; 64].as_ptr());
        let mut sums = [I::zero(); 5];
        let mut at = 0;
        while at < n {
            let (p, q) =
                if at < whole { (a.cast::<u8>().add(at), b.cast::<u8>().add(at)) } else { (x.as_ptr(), y.as_ptr()) };
            let (p, q) = (I::load(p), I::load(q));
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
        let [ab, aa, bb, a128, b128] = sums.map(|sum| I::sum(sum));
        [ab - b128, aa - a128, bb - b128]
    }
}

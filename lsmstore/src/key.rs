//! Internal keys: what orders the versions of a key.
//!
//! A version is (user key, tag) with tag = sequence number * 256 + kind. Order: user key ascending, then tag
//! descending, so that the newest version of a key comes first and a seek to (key, newest tag readable) lands on the
//! version a reader sees.

use std::cmp::Ordering;

/// Largest sequence number; it shares 64 bits with the kind.
pub const MAX_SEQUENCE: u64 = (1 << 56) - 1;

/// Longest user key, in bytes.
pub const MAX_KEY_BYTES: usize = 65_535;

/// Longest value, in bytes: a row of 1 GiB and what its owner puts before it.
pub const MAX_VALUE_BYTES: usize = (1 << 30) + (16 << 20);

/// The value follows.
pub(crate) const PUT: u8 = 0;
/// The key is gone from here on; no value.
pub(crate) const DELETE: u8 = 1;
/// This key and those behind it, up to an end that follows, are gone from here on. In batches and memtables: tables have
/// such in a section of their own.
pub(crate) const DELETE_RANGE: u8 = 2;

#[inline]
pub(crate) fn tag(sequence: u64, kind: u8) -> u64 {
    sequence << 8 | u64::from(kind)
}

/// The tag that sorts before every version readable at `sequence` and behind every later one.
#[inline]
pub(crate) fn newest_at(sequence: u64) -> u64 {
    sequence << 8 | 0xff
}

#[inline]
pub(crate) fn sequence_of(tag: u64) -> u64 {
    tag >> 8
}

#[inline]
pub(crate) fn kind_of(tag: u64) -> u8 {
    tag as u8
}

#[inline]
pub(crate) fn compare(a: (&[u8], u64), b: (&[u8], u64)) -> Ordering {
    a.0.cmp(b.0).then(b.1.cmp(&a.1))
}

/// A hash of a user key for filters. Part of the table format: it must never change.
///
/// Sixteen bytes a step by 64x64 -> 128 bit multiplication, folded (the construction of wyhash).
pub(crate) fn hash(key: &[u8]) -> u64 {
    const K0: u64 = 0xa076_1d64_78bd_642f;
    const K1: u64 = 0xe703_7ed1_a0b4_28db;
    const K2: u64 = 0x8ebc_6af0_9c88_c6e3;
    fn fold(a: u64, b: u64) -> u64 {
        let wide = u128::from(a) * u128::from(b);
        (wide >> 64) as u64 ^ wide as u64
    }
    let mut state = K2 ^ fold(key.len() as u64 ^ K0, K1);
    for chunk in key.chunks(16) {
        let mut both = [0; 16];
        both[..chunk.len()].copy_from_slice(chunk);
        let wide = u128::from_le_bytes(both);
        state = fold(wide as u64 ^ K0 ^ state, (wide >> 64) as u64 ^ K1);
    }
    fold(state ^ K0, K2)
}

/// The shortest key `s` with `last <= s < next`; `last` itself if there is none shorter. `last < next` is required.
pub(crate) fn separator(last: &[u8], next: &[u8]) -> Vec<u8> {
    let common = last.iter().zip(next).take_while(|(a, b)| a == b).count();
    if let (Some(&a), Some(&b)) = (last.get(common), next.get(common))
        && b - a > 1
        && common + 1 < last.len()
    {
        let mut short = last[..=common].to_vec();
        short[common] = a + 1;
        return short;
    }
    last.to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newer_versions_of_a_key_come_first() {
        assert_eq!(compare((b"a", tag(2, PUT)), (b"a", tag(1, DELETE))), Ordering::Less);
        assert_eq!(compare((b"a", tag(1, PUT)), (b"b", tag(9, PUT))), Ordering::Less);
        assert_eq!(compare((b"a", newest_at(2)), (b"a", tag(2, DELETE))), Ordering::Less);
        assert_eq!(compare((b"a", newest_at(2)), (b"a", tag(3, PUT))), Ordering::Greater);
    }

    #[test]
    fn a_separator_lies_between_its_keys() {
        for (last, next) in [("abcd", "abzz"), ("a", "b"), ("a", "ab"), ("abc", "abd"), ("abc1", "abe"), ("", "a")] {
            let s = separator(last.as_bytes(), next.as_bytes());
            assert!(last.as_bytes() <= &s[..] && &s[..] < next.as_bytes(), "{last} {next} {s:?}");
        }
        assert_eq!(separator(b"abcd", b"abzz"), b"abd");
    }

    #[test]
    fn the_hash_is_the_one_in_stored_filters() {
        assert_eq!(hash(b""), hash(b""));
        assert_ne!(hash(b"a"), hash(b"a\0"));
        assert_ne!(hash(&[0; 16]), hash(&[0; 32]));
    }
}

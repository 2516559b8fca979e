//! The filter of a table: which user keys it may hold.
//!
//! A blocked Bloom filter (Putze, Sanders, Singler 2007): the hash chooses one line of 64 bytes, six bits of it are
//! tested; one cache miss for an absent key. Fourteen bits a key give one false positive in some three hundred.
//!
//! `kind u8 (1) | bits tested u8 | reserved u16 | lines u32 | lines x 64 bytes`

use crate::codec::u32_at;

const KIND: u8 = 1;
const BITS_PER_KEY: usize = 14;
const PROBES: u32 = 6;
const LINE: usize = 64;
const HEADER: usize = 8;

fn line_of(hash: u64, lines: u32) -> usize {
    (((hash >> 32) * u64::from(lines)) >> 32) as usize
}

/// The bits of a line that a hash tests: nine bits of a remixed hash each.
fn probes(hash: u64) -> impl Iterator<Item = usize> {
    let mixed = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 8;
    (0..PROBES).map(move |n| (mixed >> (9 * n)) as usize & 511)
}

/// The filter's payload for the hashes of all user keys.
pub(crate) fn build(hashes: &[u64]) -> Vec<u8> {
    let lines = (hashes.len() * BITS_PER_KEY).div_ceil(LINE * 8).max(1) as u32;
    let mut out = vec![0; HEADER + lines as usize * LINE];
    out[0] = KIND;
    out[1] = PROBES as u8;
    out[4..8].copy_from_slice(&lines.to_le_bytes());
    for &hash in hashes {
        let line = HEADER + line_of(hash, lines) * LINE;
        for bit in probes(hash) {
            out[line + bit / 8] |= 1 << (bit % 8);
        }
    }
    out
}

/// Whether a filter's payload is one that [`may_hold`] understands.
pub(crate) fn check(payload: &[u8]) -> bool {
    let lines = u32_at(payload, 4).unwrap_or(0) as usize;
    payload.len() >= HEADER
        && payload[0] == KIND
        && u32::from(payload[1]) == PROBES
        && lines > 0
        && lines.checked_mul(LINE).and_then(|bytes| bytes.checked_add(HEADER)) == Some(payload.len())
}

/// Where the line stands that answers for a hash.
#[inline]
pub(crate) fn place_of(payload: &[u8], hash: u64) -> usize {
    let lines = ((payload.len().saturating_sub(HEADER)) / LINE) as u32;
    HEADER + line_of(hash, lines) * LINE
}

/// Whether the key with this hash may be there; "no" is certain. `payload` passed [`check`].
#[inline]
pub(crate) fn may_hold(payload: &[u8], hash: u64) -> bool {
    let start = place_of(payload, hash);
    match payload.get(start..start + LINE) {
        Some(line) => probes(hash).all(|bit| line[bit / 8] & 1 << (bit % 8) != 0),
        None => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::hash;

    #[test]
    fn every_key_is_found_and_few_others() {
        for count in [0_u64, 1, 50, 10_000] {
            let hashes: Vec<_> = (0..count).map(|n| hash(&n.to_be_bytes())).collect();
            let filter = build(&hashes);
            assert!(check(&filter));
            assert!(hashes.iter().all(|&h| may_hold(&filter, h)));
            let wrong = (count..count + 10_000).filter(|n| may_hold(&filter, hash(&n.to_be_bytes()))).count();
            assert!(wrong < 80, "{wrong} of 10000 with {count} keys");
        }
    }

    #[test]
    fn a_filter_with_a_wrong_length_is_refused() {
        let filter = build(&[1, 2, 3]);
        assert!(!check(&filter[..filter.len() - 1]));
        assert!(!check(&[]));
        assert!(!check(&[1, 6, 0, 0, 255, 255, 255, 255]));
    }
}

//! Range deletions: every key from one on and below another is gone, as of a sequence number.
//!
//! A set of them is an array in the order of its begins, searched as a balanced tree: each element also knows the furthest
//! end and the newest number of the part of the array that it is the middle of (an implicit interval tree, as in Li's
//! cgranges). So a set takes as much memory as its elements however they overlap, and asking what covers a key looks at
//! few of them. Sets are empty mostly: then nothing is looked at.
//!
//! In a table: `count varint | (from length varint, from, to length varint, to, sequence varint)*`

use std::collections::BTreeMap;

use crate::codec::{Reader, put_bytes, put_varint};

/// Keys from `from` on and below `to`, deleted at `sequence`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RangeDeletion {
    pub(crate) from: Vec<u8>,
    pub(crate) to: Vec<u8>,
    pub(crate) sequence: u64,
}

impl RangeDeletion {
    /// A key that is not below any key of the range; mostly none is equal to it.
    pub(crate) fn last(&self) -> &[u8] {
        last_below(&self.to)
    }

    /// What of it lies from `start` on and below `end`.
    pub(crate) fn within(&self, start: Option<&[u8]>, end: Option<&[u8]>) -> Option<RangeDeletion> {
        let from = start.map_or(&self.from[..], |start| start.max(&self.from));
        let to = end.map_or(&self.to[..], |end| end.min(&self.to));
        (from < to).then(|| RangeDeletion { from: from.to_vec(), to: to.to_vec(), sequence: self.sequence })
    }
}

/// A key that no key below `to` is above: what is below (k, 0 byte) is not above k.
fn last_below(to: &[u8]) -> &[u8] {
    to.strip_suffix(&[0]).unwrap_or(to)
}

/// The first key behind `key`.
pub(crate) fn behind(key: &[u8]) -> Vec<u8> {
    [key, &[0]].concat()
}

/// What is known of the part of the array that an element is the middle of.
#[derive(Clone, Copy, Debug)]
struct Part {
    /// The element with the furthest end.
    furthest: usize,
    newest: u64,
}

/// A set of range deletions.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ranges {
    sorted: Vec<RangeDeletion>,
    parts: Vec<Part>,
}

impl Ranges {
    pub(crate) const fn none() -> Ranges {
        Ranges { sorted: Vec::new(), parts: Vec::new() }
    }

    pub(crate) fn new(mut deletions: Vec<RangeDeletion>) -> Ranges {
        deletions.sort_unstable();
        let parts = vec![Part { furthest: 0, newest: 0 }; deletions.len()];
        let mut ranges = Ranges { sorted: deletions, parts };
        ranges.measure(0, ranges.sorted.len());
        ranges
    }

    fn measure(&mut self, low: usize, high: usize) -> Option<Part> {
        if low >= high {
            return None;
        }
        let middle = low + (high - low) / 2;
        let mut part = Part { furthest: middle, newest: self.sorted[middle].sequence };
        for other in [self.measure(low, middle), self.measure(middle + 1, high)].into_iter().flatten() {
            if self.sorted[other.furthest].to > self.sorted[part.furthest].to {
                part.furthest = other.furthest;
            }
            part.newest = part.newest.max(other.newest);
        }
        self.parts[middle] = part;
        Some(part)
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.sorted.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.sorted.len()
    }

    /// In the order of their begins.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &RangeDeletion> {
        self.sorted.iter()
    }

    pub(crate) fn into_vec(self) -> Vec<RangeDeletion> {
        self.sorted
    }

    /// The number of the newest one at or below `sequence` that deletes `key`; 0 if none does.
    #[inline]
    pub(crate) fn newest(&self, key: &[u8], sequence: u64) -> u64 {
        self.newest_over(key, key, sequence)
    }

    /// The number of the newest one at or below `sequence` that deletes every key from `low` to `high`, both included.
    pub(crate) fn newest_over(&self, low: &[u8], high: &[u8], sequence: u64) -> u64 {
        let mut best = 0;
        self.search((0, self.sorted.len()), (low, high), sequence, &mut best);
        best
    }

    fn search(&self, (low, high): (usize, usize), keys: (&[u8], &[u8]), sequence: u64, best: &mut u64) {
        if low >= high {
            return;
        }
        let middle = low + (high - low) / 2;
        let part = self.parts[middle];
        if part.newest <= *best || &self.sorted[part.furthest].to[..] <= keys.1 {
            return;
        }
        let deletion = &self.sorted[middle];
        if &deletion.from[..] <= keys.0 {
            if deletion.sequence > *best && deletion.sequence <= sequence && keys.1 < &deletion.to[..] {
                *best = deletion.sequence;
            }
            self.search((middle + 1, high), keys, sequence, best);
        }
        self.search((low, middle), keys, sequence, best);
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_varint(&mut out, self.sorted.len() as u64);
        for deletion in &self.sorted {
            put_bytes(&mut out, &deletion.from);
            put_bytes(&mut out, &deletion.to);
            put_varint(&mut out, deletion.sequence);
        }
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Ranges> {
        let mut reader = Reader::new(bytes);
        let count = reader.count(3)?;
        let mut deletions = Vec::with_capacity(count);
        for _ in 0..count {
            let (from, to) = (reader.bytes()?.to_vec(), reader.bytes()?.to_vec());
            let deletion = RangeDeletion { from, to, sequence: reader.varint()? };
            deletions.push(Some(deletion).filter(|deletion| deletion.from < deletion.to && deletion.sequence > 0)?);
        }
        (reader.is_empty() && count > 0).then(|| Ranges::new(deletions))
    }
}

/// What readers at or above `floor` need of some range deletions: those above it as they are, and of the others, for each
/// key, the newest, in ranges that do not overlap.
pub(crate) fn settled(deletions: Vec<RangeDeletion>, floor: u64) -> Vec<RangeDeletion> {
    let (mut kept, old): (Vec<_>, Vec<_>) = deletions.into_iter().partition(|deletion| deletion.sequence > floor);
    // How many of each number begin and end at a key.
    let mut edges: BTreeMap<&[u8], Vec<(u64, bool)>> = BTreeMap::new();
    for deletion in &old {
        edges.entry(&deletion.from).or_default().push((deletion.sequence, true));
        edges.entry(&deletion.to).or_default().push((deletion.sequence, false));
    }
    let mut active: BTreeMap<u64, usize> = BTreeMap::new();
    let mut open: Option<(&[u8], u64)> = None;
    for (key, changes) in edges {
        for (sequence, begins) in changes {
            let count = active.entry(sequence).or_default();
            // At one key some begin before others end, so the count is a difference for a while.
            *count = if begins { count.wrapping_add(1) } else { count.wrapping_sub(1) };
        }
        active.retain(|_, count| *count != 0);
        let newest = active.last_key_value().map(|(sequence, _)| *sequence);
        if open.map(|(_, sequence)| sequence) != newest {
            if let Some((from, sequence)) = open {
                kept.push(RangeDeletion { from: from.to_vec(), to: key.to_vec(), sequence });
            }
            open = newest.map(|sequence| (key, sequence));
        }
    }
    kept.sort_unstable();
    kept
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn some() -> impl Strategy<Value = Vec<RangeDeletion>> {
        let one = (0..40_u8, 1..20_u8, 1..30_u64);
        let one = one.prop_map(|(from, length, sequence)| RangeDeletion {
            from: vec![from],
            to: vec![from + length],
            sequence,
        });
        prop::collection::vec(one, 0..40)
    }

    /// By looking at each.
    fn newest(deletions: &[RangeDeletion], low: u8, high: u8, sequence: u64) -> u64 {
        let covers = |one: &&RangeDeletion| one.from[..] <= [low][..] && one.to[..] > [high][..];
        let numbers = deletions.iter().filter(covers).map(|one| one.sequence);
        numbers.filter(|number| *number <= sequence).max().unwrap_or(0)
    }

    proptest! {
        #[test]
        fn the_newest_that_covers_is_found_as_by_looking_at_each(deletions in some(), high in 0..8_u8) {
            let ranges = Ranges::new(deletions.clone());
            for key in 0..70_u8 {
                for sequence in [0, 3, 10, 29, u64::MAX] {
                    prop_assert_eq!(ranges.newest(&[key], sequence), newest(&deletions, key, key, sequence));
                    let over = ranges.newest_over(&[key], &[key + high], sequence);
                    prop_assert_eq!(over, newest(&deletions, key, key + high, sequence));
                }
            }
        }

        #[test]
        fn settled_ones_delete_the_same_for_readers_at_the_floor_and_above(deletions in some(), floor in 0..30_u64) {
            let kept = settled(deletions.clone(), floor);
            for key in 0..70_u8 {
                for sequence in floor.max(1)..31 {
                    prop_assert_eq!(newest(&kept, key, key, sequence), newest(&deletions, key, key, sequence));
                }
            }
            let mut old: Vec<_> = kept.iter().filter(|one| one.sequence <= floor).collect();
            old.sort();
            prop_assert!(old.windows(2).all(|pair| pair[0].to <= pair[1].from), "{:?}", old);
        }

        #[test]
        fn a_set_comes_back_from_its_bytes_and_no_cut_of_them_does(deletions in some()) {
            let ranges = Ranges::new(deletions);
            let bytes = ranges.encode();
            if !ranges.is_empty() {
                prop_assert_eq!(Ranges::decode(&bytes).unwrap().into_vec(), ranges.into_vec());
            }
            for cut in 0..bytes.len() {
                prop_assert!(Ranges::decode(&bytes[..cut]).is_none());
            }
        }
    }

    #[test]
    fn a_piece_ends_where_it_is_cut_and_knows_a_key_that_none_of_its_keys_is_above() {
        let one = RangeDeletion { from: b"b".to_vec(), to: b"f".to_vec(), sequence: 3 };
        assert_eq!(one.last(), b"f");
        let piece = one.within(None, Some(&behind(b"d"))).unwrap();
        assert_eq!((&piece.from[..], piece.last()), (&b"b"[..], &b"d"[..]));
        let rest = one.within(Some(&behind(b"d")), None).unwrap();
        assert!(rest.from[..] > *piece.last() && rest.to == one.to);
        assert_eq!(one.within(Some(b"f"), None), None);
        assert_eq!(one.within(None, Some(b"b")), None);
    }
}

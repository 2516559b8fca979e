//! The search's working list: one sorted array instead of two heaps.
//!
//! A [`Key`] packs distance, id and a mark into a u64 that orders as (distance, id), so comparing, sorting and tie rules
//! are one integer comparison. The [`Pool`] keeps the best `capacity` keys sorted, with a cursor at the first one that is not
//! expanded; insertion is a binary search and a memmove of at most a few kilobytes (pyglass's LinearPool).

use crate::metric::{Metric, Neighbour};

/// (distance, id, expanded?) in order. Ids take 31 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key(u64);

impl Key {
    pub(crate) fn new(distance: f32, id: u32) -> Key {
        // Adding zero makes -0 and 0 one number; then sign-magnitude becomes an unsigned order (NaN sorts last).
        let bits = (distance + 0.0).to_bits();
        let ordered = if bits >> 31 == 0 { bits | 1 << 31 } else { !bits };
        Key(u64::from(ordered) << 32 | u64::from(id) << 1)
    }

    pub(crate) fn id(self) -> u32 {
        (self.0 as u32) >> 1
    }

    pub(crate) fn distance(self) -> f32 {
        let ordered = (self.0 >> 32) as u32;
        f32::from_bits(if ordered >> 31 == 1 { ordered & !(1 << 31) } else { !ordered })
    }

    pub(crate) fn is_expanded(self) -> bool {
        self.0 & 1 == 1
    }

    /// The same row to be expanded (again), on another level say.
    pub(crate) fn fresh(self) -> Key {
        Key(self.0 & !1)
    }

    /// The same row, expanded or not, at another distance.
    pub(crate) fn at(self, distance: f32) -> Key {
        Key(Key::new(distance, 0).0 | u64::from(self.0 as u32))
    }

    fn expanded(self) -> Key {
        Key(self.0 | 1)
    }

    pub(crate) fn neighbour(self, metric: Metric) -> Neighbour {
        Neighbour { id: self.id(), distance: metric.to_user(self.distance()) }
    }
}

/// The nearest `capacity` rows met so far, sorted.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    keys: Vec<Key>,
    capacity: usize,
    /// No key before this is unexpanded.
    next: usize,
}

impl Pool {
    /// Empties the pool and sets how many keys it holds, at least one.
    pub(crate) fn reset(&mut self, capacity: usize) {
        self.keys.clear();
        self.capacity = capacity.max(1);
        self.next = 0;
    }

    /// All keys, nearest first.
    pub(crate) fn keys(&self) -> &[Key] {
        &self.keys
    }

    /// All keys, to be made exact once nothing is inserted any more.
    pub(crate) fn keys_mut(&mut self) -> &mut [Key] {
        &mut self.keys
    }

    /// A key must be below this to enter the pool now.
    #[inline]
    fn limit(&self) -> Key {
        if self.keys.len() < self.capacity { Key(u64::MAX) } else { self.keys[self.capacity - 1] }
    }

    /// Inserts a key of an id that is not in the pool; returns what fell out for it, the key itself if it is too far.
    #[inline]
    pub(crate) fn insert(&mut self, key: Key) -> Option<Key> {
        if key >= self.limit() {
            return Some(key);
        }
        let out = if self.keys.len() == self.capacity { self.keys.pop() } else { None };
        self.put(key);
        out
    }

    /// Inserts keys of ids that are not in the pool; what falls out is forgotten.
    #[inline]
    pub(crate) fn insert_all(&mut self, keys: &[Key]) {
        let mut limit = self.limit();
        for key in keys {
            if *key < limit {
                if self.keys.len() == self.capacity {
                    self.keys.pop();
                }
                self.put(*key);
                limit = self.limit();
            }
        }
    }

    fn put(&mut self, key: Key) {
        let at = self.keys.partition_point(|k| *k < key);
        self.keys.insert(at, key);
        self.next = self.next.min(at);
    }

    /// Marks the nearest unexpanded key as expanded and returns it.
    #[inline]
    pub(crate) fn expand(&mut self) -> Option<Key> {
        while let Some(key) = self.keys.get_mut(self.next) {
            self.next += 1;
            if !key.is_expanded() {
                let found = *key;
                *key = key.expanded();
                return Some(found);
            }
        }
        None
    }

    /// The key that would be expanded next, if it stands right at the cursor: a hint.
    #[inline]
    pub(crate) fn upcoming(&self) -> Option<Key> {
        self.keys.get(self.next).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn keys_order_as_distance_then_id(a in -1e30f32..1e30, b in -1e30f32..1e30, i in 0u32..1 << 31, j in 0u32..1 << 31) {
            let (ka, kb) = (Key::new(a, i), Key::new(b, j));
            prop_assert_eq!(ka.distance(), a);
            prop_assert_eq!(ka.id(), i);
            prop_assert_eq!(ka.cmp(&kb), a.total_cmp(&b).then(i.cmp(&j)));
        }

        #[test]
        fn a_pool_keeps_the_nearest_and_loses_nothing(ds in proptest::collection::vec(0.0f32..100.0, 1..80), cap in 1usize..30) {
            let mut pool = Pool::default();
            pool.reset(cap);
            let mut lost = Vec::new();
            for (id, d) in ds.iter().enumerate() {
                lost.extend(pool.insert(Key::new(*d, id as u32)));
                if id % 3 == 0 {
                    pool.expand();
                }
            }
            let mut all: Vec<u32> = pool.keys().iter().chain(&lost).map(|k| k.id()).collect();
            all.sort_unstable();
            prop_assert_eq!(all, (0..ds.len() as u32).collect::<Vec<_>>());
            let mut expected: Vec<Key> = ds.iter().enumerate().map(|(i, d)| Key::new(*d, i as u32)).collect();
            expected.sort_unstable();
            let kept: Vec<u32> = pool.keys().iter().map(|k| k.id()).collect();
            prop_assert_eq!(kept, expected.iter().take(cap).map(|k| k.id()).collect::<Vec<_>>());
            while pool.expand().is_some() {}
            prop_assert!(pool.keys().iter().all(|k| k.is_expanded()));
        }
    }

    #[test]
    fn zeros_of_either_sign_are_one_distance() {
        assert_eq!(Key::new(-0.0, 7), Key::new(0.0, 7));
    }
}

//! Sets of row ids, and what else can say which rows a search may return.

/// A set of row ids: one bit for each id up to the largest in it.
#[derive(Debug, Default, Clone)]
pub struct IdSet {
    words: Vec<u64>,
    count: usize,
}

impl IdSet {
    /// The empty set.
    pub fn new() -> IdSet {
        IdSet::default()
    }

    /// Adds an id; true if it was not in the set. Takes an eighth of a byte for every id up to this one: 512 MB for the largest
    /// there is.
    pub fn insert(&mut self, id: u32) -> bool {
        let (word, bit) = (id as usize / 64, 1 << (id % 64));
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        let new = self.words[word] & bit == 0;
        self.words[word] |= bit;
        self.count += usize::from(new);
        new
    }

    /// Takes an id out; true if it was in the set.
    pub fn remove(&mut self, id: u32) -> bool {
        let (bit, there) = (1 << (id % 64), self.contains(id));
        if there {
            self.words[id as usize / 64] &= !bit;
            self.count -= 1;
        }
        there
    }

    /// Whether an id is in the set.
    #[inline]
    pub fn contains(&self, id: u32) -> bool {
        self.words.get(id as usize / 64).is_some_and(|word| word >> (id % 64) & 1 == 1)
    }

    /// How many ids there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The ids, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.words.iter().enumerate().flat_map(|(at, word)| {
            let rest = |word: &u64| Some(word & (word - 1)).filter(|word| *word != 0);
            let words = std::iter::successors(Some(*word).filter(|word| *word != 0), rest);
            words.map(move |word| at as u32 * 64 + word.trailing_zeros())
        })
    }

    /// Bytes on the heap.
    pub(crate) fn bytes(&self) -> usize {
        self.words.capacity() * 8
    }
}

impl Extend<u32> for IdSet {
    fn extend<I: IntoIterator<Item = u32>>(&mut self, ids: I) {
        for id in ids {
            self.insert(id);
        }
    }
}

impl FromIterator<u32> for IdSet {
    fn from_iter<I: IntoIterator<Item = u32>>(ids: I) -> IdSet {
        let mut set = IdSet::new();
        set.extend(ids);
        set
    }
}

/// Which rows a search may return: an [`IdSet`], all rows [`Without`] one, or what a function says ([`Passing`]).
pub trait Filter: Sync {
    /// Whether row `id` may be returned. Always the same during a search.
    fn allows(&self, id: u32) -> bool;

    /// About how many of the rows below `len` may be: it decides how to search. A wrong number costs time or recall, never
    /// a row: as many as were asked for are found if so many are allowed.
    fn count(&self, len: u32) -> usize;

    /// Appends every allowed id below `len`.
    fn ids(&self, len: u32, ids: &mut Vec<u32>) {
        ids.extend((0..len).filter(|id| self.allows(*id)));
    }
}

impl Filter for IdSet {
    #[inline]
    fn allows(&self, id: u32) -> bool {
        self.contains(id)
    }

    fn count(&self, len: u32) -> usize {
        self.len().min(len as usize)
    }

    fn ids(&self, len: u32, ids: &mut Vec<u32>) {
        ids.extend(self.iter().take_while(|id| *id < len));
    }
}

/// Every row that is not in a set: what is left of an index after deletions.
#[derive(Debug, Clone, Copy)]
pub struct Without<'a>(pub &'a IdSet);

impl Filter for Without<'_> {
    #[inline]
    fn allows(&self, id: u32) -> bool {
        !self.0.contains(id)
    }

    fn count(&self, len: u32) -> usize {
        (len as usize).saturating_sub(self.0.len())
    }
}

/// Every row for which a function says yes.
#[derive(Debug, Clone, Copy)]
pub struct Passing<F> {
    test: F,
    about: Option<usize>,
}

/// Ids that are tried to learn how many of all may pass.
const SAMPLE: u32 = 512;

impl<F: Fn(u32) -> bool + Sync> Passing<F> {
    /// By a function of the id. How many pass is estimated from a sample in each search; say it by [`Passing::about`] if you
    /// know.
    pub fn new(test: F) -> Passing<F> {
        Passing { test, about: None }
    }

    /// About `rows` of all rows pass.
    #[must_use]
    pub fn about(self, rows: usize) -> Passing<F> {
        Passing { about: Some(rows), ..self }
    }
}

impl<F: Fn(u32) -> bool + Sync> Filter for Passing<F> {
    #[inline]
    fn allows(&self, id: u32) -> bool {
        (self.test)(id)
    }

    fn count(&self, len: u32) -> usize {
        self.about.unwrap_or_else(|| estimate(self, len)).min(len as usize)
    }
}

/// About how many of the rows below `len` a filter allows, from a sample.
pub(crate) fn estimate<F: Filter + ?Sized>(filter: &F, len: u32) -> usize {
    let tried = len.min(SAMPLE);
    let passing = spread(len).take(tried as usize).filter(|id| filter.allows(*id)).count();
    passing * len as usize / tried.max(1) as usize
}

/// Ids below `len` without end, evenly over all of them and in no order that rows could have: multiples of the golden ratio.
pub(crate) fn spread(len: u32) -> impl Iterator<Item = u32> {
    (1..).map(move |turn: u32| ((u64::from(turn.wrapping_mul(0x9e37_79b9)) * u64::from(len)) >> 32) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn a_set_is_a_set(steps in proptest::collection::vec((0u32..300, any::<bool>()), 0..200)) {
            let (mut set, mut model) = (IdSet::new(), BTreeSet::new());
            for (id, add) in steps {
                if add {
                    prop_assert_eq!(set.insert(id), model.insert(id));
                } else {
                    prop_assert_eq!(set.remove(id), model.remove(&id));
                }
            }
            prop_assert_eq!(set.len(), model.len());
            prop_assert_eq!(set.iter().collect::<Vec<_>>(), model.iter().copied().collect::<Vec<_>>());
            prop_assert!((0..400).all(|id| set.contains(id) == model.contains(&id)));
            let (mut below, mut others) = (Vec::new(), Vec::new());
            set.ids(100, &mut below);
            Without(&set).ids(100, &mut others);
            prop_assert_eq!(below.len() + others.len(), 100);
            prop_assert!(below.iter().all(|id| model.contains(id)) && others.iter().all(|id| !model.contains(id)));
        }
    }

    #[test]
    fn a_sample_tells_about_how_many_pass() {
        for share in [3, 10, 50, 90, 100] {
            let about = Passing::new(|id| id % 100 < share).count(60_000) as f64 / 600.0;
            assert!((about - f64::from(share)).abs() < 3.0, "{share} in a hundred seem {about}");
        }
        assert_eq!(Passing::new(|_| true).count(0), 0);
        assert_eq!(Passing::new(|_| true).about(1000).count(10), 10);
    }
}

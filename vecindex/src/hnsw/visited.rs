//! Which rows a search has met: a bitset that remembers which of its words it dirtied, so that clearing costs what the search
//! cost and not the size of the index.

#[derive(Debug, Default)]
pub(crate) struct Visited {
    words: Vec<u64>,
    dirty: Vec<u32>,
    count: usize,
}

impl Visited {
    /// Forgets everything and makes room for ids below `len`.
    pub(crate) fn reset(&mut self, len: u32) {
        if self.dirty.len() > self.words.len() / 4 {
            self.words.fill(0);
        } else {
            for word in &self.dirty {
                self.words[*word as usize] = 0;
            }
        }
        self.dirty.clear();
        self.count = 0;
        self.grow(len);
    }

    /// Makes room for ids below `len`, should there be more rows by now.
    #[inline]
    pub(crate) fn grow(&mut self, len: u32) {
        let words = (len as usize).div_ceil(64);
        if words > self.words.len() {
            self.words.resize(words, 0);
        }
    }

    /// Marks an id below the `len` there is room for; true if it was not marked before.
    #[inline]
    pub(crate) fn insert(&mut self, id: u32) -> bool {
        let word = &mut self.words[id as usize / 64];
        let bit = 1 << (id % 64);
        if *word & bit != 0 {
            return false;
        }
        if *word == 0 {
            self.dirty.push(id / 64);
        }
        *word |= bit;
        self.count += 1;
        true
    }

    /// How many ids are marked.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Ids below `below` that are not marked, ascending.
    pub(crate) fn missing(&self, below: u32) -> Vec<u32> {
        let marked = |id: u32| self.words.get(id as usize / 64).is_some_and(|w| w & 1 << (id % 64) != 0);
        (0..below).filter(|id| !marked(*id)).collect()
    }
}

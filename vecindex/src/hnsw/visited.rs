//! Which rows a search has met: a bitset, and a list of them, so that clearing costs what the search cost and not the size
//! of the index.

use std::sync::atomic::{AtomicU32, Ordering};

/// Bits of a word.
const BITS: u32 = u64::BITS;

/// The first word stands for everything that is not a row: all of its bits are set.
#[derive(Debug)]
pub(crate) struct Visited {
    words: Vec<u64>,
    met: Vec<u32>,
}

impl Default for Visited {
    fn default() -> Self {
        Visited { words: vec![u64::MAX], met: Vec::new() }
    }
}

impl Visited {
    /// Forgets everything and makes room for ids below `len`.
    pub(crate) fn reset(&mut self, len: u32) {
        if self.met.len() > self.words.len() / 8 {
            self.words[1..].fill(0);
        } else {
            for id in &self.met {
                self.words[word_of(*id)] = 0;
            }
        }
        self.met.clear();
        self.grow(len);
    }

    /// Makes room for ids below `len`, should there be more rows by now.
    #[inline]
    pub(crate) fn grow(&mut self, len: u32) {
        let words = 1 + len.div_ceil(BITS) as usize;
        if words > self.words.len() {
            self.words.resize(words, 0);
        }
    }

    /// Marks an id below the `len` there is room for; true if it was not marked before.
    #[inline]
    pub(crate) fn insert(&mut self, id: u32) -> bool {
        let (word, bit) = (&mut self.words[word_of(id)], 1 << (id % BITS));
        let new = *word & bit == 0;
        if new {
            *word |= bit;
            self.met.push(id);
        }
        new
    }

    /// Marks what `slots` link to and appends what was not marked before to `ids`. Slots that do not hold an id below `len`
    /// are passed over. Which slots are new is a matter of chance, so there is no branch on it.
    #[inline]
    pub(crate) fn insert_links(&mut self, slots: &[AtomicU32], len: u32, ids: &mut Vec<u32>) {
        let start = ids.len();
        ids.resize(start + slots.len(), 0);
        let mut end = start;
        for slot in slots {
            let id = slot.load(Ordering::Relaxed);
            let word = &mut self.words[if id < len { word_of(id) } else { 0 }];
            let bit = 1 << (id % BITS);
            ids[end] = id;
            end += usize::from(*word & bit == 0);
            *word |= bit;
        }
        ids.truncate(end);
        self.met.extend_from_slice(&ids[start..]);
    }

    /// How many ids are marked.
    pub(crate) fn count(&self) -> usize {
        self.met.len()
    }

    /// Ids below `below` that are not marked, ascending.
    pub(crate) fn missing(&self, below: u32) -> Vec<u32> {
        let marked = |id: u32| self.words.get(word_of(id)).is_some_and(|w| w & 1 << (id % BITS) != 0);
        (0..below).filter(|id| !marked(*id)).collect()
    }
}

fn word_of(id: u32) -> usize {
    1 + (id / BITS) as usize
}

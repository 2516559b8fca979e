//! Removing rows, and copying an index: without removed rows, with more room, in an order that is faster to search.

use super::{Index, next_version};
use crate::hnsw::OrderError;
use crate::storage::Encoding;

impl<E: Encoding> Index<E> {
    /// Removes the row of a key; false if there is none. No search finds it from now on, and the key may be added again. Its
    /// memory comes back with [`Index::consolidate`], and searches are as fast as before then: call it when a fifth or so of the
    /// index is [removed](Index::removed). An index that has no room left for a row to be added does so itself.
    pub fn remove(&mut self, key: u64) -> bool {
        let Some(id) = self.keys_mut().remove(&key) else { return false };
        self.gone.insert(id);
        true
    }

    /// Takes removed rows out: their neighbours are linked with each other, their memory is used again, and nothing of them is
    /// left. On all threads of the current rayon pool, with as much memory again while it lasts; which threads does not matter
    /// to the result. [Selections](super::Selection) made before are stale afterwards, if anything was removed.
    ///
    /// ```
    /// # use vecindex::{Index, Metric};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let mut index: Index = Index::builder(1, Metric::L2).build()?;
    /// index.extend((0..100).map(|key| (key, [key as f32])))?;
    /// for key in 50..100 {
    ///     index.remove(key);
    /// }
    /// let before = index.memory().total();
    /// index.consolidate()?;
    /// assert!(index.memory().total() < before);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// No memory. Nothing is changed then.
    pub fn consolidate(&mut self) -> Result<(), OrderError> {
        if self.gone.is_empty() {
            return Ok(());
        }
        self.copy_into(self.hnsw.capacity().max(1))
    }

    /// Lays rows out anew, so that those that a search meets one after the other lie near each other, and takes removed ones
    /// out. For an index that is searched often and changed rarely, and larger than the processor's caches: rows added later
    /// are not in that order. Selections made before are stale afterwards.
    ///
    /// # Errors
    /// No memory. Nothing is changed then.
    pub fn optimize(&mut self) -> Result<(), OrderError> {
        self.consolidate()?;
        let order = self.hnsw.locality_order();
        self.copy_rows(&order, self.hnsw.capacity().max(1))
    }

    /// Copies what was not removed to where there is room for `capacity` rows. All rows are linked.
    pub(super) fn copy_into(&mut self, capacity: u32) -> Result<(), OrderError> {
        let order: Vec<u32> = self.ids().collect();
        if order.len() == self.hnsw.len() as usize {
            // Every row keeps its place, and so do keys and selections.
            let (version, keys) = (self.version, std::mem::take(&mut self.keys));
            let copied = self.copy_rows(&order, capacity);
            (self.version, self.keys) = (version, keys);
            return copied;
        }
        self.copy_rows(&order, capacity)
    }

    fn copy_rows(&mut self, order: &[u32], capacity: u32) -> Result<(), OrderError> {
        let hnsw = self.hnsw.in_order(order, capacity)?;
        if let Some(exact) = &mut self.exact {
            *exact = exact.in_order(order, capacity)?;
        }
        self.hnsw = hnsw;
        self.gone = crate::ids::IdSet::new();
        self.keys.take();
        self.version = next_version();
        Ok(())
    }
}

//! Adding rows, one by one or many at a time, and another index.

use super::{AddError, Index};
use crate::error::PushError;
use crate::format::MAX_ROWS;
use crate::hnsw::{MergeError, OrderError};
use crate::storage::{AppendVectors, Encoding};

/// Room that is made at least.
const LEAST: u32 = 64;
/// Room that is made at most because an iterator says that so many rows come.
const MOST_SAID: u32 = 1 << 20;

impl<E: Encoding> Index<E> {
    /// Adds a row. It is found by every search from now on.
    ///
    /// # Errors
    /// A key that there is already, a vector that cannot be stored (wrong dimension, not finite, of length zero under cosine,
    /// beyond what the encoding holds), no memory. Nothing is added then.
    pub fn add(&mut self, key: u64, row: &[f32]) -> Result<(), AddError> {
        let id = self.store(key, row)?;
        self.hnsw.link(id, &mut self.building).map_err(AddError::Link)
    }

    /// Adds many rows, on all threads of the current rayon pool: the faster the more they are at a time. Which threads does not
    /// matter to the result.
    ///
    /// ```
    /// # use vecindex::{I8, Index, Metric};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let mut index = Index::<I8>::builder(3, Metric::Cosine).capacity(100).build()?;
    /// index.extend((0..100).map(|key| (key, [key as f32, 1.0, 50.0])))?;
    /// assert_eq!(index.len(), 100);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`Index::add`]. The rows before the one that cannot be added are in the index then, it and those after it are not.
    pub fn extend<R: AsRef<[f32]>>(&mut self, rows: impl IntoIterator<Item = (u64, R)>) -> Result<(), AddError> {
        let mut rows = rows.into_iter();
        let said = u32::try_from(rows.size_hint().0).unwrap_or(MOST_SAID);
        let expected = said.min(MOST_SAID).min(MAX_ROWS - self.len() as u32);
        if expected > 0 {
            self.reserve(expected)?;
        }
        let stored = rows.try_for_each(|(key, row)| self.store(key, row.as_ref()).map(|_| ()));
        self.link_rest()?;
        stored
    }

    /// Adds the rows of another index, which are linked into the larger one of the two: the faster the smaller the other is.
    /// Where that one has room nothing is copied, and what was removed from it stays until [`Index::consolidate`].
    ///
    /// ```
    /// # use vecindex::{Index, Metric};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let mut index: Index = Index::builder(1, Metric::L2).build()?;
    /// index.extend((0..100).map(|key| (key, [key as f32])))?;
    /// let mut other = Index::builder(1, Metric::L2).build()?;
    /// other.extend((100..130).map(|key| (key, [key as f32])))?;
    /// index.merge(other)?;
    /// assert_eq!(index.search(&[111.0], 1)?[0].key, 111);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// Another dimension or metric, exact rows in one of them only, a key that is in both, no memory. Nothing is added then.
    pub fn merge(&mut self, other: Index<E>) -> Result<(), MergeError> {
        if other.dim() != self.dim() {
            return Err(MergeError::Dimension { got: other.dim(), expected: self.dim() });
        }
        if other.metric() != self.metric() {
            return Err(MergeError::Metric { got: other.metric(), expected: self.metric() });
        }
        if other.exact.is_some() != self.exact.is_some() {
            return Err(MergeError::Exact);
        }
        if let Some(key) = other.all_keys().find(|key| self.contains(*key)) {
            return Err(MergeError::Duplicate { key });
        }
        let rows = self.len() + other.len();
        if rows > MAX_ROWS as usize {
            return Err(MergeError::Full { rows, most: MAX_ROWS });
        }
        if other.len() > self.len() {
            let mut larger = other;
            larger.take_in(self)?;
            *self = larger;
            return Ok(());
        }
        self.take_in(&other)
    }

    /// Adds the rows of an index that was found to fit this one.
    fn take_in(&mut self, other: &Index<E>) -> Result<(), MergeError> {
        self.make_room(other.len() as u32)?;
        // All else needs no memory but what was just made sure of: nothing is left half done.
        self.hnsw.take_in(&other.hnsw, other.ids())?;
        if let (Some(exact), Some(others)) = (&self.exact, &other.exact) {
            for id in other.ids() {
                exact.push_stored(others, id).map_err(MergeError::Push)?;
            }
        }
        self.keys.take();
        Ok(())
    }

    /// Sees to room for `additional` more rows, at once and not in several steps.
    ///
    /// # Errors
    /// No memory.
    pub fn reserve(&mut self, additional: u32) -> Result<(), AddError> {
        if additional > MAX_ROWS - self.len() as u32 {
            return Err(AddError::Full { rows: MAX_ROWS });
        }
        Ok(self.make_room(additional)?)
    }

    /// As [`Index::reserve`], for no more rows than an index can have.
    fn make_room(&mut self, additional: u32) -> Result<(), OrderError> {
        let live = self.len() as u32;
        let needed = live + additional;
        let written = self.hnsw.graph().writer().is_some();
        if written && additional <= self.hnsw.capacity() - self.hnsw.len() {
            return Ok(());
        }
        // Who adds a little again and again shall not copy everything each time.
        let room = if additional == 0 { needed } else { needed.max(live.saturating_mul(2)).max(LEAST) };
        self.copy_into(room.clamp(1, MAX_ROWS))
    }

    /// Stores a row and its key, pending; returns its id.
    fn store(&mut self, key: u64, row: &[f32]) -> Result<u32, AddError> {
        if self.contains(key) {
            return Err(AddError::Duplicate { key });
        }
        let failed = |e: PushError| match e {
            PushError::Vector(error) => AddError::Vector { key, error },
            other => AddError::Push(other),
        };
        if self.hnsw.len() == self.hnsw.capacity() {
            // Only what is linked can be copied.
            self.link_rest()?;
        }
        self.reserve(1)?;
        let id = self.hnsw.append(row, [key, 0]).map_err(failed)?;
        if let Some(exact) = &self.exact {
            // There is as much room, and the same was asked of the row, so it fails for want of memory at most.
            exact.push(row).map_err(failed)?;
        }
        self.keys_mut().insert(key, id);
        Ok(id)
    }

    /// Links what `extend` has stored.
    fn link_rest(&self) -> Result<(), AddError> {
        if self.hnsw.linked() == self.hnsw.len() {
            return Ok(());
        }
        self.hnsw.link_alone().map_err(AddError::Link)
    }
}

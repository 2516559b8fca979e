//! An index in a file, and from one: see [`snapshot`](crate::snapshot).

use std::path::Path;
use std::sync::OnceLock;

use super::{Index, SaveError};
use crate::snapshot::{self, Snapshot, SnapshotError};
use crate::storage::Encoding;

impl<E: Encoding> Index<E> {
    /// Writes the index to a file, in place of the one that may be there, and returns its bytes. What was removed is not in
    /// it.
    ///
    /// ```
    /// # use vecindex::{Index, Metric};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("index");
    /// let mut index: Index = Index::builder(1, Metric::L2).build()?;
    /// index.extend((0..100).map(|key| (key, [key as f32])))?;
    /// index.save(&path)?;
    /// let mut opened: Index = Index::open(&path)?;
    /// assert_eq!(opened.search(&[7.1], 3)?, index.search(&[7.1], 3)?);
    /// opened.add(1000, &[7.1])?;
    /// assert_eq!(opened.search(&[7.1], 1)?[0].key, 1000);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// What the system says, or no memory for a copy without removed rows.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<u64, SaveError> {
        if self.gone.is_empty() {
            return Ok(match &self.exact {
                Some(exact) => snapshot::save_with_exact(&self.hnsw, exact, path)?,
                None => snapshot::save(&self.hnsw, path)?,
            });
        }
        let order: Vec<u32> = self.ids().collect();
        let room = (order.len() as u32).max(1);
        let hnsw = self.hnsw.in_order(&order, room).map_err(SaveError::Consolidate)?;
        let exact = self.exact.as_ref().map(|exact| exact.in_order(&order, room)).transpose();
        Ok(match exact.map_err(|e| SaveError::Consolidate(e.into()))? {
            Some(exact) => snapshot::save_with_exact(&hnsw, &exact, path)?,
            None => snapshot::save(&hnsw, path)?,
        })
    }

    /// Opens a file: it is mapped and searched in place, and copied into memory when the first row is added. Only headers are
    /// read; have a file from elsewhere [verified](crate::snapshot::verify) once. Keys are the first number of labels, should
    /// the file have been made by other means; they must differ.
    ///
    /// # Errors
    /// A file that cannot be mapped, is no snapshot, is cut, has impossible headers, or holds rows of another encoding.
    pub fn open(path: impl AsRef<Path>) -> Result<Index<E>, SnapshotError> {
        let file = Snapshot::open(path)?;
        Ok(Index::of(file.index()?, file.exact()?, OnceLock::new()))
    }
}

//! What an engine must be able to do to take part.

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;

use crate::objects::Counted;
use crate::rows::{Key, Row};

/// What went wrong, for the person who measures.
pub type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Where an engine keeps its data.
pub struct Place {
    /// A folder of its own on the local disk.
    pub folder: PathBuf,
    /// Its objects, for engines that have such.
    pub objects: Arc<Counted>,
    /// Whether writes are synced.
    pub durable: bool,
}

/// Bytes that an engine wrote, and keeps.
#[derive(Clone, Copy, Debug, Default)]
pub struct Amplified {
    /// Bytes of objects that were put; none for an engine without.
    pub objects_put: Option<u64>,
    /// Bytes of its tables that are needed, in the object store if it has one; what else is there waits to be removed.
    pub live: Option<u64>,
}

/// A key-value engine.
pub trait Engine: Sized {
    /// Opens what is at a place, or makes it.
    ///
    /// # Errors
    /// What the engine says; so for all of these.
    fn open(place: &Place) -> Outcome<Self>;

    /// Writes a batch at once; durably if the place is.
    ///
    /// # Errors
    /// What the engine says.
    fn write(&mut self, rows: &[Row]) -> Outcome<()>;

    /// Waits until everything is in tables and nothing is left to be done in the background.
    ///
    /// # Errors
    /// What the engine says.
    fn settle(&mut self) -> Outcome<()>;

    /// Gets keys one after the other; how many are there.
    ///
    /// # Errors
    /// What the engine says.
    fn gets(&self, keys: &mut (dyn Iterator<Item = Key> + Send)) -> Outcome<u64>;

    /// From each key on, in order, at most `limit` rows; how many rows and bytes in all.
    ///
    /// # Errors
    /// What the engine says.
    fn scans(&self, from: &mut (dyn Iterator<Item = Key> + Send), limit: u64) -> Outcome<(u64, u64)>;

    /// What it has written since it was opened.
    ///
    /// # Errors
    /// What the engine says.
    fn amplified(&self) -> Outcome<Amplified>;

    /// Stops in an orderly way.
    ///
    /// # Errors
    /// What the engine says.
    fn close(self) -> Outcome<()>;
}

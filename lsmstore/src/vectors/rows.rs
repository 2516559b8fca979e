//! Rows in memory whose log is a store.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::executor::block_on;
use kriya_region::Region;
use vecindex::{AppendVectors, Encoding, F32, Metric, PushError, Rows, VectorError, VectorStorage};

use super::{Space, VectorsError, payload};
use crate::batch::Batch;
use crate::error::{Corruption, WriteError};
use crate::store::{Durability, FlushOptions, Store};

/// Rows are logged together up to so many bytes.
const GROUP: usize = 1 << 20;

/// The rows of a [`Space`]: see the module's documentation.
pub struct LsmVectors<E: Encoding = F32> {
    /// What is searched. Nobody but this appends to it.
    rows: Rows<E>,
    store: Store,
    space: Space,
    durability: Durability,
    /// Held from the first byte in the log to the last one in memory.
    appender: Mutex<()>,
}

impl<E: Encoding> fmt::Debug for LsmVectors<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LsmVectors").field("space", &self.space).field("rows", &self.rows.len()).finish_non_exhaustive()
    }
}

impl<E: Encoding> LsmVectors<E> {
    /// Opens a space, making it if the store has none of its number, and reads its rows into memory, where there is room
    /// for `capacity` of them. Rows that are appended are as durable as `durability` says before anybody sees them.
    ///
    /// The store keeps its own log, or none ([`Durability::Memory`] only). Blocks, as appending does; so neither must be called
    /// on a thread that the store's own background work needs.
    ///
    /// # Errors
    /// [`VectorsError`].
    pub fn open(
        store: Store,
        space: Space,
        capacity: u32,
        durability: Durability,
    ) -> Result<LsmVectors<E>, VectorsError> {
        let asked = Space::new::<E>(&[], space.id(), space.dim(), space.metric());
        if asked.element() != space.element() {
            return Err(VectorsError::Other { found: Box::new(space), expected: Box::new(asked) });
        }
        let dim = space.dim() as usize;
        let region = Rows::<E>::bytes_needed(dim, capacity)
            .and_then(|bytes| Region::heap(bytes).map_err(vecindex::CreateError::Memory))
            .map_err(VectorsError::Create)?;
        let rows = Rows::create(Arc::new(region), space.metric(), dim, capacity).map_err(VectorsError::Create)?;
        let vectors = LsmVectors { rows, store, space, durability, appender: Mutex::new(()) };
        vectors.know_or_make_the_space()?;
        vectors.read_rows()?;
        Ok(vectors)
    }

    fn know_or_make_the_space(&self) -> Result<(), VectorsError> {
        let view = self.store.view().map_err(VectorsError::Unusable)?;
        let found = view.get(&self.space.key(), view.read_sequence()).map_err(VectorsError::Read)?;
        match found.map(|value| self.space.decode(value)).transpose().map_err(VectorsError::Corrupt)? {
            Some(found) if found == self.space => Ok(()),
            Some(found) => Err(VectorsError::Other { found: Box::new(found), expected: Box::new(self.space.clone()) }),
            None => {
                let mut batch = Batch::new();
                batch.put(&self.space.key(), &self.space.encode());
                self.log(batch).map_err(VectorsError::Write)
            }
        }
    }

    fn read_rows(&self) -> Result<(), VectorsError> {
        let view = self.store.view().map_err(VectorsError::Unusable)?;
        let prefix = self.space.rows();
        let mut scan = view.scan_prefix(&prefix, view.read_sequence()).map_err(VectorsError::Read)?;
        while let Some((key, value)) = scan.next().map_err(VectorsError::Read)? {
            let id = self.rows.len();
            if key[prefix.len()..] != id.to_be_bytes() {
                let space = format!("vector space {}", self.space.id());
                let what = format!("the key of a row ends in {:02x?}, expected row {id}", &key[prefix.len()..]);
                return Err(VectorsError::Corrupt(Corruption::new(space, 0, what)));
            }
            let row = payload::decode(&self.space, id, value, self.rows.encoded_len());
            self.rows.push_encoded(row.map_err(VectorsError::Corrupt)?).map_err(|error| match error {
                PushError::Full { capacity } => VectorsError::Full { capacity },
                other => VectorsError::Push(other),
            })?;
        }
        Ok(())
    }

    /// What the rows are.
    pub fn space(&self) -> &Space {
        &self.space
    }

    /// Rows there is room for.
    pub fn capacity(&self) -> u32 {
        self.rows.capacity()
    }

    /// Appends many rows, a mebibyte of them in one write of the log. Returns the number of rows that there are then.
    ///
    /// # Errors
    /// As [`push`](AppendVectors::push); [`len`](VectorStorage::len) tells how many rows were appended before.
    pub fn extend<R: AsRef<[f32]>>(&self, rows: impl IntoIterator<Item = R>) -> Result<u32, PushError> {
        let appender = self.turn();
        let mut group = Vec::new();
        let mut outcome = Ok(());
        for row in rows {
            match self.rows.encode(row.as_ref()) {
                Ok(encoded) => group.push(encoded),
                Err(error) => {
                    outcome = Err(PushError::Vector(error));
                    break;
                }
            }
            if group.len() * self.rows.encoded_len() >= GROUP {
                self.append(&appender, &group)?;
                group.clear();
            }
        }
        self.append(&appender, &group)?;
        outcome.map(|()| self.rows.len())
    }

    fn turn(&self) -> MutexGuard<'_, ()> {
        self.appender.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Encoded rows to the log, then to memory.
    fn append(&self, _turn: &MutexGuard<'_, ()>, rows: &[Vec<u8>]) -> Result<(), PushError> {
        if rows.is_empty() {
            return Ok(());
        }
        let (len, capacity) = (self.rows.len(), self.rows.capacity());
        // Before the log has them: there is memory for all rows up to the capacity.
        if (capacity - len) < rows.len() as u32 {
            return Err(PushError::Full { capacity });
        }
        let mut batch = Batch::new();
        for (id, row) in (len..).zip(rows) {
            batch.put(&self.space.row(id), &payload::encode(&self.space, row));
        }
        self.log(batch).map_err(|error| PushError::Log(Box::new(error)))?;
        rows.iter().try_for_each(|row| self.rows.push_encoded(row).map(drop))
    }

    /// Writes a batch, after a flush to the local disk if there is no room for it.
    fn log(&self, batch: Batch) -> Result<(), WriteError> {
        match block_on(self.store.write(batch.clone(), self.durability)) {
            Err(full @ WriteError::Full { .. }) => {
                // If the flush fails, the writer hears what it was that made it necessary.
                block_on(self.store.flush_local(FlushOptions::default())).map_err(|_| full)?;
                block_on(self.store.write(batch, self.durability)).map(drop)
            }
            written => written.map(drop),
        }
    }
}

impl<E: Encoding> VectorStorage for LsmVectors<E> {
    type Query = E::Query;

    fn metric(&self) -> Metric {
        self.rows.metric()
    }

    fn dim(&self) -> usize {
        self.rows.dim()
    }

    fn len(&self) -> u32 {
        self.rows.len()
    }

    fn prepare(&self, raw: &[f32], query: &mut E::Query) -> Result<(), VectorError> {
        self.rows.prepare(raw, query)
    }

    fn prepare_row(&self, id: u32, query: &mut E::Query) {
        self.rows.prepare_row(id, query);
    }

    #[inline]
    fn distances(&self, query: &E::Query, ids: &[u32], out: &mut [f32]) {
        self.rows.distances(query, ids, out);
    }

    fn is_coarse(&self) -> bool {
        self.rows.is_coarse()
    }

    #[inline]
    fn exact_distances(&self, query: &E::Query, ids: &[u32], out: &mut [f32]) {
        self.rows.exact_distances(query, ids, out);
    }

    #[inline]
    fn distance_between(&self, a: u32, b: u32) -> f32 {
        self.rows.distance_between(a, b)
    }

    fn digest(&self, id: u32) -> u64 {
        self.rows.digest(id)
    }

    fn same(&self, a: u32, b: u32) -> bool {
        self.rows.same(a, b)
    }

    fn read(&self, id: u32, out: &mut [f32]) {
        self.rows.read(id, out);
    }

    fn row_bytes(&self) -> usize {
        self.rows.row_bytes()
    }

    #[inline]
    fn prefetch(&self, id: u32) {
        self.rows.prefetch(id);
    }
}

impl<E: Encoding> AppendVectors for LsmVectors<E> {
    /// Appends a row to the store's log, then to memory.
    ///
    /// # Errors
    /// As [`AppendVectors::push`]; `Log` with the store's [`WriteError`]. The row is not appended then, but if the store
    /// was poisoned meanwhile, the next start may find it.
    fn push(&self, raw: &[f32]) -> Result<u32, PushError> {
        let turn = self.turn();
        let id = self.rows.len();
        self.append(&turn, &[self.rows.encode(raw)?])?;
        Ok(id)
    }
}

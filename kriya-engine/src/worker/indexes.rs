//! The indexes that exist, their segments, and how entries get in.
//!
//! An index is a list of sealed segments and a list of active ones, the newest last; both together are an immutable
//! [`IndexState`], replaced as a whole and then published. Entries are put into the store first and appended to the last
//! active segment after that, under the index's lock, so the order of entry numbers is the order of rows, and what the
//! segments hold can always be made again from the store.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use lsmstore::Batch;
use vecindex::{BuildContext, HnswParams, Metric, PushError, VectorError};

use crate::catalogue::IndexDescription;
use crate::control::Control;
use crate::error::FormatError;
use crate::index::metric_of;
use crate::keys::Counter;
use crate::worker::active::{Active, capacity};
use crate::worker::engine::{ApplyError, Ending, Engine};
use crate::worker::segments::Sealed;

/// Active segments that may wait to be sealed before inserts are told to come back later.
const MANY_ACTIVE: usize = 6;
/// Rows that may wait to be linked before those who insert have to help.
const MANY_WAITING: u32 = 4096;

/// The segments of an index at one moment.
#[derive(Default, Clone)]
pub(crate) struct IndexState {
    pub metric: u8,
    /// In the order of the entries that they cover.
    pub sealed: Vec<Arc<Sealed>>,
    /// The same; only the last one is appended to.
    pub active: Vec<Arc<Active>>,
}

pub(crate) struct Index {
    pub id: u64,
    pub description: IndexDescription,
    pub metric: Metric,
    pub params: HnswParams,
    state: Mutex<Arc<IndexState>>,
    append: Mutex<()>,
    control: Arc<Control>,
}

/// The answer to an insert.
pub(crate) enum Inserted {
    At { first_entry: u64, first: u64 },
    Dimension(usize),
}

impl Index {
    pub(crate) fn new(
        id: u64,
        description: IndexDescription,
        sealed: Vec<Arc<Sealed>>,
        control: Arc<Control>,
    ) -> Result<Index, FormatError> {
        let metric = metric_of(description.metric)?;
        let params = params_of(&description)?;
        let state = IndexState { metric: description.metric, sealed, active: Vec::new() };
        Ok(Index {
            id,
            description,
            metric,
            params,
            state: Mutex::new(Arc::new(state)),
            append: Mutex::new(()),
            control,
        })
    }

    pub(crate) fn state(&self) -> Arc<IndexState> {
        Arc::clone(&self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces the segments and publishes.
    pub(crate) fn change(&self, change: impl FnOnce(&mut IndexState)) {
        {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let mut next = IndexState::clone(&state);
            change(&mut next);
            *state = Arc::new(next);
        }
        self.control.publish();
    }

    /// Keeps others from appending.
    pub(crate) fn appending(&self) -> MutexGuard<'_, ()> {
        self.append.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Dimensions, once they are known.
    pub(crate) fn dim(&self) -> Option<usize> {
        if self.description.dim > 0 {
            return Some(self.description.dim.into());
        }
        let state = self.state();
        let sealed = state.sealed.first().map(|sealed| sealed.hnsw.dim());
        sealed.or_else(|| state.active.first().map(|active| active.hnsw.dim()))
    }

    /// The active segment to append to, with room for one row at least; a new one is published before it is used.
    /// Called under [`Index::appending`].
    pub(crate) fn room(&self, dim: usize, first: u64) -> Result<Arc<Active>, String> {
        if let Some(last) = self.state().active.last().filter(|last| last.room() > 0) {
            return Ok(Arc::clone(last));
        }
        let active = Active::create(self.metric, dim, self.params, first, capacity(dim)).map_err(|e| e.to_string())?;
        let active = Arc::new(active);
        self.change(|state| state.active.push(Arc::clone(&active)));
        Ok(active)
    }

    /// Appends one entry. Called under [`Index::appending`]. Vectors that cannot be compared under the metric are left
    /// out.
    pub(crate) fn append(&self, entry: u64, tid: u64, vector: &[f32]) -> Result<(), String> {
        match self.room(vector.len(), entry)?.hnsw.append(vector, [entry, tid]) {
            Ok(_) | Err(PushError::Vector(VectorError::Zero)) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Puts entries into the store and into the active segment. `vectors` holds one of `dim` floats for each of `tids`;
    /// `batch` makes the store's batch for entries from a number on.
    pub(crate) fn insert(
        &self,
        engine: &Engine,
        dim: usize,
        tids: &[u64],
        vectors: &[f32],
        batch: impl FnOnce(u64) -> Result<Batch, FormatError>,
    ) -> Result<Inserted, ApplyError> {
        let appended = {
            let _appending = self.appending();
            if self.state().active.len() > MANY_ACTIVE {
                engine.signals.sealing.wake();
                return Err(ApplyError::Busy);
            }
            if let Some(expected) = self.dim().filter(|expected| *expected != dim) {
                return Ok(Inserted::Dimension(expected));
            }
            let first_entry = engine.take(Counter::Entries, self.id, tids.len() as u64)?;
            // Memory for the first rows is there before the store is written to; more is made as it is needed.
            self.room(dim, first_entry).map_err(ApplyError::Failed)?;
            let batch = batch(first_entry).map_err(|error| ApplyError::Failed(error.to_string()))?;
            let applied = engine.apply(&batch)?;
            for ((entry, tid), vector) in (first_entry..).zip(tids).zip(vectors.chunks_exact(dim)) {
                if let Err(why) = self.append(entry, *tid, vector) {
                    // The store has entries that no segment has: what is in memory is made anew from the store.
                    engine.signals.end(Ending::Abrupt);
                    return Err(ApplyError::Failed(why));
                }
            }
            Inserted::At { first_entry, first: applied.first }
        };
        engine.signals.linking.wake();
        self.help(tids.len() as u32);
        if self.state().active.len() > 1 {
            engine.signals.sealing.wake();
        }
        Ok(appended)
    }

    /// Whoever inserts faster than rows are linked links as many as it brought.
    fn help(&self, count: u32) {
        let state = self.state();
        let waiting: u32 = state.active.iter().map(|active| active.waiting()).sum();
        if waiting <= MANY_WAITING {
            return;
        }
        let (mut context, mut left) = (BuildContext::default(), count);
        for active in &state.active {
            left -= active.link(left, &mut context);
        }
    }
}

/// What an index is built with.
pub(crate) fn params_of(description: &IndexDescription) -> Result<HnswParams, FormatError> {
    let params = HnswParams {
        m: description.m.into(),
        ef_construction: description.ef_construction.into(),
        ..HnswParams::default()
    };
    params.check().map_err(|error| FormatError::new("index description", error.to_string()))?;
    Ok(params)
}

/// All indexes.
pub(crate) struct Indexes {
    control: Arc<Control>,
    all: RwLock<HashMap<u64, Arc<Index>>>,
}

impl Indexes {
    pub(crate) fn new(control: Arc<Control>) -> Indexes {
        Indexes { control, all: RwLock::new(HashMap::new()) }
    }

    pub(crate) fn get(&self, id: u64) -> Option<Arc<Index>> {
        self.all.read().unwrap_or_else(PoisonError::into_inner).get(&id).map(Arc::clone)
    }

    pub(crate) fn all(&self) -> Vec<Arc<Index>> {
        let mut all: Vec<_> =
            self.all.read().unwrap_or_else(PoisonError::into_inner).values().map(Arc::clone).collect();
        all.sort_by_key(|index| index.id);
        all
    }

    pub(crate) fn states(&self) -> HashMap<u64, Arc<IndexState>> {
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
        all.iter().map(|(id, index)| (*id, index.state())).collect()
    }

    /// Adds an index and publishes.
    pub(crate) fn add(&self, index: Index) {
        self.all.write().unwrap_or_else(PoisonError::into_inner).insert(index.id, Arc::new(index));
        self.control.publish();
    }

    /// Removes an index and publishes; its files go when nobody reads them any more.
    pub(crate) fn remove(&self, id: u64) {
        let removed = self.all.write().unwrap_or_else(PoisonError::into_inner).remove(&id);
        if let Some(index) = removed {
            index.state().sealed.iter().for_each(|sealed| sealed.retire());
            self.control.publish();
        }
    }
}

//! What a takeover came to, and what has to be done where something that was acknowledged is missing.

use std::sync::atomic::Ordering;

use lsmstore::{Batch, FlushOptions};

use crate::keys;
use crate::worker::engine::{ApplyError, Engine};
use crate::worker::history::Chosen;
use crate::worker::startup::{StartError, index_entries};

/// What a takeover came to, for who ordered it.
pub(crate) fn came_to(chosen: &Chosen) -> String {
    let (number, newest) = (chosen.manifest.number, chosen.newest.number);
    let whole = match (chosen.unlogged, chosen.lossy) {
        (false, _) => "and the log behind it: nothing that this server had is lost",
        (true, false) => "which an orderly stop left whole",
        (true, true) => {
            "without what was logged after it; every index on an lsm_s3 table and every lsm_hnsw index needs a REINDEX"
        }
    };
    match number > newest {
        true => format!("the store goes on as the local disk has it, ahead of manifest {newest}, {whole}"),
        false => format!("the store goes on with manifest {number} of {newest}, {whole}"),
    }
}

/// After a loss nobody knows which numbers were given out: all go on far above. Nor which index entries are missing: every
/// index is dropped for good and has to be made anew.
pub(crate) fn make_up_for_loss(engine: &Engine) -> Result<(), StartError> {
    let view = &*engine.store.view().map_err(|error| StartError::failed(&error))?;
    let mut batches = engine.counters.far_above(view).map_err(|error| StartError::failed(&error))?;
    let indexes = index_entries(view, view.read_sequence())?;
    for some in indexes.keys().collect::<Vec<_>>().chunks(256) {
        let mut batch = Batch::new();
        for id in some {
            batch.put(&keys::drop_mark(**id, 0), &[]);
        }
        batches.push(batch);
    }
    for batch in batches.iter().filter(|batch| !batch.is_empty()) {
        apply_at_start(engine, batch)?;
    }
    // Until this is durable every start does it again.
    engine.log.lossy.store(false, Ordering::SeqCst);
    let options = FlushOptions { clean: false, force: true };
    let flushed = engine.runtime.block_on(engine.store.flush_with(options));
    flushed.map(drop).map_err(StartError::flush)
}

/// Applies a batch while nobody else flushes yet.
fn apply_at_start(engine: &Engine, batch: &Batch) -> Result<(), StartError> {
    loop {
        match engine.apply(batch) {
            Ok(_) => return Ok(()),
            Err(ApplyError::Busy) => {
                let flushed = engine.runtime.block_on(engine.store.flush());
                flushed.map_err(StartError::flush)?;
            }
            Err(error) => return Err(StartError::failed(&error)),
        }
    }
}

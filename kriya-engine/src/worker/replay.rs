//! From the log back into the store: what was acknowledged after the manifest that it goes on with.

use std::collections::HashSet;
use std::sync::Arc;

use lsmstore::{Batch, FlushOptions, ManifestInfo, Replayed, Store, WriteError, fail};

use crate::error::FormatError;
use crate::record::{self, Assembler, Generation, Kind};
use crate::worker::host::{Host, HostError};
use crate::worker::owner::Owner;
use crate::worker::startup::StartError;

/// Bytes of log that are read at a time.
const CHUNK: usize = 8 << 20;

/// Hands the records between two positions to `each`, with where they start.
pub(super) fn walk(
    host: &dyn Host,
    from: u64,
    upto: u64,
    mut each: impl FnMut(u64, &[u8]) -> Result<(), StartError>,
) -> Result<(), StartError> {
    let mut at = from;
    while at < upto {
        let chunk = host.read_log(at, upto, CHUNK).map_err(|error| unreadable(at, &error))?;
        for found in &chunk.records {
            each(found.start, &found.payload)?;
        }
        if chunk.end_reached {
            return Ok(());
        }
        if chunk.next <= at {
            return Err(unreadable(at, &HostError::gone("reading it does not get ahead")));
        }
        at = chunk.next;
    }
    Ok(())
}

fn unreadable(at: u64, error: &HostError) -> StartError {
    if !error.is_gone() {
        return StartError::Failed(format!("reading the log from {} failed: {error}", position(at)));
    }
    StartError::Refused {
        message: format!("the log cannot be read from {}: {error}", position(at)),
        hint: "The store needs the write-ahead log from that position on. Bring the missing segments back, or, if they are \
               gone for good, take the bucket over with lsm_s3_takeover()."
            .into(),
        log: true,
    }
}

/// A position in the way that Postgres writes it.
pub(super) fn position(at: u64) -> String {
    format!("{:X}/{:X}", at >> 32, at & 0xffff_ffff)
}

pub(super) fn damaged(at: u64, error: &FormatError) -> StartError {
    StartError::refused(format!("the log is damaged at {}: {error}", position(at)), "")
}

/// What a record of one piece says.
pub(super) fn whole<T: bincode::Decode<()>>(payload: &[u8]) -> Result<T, FormatError> {
    let record = Assembler::default().push(payload)?;
    record.ok_or_else(|| FormatError::new("log record", "a part of it is missing"))?.decode()
}

/// Applies what was acknowledged after `manifest`, up to `end`, the end of this worker's generation record.
pub(crate) fn replay(
    host: &Arc<dyn Host>,
    runtime: &tokio::runtime::Handle,
    store: &Store,
    manifest: &ManifestInfo,
    owner: &Owner,
    end: u64,
) -> Result<u64, StartError> {
    let mut assembler = Assembler::default();
    let mut youngest = owner.replay_generation;
    let mut applied = 0;
    // Generations of this store: another one may have been served in between.
    let mut ours = HashSet::from([owner.replay_generation, owner.generation]);
    walk(&**host, manifest.position, end, |at, payload| {
        let head = record::head(payload).map_err(|error| damaged(at, &error))?;
        // A batch that the manifest holds may begin before its position: its later pieces say nothing. And one of
        // another store's is none of ours.
        if head.kind == Kind::Batch && (head.sequence <= manifest.last_sequence || !ours.contains(&head.generation)) {
            return Ok(());
        }
        let Some(found) = assembler.push(payload).map_err(|error| damaged(at, &error))? else { return Ok(()) };
        match found.head.kind {
            Kind::Generation => {
                let generation: Generation = found.decode().map_err(|error| damaged(at, &error))?;
                if generation.store_id == manifest.store_id.into_bytes() {
                    ours.insert(found.head.generation);
                    youngest = youngest.max(found.head.generation);
                }
            }
            // A session of a worker that had ended wrote this: its transaction fails before it commits.
            Kind::Batch if found.head.generation < youngest => {}
            Kind::Batch => {
                let batch = Batch::decode(&found.body)
                    .map_err(|error| damaged(at, &FormatError::new("batch", error.to_string())))?;
                if apply_at(runtime, store, found.head.sequence, &batch)? == Replayed::Applied {
                    applied += 1;
                }
                fail::point("during-replay");
            }
            _ => {}
        }
        Ok(())
    })?;
    Ok(applied)
}

fn apply_at(
    runtime: &tokio::runtime::Handle,
    store: &Store,
    first: u64,
    batch: &Batch,
) -> Result<Replayed, StartError> {
    loop {
        match store.apply_at(first, batch) {
            Ok(replayed) => return Ok(replayed),
            Err(WriteError::Full { .. }) => {
                runtime.block_on(store.flush_local(FlushOptions::default())).map_err(StartError::flush)?;
            }
            Err(WriteError::Behind { .. }) => {
                runtime.block_on(store.flush()).map_err(StartError::flush)?;
            }
            Err(error) => return Err(StartError::failed(&error)),
        }
    }
}

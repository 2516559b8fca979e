//! From the log back into the store: which manifest is ours, and what was acknowledged after it.

use std::collections::HashSet;
use std::sync::Arc;

use lsmstore::{Batch, ManifestInfo, Replayed, Store, WriteError};

use crate::error::FormatError;
use crate::record::{self, Assembler, Birth, Ceiling, Generation, Kind, RecordHead, frames};
use crate::worker::host::{Facts, Host, HostError};
use crate::worker::owner::Owner;
use crate::worker::startup::StartError;

/// Bytes of log that are read at a time.
const CHUNK: usize = 8 << 20;

/// What the log behind a manifest says of those who wrote it.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct History {
    pub generation: u64,
    pub sequence_ceiling: u64,
}

fn walk(
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
            return Err(unreadable(at, &HostError::new("reading it does not get ahead")));
        }
        at = chunk.next;
    }
    Ok(())
}

fn unreadable(at: u64, error: &HostError) -> StartError {
    StartError::refused(
        format!("the log cannot be read from {}: {error}", position(at)),
        "The store needs the write-ahead log from that position on. Bring the missing segments back, or take the bucket \
         over with loss.",
    )
}

/// A position in the way that Postgres writes it.
fn position(at: u64) -> String {
    format!("{:X}/{:X}", at >> 32, at & 0xffff_ffff)
}

fn damaged(at: u64, error: &FormatError) -> StartError {
    StartError::refused(format!("the log is damaged at {}: {error}", position(at)), "")
}

/// An end of the log up to which it can be read. The flushed position itself may lie within a record, so one of no
/// consequence is logged and flushed.
fn log_end(host: &dyn Host) -> Result<u64, StartError> {
    let head = RecordHead { kind: Kind::Announce, generation: 0, sequence: 0, xid: 0, incarnation: 0 };
    let records = frames(&head, &[]).map_err(|error| StartError::failed(&error))?;
    Ok(host.log(records, true).map_err(StartError::host)?.end)
}

/// Whether the manifest belongs to this server's history; if so, what the log behind it says.
pub(crate) fn check_history(
    host: &dyn Host,
    facts: &Facts,
    manifest: &ManifestInfo,
    owner: &Owner,
) -> Result<History, StartError> {
    let foreign = |why: String| {
        StartError::refused(
            format!("the bucket's manifest {} does not belong to this server: {why}", manifest.number),
            "The bucket was written by another server, or by this one in a history that it no longer has (a restored or \
             copied data directory). Use another prefix, or take the bucket over.",
        )
    };
    if owner.system_identifier != facts.system_identifier {
        return Err(foreign(format!(
            "it was written by the server with system identifier {}, this one has {}",
            owner.system_identifier, facts.system_identifier
        )));
    }
    // The next transaction id is no evidence: ids that left nothing in the log are given out again after a crash.
    let flushed = log_end(host)?;
    if flushed < owner.birth_end || owner.birth_start < manifest.position {
        return Err(foreign(format!(
            "its birth was logged at {}, but the log ends at {}",
            position(owner.birth_start),
            position(flushed)
        )));
    }
    let expected = Birth {
        store_id: manifest.store_id.into_bytes(),
        epoch: manifest.epoch,
        manifest: manifest.number,
        nonce: manifest.nonce.into_bytes(),
        position: manifest.position,
        sequence: manifest.last_sequence,
    };
    let mut history = History { generation: owner.generation, sequence_ceiling: owner.sequence_ceiling };
    let mut born = false;
    walk(host, manifest.position, flushed, |at, payload| {
        let head = record::head(payload).map_err(|error| damaged(at, &error))?;
        match head.kind {
            Kind::Generation => history.generation = history.generation.max(head.generation),
            Kind::Birth => {
                let birth: Birth = whole(payload).map_err(|error| damaged(at, &error))?;
                // The nonce makes it the only one in the world.
                born |= birth == expected;
            }
            Kind::Ceiling => {
                let ceiling: Ceiling = whole(payload).map_err(|error| damaged(at, &error))?;
                history.sequence_ceiling = history.sequence_ceiling.max(ceiling.sequence);
            }
            _ => {}
        }
        Ok(())
    })?;
    if !born {
        return Err(foreign(format!("its birth, logged near {}, is not in this log", position(owner.birth_start))));
    }
    Ok(history)
}

fn whole<T: bincode::Decode<()>>(payload: &[u8]) -> Result<T, FormatError> {
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
                runtime.block_on(store.flush()).map_err(|error| StartError::failed(&error))?;
            }
            Err(error) => return Err(StartError::failed(&error)),
        }
    }
}

//! What the worker says about itself.

use std::sync::PoisonError;

use crate::protocol::{IndexStatus, LevelStatus, SegmentStatus, Status};
use crate::worker::cache::bytes_used;
use crate::worker::engine::Engine;
use crate::worker::kept;

/// The figures of this moment.
pub(crate) fn status(engine: &Engine) -> Status {
    let stats = engine.store.stats();
    let manifest = engine.store.manifest();
    let indexes = engine.indexes.all().into_iter().map(|index| {
        let state = index.state();
        IndexStatus {
            id: index.id,
            name: index.description.name.clone(),
            dim: index.dim().unwrap_or(0) as u32,
            segments: (state.sealed.iter())
                .map(|sealed| SegmentStatus {
                    segment: sealed.segment,
                    rows: sealed.record.rows.into(),
                    bytes: sealed.record.rows_bytes + sealed.record.graph_bytes,
                    first: sealed.record.first,
                    end: sealed.record.end,
                })
                .collect(),
            actives: state.active.len() as u32,
            active_rows: state.active.iter().map(|active| u64::from(active.hnsw.len())).sum(),
            pending_rows: (state.active.iter())
                .map(|active| u64::from(active.hnsw.len().saturating_sub(active.hnsw.linked())))
                .sum(),
        }
    });
    Status {
        version: engine.config.version.clone(),
        endpoint: engine.config.endpoint.name(),
        store_id: engine.store.store_id().to_string(),
        generation: engine.generation(),
        incarnation: engine.log.incarnation,
        epoch: stats.epoch,
        manifest: manifest.number,
        sequence: stats.last_sequence,
        memtable_bytes: stats.active_bytes + stats.frozen_bytes,
        frozen_memtables: stats.frozen,
        pending_bytes: stats.pending_bytes,
        levels: (stats.levels.iter())
            .map(|level| LevelStatus { tables: level.tables, bytes: level.object_bytes })
            .collect(),
        sessions: engine.sessions.count(),
        indexes: indexes.collect(),
        place: engine.config.place(),
        pending_change: engine.live.pending(),
        kept_log: kept::told(&*engine.host),
        cache_bytes: bytes_used(&engine.config),
        cache_budget: engine.live.asked().cache_bytes,
        last_error: engine.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone(),
    }
}

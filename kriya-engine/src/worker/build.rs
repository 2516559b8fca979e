//! CREATE INDEX: rows come in chunks, are linked on all cores, and become one sealed segment.
//!
//! Nothing of it is visible or in the store before the last step, which puts the catalogue entry, the segment and the
//! ceilings of the index's counters there in one batch; the session logs that batch, so replay brings the index back and
//! finds its objects. A build that ends earlier leaves at most objects that nobody names.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use lsmstore::Batch;
use vecindex::{F32Rows, Hnsw, HnswParams, Metric, PushError, VectorError, VectorStorage};

use crate::catalogue::{CatalogueEntry, IndexDescription, floats};
use crate::index::metric_of;
use crate::keys::{self, Counter};
use crate::worker::active::private;
use crate::worker::engine::Engine;
use crate::worker::indexes::{Index, params_of};
use crate::worker::requests::check_vector;

/// How often a caller hears of the progress.
const REPORT_EVERY: Duration = Duration::from_millis(200);
const MAX_ROWS: u64 = 1 << 30;
/// Bytes of rows for which room is made before any has come.
const FIRST_BYTES: u64 = 16 << 30;
/// Room above the numbers that the build itself used.
const HEADROOM: u64 = 1 << 18;

pub(crate) struct Build {
    id: u64,
    description: IndexDescription,
    metric: Metric,
    params: HnswParams,
    estimated_rows: u64,
    /// `None` until the first rows tell the dimension.
    hnsw: Option<Hnsw<F32Rows>>,
    /// Rows received; row n has entry number n + 1.
    received: u64,
}

impl Build {
    pub(crate) fn begin(id: u64, description: IndexDescription, estimated_rows: u64) -> Result<Build, String> {
        let metric = metric_of(description.metric).map_err(|error| error.to_string())?;
        let params = params_of(&description).map_err(|error| error.to_string())?;
        let estimated_rows = estimated_rows.min(MAX_ROWS);
        Ok(Build { id, description, metric, params, estimated_rows, hnsw: None, received: 0 })
    }

    /// Takes `count` tids and as many vectors.
    pub(crate) fn rows(&mut self, count: usize, dim: usize, raw: &[u8]) -> Result<(), String> {
        let expected = count.checked_mul(8 + dim * 4);
        if count == 0 || dim == 0 || expected != Some(raw.len()) {
            return Err(format!("{} bytes came for {count} rows of {dim} dimensions", raw.len()));
        }
        let known = match (&self.hnsw, self.description.dim) {
            (Some(hnsw), _) => hnsw.dim(),
            (None, 0) => dim,
            (None, described) => described.into(),
        };
        if known != dim {
            return Err(format!("expected {known} dimensions, not {dim}"));
        }
        let (tids, vectors) = raw.split_at(count * 8);
        let mut vector = Vec::with_capacity(dim);
        for (tid, bytes) in tids.chunks_exact(8).zip(vectors.chunks_exact(dim * 4)) {
            floats(bytes, &mut vector);
            check_vector(&vector)?;
            let mut tid8 = [0; 8];
            tid8.copy_from_slice(tid);
            self.received += 1;
            self.append(&vector, [self.received, u64::from_le_bytes(tid8)])?;
        }
        Ok(())
    }

    fn append(&mut self, vector: &[f32], label: [u64; 2]) -> Result<(), String> {
        loop {
            let hnsw = match self.hnsw.take() {
                Some(hnsw) => self.hnsw.insert(hnsw),
                None => {
                    // The estimate is not to be trusted far: it costs only doubling to be wrong.
                    let most = (FIRST_BYTES / (vector.len() as u64 * 4)).max(1 << 16);
                    let room = (self.estimated_rows + self.estimated_rows / 4).clamp(1 << 16, most);
                    let hnsw = private(self.metric, vector.len(), self.params, room as u32);
                    self.hnsw.insert(hnsw.map_err(|error| error.to_string())?)
                }
            };
            match hnsw.append(vector, label) {
                Ok(_) | Err(PushError::Vector(VectorError::Zero)) => return Ok(()),
                Err(PushError::Full { capacity }) => {
                    let larger = u32::try_from(u64::from(capacity) * 2)
                        .ok()
                        .filter(|larger| u64::from(*larger) <= MAX_ROWS)
                        .ok_or_else(|| format!("an index segment cannot have more than {MAX_ROWS} rows"))?;
                    let larger = private(self.metric, vector.len(), self.params, larger);
                    let larger = larger.map_err(|error| error.to_string())?;
                    copy(hnsw, &larger, |_| true)?;
                    self.hnsw = Some(larger);
                }
                Err(error) => return Err(error.to_string()),
            }
        }
    }

    /// Links, seals, uploads and publishes. `tell` passes on how many rows of how many are linked, and says no when the
    /// session is gone. Returns the batch that was put into the store and its first sequence number.
    pub(crate) fn finish(mut self, engine: &Engine, tell: impl Fn(u64, u64) -> bool) -> Result<(u64, Batch), String> {
        let mut batch = Batch::new();
        let (mut sealed, mut files_written) = (Vec::new(), None);
        let gone = || "the session that built the index is gone".to_string();
        let alive = |done, total| !engine.signals.abrupt() && tell(done, total);
        let (segment, end) = (1, self.received + 1);
        if let Some(hnsw) = self.hnsw.take().filter(|hnsw| !hnsw.is_empty()) {
            let total = u64::from(hnsw.len());
            link_all(engine, &hnsw, |done| alive(done, total)).then_some(()).ok_or_else(gone)?;
            self.description.dim = u16::try_from(hnsw.dim()).map_err(|_| "too many dimensions".to_string())?;
            let files = &engine.segments;
            let written =
                files.write(self.id, segment, engine.generation(), &hnsw).map_err(|error| error.to_string())?;
            drop(hnsw);
            let mut record = written.record.clone();
            (record.first, record.end) = (1, end);
            alive(total, total).then_some(()).ok_or_else(gone)?;
            let uploaded = engine.while_it_may(&|| alive(total, total), files.upload(&record)).ok_or_else(gone)?;
            uploaded.map_err(|error| error.to_string())?;
            batch.put(&keys::segment(self.id, segment), &record.encode());
            let opened = engine.runtime.block_on(files.open(segment, record, true));
            sealed.push(Arc::new(opened.map_err(|error| error.to_string())?));
            files_written = Some(written);
        }
        let entry = CatalogueEntry::Index(self.description.clone());
        batch.put(&keys::catalogue(self.id), &entry.encode());
        let ceilings = [(Counter::Entries, end), (Counter::Segments, segment + 1)];
        for (counter, next) in ceilings {
            batch.put(&keys::ceiling(counter, self.id), &(next + HEADROOM).to_le_bytes());
        }
        let created = self.description.created_xid;
        let index = Index::new(self.id, self.description, sealed, Arc::clone(&engine.control));
        let index = index.map_err(|error| error.to_string())?;
        let applied = engine
            .apply_patiently(&batch, || alive(self.received, self.received))
            .map_err(|error| error.to_string())?;
        if let Some(written) = files_written {
            written.keep();
        }
        for (counter, next) in ceilings {
            engine.counters.set(counter, self.id, next, next + HEADROOM);
        }
        engine.indexes.add(index);
        engine.note_undecided(self.id, created, false);
        Ok((applied.first, batch))
    }
}

/// Links all pending rows on the engine's pool; `tell` hears how many are linked now and then and may say no.
pub(crate) fn link_all(engine: &Engine, hnsw: &Hnsw<F32Rows>, tell: impl Fn(u64) -> bool) -> bool {
    let mut go_on = AtomicBool::new(true);
    std::thread::scope(|scope| {
        let (done, finished) = channel();
        let go_on = &go_on;
        scope.spawn(move || {
            // It fails for graphs opened for reading only, and this one was made here.
            let _ = engine.pool.install(|| hnsw.link_pending_while(|| go_on.load(Ordering::Relaxed)));
            let _ = done.send(());
        });
        while let Err(RecvTimeoutError::Timeout) = finished.recv_timeout(REPORT_EVERY) {
            if !tell(hnsw.progress().into()) {
                go_on.store(false, Ordering::Relaxed);
            }
        }
    });
    let mut patience = 10_000;
    while *go_on.get_mut() && hnsw.linked() < hnsw.len() && patience > 0 {
        // Rows that another thread had begun with: it needs a moment for each.
        std::thread::sleep(Duration::from_millis(1));
        patience -= 1;
    }
    go_on.into_inner() && hnsw.linked() == hnsw.len()
}

/// Appends the rows of one index that `keep` says to another.
pub(crate) fn copy(from: &Hnsw<F32Rows>, to: &Hnsw<F32Rows>, keep: impl Fn(u64) -> bool) -> Result<(), String> {
    let mut vector = vec![0.0; from.dim()];
    for id in 0..from.len() {
        let label = from.label(id);
        if keep(label[0]) {
            from.storage().read(id, &mut vector);
            to.append(&vector, label).map_err(|error| error.to_string())?;
        }
    }
    Ok(())
}

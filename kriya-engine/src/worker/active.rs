//! An active segment: rows and graph in shared memory, appended to and linked by the worker while others search.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use kriya_region::Region;
use vecindex::{BuildContext, CreateError, F32Rows, Graph, Hnsw, HnswParams, Metric};

use crate::reader::INDEX_REGION;

/// Bytes of rows in a full segment, about.
const ROW_BYTES: usize = 256 << 20;
const MIN_ROWS: usize = 1024;
const MAX_ROWS: usize = 65_536;

static NEXT_REGION: AtomicU64 = AtomicU64::new(INDEX_REGION | 1);

pub(crate) struct Active {
    pub hnsw: Hnsw<F32Rows>,
    /// Ids and memory of rows and graph, to be handed out.
    pub rows: (u64, Arc<Region>),
    pub graph: (u64, Arc<Region>),
    /// No entry below this is in here.
    pub first: u64,
    /// Everything below is linked or being linked.
    next_link: AtomicU32,
}

/// Rows that an active segment of `dim` dimensions takes.
pub(crate) fn capacity(dim: usize) -> u32 {
    let stride = (dim * 4).next_multiple_of(64).max(64);
    // Between the two constants, which fit.
    (ROW_BYTES / stride).clamp(MIN_ROWS, MAX_ROWS) as u32
}

impl Active {
    pub(crate) fn create(
        metric: Metric,
        dim: usize,
        params: HnswParams,
        first: u64,
        capacity: u32,
    ) -> Result<Active, CreateError> {
        let region = |name: &str, bytes: usize| -> Result<(u64, Arc<Region>), CreateError> {
            let bytes = bytes.next_multiple_of(kriya_region::ALIGNMENT);
            let region = Region::shared(name, bytes).map_err(CreateError::Memory)?;
            Ok((NEXT_REGION.fetch_add(1, Ordering::Relaxed), Arc::new(region)))
        };
        let rows = region("kriya-rows", F32Rows::bytes_needed(dim, capacity)?)?;
        let graph = region("kriya-graph", Graph::bytes_needed(capacity, params.m)?)?;
        let hnsw = Hnsw::new(
            F32Rows::create(Arc::clone(&rows.1), metric, dim, capacity)?,
            Graph::create(Arc::clone(&graph.1), params, capacity)?,
        )?;
        Ok(Active { hnsw, rows, graph, first, next_link: AtomicU32::new(0) })
    }

    /// Rows there is room for still.
    pub(crate) fn room(&self) -> usize {
        (self.hnsw.capacity() - self.hnsw.len()) as usize
    }

    /// Rows that no thread has begun to link.
    pub(crate) fn waiting(&self) -> u32 {
        self.hnsw.len().saturating_sub(self.next_link.load(Ordering::Relaxed))
    }

    /// Links up to `count` rows; returns how many there were.
    pub(crate) fn link(&self, count: u32, context: &mut BuildContext) -> u32 {
        let mut linked = 0;
        while linked < count {
            let id = self.next_link.load(Ordering::Relaxed);
            if id >= self.hnsw.len() {
                break;
            }
            let claimed = self.next_link.compare_exchange(id, id + 1, Ordering::Relaxed, Ordering::Relaxed);
            if claimed.is_ok() {
                // The row exists and this process made the graph, which is all that linking asks for.
                let _ = self.hnsw.link(id, context);
                linked += 1;
            }
        }
        linked
    }
}

/// An index in private memory: for builds.
pub(crate) fn private(
    metric: Metric,
    dim: usize,
    params: HnswParams,
    capacity: u32,
) -> Result<Hnsw<F32Rows>, CreateError> {
    let region = |bytes: usize| -> Result<Arc<Region>, CreateError> {
        let memory = Region::heap(bytes.next_multiple_of(kriya_region::ALIGNMENT));
        memory.map(Arc::new).map_err(CreateError::Memory)
    };
    let rows = F32Rows::create(region(F32Rows::bytes_needed(dim, capacity)?)?, metric, dim, capacity)?;
    let graph = Graph::create(region(Graph::bytes_needed(capacity, params.m)?)?, params, capacity)?;
    Hnsw::new(rows, graph)
}

/// The descriptors of a segment's memory, with ids and capacities.
pub(crate) type Descriptor = (u64, u64, std::os::fd::OwnedFd);

pub(crate) fn descriptor(id: u64, region: &Region) -> io::Result<Descriptor> {
    Ok((id, region.capacity() as u64, region.reader()?))
}

//! What a session has mapped: memtables and active segments (shared memory), mirrors of tables and of sealed segments
//! (files). Everything is kept as long as the newest view names it, so a new view costs only what is new in it.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kriya_region::Region;
use lsmstore::{MappedTables, View, ViewDescription};
use vecindex::{F32Rows, Graph, Hnsw};

use crate::client_error::ClientError;
use crate::error::FormatError;
use crate::index::{IndexReader, metric_of};
use crate::protocol::{ActiveRef, SealedRef};

/// Set in the ids of regions that belong to indexes; those of memtables count from 0.
pub(crate) const INDEX_REGION: u64 = 1 << 63;

/// Maps of an index that nobody asked for during so many views are dropped.
const FORGET_AFTER: u64 = 64;

#[derive(Debug)]
pub(crate) struct Reader {
    mirror: PathBuf,
    segments: PathBuf,
    current: Option<(u64, Arc<View>)>,
    /// Number of the view that was opened last.
    opened: u64,
    regions: HashMap<u64, Arc<Region>>,
    tables: MappedTables,
    indexes: HashMap<u64, Known>,
}

/// An index that was asked for.
#[derive(Debug, Default)]
struct Known {
    /// Of the view with this number.
    reader: Option<(u64, Arc<IndexReader>)>,
    asked: u64,
    sealed: HashMap<u64, Arc<Hnsw<F32Rows>>>,
    active: HashMap<u64, (ActiveRef, Arc<Hnsw<F32Rows>>)>,
}

impl Reader {
    pub(crate) fn new(mirror: PathBuf, segments: PathBuf) -> Reader {
        Reader {
            mirror,
            segments,
            current: None,
            opened: 0,
            regions: HashMap::new(),
            tables: MappedTables::default(),
            indexes: HashMap::new(),
        }
    }

    /// The view that was opened last, if it is still held.
    pub(crate) fn current(&self) -> Option<(u64, Arc<View>)> {
        self.current.as_ref().map(|(number, view)| (*number, Arc::clone(view)))
    }

    pub(crate) fn forget_view(&mut self) {
        self.current = None;
    }

    /// Lets go of a view that is not the newest any more, and of the memory that only it may name.
    pub(crate) fn forget(&mut self) {
        self.current = None;
        self.regions.retain(|id, _| id & INDEX_REGION != 0);
        for known in self.indexes.values_mut() {
            known.reader = None;
        }
    }

    /// Ids of the memtables that are mapped.
    pub(crate) fn memtables(&self) -> Vec<u64> {
        self.regions.keys().copied().filter(|id| id & INDEX_REGION == 0).collect()
    }

    /// Maps a region that the worker sent.
    pub(crate) fn map_region(&mut self, id: u64, capacity: u64, fd: BorrowedFd<'_>) -> Result<(), ClientError> {
        let capacity = usize::try_from(capacity)
            .map_err(|_| FormatError::new("list of regions", format!("a capacity of {capacity} bytes")))?;
        let region = Region::open_shared(fd, capacity).map_err(ClientError::Io)?;
        self.regions.insert(id, Arc::new(region));
        Ok(())
    }

    pub(crate) fn open_view(&mut self, number: u64, description: &[u8]) -> Result<Arc<View>, ClientError> {
        self.current = None;
        let description = ViewDescription::decode(description)
            .map_err(|error| ClientError::View(lsmstore::ViewError::from(error)))?;
        let (regions, tables, mirror) = (&self.regions, &mut self.tables, &self.mirror);
        let view = View::open_with(
            &description,
            tables,
            |id, capacity| match regions.get(&id) {
                Some(region) if region.capacity() == capacity => Ok(Arc::clone(region)),
                Some(region) => Err(io::Error::other(format!("{} bytes are mapped", region.capacity()))),
                None => Err(io::Error::other("its memory was not sent")),
            },
            |table| map(&mirror.join(table.mirror_name())),
        )?;
        let named: HashSet<u64> = description.memtables.iter().map(|memtable| memtable.id).collect();
        self.regions.retain(|id, _| id & INDEX_REGION != 0 || named.contains(id));
        self.opened = number;
        self.indexes.retain(|_, known| known.asked + FORGET_AFTER > number);
        let kept: HashSet<u64> = self.indexes.values().flat_map(Known::regions).collect();
        self.regions.retain(|id, _| id & INDEX_REGION == 0 || kept.contains(id));
        let view = Arc::new(view);
        self.current = Some((number, Arc::clone(&view)));
        Ok(view)
    }

    /// The index in the current view, if it was opened already.
    pub(crate) fn index(&mut self, id: u64) -> Option<Arc<IndexReader>> {
        let (number, _) = self.current.as_ref()?;
        let known = self.indexes.get_mut(&id)?;
        known.asked = *number;
        known.reader.as_ref().filter(|(of, _)| of == number).map(|(_, reader)| Arc::clone(reader))
    }

    /// Ids of the regions of an index that are mapped.
    pub(crate) fn index_regions(&self, id: u64) -> Vec<u64> {
        self.indexes.get(&id).map(|known| known.regions().collect()).unwrap_or_default()
    }

    pub(crate) fn open_index(
        &mut self,
        id: u64,
        metric: u8,
        sealed: &[SealedRef],
        active: &[ActiveRef],
    ) -> Result<Arc<IndexReader>, ClientError> {
        let failed = |message: String| ClientError::Index { index: id, message };
        let metric = metric_of(metric)?;
        let known = self.indexes.entry(id).or_default();
        let mut segments = Vec::with_capacity(sealed.len() + active.len());
        let mut kept = HashMap::new();
        for segment in sealed {
            let opened = match known.sealed.get(&segment.segment) {
                Some(opened) => Arc::clone(opened),
                None => {
                    let file = |name: &str| {
                        let path = self.segments.join(name);
                        map(&path).map_err(|error| failed(format!("{}: {error}", path.display())))
                    };
                    let (rows, graph) = (file(&segment.rows_file)?, file(&segment.graph_file)?);
                    let opened = Hnsw::<F32Rows>::open_sealed(rows, graph)
                        .map_err(|error| failed(format!("segment {}: {error}", segment.segment)))?;
                    Arc::new(opened)
                }
            };
            kept.insert(segment.segment, Arc::clone(&opened));
            segments.push(opened);
        }
        known.sealed = kept;
        let mut kept = HashMap::new();
        for segment in active {
            let opened = match known.active.get(&segment.rows_region) {
                Some((_, opened)) => Arc::clone(opened),
                None => {
                    let region = |id: u64| {
                        let region = self.regions.get(&id).map(Arc::clone);
                        region.ok_or_else(|| failed(format!("the memory of region {id:#x} was not sent")))
                    };
                    let rows = F32Rows::open(region(segment.rows_region)?).map_err(|e| failed(e.to_string()))?;
                    let graph = Graph::open(region(segment.graph_region)?).map_err(|e| failed(e.to_string()))?;
                    Arc::new(Hnsw::new(rows, graph).map_err(|e| failed(e.to_string()))?)
                }
            };
            kept.insert(segment.rows_region, (*segment, Arc::clone(&opened)));
            segments.push(opened);
        }
        known.active = kept;
        let reader = Arc::new(IndexReader { id, metric, segments, sealed: sealed.len() });
        known.asked = self.opened;
        known.reader = Some((self.opened, Arc::clone(&reader)));
        Ok(reader)
    }
}

impl Known {
    fn regions(&self) -> impl Iterator<Item = u64> + '_ {
        self.active.values().flat_map(|(active, _)| [active.rows_region, active.graph_region])
    }
}

fn map(path: &Path) -> io::Result<Arc<Region>> {
    Ok(Arc::new(Region::open_file(&File::open(path)?)?))
}

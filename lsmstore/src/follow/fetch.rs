//! Brings parts of tables into memory: ranges of their objects, each asked for once however many wait for it, verified and
//! decompressed before anybody sees them.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::{join_all, try_join_all};
use object_store::ObjectStore;

use crate::env::{Env, blocking};
use crate::error::{Corruption, StorageError};
use crate::follow::flights::Flights;
use crate::follow::parts::Parts;
use crate::follow::shelf::Shelf;
use crate::metrics::counters::Reads;
use crate::metrics::objects::RequestCounters;
use crate::object::{self, Names};
use crate::sstable::TableId;
use crate::sstable::block::{self, Handle, Piece};
use crate::sstable::layout::Layout;
use crate::sstable::lazy::{Loaded, Meta};
use crate::sstable::read::Table;
use crate::sstable::transcode::raw;

/// Bytes of an object from which its blocks are decompressed where it may take a while.
const ASIDE: u64 = 128 << 10;

/// A data block of a table.
type Block = (TableId, usize);

/// What could be decoded, and the first thing that could not.
#[derive(Clone)]
pub(super) struct Decoded<T> {
    good: Vec<T>,
    bad: Option<Corruption>,
}

/// Blocks by their numbers.
type Fetched = Decoded<(usize, Arc<Loaded>)>;

/// The outside of a follower: objects, the local disk, and what is in memory of them.
pub(super) struct Fetcher {
    pub(super) names: Names,
    pub(super) objects: Arc<dyn ObjectStore>,
    pub(super) env: Arc<dyn Env>,
    pub(super) requests: Arc<RequestCounters>,
    pub(super) reads: Arc<Reads>,
    pub(super) shelf: Shelf,
    pub(super) parts: Option<Arc<Parts>>,
    pub(super) metas: Flights<TableId, Arc<Meta>>,
    pub(super) flights: Flights<Block, Fetched>,
    /// Bytes of objects that a scan may ask for ahead.
    pub(super) read_ahead: u64,
}

/// A table that is not mapped, for certain.
fn lazy(table: &Table) -> Result<&crate::sstable::lazy::Lazy, StorageError> {
    let mapped = || Corruption::new(table.name(), 0, "nothing is fetched for a table that is mapped");
    table.lazy().ok_or_else(|| mapped().into())
}

impl Fetcher {
    /// Bytes of a table's object.
    async fn bytes(&self, table: &Table, range: Range<u64>) -> Result<Bytes, StorageError> {
        let path = self.names.table(table.info.id);
        match &self.parts {
            Some(parts) => parts.get(&self.objects, &self.env, table, &path, range).await,
            None => object::get_range(&*self.objects, &path, range).await,
        }
    }

    /// What was read from the local disk and is wrong is read again from where it came.
    async fn verified<T: Send + 'static>(
        &self,
        table: &Arc<Table>,
        range: Range<u64>,
        decode: impl Fn(&Table, Piece<'_>) -> Decoded<T> + Clone + Send + 'static,
    ) -> Result<Decoded<T>, StorageError> {
        let bytes = self.bytes(table, range.clone()).await?;
        let decoded = self.decode(table, range.clone(), bytes, decode.clone()).await?;
        match (&decoded.bad, &self.parts) {
            (Some(_), Some(parts)) => {
                parts.forget(&*self.env, table.info.id, range.clone()).await?;
                let bytes = object::get_range(&*self.objects, &self.names.table(table.info.id), range.clone()).await?;
                self.decode(table, range, bytes, decode).await
            }
            _ => Ok(decoded),
        }
    }

    async fn decode<T: Send + 'static>(
        &self,
        table: &Arc<Table>,
        range: Range<u64>,
        bytes: Bytes,
        decode: impl Fn(&Table, Piece<'_>) -> Decoded<T> + Send + 'static,
    ) -> Result<Decoded<T>, StorageError> {
        if range.end - range.start <= ASIDE {
            return Ok(decode(table, Piece { offset: range.start, bytes: &bytes }));
        }
        let table = Arc::clone(table);
        let job = move || decode(&table, Piece { offset: range.start, bytes: &bytes });
        Ok(blocking(&*self.env, job).await?)
    }

    /// The table of the newest views that has this one's name, if it is another one.
    fn other(&self, table: &Arc<Table>) -> Option<Arc<Table>> {
        self.shelf.current(table.info.id).filter(|current| !Arc::ptr_eq(current, table))
    }

    /// Makes sure that the meta blocks of a table are there.
    pub(super) async fn meta(self: &Arc<Fetcher>, table: &Arc<Table>) -> Result<(), StorageError> {
        let lazy = lazy(table)?;
        let known = || self.other(table).and_then(|other| other.lazy()?.meta().map(Arc::clone));
        while lazy.meta().is_none() {
            if let Some(meta) = known() {
                lazy.open(meta);
                break;
            }
            let fetch = |_| {
                let (fetcher, table) = (Arc::clone(self), Arc::clone(table));
                async move { fetcher.fetch_meta(&table).await }
            };
            let missing = |_: &TableId| lazy.meta().is_none() && known().is_none();
            for flight in self.metas.board(&*self.env, [table.info.id].into_iter(), missing, fetch) {
                lazy.open(flight.landed().await?);
            }
        }
        Ok(())
    }

    async fn fetch_meta(&self, table: &Arc<Table>) -> Result<Arc<Meta>, StorageError> {
        let length = table.info.object_len;
        let begin = length.checked_sub(table.info.meta_len).filter(|_| table.info.meta_len > 0);
        let begin = begin.ok_or_else(|| {
            let what = format!("the manifest gives {length} bytes, {} of them meta blocks", table.info.meta_len);
            Corruption::new(table.name(), 0, what)
        })?;
        let layout = self.verified(table, begin..length, move |table, piece| {
            let layout = Layout::read(table.name(), table.info.id, piece);
            let layout = layout.and_then(|layout| layout.check(table.name(), &table.info, length).map(|()| layout));
            match layout {
                Ok(layout) => Decoded { good: vec![(layout, piece.bytes.to_vec())], bad: None },
                Err(bad) => Decoded { good: Vec::new(), bad: Some(bad) },
            }
        });
        let mut decoded = layout.await?;
        let Some((layout, bytes)) = decoded.good.pop() else {
            return Err(decoded.bad.map_or(StorageError::JobLost, StorageError::Corrupt));
        };
        let meta = Arc::new(Meta::new(bytes, layout, |bytes| self.shelf.charge(bytes)));
        lazy(table)?.open(Arc::clone(&meta));
        // Somebody may have another table of that name, which does not hold what was given up meanwhile.
        if let Some(lazy) = self.other(table).as_ref().and_then(|other| other.lazy()) {
            lazy.open(Arc::clone(&meta));
        }
        self.shelf.grown(meta.memory());
        Ok(meta)
    }

    /// Makes sure that some blocks of a table are there, and before that its meta blocks.
    pub(super) async fn blocks(
        self: &Arc<Fetcher>,
        table: &Arc<Table>,
        wanted: Range<usize>,
    ) -> Result<(), StorageError> {
        self.meta(table).await?;
        let lazy = lazy(table)?;
        let known = |n| self.other(table).and_then(|other| other.lazy()?.get(n));
        let id = table.info.id;
        loop {
            for n in wanted.clone().filter(|n| !lazy.has(*n)) {
                if let Some(block) = known(n) {
                    lazy.put(n, block);
                }
            }
            let fetch = |units: Vec<Block>| {
                let blocks: Vec<usize> = units.into_iter().map(|(_, n)| n).collect();
                let (fetcher, table) = (Arc::clone(self), Arc::clone(table));
                async move { fetcher.fetch_blocks(&table, &blocks).await }
            };
            let missing = |(_, n): &Block| !lazy.has(*n) && known(*n).is_none();
            let flights = self.flights.board(&*self.env, wanted.clone().map(|n| (id, n)), missing, fetch);
            let (mut failure, mut grown) = (None, 0);
            for landed in join_all(flights.iter().map(|flight| flight.landed())).await {
                match landed {
                    Ok(Decoded { good, bad }) => {
                        for (n, block) in good.into_iter().filter(|(n, _)| wanted.contains(n)) {
                            let bytes = block.len() as u64;
                            grown += if lazy.put(n, block) { bytes } else { 0 };
                        }
                        failure = failure.or(bad.map(StorageError::Corrupt));
                    }
                    Err(error) => failure = failure.or(Some(error)),
                }
            }
            if grown > 0 && self.other(table).is_none() {
                self.shelf.grown(grown);
            }
            // What failed may have been others' blocks.
            if wanted.clone().all(|n| lazy.has(n)) {
                return Ok(());
            }
            if let Some(failure) = failure {
                return Err(failure);
            }
        }
    }

    /// Fetches blocks, whose numbers ascend.
    async fn fetch_blocks(&self, table: &Arc<Table>, blocks: &[usize]) -> Result<Fetched, StorageError> {
        let pieces = blocks.chunk_by(|one, next| one + 1 == *next);
        let fetched = try_join_all(pieces.map(|piece| self.piece(table, piece[0]..piece[piece.len() - 1] + 1))).await?;
        let mut all = Fetched { good: Vec::new(), bad: None };
        for Decoded { good, bad } in fetched {
            all.good.extend(good);
            all.bad = all.bad.or(bad);
        }
        Ok(all)
    }

    /// Fetches blocks that stand one behind the other.
    async fn piece(&self, table: &Arc<Table>, blocks: Range<usize>) -> Result<Fetched, StorageError> {
        let lazy = lazy(table)?;
        let handle = |n| match lazy.handle(table.name(), n) {
            Some(handle) => handle,
            None => Err(Corruption::new(table.name(), 0, "the index is not at hand")),
        };
        let handles: Vec<Handle> = blocks.clone().map(handle).collect::<Result<_, _>>()?;
        let (Some(first), Some(last)) = (handles.first(), handles.last()) else {
            return Ok(Fetched { good: Vec::new(), bad: None });
        };
        let range = first.offset..last.offset.saturating_add(u64::from(last.len));
        let meta = table.info.object_len - table.info.meta_len;
        let ascend =
            handles.windows(2).all(|pair| pair[0].offset.checked_add(pair[0].len.into()) == Some(pair[1].offset));
        if range.end > meta || range.is_empty() || !ascend {
            let what = "the index names blocks that are not one behind the other";
            return Err(Corruption::new(table.name(), range.start, what).into());
        }
        let decode = move |table: &Table, piece: Piece<'_>| {
            let mut decoded = Decoded { good: Vec::new(), bad: None };
            for (n, handle) in blocks.clone().zip(&handles) {
                let payload = block::verified(table.name(), table.info.id, piece, *handle)
                    .and_then(|(payload, codec)| raw(table.name(), handle.offset, payload, codec));
                match payload {
                    Ok(payload) => decoded.good.push((n, handle.offset, payload.into_owned())),
                    Err(bad) => decoded.bad = decoded.bad.or(Some(bad)),
                }
            }
            decoded
        };
        let Decoded { good, mut bad } = self.verified(table, range, decode).await?;
        let other = self.other(table);
        let (mut grown, mut fetched) = (0, Vec::with_capacity(good.len()));
        for (n, offset, payload) in good {
            let bytes = payload.len() as u64;
            let Some(loaded) = Loaded::new(payload, |bytes| self.shelf.charge(bytes)).map(Arc::new) else {
                let senseless = Corruption::new(table.name(), offset, "the tail of a block makes no sense");
                bad = bad.or(Some(senseless));
                continue;
            };
            let mut put = lazy.put(n, Arc::clone(&loaded));
            if let Some(lazy) = other.as_ref().and_then(|other| other.lazy()) {
                put = lazy.put(n, Arc::clone(&loaded));
            }
            grown += if put { bytes } else { 0 };
            fetched.push((n, loaded));
        }
        self.shelf.grown(grown);
        Ok(Fetched { good: fetched, bad })
    }
}

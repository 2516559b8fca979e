//! Brings parts of tables into memory: ranges of their objects, each asked for once however many wait for it, verified and
//! decompressed before anybody sees them.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
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

/// A data block, or the meta blocks.
type Unit = (TableId, Option<usize>);

/// The outside of a follower: objects, the local disk, and what is in memory of them.
pub(super) struct Fetcher {
    pub(super) names: Names,
    pub(super) objects: Arc<dyn ObjectStore>,
    pub(super) env: Arc<dyn Env>,
    pub(super) requests: Arc<RequestCounters>,
    pub(super) reads: Arc<Reads>,
    pub(super) shelf: Shelf,
    pub(super) parts: Option<Arc<Parts>>,
    pub(super) flights: Flights<Unit, ()>,
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
        decode: impl Fn(&Table, Piece<'_>) -> Result<T, Corruption> + Clone + Send + 'static,
    ) -> Result<T, StorageError> {
        let bytes = self.bytes(table, range.clone()).await?;
        let decoded = self.decode(table, range.clone(), bytes, decode.clone()).await?;
        match (decoded, &self.parts) {
            (Err(_), Some(parts)) => {
                parts.forget(&*self.env, table.info.id, range.clone()).await?;
                let bytes = object::get_range(&*self.objects, &self.names.table(table.info.id), range.clone()).await?;
                Ok(self.decode(table, range, bytes, decode).await??)
            }
            (decoded, _) => Ok(decoded?),
        }
    }

    async fn decode<T: Send + 'static>(
        &self,
        table: &Arc<Table>,
        range: Range<u64>,
        bytes: Bytes,
        decode: impl Fn(&Table, Piece<'_>) -> Result<T, Corruption> + Send + 'static,
    ) -> Result<Result<T, Corruption>, StorageError> {
        if range.end - range.start <= ASIDE {
            return Ok(decode(table, Piece { offset: range.start, bytes: &bytes }));
        }
        let table = Arc::clone(table);
        let job = move || decode(&table, Piece { offset: range.start, bytes: &bytes });
        Ok(blocking(&*self.env, job).await?)
    }

    /// Makes sure that the meta blocks of a table are there.
    pub(super) async fn meta(self: &Arc<Fetcher>, table: &Arc<Table>) -> Result<(), StorageError> {
        let lazy = lazy(table)?;
        let id = table.info.id;
        loop {
            if lazy.meta().is_some() {
                return Ok(());
            }
            if let Some(meta) = self.shelf.current(id).as_ref().and_then(|current| current.lazy()?.meta()) {
                lazy.open(Arc::clone(meta));
                return Ok(());
            }
            let missing = |_: &Unit| lazy.meta().is_none();
            let fetch = |_| {
                let (fetcher, table) = (Arc::clone(self), Arc::clone(table));
                async move { fetcher.fetch_meta(&table).await }.boxed()
            };
            try_join_all(self.flights.board([(id, None)].into_iter(), missing, fetch)).await?;
        }
    }

    async fn fetch_meta(&self, table: &Arc<Table>) -> Result<(), StorageError> {
        let length = table.info.object_len;
        let begin = length.checked_sub(table.info.meta_len).filter(|_| table.info.meta_len > 0);
        let begin = begin.ok_or_else(|| {
            let what = format!("the manifest gives {length} bytes, {} of them meta blocks", table.info.meta_len);
            Corruption::new(table.name(), 0, what)
        })?;
        let layout = self.verified(table, begin..length, move |table, piece| {
            let layout = Layout::read(table.name(), table.info.id, piece)?;
            layout.check(table.name(), &table.info, length)?;
            Ok((layout, piece.bytes.to_vec()))
        });
        let (layout, bytes) = layout.await?;
        let meta = Arc::new(Meta::new(bytes, layout, |bytes| self.shelf.charge(bytes)));
        lazy(table)?.open(Arc::clone(&meta));
        // Somebody may have another table of that name, which does not hold what was given up meanwhile.
        let current = self.shelf.current(table.info.id).filter(|current| !Arc::ptr_eq(current, table));
        if let Some(lazy) = current.as_ref().and_then(|current| current.lazy()) {
            lazy.open(Arc::clone(&meta));
        }
        self.shelf.grown(meta.memory());
        Ok(())
    }

    /// Makes sure that some blocks of a table are there, and before that its meta blocks.
    pub(super) async fn blocks(
        self: &Arc<Fetcher>,
        table: &Arc<Table>,
        wanted: Range<usize>,
    ) -> Result<(), StorageError> {
        self.meta(table).await?;
        let lazy = lazy(table)?;
        let id = table.info.id;
        let mut outcome = Ok(());
        loop {
            if let Some(current) = self.shelf.current(id).filter(|current| !Arc::ptr_eq(current, table))
                && let Some(there) = current.lazy()
            {
                for n in wanted.clone().filter(|n| !lazy.has(*n)) {
                    if let Some(block) = there.get(n) {
                        lazy.put(n, block);
                    }
                }
            }
            let missing = |n: &usize| !lazy.has(*n);
            // What failed may have been others' blocks.
            if !wanted.clone().any(|n| missing(&n)) {
                return Ok(());
            }
            outcome?;
            let units = wanted.clone().map(|n| (id, Some(n)));
            let fetch = |units: Vec<Unit>| {
                let blocks: Vec<usize> = units.into_iter().filter_map(|(_, n)| n).collect();
                let (fetcher, table) = (Arc::clone(self), Arc::clone(table));
                async move { fetcher.fetch_blocks(&table, &blocks).await }.boxed()
            };
            let flights = self.flights.board(units, |(_, n)| n.as_ref().is_some_and(missing), fetch);
            // The others go on: what they bring may be all that is wanted.
            outcome = join_all(flights).await.into_iter().collect();
        }
    }

    /// Fetches blocks, whose numbers ascend; those that are not damaged although others are.
    async fn fetch_blocks(&self, table: &Arc<Table>, blocks: &[usize]) -> Result<(), StorageError> {
        let pieces = blocks.chunk_by(|one, next| one + 1 == *next);
        let fetched = pieces.map(|piece| async move {
            match self.piece(table, piece[0]..piece[piece.len() - 1] + 1).await {
                Err(StorageError::Corrupt(_)) if piece.len() > 1 => {
                    join_all(piece.iter().map(|n| self.piece(table, *n..*n + 1))).await.into_iter().collect()
                }
                outcome => outcome,
            }
        });
        join_all(fetched).await.into_iter().collect()
    }

    /// Fetches blocks that stand one behind the other.
    async fn piece(&self, table: &Arc<Table>, blocks: Range<usize>) -> Result<(), StorageError> {
        let lazy = lazy(table)?;
        let handle = |n| match lazy.handle(table.name(), n) {
            Some(handle) => handle,
            None => Err(Corruption::new(table.name(), 0, "the index is not at hand")),
        };
        let handles: Vec<Handle> = blocks.clone().map(handle).collect::<Result<_, _>>()?;
        let (Some(first), Some(last)) = (handles.first(), handles.last()) else { return Ok(()) };
        let range = first.offset..last.offset.saturating_add(u64::from(last.len));
        let meta = table.info.object_len - table.info.meta_len;
        let ascend =
            handles.windows(2).all(|pair| pair[0].offset.checked_add(pair[0].len.into()) == Some(pair[1].offset));
        if range.end > meta || range.is_empty() || !ascend {
            let what = "the index names blocks that are not one behind the other";
            return Err(Corruption::new(table.name(), range.start, what).into());
        }
        let decode = move |table: &Table, piece: Piece<'_>| {
            let one = |handle: &Handle| {
                let (payload, codec) = block::verified(table.name(), table.info.id, piece, *handle)?;
                raw(table.name(), handle.offset, payload, codec).map(Cow::into_owned)
            };
            handles.iter().map(one).collect::<Result<Vec<_>, _>>()
        };
        let payloads = self.verified(table, range.clone(), decode).await?;
        let current = self.shelf.current(table.info.id).filter(|current| !Arc::ptr_eq(current, table));
        let mut grown = 0;
        for (n, payload) in blocks.zip(payloads) {
            let bytes = payload.len() as u64;
            let bad = || Corruption::new(table.name(), range.start, "the tail of a block makes no sense");
            let loaded = Arc::new(Loaded::new(payload, |bytes| self.shelf.charge(bytes)).ok_or_else(bad)?);
            let mut put = lazy.put(n, Arc::clone(&loaded));
            if let Some(lazy) = current.as_ref().and_then(|current| current.lazy()) {
                put = lazy.put(n, loaded);
            }
            grown += if put { bytes } else { 0 };
        }
        self.shelf.grown(grown);
        Ok(())
    }
}

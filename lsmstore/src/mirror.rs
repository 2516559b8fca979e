//! Mirror files: each table of the store, uncompressed, on the local disk, mapped by readers.
//!
//! A mirror is written aside, synced, renamed, and its folder synced; so under its final name it is complete unless the
//! disk lost what it had confirmed. After anything but an orderly stop every checksum is verified before a view names
//! the file; what is wrong or missing is fetched again from the object store.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kriya_region::Region;
use object_store::ObjectStore;

use crate::env::{Env, blocking};
use crate::error::{Corruption, StorageError};
use crate::fail;
use crate::in_use::{Held, InUse};
use crate::metrics::counters::MirrorCounters;
use crate::object::{self, Names};
use crate::sstable::read::{MirrorFile, Table};
use crate::sstable::transcode::{TranscodeError, mirror_of, verify};
use crate::sstable::write::{TableWriteError, TableWriter};
use crate::sstable::{TableId, TableRef};

/// Bytes collected before they go to the file.
const BUFFER: usize = 1 << 20;

#[derive(Clone, Debug)]
pub(crate) struct Mirror {
    env: Arc<dyn Env>,
    dir: PathBuf,
    block_bytes: usize,
    in_use: Arc<InUse>,
    counters: Arc<MirrorCounters>,
}

impl Mirror {
    pub(crate) fn new(env: Arc<dyn Env>, dir: PathBuf, block_bytes: usize) -> Mirror {
        Mirror { env, dir, block_bytes, in_use: Arc::default(), counters: Arc::default() }
    }

    /// Counts hits and fetches there.
    pub(crate) fn counting(mut self, counters: Arc<MirrorCounters>) -> Mirror {
        self.counters = counters;
        self
    }

    fn path(&self, id: TableId) -> PathBuf {
        self.dir.join(format!("{id}.lsm"))
    }

    fn hold(&self, id: TableId) -> Held {
        self.in_use.hold([id.to_string()])
    }

    /// Whether a file of the folder is being written, or mapped by whoever has got a view of this store.
    pub(crate) fn uses(&self, file: &str) -> bool {
        file.split('.').next().is_some_and(|id| self.in_use.contains(id))
    }

    /// Writes a file aside through `fill`, syncs it and gives it its name. `fill` may say that there is nothing to keep.
    fn write<T>(
        &self,
        path: &Path,
        fill: impl FnOnce(&mut dyn FnMut(&[u8]) -> io::Result<()>) -> Result<Option<T>, StorageError>,
    ) -> Result<Option<T>, StorageError> {
        let aside = path.with_extension("tmp");
        let mut file = self.env.create(&aside).map_err(StorageError::local(&aside))?;
        let mut buffer = Vec::with_capacity(BUFFER);
        let filled = fill(&mut |bytes| {
            if buffer.len() + bytes.len() > BUFFER {
                file.append(&buffer)?;
                buffer.clear();
            }
            if bytes.len() > BUFFER {
                return file.append(bytes);
            }
            buffer.extend_from_slice(bytes);
            Ok(())
        });
        let finish = |filled: Option<T>| {
            if filled.is_some() {
                file.append(&buffer).and_then(|()| file.sync()).map_err(StorageError::local(&aside))?;
                self.env.rename(&aside, path).map_err(StorageError::local(path))?;
                fail::point("after-mirror-rename");
                self.env.sync_dir(&self.dir).map_err(StorageError::local(&self.dir))?;
            } else {
                self.env.remove(&aside).map_err(StorageError::local(&aside))?;
            }
            Ok(filled)
        };
        let done = filled.and_then(finish);
        if done.is_err() {
            // It is removed at the next start in any case.
            let _ = self.env.remove(&aside);
        }
        done
    }

    /// Writes table `id` from what `fill` adds, reads it back and verifies it. None if nothing was added.
    pub(crate) fn build(
        &self,
        id: TableId,
        fill: impl FnOnce(&mut TableWriter<'_>) -> Result<(), TableWriteError>,
    ) -> Result<Option<Table>, StorageError> {
        let (path, _held) = (self.path(id), self.hold(id));
        let info = self.write(&path, |sink| {
            let mut writer = TableWriter::new(id, self.block_bytes, sink);
            let built = fill(&mut writer).and_then(|()| writer.finish());
            built.map_err(|error| match error {
                TableWriteError::Io(error) => StorageError::local(&path)(error),
                TableWriteError::Order(corruption) => StorageError::Corrupt(corruption),
            })
        })?;
        info.map(|info| self.open(&info, true)).transpose()
    }

    /// Maps the mirror of a table; `check` verifies every checksum.
    pub(crate) fn open(&self, info: &TableRef, check: bool) -> Result<Table, StorageError> {
        let (path, _held) = (self.path(info.id), self.hold(info.id));
        let region =
            self.env.open(&path).and_then(|file| Region::open_file(&file)).map_err(StorageError::local(&path))?;
        if check {
            verify(&path.display().to_string(), info.id, region.file_bytes().unwrap_or(&[]))?;
        }
        let file = MirrorFile { env: Arc::clone(&self.env), path, _held };
        let table = Table::open(info.clone(), Arc::new(region), Some(file))?;
        if check {
            table.trust();
        }
        Ok(table)
    }

    /// Maps the mirror of a table, fetching the object if the file is missing or wrong.
    pub(crate) async fn complete(
        &self,
        objects: &dyn ObjectStore,
        names: &Names,
        info: &TableRef,
        check: bool,
    ) -> Result<Arc<Table>, StorageError> {
        let (mirror, wanted) = (self.clone(), info.clone());
        if let Ok(table) = blocking(&*self.env, move || mirror.open(&wanted, check)).await? {
            self.counters.hits.add(1);
            return Ok(Arc::new(table));
        }
        self.counters.fetches.add(1);
        let name = names.table(info.id);
        let object = object::get_large(objects, &name, info.object_len).await?;
        let object = object.ok_or_else(|| StorageError::Missing { object: name.to_string() })?;
        let (mirror, info) = (self.clone(), info.clone());
        blocking(&*self.env, move || {
            let path = mirror.path(info.id);
            mirror.write(&path, |sink| match mirror_of(name.as_ref(), &info, &object, sink) {
                Ok(()) => Ok(Some(())),
                Err(TranscodeError::Corrupt(corruption)) => Err(StorageError::Corrupt(corruption)),
                Err(TranscodeError::Io(error)) => Err(StorageError::local(&path)(error)),
            })?;
            Ok(Arc::new(mirror.open(&info, true)?))
        })
        .await?
    }

    /// Where tables go that are in nobody's use and nowhere else: a folder beside that of the mirrors.
    pub(crate) fn aside(&self) -> PathBuf {
        self.dir.with_file_name("left-behind")
    }

    /// Moves the mirror of a table, if it is there, into a folder.
    pub(crate) fn move_to(&self, info: &TableRef, folder: &Path) -> Result<(), StorageError> {
        let path = self.path(info.id);
        match self.env.rename(&path, &folder.join(info.mirror_name())) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StorageError::local(path)(error)),
            _ => Ok(()),
        }
    }

    /// Whether the mirror of a table is there in its full length.
    pub(crate) fn has(&self, info: &TableRef) -> bool {
        let length = self.env.open(&self.path(info.id)).and_then(|file| file.metadata()).map(|metadata| metadata.len());
        length.is_ok_and(|length| length == info.mirror_len)
    }

    /// The files that are not the mirror of a table in `keep`.
    pub(crate) fn others(&self, keep: &[TableRef]) -> Result<Vec<PathBuf>, StorageError> {
        let keep: std::collections::HashSet<String> = keep.iter().map(TableRef::mirror_name).collect();
        let names = self.env.list(&self.dir).map_err(StorageError::local(&self.dir))?;
        Ok(names.into_iter().filter(|name| !keep.contains(name)).map(|name| self.dir.join(name)).collect())
    }

    /// Removes everything that is not the mirror of a table in `keep`.
    pub(crate) fn clean(&self, keep: &[TableRef]) -> Result<(), StorageError> {
        for path in self.others(keep)? {
            self.env.remove(&path).map_err(StorageError::local(&path))?;
        }
        Ok(())
    }
}

/// The error for a damaged memtable while a table is built from it.
pub(crate) fn damaged(corruption: Corruption) -> TableWriteError {
    TableWriteError::Order(corruption)
}

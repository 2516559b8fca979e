//! Parts of objects on the local disk, as they are in the object, for whoever reads more than fits into memory.
//!
//! A part is an aligned piece of an object in a file of its own, written aside and renamed. It is not synced: what is read of
//! it is verified like what comes from the object store, and what is wrong is fetched again. Those that were used last stay
//! within the budget. A disk that fails costs requests and nothing else.
//!
//! A part's name and checksums tell its table, not its store: so the folder says whose parts are in it ([`IDENTITY`]), and
//! those of another store, prefix or bucket are removed before anything is read.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use futures::future::try_join_all;
use object_store::ObjectStore;
use object_store::path::Path as ObjectPath;

use crate::env::{Env, blocking, lock_soon, write_whole};
use crate::error::StorageError;
use crate::follow::flights::Flights;
use crate::object;
use crate::sstable::TableId;
use crate::sstable::read::Table;

/// Bytes of a part.
pub(super) const PART: u64 = 256 << 10;
const LOCK: &str = "LOCK";
/// Names the bucket, prefix and store whose parts are in the folder.
const IDENTITY: &str = "STORE";

/// A part of a table's object: from `PART` times the number on.
type PartId = (TableId, u64);

pub(super) struct Parts {
    dir: PathBuf,
    limit: u64,
    index: Arc<Mutex<Index>>,
    flights: Flights<PartId, Vec<(u64, Bytes)>>,
    _lock: Box<dyn Send + Sync>,
}

/// The parts that are there, and when each was used last.
#[derive(Default)]
struct Index {
    parts: HashMap<PartId, (u64, u64)>,
    by_use: BTreeMap<u64, PartId>,
    uses: u64,
    bytes: u64,
}

fn lock(index: &Mutex<Index>) -> MutexGuard<'_, Index> {
    // At worst a part is forgotten, and its file removed at the next start.
    index.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Index {
    /// Whether a part is there, which is used now.
    fn take(&mut self, part: PartId) -> bool {
        let Some(&(bytes, used)) = self.parts.get(&part) else { return false };
        self.by_use.remove(&used);
        self.note(part, bytes);
        true
    }

    fn note(&mut self, part: PartId, bytes: u64) {
        self.uses += 1;
        self.by_use.insert(self.uses, part);
        self.parts.insert(part, (bytes, self.uses));
    }

    fn add(&mut self, part: PartId, bytes: u64) {
        self.remove(part);
        self.bytes += bytes;
        self.note(part, bytes);
    }

    fn remove(&mut self, part: PartId) {
        if let Some((bytes, used)) = self.parts.remove(&part) {
            self.by_use.remove(&used);
            self.bytes -= bytes;
        }
    }

    /// Forgets those used longest ago until no more than `limit` bytes are left.
    fn shrink(&mut self, limit: u64) -> Vec<PartId> {
        let mut gone = Vec::new();
        while self.bytes > limit {
            let Some((_, part)) = self.by_use.pop_first() else { break };
            self.remove(part);
            gone.push(part);
        }
        gone
    }
}

fn name((table, part): PartId) -> String {
    format!("{table}-{part:08x}.part")
}

fn named(name: &str) -> Option<PartId> {
    let mut numbers = name.strip_suffix(".part")?.split('-').map(|part| u64::from_str_radix(part, 16).ok());
    let (epoch, counter, part) = (numbers.next()??, numbers.next()??, numbers.next()??);
    let id = (TableId { epoch, counter }, part);
    (self::name(id) == name).then_some(id)
}

/// Whether a file was left when a part, or the identity, was being written.
fn aside(name: &str) -> bool {
    let whole = name.strip_suffix(".tmp");
    whole.is_some_and(|whole| whole == IDENTITY || named(&format!("{whole}.part")).is_some())
}

impl Parts {
    /// What is in a folder from the last time, if that was for the same `identity`; else nothing. Files that are not ours stay.
    pub(super) async fn open(env: &dyn Env, dir: &Path, limit: u64, identity: &str) -> Result<Parts, StorageError> {
        env.create_dir(dir).map_err(StorageError::local(dir))?;
        let _lock = lock_soon(env, &dir.join(LOCK)).await.map_err(StorageError::local(dir))?;
        let opened = (|| {
            let ours = match env.read(&dir.join(IDENTITY)) {
                Ok(found) => found == identity.as_bytes(),
                Err(error) if error.kind() == io::ErrorKind::NotFound => false,
                Err(error) => return Err(error),
            };
            let mut index = Index::default();
            for file in env.list(dir)? {
                let path = dir.join(&file);
                let Some(part) = named(&file) else {
                    if aside(&file) {
                        env.remove(&path)?;
                    }
                    continue;
                };
                let length = if ours { env.open(&path)?.metadata()?.len() } else { 0 };
                if ours && length <= PART {
                    index.add(part, length);
                } else {
                    env.remove(&path)?;
                }
            }
            for part in index.shrink(limit) {
                env.remove(&dir.join(name(part)))?;
            }
            Ok((index, ours))
        })();
        let (index, ours) = opened.map_err(StorageError::local(dir))?;
        if !ours {
            // Makes the removals durable as well.
            write_whole(env, dir, IDENTITY, identity.as_bytes())?;
        }
        let index = Arc::new(Mutex::new(index));
        Ok(Parts { dir: dir.to_owned(), limit, index, flights: Flights::default(), _lock })
    }

    /// Bytes on the disk.
    pub(super) fn bytes(&self) -> u64 {
        lock(&self.index).bytes
    }

    /// Bytes of a table's object.
    pub(super) async fn get(
        self: &Arc<Parts>,
        objects: &Arc<dyn ObjectStore>,
        env: &Arc<dyn Env>,
        table: &Table,
        path: &ObjectPath,
        range: Range<u64>,
    ) -> Result<Bytes, StorageError> {
        let (id, length) = (table.info.id, table.info.object_len);
        let wanted: Vec<u64> = (range.start / PART..range.end.div_ceil(PART)).collect();
        let mut found: HashMap<u64, Bytes> = HashMap::new();
        loop {
            let missing: Vec<u64> = wanted.iter().copied().filter(|part| !found.contains_key(part)).collect();
            if missing.is_empty() {
                break;
            }
            let at_hand: Vec<u64> = {
                let mut index = lock(&self.index);
                missing.iter().copied().filter(|part| index.take((id, *part))).collect()
            };
            if !at_hand.is_empty() {
                self.read(&**env, id, at_hand, &mut found).await?;
                continue;
            }
            let absent = |part: &PartId| !lock(&self.index).parts.contains_key(part);
            let fetch = |mine: Vec<PartId>| {
                let (parts, objects, env, path) =
                    (Arc::clone(self), Arc::clone(objects), Arc::clone(env), path.clone());
                async move { parts.fetch(&*objects, &*env, &path, length, mine).await }
            };
            let flights = self.flights.board(&**env, missing.into_iter().map(|part| (id, part)), absent, fetch);
            let landed = try_join_all(flights.iter().map(|flight| flight.landed())).await?;
            found.extend(landed.into_iter().flatten());
        }
        let within = |part: u64, bytes: &Bytes| {
            let begin = part * PART;
            let cut = |at: u64| (at.saturating_sub(begin) as usize).min(bytes.len());
            bytes.slice(cut(range.start)..cut(range.end))
        };
        if let [part] = wanted[..] {
            return Ok(found.get(&part).map(|bytes| within(part, bytes)).unwrap_or_default());
        }
        let mut all = BytesMut::with_capacity((range.end - range.start) as usize);
        for part in &wanted {
            if let Some(bytes) = found.get(part) {
                all.extend_from_slice(&within(*part, bytes));
            }
        }
        Ok(all.freeze())
    }

    /// Fetches parts of an object of this length, whose numbers ascend, and keeps them on the disk.
    async fn fetch(
        &self,
        objects: &dyn ObjectStore,
        env: &dyn Env,
        path: &ObjectPath,
        length: u64,
        parts: Vec<PartId>,
    ) -> Result<Vec<(u64, Bytes)>, StorageError> {
        let fetched = parts.chunk_by(|one, next| one.1 + 1 == next.1).map(|parts| async move {
            let (first, last) = (parts[0].1, parts[parts.len() - 1].1);
            let bytes = object::get_range(objects, path, first * PART..((last + 1) * PART).min(length)).await?;
            let part = |(n, part): (usize, &PartId)| {
                let begin = n * PART as usize;
                (part.1, bytes.slice(begin..bytes.len().min(begin + PART as usize)))
            };
            Ok::<_, StorageError>(parts.iter().enumerate().map(part).collect::<Vec<_>>())
        });
        let fetched = try_join_all(fetched).await?.concat();
        if let Some((table, _)) = parts.first() {
            self.keep(env, *table, &fetched).await?;
        }
        Ok(fetched)
    }

    /// Reads parts from the disk; those that cannot be read are as good as not there.
    async fn read(
        &self,
        env: &dyn Env,
        table: TableId,
        parts: Vec<u64>,
        found: &mut HashMap<u64, Bytes>,
    ) -> Result<(), StorageError> {
        let files: Vec<_> = parts.iter().map(|part| env.open(&self.dir.join(name((table, *part))))).collect();
        let read = move || {
            let whole = |file: io::Result<std::fs::File>| {
                let file = file?;
                let length = file.metadata()?.len();
                if length > PART {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a part of {length} bytes")));
                }
                let mut bytes = vec![0; length as usize];
                file.read_exact_at(&mut bytes, 0)?;
                Ok::<_, io::Error>(Bytes::from(bytes))
            };
            files.into_iter().map(whole).collect::<Vec<_>>()
        };
        for (part, bytes) in parts.into_iter().zip(blocking(env, read).await?) {
            match bytes {
                Ok(bytes) => drop(found.insert(part, bytes)),
                Err(_) => lock(&self.index).remove((table, part)),
            }
        }
        Ok(())
    }

    /// Writes parts, and removes those for which they leave no room.
    async fn keep(&self, env: &dyn Env, table: TableId, parts: &[(u64, Bytes)]) -> Result<(), StorageError> {
        for (part, bytes) in parts {
            let (part, bytes) = (*part, bytes.clone());
            let (path, length) = (self.dir.join(name((table, part))), bytes.len() as u64);
            let aside = path.with_extension("tmp");
            let file = env.create(&aside);
            let write = move || file.and_then(|mut file| file.append(&bytes));
            let written = blocking(env, write).await?.and_then(|()| env.rename(&aside, &path));
            if written.is_err() {
                // There was no room, mostly; it is removed at the next start at the latest.
                let _ = env.remove(&aside);
                continue;
            }
            let gone = {
                let mut index = lock(&self.index);
                index.add((table, part), length);
                index.shrink(self.limit)
            };
            for part in gone {
                let _ = env.remove(&self.dir.join(name(part)));
            }
        }
        Ok(())
    }

    /// What was read of a range is wrong.
    pub(super) async fn forget(&self, env: &dyn Env, table: TableId, range: Range<u64>) -> Result<(), StorageError> {
        for part in range.start / PART..range.end.div_ceil(PART) {
            lock(&self.index).remove((table, part));
            // A file that stays is replaced when the part is fetched again.
            let _ = env.remove(&self.dir.join(name((table, part))));
        }
        Ok(())
    }
}

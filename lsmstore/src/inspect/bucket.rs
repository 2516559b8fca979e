//! The manifests, tables and logs under a prefix of a bucket.

use std::collections::HashSet;
use std::sync::Arc;

use futures::TryStreamExt;
use object_store::ObjectStore;
use object_store::path::Path;

use crate::error::{Corruption, StorageError};
use crate::inspect::{LogFile, ManifestDump, TableFile};
use crate::manifest::{Manifest, publish};
use crate::object::{self, Names};
use crate::sstable::{TableId, TableRef};

/// What a store keeps under a prefix of a bucket.
#[derive(Clone, Debug)]
pub struct Bucket {
    pub(super) objects: Arc<dyn ObjectStore>,
    pub(super) names: Names,
}

/// An object as a listing names it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Listed {
    /// The manifest's number.
    pub number: u64,
    /// Its bytes.
    pub bytes: u64,
    /// When it was written, by the object store's clock, in seconds since 1970.
    pub modified: i64,
    /// The same for people.
    pub modified_at: String,
}

/// What the objects under a prefix take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Usage {
    /// Manifests.
    pub manifests: u64,
    /// Bytes of them.
    pub manifest_bytes: u64,
    /// Tables that the newest manifest names.
    pub tables: u64,
    /// Bytes of them.
    pub table_bytes: u64,
    /// Tables that it does not name: of older manifests, or left over.
    pub unnamed: u64,
    /// Bytes of them.
    pub unnamed_bytes: u64,
    /// Other objects.
    pub others: u64,
    /// Bytes of them.
    pub other_bytes: u64,
}

impl Bucket {
    /// What is under `prefix`.
    pub fn new(objects: Arc<dyn ObjectStore>, prefix: &str) -> Bucket {
        Bucket { objects, names: Names::new(prefix.trim_matches('/')) }
    }

    /// The manifests that are there, oldest first.
    ///
    /// # Errors
    /// [`StorageError`] if the object store fails.
    pub async fn manifests(&self) -> Result<Vec<Listed>, StorageError> {
        let dir = self.names.manifests();
        let listed: Vec<_> = (self.objects.list(Some(&dir)).try_collect().await)
            .map_err(StorageError::object(format!("listing {dir}")))?;
        let mut found: Vec<Listed> = listed
            .into_iter()
            .filter_map(|meta| {
                let number = Names::manifest_number(&meta.location)?;
                let (modified, modified_at) = (meta.last_modified.timestamp(), meta.last_modified.to_string());
                Some(Listed { number, bytes: meta.size, modified, modified_at })
            })
            .collect();
        found.sort_by_key(|listed| listed.number);
        Ok(found)
    }

    /// Manifest `number`, or the newest; none if it is not there.
    ///
    /// # Errors
    /// [`StorageError`] if the object store fails or the manifest is damaged.
    pub async fn manifest(&self, number: Option<u64>) -> Result<Option<ManifestDump>, StorageError> {
        let number = match number {
            Some(number) => number,
            None => match publish::newest_number(&*self.objects, &self.names, None).await? {
                Some(number) => number,
                None => return Ok(None),
            },
        };
        let path = self.names.manifest(number);
        let Some(bytes) = object::get(&*self.objects, &path).await? else { return Ok(None) };
        let manifest = Manifest::decode(path.as_ref(), number, &bytes)?;
        Ok(Some(ManifestDump::of(number, bytes.len() as u64, manifest)))
    }

    /// Reads a table of the bucket.
    ///
    /// # Errors
    /// [`StorageError`] if it is not there, the object store fails, or the parts by which blocks are found are damaged.
    pub async fn table(&self, id: TableId) -> Result<TableFile, StorageError> {
        let path = self.names.table(id);
        let bytes = object::get(&*self.objects, &path).await?;
        let bytes = bytes.ok_or_else(|| StorageError::Missing { object: path.to_string() })?;
        Ok(TableFile::new(path.to_string(), Some(id), bytes)?)
    }

    /// The objects of logs that are there, as epoch, number and bytes, in order.
    ///
    /// # Errors
    /// [`StorageError`] if the object store fails.
    pub async fn logs(&self) -> Result<Vec<(u64, u64, u64)>, StorageError> {
        let listed = object::list(&*self.objects, &self.names.logs()).await?;
        let named = listed.into_iter().filter_map(|meta| Names::logged(&meta.location).map(|name| (name, meta.size)));
        let mut found: Vec<_> = named.map(|((epoch, number), bytes)| (epoch, number, bytes)).collect();
        found.sort_unstable();
        Ok(found)
    }

    /// Reads object `number` of an epoch's log; none if it is not there.
    ///
    /// # Errors
    /// [`StorageError`] if the object store fails or it is damaged.
    pub async fn log(&self, epoch: u64, number: u64) -> Result<Option<LogFile>, StorageError> {
        let path = self.names.log(epoch, number);
        let Some(bytes) = object::get(&*self.objects, &path).await? else { return Ok(None) };
        let file = LogFile::of_object(path.to_string(), bytes.to_vec())?;
        if (file.epoch(), file.slot()) != (epoch, number) {
            let what = format!("the header is of epoch {}, number {}", file.epoch(), file.slot());
            return Err(Corruption::new(path.as_ref(), 32, what).into());
        }
        Ok(Some(file))
    }

    /// The name of a table's object.
    pub fn table_name(&self, id: TableId) -> String {
        self.names.table(id).to_string()
    }

    /// What the objects under the prefix take, beside `newest`.
    ///
    /// # Errors
    /// [`StorageError`] if the object store fails.
    pub async fn usage(&self, newest: &ManifestDump) -> Result<Usage, StorageError> {
        let named: HashSet<Path> =
            newest.tables().map(|(_, table): (_, &TableRef)| self.names.table(table.id)).collect();
        let root = self.names.root();
        let mut usage = Usage::default();
        let mut listed = self.objects.list(root.as_ref());
        while let Some(meta) = listed
            .try_next()
            .await
            .map_err(StorageError::object(format!("listing {}", root.clone().unwrap_or_default())))?
        {
            let name = meta.location.as_ref();
            let (count, bytes) = if named.contains(&meta.location) {
                (&mut usage.tables, &mut usage.table_bytes)
            } else if name.starts_with(self.names.manifests().as_ref())
                && Names::manifest_number(&meta.location).is_some()
            {
                (&mut usage.manifests, &mut usage.manifest_bytes)
            } else if name.ends_with(".sst") {
                (&mut usage.unnamed, &mut usage.unnamed_bytes)
            } else {
                (&mut usage.others, &mut usage.other_bytes)
            };
            *count += 1;
            *bytes += meta.size;
        }
        Ok(usage)
    }
}

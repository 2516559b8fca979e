//! Reads everything that manifests name, and checks every checksum.

use std::collections::HashMap;

use futures::StreamExt;

use crate::error::{Corruption, StorageError};
use crate::inspect::{Bucket, TableFile};
use crate::object;
use crate::sstable::{TableId, TableRef};

/// Tables that are read at a time, each held in memory as a whole.
const PARALLEL: usize = 4;

/// How far a scrub is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// Tables read.
    pub tables: u64,
    /// Tables to be read.
    pub of_tables: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Bytes to be read.
    pub of_bytes: u64,
}

/// What a scrub found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Scrubbed {
    /// Manifests read.
    pub manifests: u64,
    /// Objects of logs read.
    pub logs: u64,
    /// Tables read.
    pub tables: u64,
    /// Blocks of them whose checksums are right.
    pub blocks: u64,
    /// Versions in them.
    pub entries: u64,
    /// Bytes read.
    pub bytes: u64,
    /// What is damaged or missing.
    pub damage: Vec<Corruption>,
}

impl Bucket {
    /// Reads the newest manifest, or all that are there, each table that they name and all logs, and checks every checksum. Goes
    /// on behind damage. `progress` is told after each table.
    ///
    /// A table that only older manifests name may be missing, for a writer removes what it does not need: with `all` look
    /// whether it is still named before you worry.
    ///
    /// # Errors
    /// [`StorageError`] if the object store fails; damage is no error.
    pub async fn scrub(&self, all: bool, mut progress: impl FnMut(&Progress)) -> Result<Scrubbed, StorageError> {
        let mut scrubbed = Scrubbed::default();
        let mut tables: HashMap<TableId, TableRef> = HashMap::new();
        let mut manifests = self.manifests().await?;
        let newest = manifests.last().map(|newest| newest.number);
        if !all {
            manifests.drain(..manifests.len().saturating_sub(1));
        }
        for listed in manifests {
            match self.manifest(Some(listed.number)).await {
                Ok(Some(manifest)) => {
                    scrubbed.manifests += 1;
                    scrubbed.bytes += manifest.bytes;
                    tables.extend(manifest.tables().map(|(_, table)| (table.id, table.clone())));
                }
                // A writer removed it meanwhile; the newest is never removed.
                Ok(None) if Some(listed.number) != newest => {}
                Ok(None) => scrubbed.damage.push(missing(self.names.manifest(listed.number).as_ref())),
                Err(StorageError::Corrupt(damage)) => scrubbed.damage.push(damage),
                Err(error) => return Err(error),
            }
        }
        let mut tables: Vec<TableRef> = tables.into_values().collect();
        tables.sort_by_key(|table| table.id);
        let mut told = Progress {
            of_tables: tables.len() as u64,
            of_bytes: tables.iter().map(|table| table.object_len).sum(),
            ..Progress::default()
        };
        progress(&told);
        let mut read = futures::stream::iter(tables)
            .map(|table| async move {
                let name = self.names.table(table.id);
                let bytes = object::get(&*self.objects, &name).await?;
                Ok::<_, StorageError>((name.to_string(), table, bytes))
            })
            .buffer_unordered(PARALLEL);
        while let Some(found) = read.next().await {
            let (name, table, bytes) = found?;
            told.tables += 1;
            told.bytes += table.object_len;
            match bytes {
                None => scrubbed.damage.push(missing(&name)),
                Some(bytes) => {
                    scrubbed.tables += 1;
                    scrubbed.bytes += bytes.len() as u64;
                    match TableFile::new(name, Some(table.id), bytes) {
                        Ok(file) => {
                            let checked = file.check();
                            scrubbed.blocks += checked.blocks;
                            scrubbed.entries += checked.entries;
                            scrubbed.damage.extend(checked.damage);
                            scrubbed.damage.extend(file.differs_from(&table));
                        }
                        Err(damage) => scrubbed.damage.push(damage),
                    }
                }
            }
            progress(&told);
        }
        for (epoch, number, bytes) in self.logs().await? {
            match self.log(epoch, number).await {
                Ok(Some(_)) => {
                    scrubbed.logs += 1;
                    scrubbed.bytes += bytes;
                }
                // It was collected meanwhile.
                Ok(None) => {}
                Err(StorageError::Corrupt(damage)) => scrubbed.damage.push(damage),
                Err(error) => return Err(error),
            }
        }
        scrubbed.damage.sort_by(|a, b| (&a.object, a.offset).cmp(&(&b.object, b.offset)));
        Ok(scrubbed)
    }
}

fn missing(name: &str) -> Corruption {
    Corruption::new(name, 0, "it is named by a manifest, but is not there")
}

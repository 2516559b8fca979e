//! All that a manifest says.

use std::path::Path;

use uuid::Uuid;

use crate::error::StorageError;
use crate::inspect::read;
use crate::manifest::{Manifest, ManifestInfo};
use crate::sstable::TableRef;

/// All that a manifest says.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ManifestDump {
    /// What a store tells of it.
    pub info: ManifestInfo,
    /// Bytes of the manifest itself.
    pub bytes: u64,
    /// Lowest sequence number that can be read.
    pub floor: u64,
    /// Who keeps the log: `nobody`, `the store` or `its owner`.
    pub log: &'static str,
    /// Names the folder with the store's own log; nil without one.
    pub log_owner: Uuid,
    /// Own log: the segments of these epochs are replayed from these slots on.
    pub recover: Vec<(u64, u64)>,
    /// The log in the object store: from which number on its objects are replayed, for each of these epochs.
    pub remote: Vec<(u64, u64)>,
    /// Tables, L0 (newest first) to L6.
    pub levels: Vec<Vec<TableRef>>,
    /// Sections by kind, as bytes.
    pub sections: Vec<(u64, Vec<u8>)>,
}

impl ManifestDump {
    pub(super) fn of(number: u64, bytes: u64, manifest: Manifest) -> ManifestDump {
        ManifestDump {
            info: ManifestInfo::of(number, &manifest),
            bytes,
            floor: manifest.floor,
            log: manifest.log.name(),
            log_owner: manifest.log_owner,
            recover: manifest.recover,
            remote: manifest.remote,
            levels: manifest.levels,
            sections: manifest.sections,
        }
    }

    /// Reads a manifest of any number from a file: a local manifest, or an object in a folder.
    ///
    /// # Errors
    /// [`StorageError`] if it cannot be read or is damaged.
    pub fn open(path: &Path) -> Result<ManifestDump, StorageError> {
        let bytes = read(path)?;
        let (number, manifest) = Manifest::decode_any(&path.display().to_string(), &bytes)?;
        Ok(ManifestDump::of(number, bytes.len() as u64, manifest))
    }

    /// All tables with their level.
    pub fn tables(&self) -> impl Iterator<Item = (usize, &TableRef)> {
        self.levels.iter().enumerate().flat_map(|(level, tables)| tables.iter().map(move |table| (level, table)))
    }
}

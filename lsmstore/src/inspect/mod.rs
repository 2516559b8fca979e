//! Looks at what a store has left in a bucket or a folder, without opening it: nothing is written, no writer is fenced, and
//! a store that is in use may be looked at. The tool `lsmctl` prints what this module finds.
//!
//! * [`Bucket`]: the manifests under a prefix, the tables that they name, and everything of which the checksums are wrong
//!   ([`Bucket::scrub`]).
//! * [`TableFile`]: one table, from the bucket or a mirror file, entry by entry.
//! * [`LogFile`]: one segment of a store's own log, record by record.
//! * [`open_url`]: the object store and prefix that an address names.
//!
//! A writer may remove what an older manifest names while it is being looked at: only the newest one is whole for certain.

mod bucket;
mod log;
mod manifest;
mod scrub;
mod table;
mod url;

use std::path::Path;

pub use bucket::{Bucket, Listed, Usage};
pub use log::{LogFile, LogRecord};
pub use manifest::ManifestDump;
pub use scrub::{Progress, Scrubbed};
pub use table::{Checked, Kind, TableEntry, TableFile};
pub use url::{UrlError, UrlOptions, open_url};

use crate::error::StorageError;

fn read(path: &Path) -> Result<Vec<u8>, StorageError> {
    std::fs::read(path).map_err(StorageError::local(path))
}

//! The small files of a store's local folder: its name, the mark of an orderly stop, and the local manifest of what is
//! published.

use std::sync::Arc;

use uuid::Uuid;

use crate::config::Config;
use crate::env::{Env, blocking, nonce, write_whole};
use crate::error::{Corruption, OpenError, StorageError};
use crate::manifest::local;
use crate::store::Inner;
use crate::store::publish::Uploader;

/// The file that marks an orderly stop; it names the store and the manifest.
const MARK: &str = "ORDERLY";
/// The file that names the folder: its name and a checksum of that, as text.
const IDENTITY: &str = "IDENTITY";

fn identity_line(name: Uuid) -> String {
    format!("{name} {:08x}\n", crc32c::crc32c(name.as_bytes()))
}

/// The name of a local folder, given when it is first used.
pub(super) fn identity(env: &dyn Env, config: &Config) -> Result<Uuid, OpenError> {
    let path = config.local_dir.join(IDENTITY);
    match env.read(&path) {
        Ok(bytes) => {
            let text = std::str::from_utf8(&bytes).unwrap_or_default();
            let name = text.split(' ').next().and_then(|name| name.parse().ok());
            // A changed name would make it another folder, whose log is elsewhere.
            let name = name.filter(|name| text == identity_line(*name));
            let bad = || Corruption::new(path.display().to_string(), 0, "this is not the name of a folder");
            Ok(name.ok_or_else(|| StorageError::Corrupt(bad()))?)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let name = nonce(env).map_err(StorageError::local("random bytes"))?;
            write_whole(env, &config.local_dir, IDENTITY, identity_line(name).as_bytes())?;
            Ok(name)
        }
        Err(error) => Err(StorageError::local(path)(error).into()),
    }
}

/// Reads and removes the mark of an orderly stop.
pub(super) fn take_mark(env: &dyn Env, config: &Config) -> Result<Option<(Uuid, u64)>, StorageError> {
    let path = config.local_dir.join(MARK);
    let bytes = match env.read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StorageError::local(path)(error)),
    };
    env.remove(&path).map_err(StorageError::local(&path))?;
    env.sync_dir(&config.local_dir).map_err(StorageError::local(&config.local_dir))?;
    let mark = String::from_utf8(bytes).ok().and_then(|text| {
        let (store, number) = text.trim_end().split_once(' ')?;
        Some((store.parse().ok()?, number.parse().ok()?))
    });
    Ok(mark)
}

impl Inner {
    /// Makes the published manifest the local one, so that the folder tells whose tables it holds, and which of them have
    /// their objects.
    pub(super) async fn write_local(&self, uploader: &Uploader) -> Result<(), StorageError> {
        let dir = self.config.local_dir.clone();
        let bytes = uploader.manifest.encode(uploader.number, self.config.zstd_level);
        let bytes = bytes.map_err(StorageError::local(&dir))?;
        let env = Arc::clone(&self.env);
        blocking(&*self.env, move || local::write(&*env, &dir, &bytes)).await?
    }

    /// Leaves the mark of an orderly stop behind manifest `number`: the mirrors that it names are complete and synced.
    pub(super) fn mark_orderly(&self, number: u64) -> Result<(), StorageError> {
        write_whole(&*self.env, &self.config.local_dir, MARK, format!("{} {number}\n", self.store_id).as_bytes())
    }
}

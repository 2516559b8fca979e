//! The folder of the mirrors when it is not in the worker's own: ours alone, and of this worker alone.
//!
//! A folder that was last used by another worker, or by this one before it used yet another folder, may hold files of the
//! same names and other contents. A token in both folders tells; without a match the mirrors there are fetched again.
//!
//! Tables and segments are read from their mirrors alone, so every file that the store's newest view, or one that a session
//! still holds, names is in use. The budget concerns the rest: what a failure left behind, or could not be removed.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use uuid::Uuid;

use crate::worker::config::WorkerConfig;
use crate::worker::engine::Engine;
use crate::worker::startup::StartError;

const TOKEN: &str = "CACHE";
const HINT: &str =
    "Set lsm_s3.cache_dir to a folder that belongs to the server's user alone (chmod 0700), or to nothing.";

/// Makes the folders of the mirrors. One that was configured is taken for as long as the value lives.
pub(crate) fn take(config: &WorkerConfig) -> Result<Option<File>, StartError> {
    let taken = config.cache_dir.as_ref().map(|dir| take_configured(config, dir)).transpose()?;
    let made = DirBuilder::new().recursive(true).mode(0o700).create(config.segments_dir());
    made.map_err(|error| StartError::Failed(format!("{}: {error}", config.segments_dir().display())))?;
    Ok(taken)
}

fn take_configured(config: &WorkerConfig, dir: &Path) -> Result<File, StartError> {
    let refused = |what: String| StartError::refused(format!("lsm_s3.cache_dir {}: {what}", dir.display()), HINT);
    let failed = |error: io::Error| refused(error.to_string());
    if !dir.is_absolute() {
        return Err(refused("it is not an absolute path".into()));
    }
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
    let metadata = fs::metadata(dir).map_err(failed)?;
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        return Err(refused("it belongs to another user".into()));
    }
    if metadata.mode() & 0o077 != 0 {
        return Err(refused(format!("others may use it (mode {:o})", metadata.mode() & 0o777)));
    }
    let path = dir.join("LOCK");
    let lock = OpenOptions::new().create(true).truncate(false).write(true).open(path).map_err(failed)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(refused("another server uses it".into())),
        Err(TryLockError::Error(error)) => return Err(failed(error)),
    }
    let ours = config.dir.join(TOKEN);
    let token = fs::read_to_string(&ours).unwrap_or_default();
    let theirs = dir.join(TOKEN);
    if token.is_empty() || fs::read_to_string(&theirs).unwrap_or_default() != token {
        for folder in [config.mirror_dir(), config.segments_dir()] {
            match fs::remove_dir_all(&folder) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
                _ => {}
            }
        }
        let token = Uuid::new_v4().to_string();
        // First here: a token that only one of the two has matches nothing.
        for path in [&ours, &theirs] {
            write(path, &token).map_err(failed)?;
        }
    }
    Ok(lock)
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    fs::write(path, text)?;
    File::open(path)?.sync_all()
}

/// A file in one of the mirrors' folders.
struct Mirrored {
    path: PathBuf,
    bytes: u64,
    used: SystemTime,
}

fn files(dir: &Path) -> Vec<Mirrored> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let file = |entry: fs::DirEntry| {
        let metadata = entry.metadata().ok()?;
        let used = metadata.accessed().into_iter().chain(metadata.modified()).max();
        Some(Mirrored { path: entry.path(), bytes: metadata.len(), used: used.unwrap_or(SystemTime::UNIX_EPOCH) })
    };
    entries.filter_map(file).collect()
}

/// Bytes of the files in the mirrors' folders.
pub(crate) fn bytes_used(config: &WorkerConfig) -> u64 {
    [config.mirror_dir(), config.segments_dir()].iter().flat_map(|dir| files(dir)).map(|file| file.bytes).sum()
}

/// Makes the mirrors fit into their budget, as far as files go that nobody uses: the one not used for longest first.
pub(crate) fn sweep(engine: &Engine) {
    let (tables, segments) = (files(&engine.config.mirror_dir()), files(&engine.config.segments_dir()));
    let mut excess: u64 = tables.iter().chain(&segments).map(|file| file.bytes).sum();
    excess = excess.saturating_sub(engine.live.asked().cache_bytes);
    if excess == 0 {
        return;
    }
    let named =
        |file: &Mirrored, uses: &dyn Fn(&str) -> bool| file.path.file_name().and_then(|n| n.to_str()).is_some_and(uses);
    let tables = tables.into_iter().filter(|file| !named(file, &|name| engine.store.uses_mirror(name)));
    let segments = segments.into_iter().filter(|file| !named(file, &|name| engine.segments.uses(name)));
    let mut unused: Vec<Mirrored> = tables.chain(segments).collect();
    unused.sort_by_key(|file| file.used);
    for file in unused {
        if excess == 0 {
            break;
        }
        // One that cannot be removed now is tried again the next time.
        if fs::remove_file(&file.path).is_ok() {
            excess = excess.saturating_sub(file.bytes);
        }
    }
}

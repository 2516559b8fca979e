//! The folder of the mirrors when it is not in the worker's own: ours alone, and of this worker alone.
//!
//! A folder that was last used by another worker, or by this one before it used yet another folder, may hold files of the
//! same names and other contents. A token, given to a worker once for all, and a note of the folder that the store was last
//! open with tell; without a match the mirrors are fetched again, and what is there is moved aside unless it is ours. But a
//! folder is not left for another one while it may have tables that are nowhere else.
//!
//! Tables and segments are read from their mirrors alone, so every file that the store's newest view, or one that a session
//! still holds, names is in use. The budget concerns the rest: what a failure left behind, or could not be removed.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use lsmstore::SystemEnv;
use uuid::Uuid;

use crate::worker::config::{Endpoint, WorkerConfig};
use crate::worker::engine::Engine;
use crate::worker::startup::StartError;

const TOKEN: &str = "CACHE";
/// In the worker's own folder: the configured one that the store's local manifest is about.
const USED: &str = "CACHE.used";
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
    let token = own_token(config).map_err(failed)?;
    let theirs = read(&dir.join(TOKEN)).map_err(failed)?;
    let used = read(&config.dir.join(USED)).map_err(failed)?;
    let same_as_before = used.as_ref().is_none_or(|used| *used == dir.display().to_string());
    if theirs.as_ref() == Some(&token) && same_as_before {
        return Ok(lock);
    }
    if let Some(why) = only_here(config) {
        let hint = format!(
            "Set lsm_s3.cache_dir to {}, as it was before (is it mounted?), until all is in the bucket. If that folder is lost \
             for good, move {} away: the store goes on with the bucket and the log then.",
            match used.as_deref() {
                Some("") => "nothing",
                Some(used) => used,
                None => "the folder of the server's last start",
            },
            config.store_dir().join("MANIFEST").display()
        );
        let what = format!("this server did not use it last, and {why}");
        return Err(StartError::refused(format!("lsm_s3.cache_dir {}: {what}", dir.display()), hint));
    }
    let aside = dir.join("left-behind").join(Uuid::new_v4().to_string());
    for folder in [config.mirror_dir(), config.segments_dir()] {
        if fs::read_dir(&folder).is_ok_and(|mut entries| entries.next().is_none()) {
            continue;
        }
        let moved = match (fs::symlink_metadata(&folder), folder.file_name()) {
            (Err(error), _) if error.kind() == io::ErrorKind::NotFound => continue,
            // All of it can be fetched again.
            (Ok(_), _) if theirs.as_ref() == Some(&token) => fs::remove_dir_all(&folder),
            (Ok(_), Some(name)) => DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&aside)
                .and_then(|()| fs::rename(&folder, aside.join(name))),
            (Err(error), _) => Err(error),
            (Ok(_), None) => Ok(()),
        };
        moved.map_err(failed)?;
    }
    if theirs.as_ref() != Some(&token) {
        write(dir, TOKEN, &token).map_err(failed)?;
    }
    Ok(lock)
}

/// What this worker is known by in every folder that it ever used.
fn own_token(config: &WorkerConfig) -> io::Result<String> {
    if let Some(token) = read(&config.dir.join(TOKEN))? {
        return Ok(token);
    }
    let token = Uuid::new_v4().to_string();
    write(&config.dir, TOKEN, &token)?;
    Ok(token)
}

/// What the folder of the last start may have alone; none if the bucket has it all.
fn only_here(config: &WorkerConfig) -> Option<String> {
    if config.endpoint == Endpoint::Memory {
        return None;
    }
    match lsmstore::pending_tables(&SystemEnv::new(), &config.store_dir()) {
        Ok(0) => None,
        Ok(pending) => Some(format!("{pending} tables of the store may be in the folder used before and nowhere else")),
        Err(error) => Some(format!("nobody knows what the folder used before has alone: {error}")),
    }
}

/// Notes that the store's local manifest is about the mirrors in the configured folder from now on.
pub(crate) fn note_used(config: &WorkerConfig) -> Result<(), StartError> {
    let used = config.cache_dir.as_ref().map(|dir| dir.display().to_string()).unwrap_or_default();
    let failed = |error: io::Error| StartError::Failed(format!("{}: {error}", config.dir.join(USED).display()));
    if read(&config.dir.join(USED)).map_err(failed)?.unwrap_or_default() != used {
        write(&config.dir, USED, &used).map_err(failed)?;
    }
    Ok(())
}

/// A file of one line. None if there is none; a file that cannot be read says nothing of the kind.
fn read(path: &Path) -> io::Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn write(dir: &Path, name: &str, text: &str) -> io::Result<()> {
    let aside = dir.join(format!("{name}.tmp"));
    fs::write(&aside, text)?;
    File::open(&aside)?.sync_all()?;
    fs::rename(&aside, dir.join(name))?;
    File::open(dir)?.sync_all()
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

//! A small database, and each byte of it changed, one at a time: every read is right, or an error names the file or object
//! and the place in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::TryStreamExt;
use lsmstore::objects::{self, ObjectStore};
use lsmstore::{Config, Durability, FlushOptions, LogChoice, Store};
use object_store::ObjectStoreExt;

use crate::disk::{Disk, quick_folder};
use crate::fixture::puts;

/// Batches of the database; the last three are in the log alone.
const BATCHES: usize = 9;

/// A database at rest: its files and its objects.
struct Database {
    files: Vec<(PathBuf, Vec<u8>)>,
    objects: Vec<(object_store::path::Path, Vec<u8>)>,
}

fn config(root: &Path) -> Config {
    Config::new(root, "test").memtable_bytes(4096).block_bytes(64)
}

/// Batch `n` writes keys n and n + 1, so that all but the last are overwritten in part.
fn write(n: usize) -> lsmstore::Batch {
    let (one, two) = (format!("k{n}"), format!("k{}", n + 1));
    puts(&[(&one, &format!("one {n}")), (&two, &format!("two {n}"))])
}

async fn try_open(root: &Path, objects: &Arc<dyn ObjectStore>, elsewhere: bool) -> Result<Store, lsmstore::OpenError> {
    let config = config(root).accept_log_loss(elsewhere);
    Store::open(config, Arc::clone(objects), Arc::new(Disk::new(root)), LogChoice::Own).await
}

fn files_below(root: &Path, folder: &Path, out: &mut Vec<(PathBuf, Vec<u8>)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files_below(root, &path, out);
        } else {
            out.push((path.strip_prefix(root).unwrap().to_owned(), fs::read(&path).unwrap()));
        }
    }
}

impl Database {
    /// Two tables in the bucket, one on the local disk alone, three batches in the log; or all of it in the bucket and an
    /// orderly stop.
    async fn new(orderly: bool) -> Database {
        let root = quick_folder();
        let objects = objects::memory();
        let store = try_open(root.path(), &objects, false).await.unwrap();
        for n in 0..BATCHES {
            store.write(write(n), Durability::Local).await.unwrap();
            match n {
                1 | 3 => drop(store.flush().await.unwrap()),
                5 => drop(store.flush_local(FlushOptions::default()).await.unwrap()),
                _ => {}
            }
        }
        if orderly {
            store.flush_with(FlushOptions { clean: true, force: false }).await.unwrap();
            store.close().await.unwrap();
        }
        let mut files = Vec::new();
        files_below(root.path(), root.path(), &mut files);
        let mut listed = Vec::new();
        for meta in objects.list(None).try_collect::<Vec<_>>().await.unwrap() {
            let bytes = objects.get(&meta.location).await.unwrap().bytes().await.unwrap();
            listed.push((meta.location, bytes.to_vec()));
        }
        Database { files, objects: listed }
    }

    /// Puts it down again, as a changed copy.
    async fn copy(&self, root: &Path, with_files: bool) -> Arc<dyn ObjectStore> {
        for (path, bytes) in self.files.iter().filter(|_| with_files) {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        let objects = objects::memory();
        for (path, bytes) in &self.objects {
            objects.put(path, bytes.clone().into()).await.unwrap();
        }
        objects
    }
}

/// What a store reads: how many batches it holds if that is one of the states that there were.
fn read(store: &Store) -> Result<usize, String> {
    let view = store.view().unwrap();
    let sequence = view.read_sequence();
    let mut scanned = Vec::new();
    let mut scan = view.scan_prefix(b"", sequence).map_err(|error| error.to_string())?;
    while let Some((key, value)) = scan.next().map_err(|error| error.to_string())? {
        scanned.push((key.to_vec(), value.to_vec()));
    }
    for (key, value) in &scanned {
        let got = view.get(key, sequence).map_err(|error| error.to_string())?;
        assert_eq!(got, Some(&value[..]), "a get and a scan differ");
    }
    let holds = |n: usize| {
        let expected = (0..=n).map(|key| {
            let value = if key < n { format!("one {key}") } else { format!("two {}", key - 1) };
            (format!("k{key}").into_bytes(), value.into_bytes())
        });
        expected.eq(scanned.iter().cloned())
    };
    match (1..=BATCHES).find(|n| holds(*n)) {
        Some(n) => Ok(n),
        None => panic!("it reads what was never written: {scanned:?}"),
    }
}

/// Opens a changed database and reads it all.
async fn outcome(database: &Database, elsewhere: bool) -> Result<usize, String> {
    let root = quick_folder();
    let objects = database.copy(root.path(), !elsewhere).await;
    match try_open(root.path(), &objects, elsewhere).await {
        Ok(store) => read(&store),
        Err(error) => Err(error.to_string()),
    }
}

/// Whether an error says where the damage is.
fn named(error: &str, name: &str) -> bool {
    error.contains(name) && error.contains("byte")
}

async fn each_byte_of_the_files(orderly: bool) -> usize {
    let mut database = Database::new(orderly).await;
    assert_eq!(outcome(&database, false).await, Ok(BATCHES));
    let mut tried = 0;
    for file in 0..database.files.len() {
        let path = database.files[file].0.clone();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        for at in 0..database.files[file].1.len() {
            database.files[file].1[at] ^= 1 << (at % 8);
            let outcome = outcome(&database, false).await;
            database.files[file].1[at] ^= 1 << (at % 8);
            tried += 1;
            match outcome {
                Ok(BATCHES) => {}
                // The last record of the log cannot be told from one that the machine was still writing.
                Ok(held) if name.ends_with(".wal") && held == BATCHES - 1 => {}
                Ok(held) => panic!("{path:?}, byte {at}: {held} batches without a word"),
                Err(error) => assert!(named(&error, &name), "{path:?}, byte {at}: {error}"),
            }
        }
    }
    tried
}

#[tokio::test]
async fn every_changed_byte_of_a_folder_that_a_crash_left_is_noticed() {
    assert!(each_byte_of_the_files(false).await > 1_000);
}

#[tokio::test]
async fn every_changed_byte_of_a_folder_at_rest_is_noticed() {
    assert!(each_byte_of_the_files(true).await > 1_000);
}

#[tokio::test]
async fn every_changed_byte_of_a_bucket_is_noticed() {
    let mut database = Database::new(true).await;
    let manifests = database.objects.iter().filter(|(path, _)| path.as_ref().contains("manifest/"));
    let newest = manifests.map(|(path, _)| path.clone()).max().unwrap();
    for object in 0..database.objects.len() {
        let path = database.objects[object].0.clone();
        for at in 0..database.objects[object].1.len() {
            database.objects[object].1[at] ^= 1 << (at % 8);
            let outcomes = [outcome(&database, true).await, outcome(&database, false).await];
            database.objects[object].1[at] ^= 1 << (at % 8);
            for (outcome, elsewhere) in outcomes.into_iter().zip([true, false]) {
                let name = path.filename().unwrap();
                match outcome {
                    Ok(BATCHES) => {
                        let read = path == newest || (elsewhere && path.as_ref().contains("sst/"));
                        assert!(!read, "{path}, byte {at} was not noticed");
                    }
                    Ok(held) => panic!("{path}, byte {at}: {held} batches without a word"),
                    Err(error) => assert!(named(&error, name), "{path}, byte {at}: {error}"),
                }
            }
        }
    }
}

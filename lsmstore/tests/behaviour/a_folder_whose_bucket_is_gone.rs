//! A bucket that is empty, another one, or incomplete: what the local disk alone has is never thrown away.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use lsmstore::objects::{self, ObjectStore};
use lsmstore::{Env, FlushOptions, LogChoice, OpenError, Store, SystemEnv, candidates, missing_table};
use object_store::{ObjectStoreExt, PutPayload};

use crate::fixture::{Fault, Fixture, RecordingLog, get, puts};

const LONG: usize = 1000;

fn kept_by(log: &Arc<RecordingLog>) -> LogChoice {
    LogChoice::External(Arc::clone(log) as _)
}

/// A crashed store with one table in the bucket and one on the local disk alone.
async fn with_a_pending_table(fixture: &Fixture, log: &Arc<RecordingLog>) {
    let store = fixture.open_with(fixture.config(), kept_by(log)).await;
    store.apply(&puts(&[("a", "published")])).unwrap();
    store.flush().await.unwrap();
    store.apply(&puts(&[("b", "local")])).unwrap();
    store.flush_local(FlushOptions::default()).await.unwrap();
}

async fn open_on(
    fixture: &Fixture,
    objects: &Arc<dyn ObjectStore>,
    log: &Arc<RecordingLog>,
    leave: bool,
) -> Result<Store, OpenError> {
    let config = fixture.config().leave_behind(leave);
    Store::open(config, Arc::clone(objects), Arc::new(SystemEnv::new()), kept_by(log)).await
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().map(Result::unwrap) {
        match entry.file_type().unwrap().is_dir() {
            true => found.extend(files(&entry.path())),
            false => found.push(entry.path()),
        }
    }
    found.sort();
    found
}

#[tokio::test]
async fn an_empty_bucket_in_its_place_is_refused_and_changes_nothing() {
    let (fixture, log) = (Fixture::new(), Arc::new(RecordingLog::default()));
    with_a_pending_table(&fixture, &log).await;
    let before = files(fixture.folder());
    let empty = objects::memory();
    let Err(OpenError::LeftBehind(left)) = open_on(&fixture, &empty, &log, false).await else { panic!("opened") };
    assert_eq!((left.tables, left.pending), (2, 1), "{left}");
    assert_eq!(files(fixture.folder()), before);
    let env: Arc<dyn Env> = Arc::new(SystemEnv::new());
    let found = candidates(&fixture.config(), &empty, &env).await.unwrap();
    assert!(found.newest.is_none() && found.left_behind.as_ref() == Some(&left), "{found:?}");
    let store = fixture.open_with(fixture.config(), kept_by(&log)).await;
    assert_eq!((get(&store, "a").as_deref(), get(&store, "b").as_deref()), (Some("published"), Some("local")));
}

#[tokio::test]
async fn so_is_another_store_s_bucket_while_a_table_is_nowhere_else_and_not_when_all_are_published() {
    let (fixture, log) = (Fixture::new(), Arc::new(RecordingLog::default()));
    with_a_pending_table(&fixture, &log).await;
    let other = Fixture::new();
    drop(other.open_with(other.config(), kept_by(&log)).await);
    let other: Arc<dyn ObjectStore> = Arc::clone(&other.objects) as _;
    let Err(OpenError::LeftBehind(left)) = open_on(&fixture, &other, &log, false).await else { panic!("opened") };
    assert_eq!(left.pending, 1);
    let store = fixture.open_with(fixture.config(), kept_by(&log)).await;
    store.close().await.unwrap();
    open_on(&fixture, &other, &log, false).await.unwrap();
}

#[tokio::test]
async fn what_is_left_behind_by_order_is_set_aside() {
    let (fixture, log) = (Fixture::new(), Arc::new(RecordingLog::default()));
    with_a_pending_table(&fixture, &log).await;
    let store = open_on(&fixture, &objects::memory(), &log, true).await.unwrap();
    assert_eq!(get(&store, "b"), None);
    let aside = files(store.left_behind().expect("a folder"));
    let names: Vec<_> = aside.iter().map(|path| path.extension().and_then(|end| end.to_str())).collect();
    assert_eq!(names, [Some("lsm"), None], "the table and its manifest: {aside:?}");
}

#[tokio::test]
async fn a_table_that_the_bucket_never_got_is_set_aside_when_another_writer_took_the_bucket_over() {
    let (fixture, log) = (Fixture::new(), Arc::new(RecordingLog::default()));
    with_a_pending_table(&fixture, &log).await;
    let elsewhere = fixture.elsewhere();
    drop(elsewhere.open_with(elsewhere.config(), kept_by(&log)).await);
    let store = fixture.open_with(fixture.config(), kept_by(&log)).await;
    assert_eq!(files(store.left_behind().expect("a folder")).len(), 2);
    assert_eq!(get(&store, "b"), None, "the log has it");
}

#[tokio::test]
async fn an_ordinary_restart_sets_nothing_aside() {
    let (fixture, log) = (Fixture::new(), Arc::new(RecordingLog::default()));
    for n in 0..4 {
        let store = fixture.open_with(fixture.config(), kept_by(&log)).await;
        assert_eq!(store.left_behind(), None);
        store.apply(&puts(&[("a", &n.to_string())])).unwrap();
        match n {
            0 => drop(store.flush_local(FlushOptions::default()).await.unwrap()),
            1 => drop(store.flush().await.unwrap()),
            _ => {
                store.flush().await.unwrap();
                store.close().await.unwrap();
            }
        }
    }
    assert!(!fixture.folder().join("left-behind").exists());
}

#[tokio::test]
async fn a_folder_without_anything_in_it_goes_on_with_any_bucket() {
    let (fixture, log) = (Fixture::new(), Arc::new(RecordingLog::default()));
    drop(fixture.open_with(fixture.config(), kept_by(&log)).await);
    drop(open_on(&fixture, &objects::memory(), &log, false).await.unwrap());
    let store = open_on(&fixture, &objects::memory(), &log, false).await.unwrap();
    store.apply(&puts(&[("a", "dropped since")])).unwrap();
    store.flush().await.unwrap();
    store.close_empty().await.unwrap();
    open_on(&fixture, &objects::memory(), &log, false).await.unwrap();
}

#[tokio::test]
async fn without_a_log_a_local_manifest_that_cannot_be_used_is_an_error() {
    let fixture = Fixture::new();
    let store = fixture.open().await;
    fixture.objects.fail("", Fault::Before, LONG);
    store.apply(&puts(&[("a", "local")])).unwrap();
    store.flush_local(FlushOptions::default()).await.unwrap();
    drop(store);
    fixture.objects.heal();
    let path = fixture.folder().join("MANIFEST");
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    assert!(matches!(fixture.try_open(fixture.config(), LogChoice::Nobody).await, Err(OpenError::Storage(_))));
    std::fs::write(&path, &whole).unwrap();
    assert_eq!(get(&fixture.open().await, "a").as_deref(), Some("local"));
}

#[tokio::test]
async fn an_object_that_is_gone_comes_back_from_the_mirror_and_a_table_that_is_nowhere_is_told() {
    let (fixture, log) = (Fixture::new(), Arc::new(RecordingLog::default()));
    let store = fixture.open_with(fixture.config(), kept_by(&log)).await;
    store.apply(&puts(&[("a", "1")])).unwrap();
    store.flush().await.unwrap();
    let manifest = store.manifest();
    drop(store);
    let object = fixture.objects.puts.lock().unwrap().iter().find(|name| name.contains("/sst/")).unwrap().clone();
    let object = object_store::path::Path::from(object);
    let bytes = fixture.objects.get(&object).await.unwrap().bytes().await.unwrap();
    fixture.objects.delete(&object).await.unwrap();
    let objects: Arc<dyn ObjectStore> = Arc::clone(&fixture.objects) as _;
    let env: Arc<dyn Env> = Arc::new(SystemEnv::new());
    let missing = async |folder: &Fixture| missing_table(&folder.config(), &objects, &env, &manifest).await.unwrap();
    assert_eq!(missing(&fixture).await, None, "the mirror has it");
    assert_eq!(missing(&fixture.elsewhere()).await, Some(object.to_string()));
    let store = fixture.open_with(fixture.config(), kept_by(&log)).await;
    assert_eq!(get(&store, "a").as_deref(), Some("1"));
    assert_eq!(fixture.objects.get(&object).await.unwrap().bytes().await.unwrap(), bytes);
    drop(store);
    fixture.objects.put(&object, PutPayload::from_static(b"something else")).await.unwrap();
    assert_eq!(missing(&fixture.elsewhere()).await, None, "what is in it is found out when it is read");
}

#[tokio::test]
async fn with_a_local_manifest_that_is_damaged_the_store_is_opened_as_the_one_that_was_chosen_has_it() {
    let (fixture, log) = (Fixture::new(), Arc::new(RecordingLog::default()));
    let store = fixture.open_with(fixture.config(), kept_by(&log)).await;
    store.apply(&puts(&[("a", "older")])).unwrap();
    store.flush().await.unwrap();
    let older = store.manifest();
    store.apply(&puts(&[("a", "newer")])).unwrap();
    store.flush().await.unwrap();
    drop(store);
    std::fs::write(fixture.folder().join("MANIFEST"), b"damaged").unwrap();
    let store = fixture.open_with(fixture.config().base(older.nonce), kept_by(&log)).await;
    assert_eq!(get(&store, "a").as_deref(), Some("older"));
}

#[tokio::test]
async fn tables_of_two_stores_with_the_same_names_are_not_taken_for_each_other() {
    let (fixture, log) = (Fixture::new(), Arc::new(RecordingLog::default()));
    with_a_pending_table(&fixture, &log).await;
    let other = Fixture::new();
    {
        let store = other.open_with(other.config(), kept_by(&log)).await;
        for key in ["c", "d"] {
            store.apply(&puts(&[(key, "theirs")])).unwrap();
            store.flush().await.unwrap();
        }
    }
    let mirrors = |fixture: &Fixture| files(&fixture.folder().join("mirror"));
    let names = |found: Vec<PathBuf>| found.iter().map(|path| path.file_name().unwrap().to_owned()).collect::<Vec<_>>();
    let (ours, theirs) = (mirrors(&fixture), mirrors(&other));
    assert_eq!(names(ours.clone()), names(theirs), "the names are the same");
    let pending = std::fs::read(ours.last().unwrap()).unwrap();
    let store = open_on(&fixture, &(Arc::clone(&other.objects) as _), &log, true).await.unwrap();
    let read = ["a", "b", "c", "d"].map(|key| get(&store, key));
    assert_eq!(read.each_ref().map(Option::as_deref), [None, None, Some("theirs"), Some("theirs")]);
    let aside = files(store.left_behind().expect("a folder"));
    assert!(aside.iter().any(|path| std::fs::read(path).unwrap() == pending), "{aside:?}");
}

#[tokio::test]
async fn what_an_unreadable_local_manifest_may_have_named_is_set_aside() {
    let (fixture, log) = (Fixture::new(), Arc::new(RecordingLog::default()));
    with_a_pending_table(&fixture, &log).await;
    let pending = files(&fixture.folder().join("mirror")).pop().unwrap();
    let pending = std::fs::read(pending).unwrap();
    std::fs::write(fixture.folder().join("MANIFEST"), b"damaged").unwrap();
    let store = fixture.open_with(fixture.config(), kept_by(&log)).await;
    let aside = files(store.left_behind().expect("a folder"));
    assert!(aside.iter().any(|path| std::fs::read(path).unwrap() == pending), "{aside:?}");
}

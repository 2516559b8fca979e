//! Changed bytes in the bucket or the mirror: a right answer or an error that names them, never a wrong one or a panic.

use std::path::PathBuf;

use lsmstore::{FlushOptions, LogChoice, OpenError, StorageError, Store};
use object_store::ObjectStoreExt;

use crate::fixture::{Fixture, get, names, puts};

/// A small store with two tables, closed in an orderly way or not.
async fn filled(orderly: bool) -> Fixture {
    let fixture = Fixture::new();
    let store = fixture.open().await;
    for round in 0..2 {
        let writes: Vec<_> = (0..12).map(|n| (format!("k{n:02}"), format!("value {round} {n}"))).collect();
        let writes: Vec<_> = writes.iter().map(|(key, value)| (&key[..], &value[..])).collect();
        store.apply(&puts(&writes)).unwrap();
        store.flush().await.unwrap();
    }
    if orderly {
        store.flush_with(FlushOptions { clean: true, force: false }).await.unwrap();
        store.close().await.unwrap();
    }
    fixture
}

fn right(store: &Store) {
    for n in 0..12 {
        assert_eq!(get(store, &format!("k{n:02}")), Some(format!("value 1 {n}")));
    }
}

fn mirrors(fixture: &Fixture) -> Vec<PathBuf> {
    std::fs::read_dir(fixture.folder().join("mirror")).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[tokio::test]
async fn any_changed_byte_of_a_table_in_the_bucket_is_named_when_it_is_fetched() {
    let fixture = filled(false).await;
    let name = names(&fixture, "/sst/").await.remove(0);
    let bytes = fixture.objects.get(&name).await.unwrap().bytes().await.unwrap().to_vec();
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 0x10;
        fixture.objects.put(&name, changed.into()).await.unwrap();
        let other = fixture.elsewhere();
        match other.try_open(other.config(), LogChoice::Nobody).await {
            Ok(_) => panic!("byte {at} was not noticed"),
            Err(error) => {
                let error = error.to_string();
                assert!(error.contains(".sst") && error.contains("at byte"), "byte {at}: {error}");
            }
        }
    }
    for cut in [0, 1, bytes.len() / 2, bytes.len() - 1] {
        fixture.objects.put(&name, bytes[..cut].to_vec().into()).await.unwrap();
        let other = fixture.elsewhere();
        assert!(other.try_open(other.config(), LogChoice::Nobody).await.is_err());
    }
    fixture.objects.put(&name, bytes.into()).await.unwrap();
    let other = fixture.elsewhere();
    right(&other.open().await);
}

#[tokio::test]
async fn any_changed_byte_of_the_newest_manifest_is_named() {
    let fixture = filled(false).await;
    let name = names(&fixture, "/manifest/").await.pop().unwrap();
    let bytes = fixture.objects.get(&name).await.unwrap().bytes().await.unwrap().to_vec();
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 0x04;
        fixture.objects.put(&name, changed.into()).await.unwrap();
        let other = fixture.elsewhere();
        let error = other.try_open(other.config(), LogChoice::Nobody).await.unwrap_err().to_string();
        assert!(error.contains("manifest/"), "byte {at}: {error}");
    }
}

#[tokio::test]
async fn a_changed_mirror_is_fetched_again_after_an_unclean_stop() {
    let fixture = filled(false).await;
    for path in mirrors(&fixture) {
        let bytes = std::fs::read(&path).unwrap();
        for at in (0..bytes.len()).step_by(7) {
            let mut changed = bytes.clone();
            changed[at] ^= 0x20;
            std::fs::write(&path, &changed).unwrap();
            let store = fixture.open().await;
            right(&store);
            drop(store);
            assert_eq!(std::fs::read(&path).unwrap(), bytes, "byte {at}");
        }
    }
}

#[tokio::test]
async fn a_missing_or_cut_mirror_is_fetched_again_even_after_an_orderly_stop() {
    let fixture = filled(true).await;
    let paths = mirrors(&fixture);
    std::fs::remove_file(&paths[0]).unwrap();
    let length = std::fs::metadata(&paths[1]).unwrap().len();
    std::fs::OpenOptions::new().write(true).open(&paths[1]).unwrap().set_len(length - 1).unwrap();
    right(&fixture.open().await);
}

#[tokio::test]
async fn a_mirror_changed_behind_our_back_never_panics() {
    let fixture = filled(true).await;
    let path = mirrors(&fixture).remove(0);
    let bytes = std::fs::read(&path).unwrap();
    for at in 0..bytes.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut changed = bytes.clone();
            changed[at] ^= flip;
            std::fs::write(&path, &changed).unwrap();
            // The mark of an orderly stop says that mirrors need no check; so this is what reading does unprotected.
            let table =
                std::sync::Arc::new(kriya_region::Region::open_file(&std::fs::File::open(&path).unwrap()).unwrap());
            let Some(description) = describe(&fixture, &path) else { continue };
            let opened =
                lsmstore::View::open(&description, |_, _| unreachable!(), |_| Ok(std::sync::Arc::clone(&table)));
            let Ok(view) = opened else { continue };
            let mut steps = 0;
            for n in 0..12 {
                let _ = view.get(format!("k{n:02}").as_bytes(), 24);
            }
            let mut iter = view.iter(24).unwrap();
            let mut standing = iter.seek_first();
            while let Ok(true) = standing {
                standing = iter.next();
                steps += 1;
                assert!(steps < 1000, "byte {at}");
            }
            let mut standing = iter.seek_for_prev(b"k05");
            while let Ok(true) = standing {
                standing = iter.prev();
                steps += 1;
                assert!(steps < 2000, "byte {at}");
            }
        }
    }
}

thread_local! {
    static DESCRIPTION: std::cell::RefCell<Option<lsmstore::ViewDescription>> = const { std::cell::RefCell::new(None) };
}

/// A view of the one table at `path`, described once.
fn describe(fixture: &Fixture, path: &std::path::Path) -> Option<lsmstore::ViewDescription> {
    if let Some(known) = DESCRIPTION.with_borrow(Clone::clone) {
        return Some(known);
    }
    let objects = std::sync::Arc::clone(&*fixture.objects);
    let described = std::thread::spawn(move || {
        let other = Fixture::new();
        let config = other.config();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let env = std::sync::Arc::new(lsmstore::SystemEnv::new());
            let store = Store::open(config, objects, env, LogChoice::Nobody).await.unwrap();
            store.view().unwrap().describe()
        })
    });
    let mut description = described.join().unwrap();
    description.memtables.clear();
    description.l0.retain(|table| path.ends_with(table.mirror_name()));
    DESCRIPTION.set(Some(description.clone()));
    Some(description)
}

#[tokio::test]
async fn a_table_that_a_manifest_names_and_the_bucket_lacks_is_a_loud_error() {
    let fixture = filled(false).await;
    let name = names(&fixture, "/sst/").await.remove(0);
    fixture.objects.delete(&name).await.unwrap();
    let other = fixture.elsewhere();
    let error = other.try_open(other.config(), LogChoice::Nobody).await.unwrap_err();
    assert!(
        matches!(&error, OpenError::Storage(StorageError::Missing { object }) if object == name.as_ref()),
        "{error}"
    );
}

#[tokio::test]
async fn a_damaged_newest_manifest_is_passed_over_only_when_somebody_names_an_older_one() {
    let fixture = filled(false).await;
    let objects: std::sync::Arc<dyn object_store::ObjectStore> = std::sync::Arc::clone(&fixture.objects) as _;
    let manifests = names(&fixture, "/manifest/").await;
    let older = lsmstore::read_manifest(&objects, "test", manifests.len() as u64 - 1).await.unwrap().unwrap();
    fixture.objects.put(manifests.last().unwrap(), "damaged".into()).await.unwrap();
    let other = fixture.elsewhere();
    for _ in 0..2 {
        let error = other.try_open(other.config(), LogChoice::Nobody).await.unwrap_err().to_string();
        assert!(error.contains("Config::base") && error.contains("Bring the object back"), "{error}");
    }
    let unknown = other.config().base(uuid::Uuid::nil());
    other.try_open(unknown, LogChoice::Nobody).await.unwrap_err();
    let store = other.open_with(other.config().base(older.nonce), LogChoice::Nobody).await;
    assert!(store.epoch() > older.epoch + 1, "the damaged one may have begun an epoch");
    assert_eq!(get(&store, "k00").as_deref(), Some("value 0 0"));
    store.apply(&puts(&[("k00", "new")])).unwrap();
    store.flush().await.unwrap();
    drop(store);
    assert_eq!(get(&fixture.elsewhere().open().await, "k00").as_deref(), Some("new"));
}

//! A view opened from its description, as another process would: descriptors of memfds and mirror files, nothing else.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use kriya_region::Region;
use lsmstore::{Batch, KeepAll, LogChoice, MappedTables, RegionKind, Store, View, ViewDescription, ViewError};

use crate::fixture::{Fixture, puts};

async fn open(fixture: &Fixture) -> Store {
    fixture.open_with(fixture.config().memtable_region(RegionKind::Shared), LogChoice::Nobody).await
}

/// What a reader does with the bytes of a description, descriptors and a folder.
fn open_elsewhere(store: &Store, folder: &Path) -> Result<View, ViewError> {
    open_after(store, folder, &mut MappedTables::default(), &mut Vec::new())
}

/// The same, with what was mapped for the view before; tells which tables are mapped now.
fn open_after(
    store: &Store,
    folder: &Path,
    known: &mut MappedTables,
    mapped: &mut Vec<String>,
) -> Result<View, ViewError> {
    let view = store.view().unwrap();
    let description = ViewDescription::decode(&view.describe().encode()).unwrap();
    assert_eq!(description, view.describe());
    let regions: HashMap<_, _> =
        view.shared_regions().into_iter().map(|(id, region)| (id, region.reader().unwrap())).collect();
    View::open_with(
        &description,
        known,
        |id, capacity| Ok(Arc::new(Region::open_shared(regions[&id].as_fd(), capacity)?)),
        |table| {
            mapped.push(table.mirror_name());
            Ok(Arc::new(Region::open_file(&File::open(folder.join("mirror").join(table.mirror_name()))?)?))
        },
    )
}

fn keys(view: &View) -> Vec<String> {
    let mut iter = view.iter(view.read_sequence()).unwrap();
    let mut found = Vec::new();
    let mut standing = iter.seek_first().unwrap();
    while standing {
        found.push(format!("{}={}", String::from_utf8_lossy(iter.key()), String::from_utf8_lossy(iter.value())));
        standing = iter.next().unwrap();
    }
    found
}

#[tokio::test]
async fn later_writes_into_the_active_memtable_are_seen() {
    let fixture = Fixture::new();
    let store = open(&fixture).await;
    store.apply(&puts(&[("table", "1")])).unwrap();
    store.flush().await.unwrap();
    let elsewhere = open_elsewhere(&store, fixture.folder()).unwrap();
    let before = elsewhere.read_sequence();
    assert_eq!(keys(&elsewhere), ["table=1"]);
    store.apply(&puts(&[("memtable", "2")])).unwrap();
    assert_eq!(keys(&elsewhere), ["memtable=2", "table=1"]);
    assert_eq!(elsewhere.get(b"memtable", before).unwrap(), None, "an older sequence does not see it");
    assert_eq!(elsewhere.read_sequence(), 2);
}

#[tokio::test]
async fn each_table_is_mapped_once_and_kept_as_long_as_views_name_it() {
    let fixture = Fixture::new();
    let store = open(&fixture).await;
    let (mut known, mut mapped) = (MappedTables::default(), Vec::new());
    for (key, tables) in [("a", 1), ("b", 1), ("c", 1)] {
        store.apply(&puts(&[(key, "1")])).unwrap();
        store.flush().await.unwrap();
        mapped.clear();
        let view = open_after(&store, fixture.folder(), &mut known, &mut mapped).unwrap();
        assert_eq!(mapped.len(), tables, "the others are known");
        assert!(keys(&view).contains(&format!("{key}=1")));
    }
    store.merge(Arc::new(KeepAll)).await.unwrap();
    mapped.clear();
    let view = open_after(&store, fixture.folder(), &mut known, &mut mapped).unwrap();
    assert_eq!(keys(&view), ["a=1", "b=1", "c=1"]);
    assert_eq!(mapped, view.tables().map(|table| table.mirror_name()).collect::<Vec<_>>());
}

#[tokio::test]
async fn ranges_deleted_in_memory_and_in_tables_are_gone_there_too() {
    let fixture = Fixture::new();
    let store = open(&fixture).await;
    store.apply(&puts(&[("a", "1"), ("b", "1"), ("c", "1"), ("d", "1"), ("e", "1")])).unwrap();
    store.flush().await.unwrap();
    store.apply(Batch::new().delete_range(b"b", b"c")).unwrap();
    store.flush().await.unwrap();
    let elsewhere = open_elsewhere(&store, fixture.folder()).unwrap();
    assert_eq!(keys(&elsewhere), ["a=1", "c=1", "d=1", "e=1"]);
    let before = elsewhere.read_sequence();
    let mut walk = elsewhere.iter(before).unwrap();
    for (from, to, left) in [("c", "d", &["a=1", "d=1", "e=1"][..]), ("d", "f", &["a=1"]), ("a", "b", &[])] {
        store.apply(Batch::new().delete_range(from.as_bytes(), to.as_bytes())).unwrap();
        assert_eq!(keys(&elsewhere), left, "deleted after it was opened there");
    }
    store.apply(&puts(&[("d", "2")])).unwrap();
    assert_eq!(keys(&elsewhere), ["d=2"]);
    assert_eq!(elsewhere.get(b"d", before).unwrap(), Some(&b"1"[..]));
    assert_eq!(elsewhere.get(b"b", before).unwrap(), None);
    assert!(walk.seek(b"b").unwrap() && walk.key() == b"c", "an older reader still sees it");
}

#[tokio::test]
async fn a_view_held_elsewhere_outlives_flush_and_merge() {
    let fixture = Fixture::new();
    let store = open(&fixture).await;
    for n in 0..3 {
        store.apply(&puts(&[("k", &n.to_string())])).unwrap();
        store.flush().await.unwrap();
    }
    let elsewhere = open_elsewhere(&store, fixture.folder()).unwrap();
    store.apply(&puts(&[("k", "later")])).unwrap();
    store.flush().await.unwrap();
    store.merge(Arc::new(KeepAll)).await.unwrap();
    let mirrors = std::fs::read_dir(fixture.folder().join("mirror")).unwrap().count();
    assert_eq!(mirrors, 1, "the files of merged tables are gone");
    assert_eq!(keys(&elsewhere), ["k=later"], "the active memtable of then");
    assert_eq!(elsewhere.get(b"k", 3).unwrap(), Some(&b"2"[..]));
}

#[tokio::test]
async fn readers_beside_the_writer_see_whole_batches() {
    let fixture = Fixture::new();
    let store = open(&fixture).await;
    let elsewhere = open_elsewhere(&store, fixture.folder()).unwrap();
    let done = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stop = Arc::clone(&done);
    let reader = std::thread::spawn(move || {
        let mut rounds = 0;
        while !stop.load(std::sync::atomic::Ordering::Acquire) || rounds == 0 {
            let sequence = elsewhere.read_sequence();
            let value = |key: &str| elsewhere.get(key.as_bytes(), sequence).unwrap().map(<[u8]>::to_vec);
            assert_eq!(value("first"), value("last"));
            let mut iter = elsewhere.iter(sequence).unwrap();
            let mut count = 0;
            let mut standing = iter.seek_first().unwrap();
            while standing {
                count += 1;
                standing = iter.next().unwrap();
            }
            assert!(count == 0 || count == 12, "{count} keys at {sequence}");
            rounds += 1;
        }
        rounds
    });
    for n in 0..30_u32 {
        let mut batch = Batch::new();
        batch.put(b"first", &n.to_le_bytes());
        for key in 0..10 {
            batch.put(format!("k{key}").as_bytes(), &n.to_le_bytes());
        }
        batch.put(b"last", &n.to_le_bytes());
        store.apply(&batch).unwrap();
    }
    done.store(true, std::sync::atomic::Ordering::Release);
    reader.join().unwrap();
}

#[tokio::test]
async fn a_memtable_with_any_byte_changed_gives_an_answer_or_an_error() {
    let fixture = Fixture::new();
    let store = fixture.open_with(fixture.config().memtable_bytes(4096), LogChoice::Nobody).await;
    for n in 0..12 {
        store.apply(&puts(&[(&format!("k{n}"), "value")])).unwrap();
    }
    let mut batch = Batch::new();
    store.apply(batch.delete_range(b"k2", b"k4")).unwrap();
    batch.clear();
    store.apply(batch.delete_range(b"k7", b"k8")).unwrap();
    let view = store.view().unwrap();
    let description = view.describe();
    let (_, region) = &view.shared_regions()[0];
    // SAFETY: nobody writes to the memtable any more.
    let bytes = unsafe { std::slice::from_raw_parts(region.as_ptr(), region.capacity()) }.to_vec();
    let used = store.stats().active_bytes as usize;
    for at in 0..used {
        for flip in [0x01, 0x80, 0xff] {
            let mut changed = bytes.clone();
            changed[at] ^= flip;
            let copy = Region::heap(changed.len()).unwrap();
            // SAFETY: the region is new, as long as the bytes, and ours alone.
            unsafe { std::ptr::copy_nonoverlapping(changed.as_ptr(), copy.as_mut_ptr().unwrap(), changed.len()) };
            let copy = Arc::new(copy);
            let opened = View::open(&description, |_, _| Ok(Arc::clone(&copy)), |_| unreachable!());
            let Ok(view) = opened else { continue };
            let sequence = view.read_sequence();
            for n in 0..12 {
                let _ = view.get(format!("k{n}").as_bytes(), sequence);
            }
            let mut iter = view.iter(sequence).unwrap();
            let mut standing = iter.seek_first();
            let mut steps = 0;
            while let Ok(true) = standing {
                standing = iter.next();
                steps += 1;
                assert!(steps < 10_000, "byte {at} flipped by {flip:#x}: an endless walk");
            }
            let mut standing = iter.seek_last();
            let mut steps = 0;
            while let Ok(true) = standing {
                standing = iter.prev();
                steps += 1;
                assert!(steps < 10_000, "byte {at} flipped by {flip:#x}: an endless walk back");
            }
        }
    }
}

#[tokio::test]
async fn a_description_of_other_bytes_is_refused() {
    let fixture = Fixture::new();
    let store = open(&fixture).await;
    store.apply(&puts(&[("a", "1")])).unwrap();
    store.flush().await.unwrap();
    let bytes = store.view().unwrap().describe().encode();
    assert!(ViewDescription::decode(&bytes[..bytes.len() - 1]).is_err());
    assert!(ViewDescription::decode(&[&bytes[..], &[0]].concat()).is_err());
    assert!(ViewDescription::decode(&[0xff; 64]).is_err());
    let view = store.view().unwrap();
    let regions = view.shared_regions();
    let mut wrong = view.describe();
    wrong.memtables[0].id += 1;
    let opened = View::open(&wrong, |_, _| Ok(Arc::clone(&regions[0].1)), |_| Err(std::io::ErrorKind::NotFound.into()));
    assert!(matches!(opened, Err(ViewError::Corrupt(_))));
}

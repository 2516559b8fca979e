//! The store's own log: what was acknowledged comes back, what is torn is cut off, what is damaged is said.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use kriya_testkit::fault::{Fault, Kind, Operation};
use kriya_testkit::stores::FaultStore;
use lsmstore::{Batch, Durability, FlushOptions, LogChoice, OpenError, Store, SystemEnv, WriteError};

use crate::fixture::{Fixture, get, puts};

pub async fn open(fixture: &Fixture) -> Store {
    fixture.open_own(fixture.config()).await.unwrap()
}

fn segments(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> = std::fs::read_dir(folder.join("wal")).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.sort();
    found
}

#[tokio::test]
async fn acknowledged_writes_come_back_after_a_crash() {
    let fixture = Fixture::new();
    for round in 0..4 {
        let store = open(&fixture).await;
        for before in 0..round {
            assert_eq!(get(&store, &format!("a{before}")).as_deref(), Some("1"), "round {round}");
            assert_eq!(get(&store, &format!("b{before}")).as_deref(), Some("2"), "round {round}");
        }
        store.write(puts(&[(&format!("a{round}"), "1")]), Durability::Local).await.unwrap();
        if round == 1 {
            store.flush().await.unwrap();
        }
        store.write(puts(&[(&format!("b{round}"), "2")]), Durability::Memory).await.unwrap();
        drop(store);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_writers_get_their_own_numbers_and_all_is_there() {
    let fixture = Fixture::new();
    let store = fixture.open_with(fixture.config().memtable_bytes(16 << 10), LogChoice::Own).await;
    let writer = |number: usize| {
        let store = store.clone();
        async move {
            let mut numbers = Vec::new();
            for n in 0..50 {
                let batch = puts(&[(&format!("{number}-{n}"), "x"), (&format!("{number}-{n}!"), "y")]);
                loop {
                    match store.write(batch.clone(), Durability::Local).await {
                        Ok(applied) => break numbers.push(applied.first),
                        Err(WriteError::Full { .. }) => drop(store.flush().await.unwrap()),
                        Err(error) => panic!("{error}"),
                    }
                }
            }
            numbers
        }
    };
    let tasks: Vec<_> = (0..8).map(|number| tokio::spawn(writer(number))).collect();
    let mut numbers = Vec::new();
    for task in tasks {
        numbers.extend(task.await.unwrap());
    }
    numbers.sort_unstable();
    assert_eq!(numbers, (0..400).map(|n| 1 + 2 * n).collect::<Vec<_>>());
    drop(store);
    let store = open(&fixture).await;
    for number in 0..8 {
        for n in 0..50 {
            assert_eq!(get(&store, &format!("{number}-{n}!")).as_deref(), Some("y"));
        }
    }
    assert_eq!(store.last_sequence(), 800);
}

#[tokio::test]
async fn a_log_cut_at_any_byte_gives_a_prefix_of_the_batches() {
    let fixture = Fixture::new();
    let store = open(&fixture).await;
    for n in 0..6 {
        store.write(puts(&[(&format!("k{n}"), "v"), (&format!("l{n}"), "v")]), Durability::Local).await.unwrap();
    }
    drop(store);
    let [segment] = &segments(fixture.folder())[..] else { panic!("one segment") };
    let length = std::fs::metadata(segment).unwrap().len();
    let mut last = 0;
    for cut in 0..=length {
        let copied = fixture.copy().await;
        let path = copied.folder().join("wal").join(segment.file_name().unwrap());
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(cut).unwrap();
        let store = open(&copied).await;
        let there = (0..6).take_while(|n| get(&store, &format!("l{n}")).is_some()).count();
        for n in 0..6 {
            assert_eq!(get(&store, &format!("k{n}")).is_some(), n < there, "cut at {cut}");
            assert_eq!(get(&store, &format!("l{n}")).is_some(), n < there, "cut at {cut}");
        }
        assert!(there >= last, "cut at {cut}");
        last = there;
        // What is written behind the cut survives in turn.
        store.write(puts(&[("after", "cut")]), Durability::Local).await.unwrap();
        drop(store);
        assert_eq!(get(&open(&copied).await, "after").as_deref(), Some("cut"), "cut at {cut}");
    }
    assert_eq!(last, 6);
}

#[tokio::test]
async fn damage_in_what_was_synced_names_file_and_offset() {
    let fixture = Fixture::new();
    let store = open(&fixture).await;
    for n in 0..4 {
        store.write(puts(&[(&format!("k{n}"), "v")]), Durability::Local).await.unwrap();
    }
    drop(store);
    let [segment] = &segments(fixture.folder())[..] else { panic!("one segment") };
    let bytes = std::fs::read(segment).unwrap();
    let record = (bytes.len() - 64) / 4;
    for at in 0..bytes.len() {
        let copied = fixture.copy().await;
        let path = copied.folder().join("wal").join(segment.file_name().unwrap());
        let mut changed = bytes.clone();
        changed[at] ^= 0x40;
        std::fs::write(&path, &changed).unwrap();
        let opened = copied.try_open(copied.config(), LogChoice::Own).await;
        if at < bytes.len() - record {
            let error = opened.expect_err(&format!("byte {at}")).to_string();
            assert!(error.contains(".wal") && error.contains("at byte"), "byte {at}: {error}");
        } else {
            // The last record cannot be told from one that was torn.
            let store = opened.unwrap();
            assert_eq!(get(&store, "k2").as_deref(), Some("v"));
            assert_eq!(get(&store, "k3"), None);
        }
    }
}

#[tokio::test]
async fn records_that_were_never_synced_may_be_torn_in_any_order() {
    let fixture = Fixture::new();
    let store = open(&fixture).await;
    store.write(puts(&[("synced", "v")]), Durability::Local).await.unwrap();
    for n in 0..3 {
        store.write(puts(&[(&format!("k{n}"), "v")]), Durability::Memory).await.unwrap();
    }
    drop(store);
    let [segment] = &segments(fixture.folder())[..] else { panic!("one segment") };
    let mut bytes = std::fs::read(segment).unwrap();
    let third = bytes.len() - 2 * 40;
    bytes[third..third + 20].fill(0);
    std::fs::write(segment, &bytes).unwrap();
    let store = open(&fixture).await;
    assert_eq!(get(&store, "synced").as_deref(), Some("v"));
    assert_eq!(get(&store, "k2"), None);
}

#[tokio::test]
async fn a_flush_releases_the_segments_before_it() {
    let fixture = Fixture::new();
    let store = open(&fixture).await;
    for n in 0..3 {
        store.write(puts(&[(&format!("k{n}"), "v")]), Durability::Local).await.unwrap();
        store.flush().await.unwrap();
        assert_eq!(segments(fixture.folder()).len(), 1);
    }
    drop(store);
    let store = open(&fixture).await;
    assert_eq!(get(&store, "k2").as_deref(), Some("v"));
    assert_eq!(store.last_sequence(), 3);
}

#[tokio::test]
async fn another_folder_is_refused_unless_the_stop_was_clean_or_loss_is_accepted() {
    let fixture = Fixture::new();
    let store = open(&fixture).await;
    store.write(puts(&[("a", "1")]), Durability::Local).await.unwrap();
    drop(store);
    let other = fixture.elsewhere();
    let refused = other.try_open(other.config(), LogChoice::Own).await;
    assert!(matches!(refused, Err(OpenError::LogElsewhere { epoch: 1 })), "{refused:?}");
    let store = other.open_with(other.config().accept_log_loss(true), LogChoice::Own).await;
    assert_eq!(get(&store, "a"), None);
    store.write(puts(&[("b", "2")]), Durability::Local).await.unwrap();
    store.flush_with(FlushOptions { clean: true, ..FlushOptions::default() }).await.unwrap();
    store.close().await.unwrap();
    // The first folder still has a write that the bucket went on without.
    let refused = fixture.try_open(fixture.config(), LogChoice::Own).await;
    assert!(matches!(refused, Err(OpenError::OrphanedLog { .. })), "{refused:?}");
    let third = fixture.elsewhere();
    assert_eq!(get(&open(&third).await, "b").as_deref(), Some("2"));
}

#[tokio::test]
async fn a_log_of_another_store_is_refused() {
    let fixture = Fixture::new();
    let store = open(&fixture).await;
    store.write(puts(&[("a", "1")]), Durability::Local).await.unwrap();
    drop(store);
    let other = Fixture::new();
    drop(open(&other).await);
    let name = segments(fixture.folder())[0].file_name().unwrap().to_owned();
    std::fs::copy(&segments(fixture.folder())[0], other.folder().join("wal").join(name)).unwrap();
    let refused = other.try_open(other.config(), LogChoice::Own).await;
    assert!(matches!(refused, Err(OpenError::ForeignLog { .. })), "{refused:?}");
}

#[tokio::test]
async fn apply_is_refused_where_the_store_keeps_its_log_and_write_where_it_does_not() {
    let fixture = Fixture::new();
    let store = open(&fixture).await;
    assert!(matches!(store.apply(&Batch::new()), Err(WriteError::WrongLog { .. })));
    let other = Fixture::new();
    let store = other.open().await;
    assert!(matches!(store.write(Batch::new(), Durability::Local).await, Err(WriteError::WrongLog { .. })));
    store.write(puts(&[("a", "1")]), Durability::Memory).await.unwrap();
}

#[test]
fn a_runtime_that_ends_under_a_store_leaves_nobody_waiting() {
    let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (first, second) = (runtime(), runtime());
    let fixture = Fixture::new();
    let store = first.block_on(fixture.open_own(fixture.config().remote_log(true))).unwrap();
    first.block_on(store.write(puts(&[("a", "1")]), Durability::Remote)).unwrap();
    first.shutdown_background();
    // The job that wrote the first may take another, but then it ends.
    for durability in [Durability::Local, Durability::Remote] {
        let refused = async {
            while let Ok(applied) = store.write(puts(&[("b", "2")]), durability).await {
                assert!(applied.last < 100, "it goes on without its runtime");
            }
        };
        let refused = async { tokio::time::timeout(std::time::Duration::from_secs(20), refused).await };
        second.block_on(refused).expect("it waits for ever");
    }
    drop(store);
    let store = second.block_on(fixture.open_own(fixture.config().remote_log(true))).unwrap();
    assert_eq!(get(&store, "a").as_deref(), Some("1"));
}

#[test]
fn a_runtime_that_ends_while_the_log_is_sent_leaves_nobody_waiting() {
    let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (first, second) = (runtime(), runtime());
    let fixture = Fixture::new();
    let objects = Arc::new(FaultStore::new(Arc::clone(&fixture.objects) as _));
    let env = Arc::new(SystemEnv::on(first.handle().clone()));
    let opening = Store::open(fixture.config().remote_log(true), Arc::clone(&objects) as _, env, LogChoice::Own);
    let store = first.block_on(opening).unwrap();
    objects.set(vec![Fault::always(Kind::Silent).on(&[Operation::Put])]);
    let written = second.spawn(async move { store.write(puts(&[("a", "1")]), Durability::Remote).await });
    while objects.struck() == 0 {
        std::thread::yield_now();
    }
    first.shutdown_background();
    let refused = async { tokio::time::timeout(std::time::Duration::from_secs(20), written).await };
    let refused = second.block_on(refused).expect("it waits for ever").unwrap();
    assert!(matches!(refused, Err(WriteError::Unusable(_))), "{refused:?}");
}

//! The owner's log: what is asked of it, in which order, and what a replay brings back.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use lsmstore::{FlushError, FlushOptions, LogChoice, OpenError, Replayed, Store, WriteError};

use crate::fixture::{Event, Fault, Fixture, RecordingLog, get, puts};

async fn open(fixture: &Fixture, log: &Arc<RecordingLog>) -> Store {
    fixture.open_with(fixture.config(), LogChoice::External(Arc::clone(log) as _)).await
}

fn write(store: &Store, log: &RecordingLog, writes: &[(&str, &str)]) {
    let batch = puts(writes);
    let applied = store.apply(&batch).unwrap();
    log.append(applied.first, &batch);
}

#[tokio::test]
async fn a_flush_reads_r_then_rotates_then_logs_the_birth_then_uploads_then_publishes() {
    let fixture = Fixture::new();
    let log = Arc::new(RecordingLog::default());
    let store = open(&fixture, &log).await;
    write(&store, &log, &[("a", "1"), ("b", "2")]);
    log.take_events();
    let seen = Arc::new(Mutex::new(None));
    let (at_birth, objects, handle) = (Arc::clone(&seen), Arc::clone(&fixture.objects), store.clone());
    *log.at_birth.lock().unwrap() = Some(Box::new(move |_| {
        let tables = objects.puts.lock().unwrap().iter().filter(|name| name.contains("/sst/")).count();
        let stats = handle.stats();
        *at_birth.lock().unwrap() = Some((tables, stats.frozen, stats.levels[0].tables));
    }));
    store.flush().await.unwrap();
    *log.at_birth.lock().unwrap() = None;
    assert_eq!(*seen.lock().unwrap(), Some((0, 1, 0)), "frozen, nothing uploaded, when the birth is logged");
    let events = log.take_events();
    let [Event::Position(1), Event::Birth(birth), Event::Published(manifest)] = &events[..] else {
        panic!("{events:?}")
    };
    assert_eq!((birth.position, birth.last_sequence, birth.clean), (1, 2, false));
    assert_eq!((birth.manifest_number, birth.epoch, birth.store_id), (2, store.epoch(), store.store_id()));
    assert_eq!((manifest.number, manifest.nonce, manifest.position), (2, birth.nonce, 1));
    assert_eq!(manifest.owner, b"born 2");
    assert_eq!(manifest.last_sequence, 2);
}

#[tokio::test]
async fn writes_during_a_flush_are_neither_in_s_nor_lost() {
    let fixture = Fixture::new();
    let log = Arc::new(RecordingLog::default());
    let store = open(&fixture, &log).await;
    write(&store, &log, &[("a", "1")]);
    let handle = store.clone();
    *log.at_birth.lock().unwrap() =
        Some(Box::new(move |_| assert_eq!(handle.apply(&puts(&[("b", "2")])).unwrap().first, 2)));
    store.flush().await.unwrap();
    *log.at_birth.lock().unwrap() = None;
    assert_eq!(store.manifest().last_sequence, 1);
    assert_eq!(get(&store, "b").as_deref(), Some("2"));
    assert_eq!(store.last_sequence(), 2);
}

#[tokio::test]
async fn a_replay_skips_what_the_manifest_holds_and_brings_back_the_rest() {
    let fixture = Fixture::new();
    let log = Arc::new(RecordingLog::default());
    let store = open(&fixture, &log).await;
    write(&store, &log, &[("a", "1")]);
    store.flush().await.unwrap();
    write(&store, &log, &[("a", "2"), ("b", "2")]);
    drop(store);
    let store = open(&fixture, &log).await;
    assert_eq!(store.apply_at(1, &puts(&[("a", "1")])).unwrap(), Replayed::Skipped);
    assert_eq!(get(&store, "a").as_deref(), Some("1"));
    assert_eq!(log.replay(&store).await, (1, 0));
    assert_eq!(log.replay(&store).await, (1, 0), "a batch applied twice counts once");
    assert_eq!(store.stats().levels[0].entries + 2, 3);
    store.set_next_sequence(100);
    assert_eq!((get(&store, "a").as_deref(), get(&store, "b").as_deref()), (Some("2"), Some("2")));
    assert_eq!(store.apply(&puts(&[("c", "3")])).unwrap().first, 100);
    let late = store.apply_at(50, &puts(&[("a", "late")]));
    assert!(matches!(late, Err(WriteError::Sequence { first: 50, .. })), "{late:?}");
}

#[tokio::test]
async fn batches_replayed_out_of_order_leave_the_newest_even_over_a_flush_between_them() {
    let fixture = Fixture::new();
    let log = Arc::new(RecordingLog::default());
    drop(open(&fixture, &log).await);
    let store = open(&fixture, &log).await;
    let mut batch = puts(&[("a", "newer")]);
    batch.delete(b"gone");
    store.apply_at(5, &batch).unwrap();
    let before = store.manifest();
    store.flush().await.unwrap();
    let after = store.manifest();
    assert!(after.number > before.number);
    assert_eq!(
        (after.position, after.last_sequence),
        (before.position, before.last_sequence),
        "R and S stay in a replay"
    );
    store.merge(Arc::new(lsmstore::KeepAll)).await.unwrap();
    assert_eq!(store.apply_at(3, &puts(&[("a", "older"), ("gone", "x")])).unwrap(), Replayed::Applied);
    store.apply_at(1, &puts(&[("b", "x")])).unwrap();
    assert_eq!(get(&store, "gone"), None, "its deletion is newer, and a merge kept it");
    assert_eq!(get(&store, "a").as_deref(), Some("newer"));
    assert_eq!(get(&store, "b").as_deref(), Some("x"));
    store.set_next_sequence(0);
    store.flush().await.unwrap();
    assert_eq!(store.manifest().last_sequence, 6);
    store.merge(Arc::new(lsmstore::KeepAll)).await.unwrap();
    assert_eq!(get(&store, "gone"), None);
    assert_eq!(get(&store, "a").as_deref(), Some("newer"));
}

#[tokio::test]
async fn a_birth_that_cannot_be_logged_stops_the_flush_before_anything_is_uploaded() {
    let fixture = Fixture::new();
    let log = Arc::new(RecordingLog::default());
    let store = open(&fixture, &log).await;
    write(&store, &log, &[("a", "1")]);
    let puts_before = fixture.objects.puts.lock().unwrap().len();
    *log.fail_birth.lock().unwrap() = true;
    assert!(matches!(store.flush().await, Err(FlushError::Log(_))));
    assert_eq!(fixture.objects.puts.lock().unwrap().len(), puts_before);
    assert_eq!(get(&store, "a").as_deref(), Some("1"));
    *log.fail_birth.lock().unwrap() = false;
    store.flush().await.unwrap();
    assert_eq!(store.manifest().last_sequence, 1);
}

#[tokio::test]
async fn a_failed_upload_is_retried_under_the_birth_it_had() {
    let fixture = Fixture::new();
    let log = Arc::new(RecordingLog::default());
    let store = open(&fixture, &log).await;
    write(&store, &log, &[("a", "1")]);
    log.take_events();
    fixture.objects.fail("sst/", Fault::Before, 1);
    store.flush().await.unwrap_err();
    store.flush().await.unwrap();
    let births = log.take_events().into_iter().filter_map(|event| match event {
        Event::Birth(birth) => Some((birth.manifest_number, birth.nonce)),
        _ => None,
    });
    let births = births.collect::<Vec<_>>();
    assert_eq!(births, [(store.manifest().number, store.manifest().nonce)]);
}

#[tokio::test]
async fn a_manifest_whose_number_went_to_an_earlier_one_is_born_again_under_its_own() {
    let fixture = Fixture::new();
    let log = Arc::new(RecordingLog::default());
    let store = open(&fixture, &log).await;
    write(&store, &log, &[("a", "1")]);
    fixture.objects.fail("manifest/", Fault::After, 1);
    store.flush().await.unwrap_err();
    write(&store, &log, &[("b", "2")]);
    store.flush_local(FlushOptions::default()).await.unwrap();
    let born = store.local_manifest().await;
    assert_eq!(born.number, 3, "2 is in doubt");
    assert!(store.publish().await.unwrap());
    assert_eq!((store.manifest().number, store.manifest().nonce), (3, born.nonce));
    let births = log.take_events().into_iter().filter(|event| matches!(event, Event::Birth(_))).count();
    assert_eq!(births, 3, "the store's, and one for each manifest");
}

#[tokio::test]
async fn a_log_that_could_not_be_told_is_told_again() {
    let fixture = Fixture::new();
    let log = Arc::new(RecordingLog::default());
    let store = open(&fixture, &log).await;
    write(&store, &log, &[("a", "1")]);
    *log.fail_published.lock().unwrap() = true;
    assert!(matches!(store.flush().await, Err(FlushError::NotAnnounced(_))));
    assert_eq!(store.manifest().last_sequence, 1);
    *log.fail_published.lock().unwrap() = false;
    log.take_events();
    assert!(!store.flush().await.unwrap().published);
    let published = log.take_events().into_iter().find(|event| matches!(event, Event::Published(_)));
    assert_eq!(published, Some(Event::Published(store.manifest())));
}

#[tokio::test]
async fn an_idle_flush_writes_nothing_unless_forced_or_marked_clean() {
    let fixture = Fixture::new();
    let log = Arc::new(RecordingLog::default());
    let store = open(&fixture, &log).await;
    write(&store, &log, &[("a", "1")]);
    store.flush().await.unwrap();
    let count = || fixture.objects.puts.lock().unwrap().len();
    let before = count();
    assert!(!store.flush().await.unwrap().published);
    assert_eq!(count(), before);
    log.append(9, &puts(&[("elsewhere", "x")]));
    assert!(store.flush_with(FlushOptions { force: true, clean: false }).await.unwrap().published);
    assert_eq!(store.manifest().position, 2);
    assert!(store.flush_with(FlushOptions { force: false, clean: true }).await.unwrap().published);
    assert!(store.manifest().clean);
    write(&store, &log, &[("a", "2")]);
    store.flush().await.unwrap();
    assert!(!store.manifest().clean);
}

#[tokio::test]
async fn a_view_is_announced_before_any_write_that_only_it_shows() {
    let fixture = Fixture::new();
    let store = fixture.open_with(fixture.config().memtable_bytes(4096).max_frozen(50), LogChoice::Nobody).await;
    let announced = Arc::new(AtomicU64::new(store.view_number()));
    let (listener, handle) = (Arc::clone(&announced), store.clone());
    store.on_view_change(Box::new(move |number| {
        let view = handle.view().unwrap();
        assert_eq!((view.number(), handle.view_number()), (number, number));
        assert_eq!(view.read_sequence(), handle.last_sequence(), "nothing newer is in it yet");
        assert!(listener.swap(number, Ordering::SeqCst) < number);
    }));
    for n in 0..40 {
        store.apply(&puts(&[(&format!("k{n}"), &"v".repeat(1000))])).unwrap();
    }
    assert!(announced.load(Ordering::SeqCst) > 10);
    assert_eq!(announced.load(Ordering::SeqCst), store.view_number());
}

#[tokio::test]
async fn writes_that_only_the_owners_log_can_bring_back_are_not_left_behind_by_accident() {
    let fixture = Fixture::new();
    let log = Arc::new(RecordingLog::default());
    let store = open(&fixture, &log).await;
    write(&store, &log, &[("a", "1")]);
    drop(store);
    let refused = fixture.try_open(fixture.config(), LogChoice::Own).await;
    assert!(matches!(refused, Err(OpenError::WrongLog { .. })), "{refused:?}");
}

#[tokio::test]
async fn an_older_version_replayed_into_a_newer_memtable_does_not_hide_the_newest() {
    let fixture = Fixture::new();
    let log = Arc::new(RecordingLog::default());
    let store = fixture.open_with(fixture.config().memtable_bytes(4096), LogChoice::External(log)).await;
    store.apply_at(5, &puts(&[("a", "newer")])).unwrap();
    store.apply_at(6, &puts(&[("large", &"x".repeat(3900))])).unwrap();
    store.apply_at(3, &puts(&[("a", "older")])).unwrap();
    assert!(store.stats().frozen > 0);
    assert_eq!(get(&store, "a").as_deref(), Some("newer"));
}

//! The orderly stop.

use std::time::Instant;

use kriya_engine::{ClientError, PollWait, Written, keys};
use lsmstore::Batch;

use crate::cluster::{Cluster, PATIENCE, eventually, finished};
use crate::indexes::{build, insert};

#[test]
fn a_stop_waits_for_transactions_that_wrote_and_refuses_new_ones() {
    let mut cluster = Cluster::new();
    let (mut writer, mut reader) = (cluster.connect(), cluster.connect());
    writer.put_row(1, 1, b"one");
    assert!(reader.get_row(1, 1).is_some());
    let worker = cluster.worker.take().unwrap();
    worker.stop();
    eventually("it is stopping", || !reader.session.serving());
    let mut batch = Batch::new();
    batch.put(b"rother", b"");
    let generation = reader.session.generation();
    let answer = reader.session.write(generation, &batch, &[], &mut PollWait);
    assert!(matches!(answer, Err(ClientError::Stopping)));
    // The one that had begun goes on.
    writer.put_row(1, 2, b"two");
    assert!(worker.finished().is_none());
    writer.commit();
    finished(&worker).unwrap();
    assert!(!writer.session.alive());
    cluster.start();
    let mut back = cluster.connect();
    assert_eq!(back.get_row(1, 2).unwrap(), b"two");
}

#[test]
fn a_transaction_that_holds_a_stop_up_is_cut_off_once_others_have_waited_for_long() {
    let mut cluster = Cluster::new();
    let (mut writer, mut other) = (cluster.connect(), cluster.connect());
    writer.put_row(1, 1, b"one");
    let worker = cluster.worker.take().unwrap();
    worker.stop();
    eventually("it is stopping", || !other.session.serving());
    // It does not end by itself, and nobody minds: it may go on for as long as it likes.
    writer.put_row(1, 2, b"two");
    let mut batch = Batch::new();
    batch.put(b"rother", b"");
    let generation = other.session.generation();
    eventually("it has ended", || {
        // As whoever waits for the next worker does: it asks again and again.
        if writer.session.alive() {
            let answer = other.session.write(generation, &batch, &[], &mut PollWait);
            assert!(
                matches!(answer, Err(ClientError::Stopping | ClientError::Gone | ClientError::Broken)),
                "{answer:?}"
            );
        }
        worker.finished().is_some()
    });
    finished(&worker).unwrap();
    assert!(!writer.session.alive());
    cluster.start();
    // What it wrote is there for whoever asks what became of the transaction.
    assert_eq!(cluster.connect().get_row(1, 2).unwrap(), b"two");
}

#[test]
fn a_session_that_goes_away_does_not_hold_a_stop_up() {
    let mut cluster = Cluster::new();
    let mut writer = cluster.connect();
    writer.put_row(1, 1, b"one");
    let worker = cluster.worker.take().unwrap();
    worker.stop();
    drop(writer);
    finished(&worker).unwrap();
}

#[test]
fn after_an_orderly_stop_the_log_is_not_needed() {
    let mut cluster = Cluster::new();
    let mut a = cluster.connect();
    a.put_row(1, 1, b"one");
    a.commit();
    cluster.stop();
    let slot = cluster.host.lock().slot.unwrap();
    let rows_before = cluster.host.lock().records.iter().filter(|record| record.start >= slot).count();
    assert!(rows_before <= 1, "only the birth record lies behind the position: {rows_before}");
    cluster.start();
    assert_eq!(cluster.connect().get_row(1, 1).unwrap(), b"one");
}

#[test]
fn a_flush_that_a_session_asks_for_during_the_last_one_is_refused() {
    let mut cluster = Cluster::new();
    let mut a = cluster.connect();
    a.put_row(1, 1, b"one");
    a.commit();
    cluster.host.lock().hold_position = true;
    let worker = cluster.worker.take().unwrap();
    worker.stop();
    eventually("the last flush has begun", || cluster.host.lock().held);
    let asking = std::thread::spawn(move || a.session.flush(&mut PollWait));
    let deadline = Instant::now() + PATIENCE / 4;
    while !asking.is_finished() && Instant::now() < deadline {
        std::thread::yield_now();
    }
    let at_once = asking.is_finished();
    cluster.host.lock().hold_position = false;
    let answer = asking.join().unwrap();
    assert!(at_once && matches!(answer, Err(ClientError::Stopping)), "{answer:?}");
    finished(&worker).unwrap();
}

/// Writes rows until too many of them wait for the object store.
fn fill_the_backlog(a: &mut crate::cluster::Backend) {
    let row = vec![7; 8 << 10];
    let mut tid = 0;
    eventually("writers wait", || {
        let mut batch = Batch::new();
        batch.put(&keys::row(1, tid), &row);
        tid += 1;
        let generation = a.session.generation();
        match a.session.write(generation, &batch, &[], &mut PollWait).unwrap() {
            Written::At(first) => {
                a.log(&batch, first);
                false
            }
            _ => a.session.status(&mut PollWait).unwrap().frozen_memtables == 0,
        }
    });
    a.commit();
}

#[test]
fn a_segment_whose_record_has_no_room_in_the_store_does_not_hold_a_stop_up() {
    let mut cluster = Cluster::new();
    cluster.stop();
    (cluster.memtable_bytes, cluster.backlog_bytes) = (256 << 10, 1 << 20);
    cluster.start();
    let mut a = cluster.connect();
    let index = build(&mut a, &[]);
    for chunk in 0..11 {
        insert(&mut a, index, chunk * 1000..(chunk + 1) * 1000);
    }
    a.commit();
    // Segments get through, tables do not.
    let objects = cluster.dir.path().join("objects/bucket/prefix");
    eventually("there are tables", || objects.join("sst").is_dir());
    std::fs::rename(objects.join("sst"), objects.join("away")).unwrap();
    std::fs::write(objects.join("sst"), b"not a folder").unwrap();
    fill_the_backlog(&mut a);
    assert!(a.session.flush(&mut PollWait).is_err(), "but it has the segment sealed");
    let uploaded = || std::fs::read_dir(objects.join("segments")).is_ok_and(|names| names.count() > 1);
    eventually("the segment is uploaded", uploaded);
    let worker = cluster.worker.take().unwrap();
    worker.stop();
    let ended = finished(&worker).unwrap_err().to_string();
    assert!(ended.contains("not in the bucket yet"), "{ended}");
    std::fs::remove_file(objects.join("sst")).unwrap();
    std::fs::rename(objects.join("away"), objects.join("sst")).unwrap();
    cluster.start();
    let mut b = cluster.connect();
    assert!(b.get_row(1, 0).is_some());
}

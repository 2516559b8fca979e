//! The orderly stop.

use kriya_engine::{ClientError, PollWait};
use lsmstore::Batch;

use crate::cluster::{Cluster, eventually, finished};

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

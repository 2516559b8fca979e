//! What comes back after a crash, and what must not.

use kriya_engine::record::{Kind, RecordHead, frames};
use kriya_engine::worker::Host;
use kriya_engine::{ClientError, PollWait, Written, keys};
use lsmstore::Batch;

use crate::cluster::Cluster;

#[test]
fn committed_rows_come_back_whether_flushed_or_not() {
    let mut cluster = Cluster::new();
    let mut a = cluster.connect();
    for round in 0..4u64 {
        for tid in 0..50 {
            a.put_row(round, tid, &[round as u8; 100]);
        }
        a.commit();
        if round % 2 == 0 {
            a.flush();
        }
    }
    for _ in 0..3 {
        cluster.restart_after_server_crash();
        let mut b = cluster.connect();
        for round in 0..4u64 {
            for tid in 0..50 {
                assert_eq!(b.get_row(round, tid), Some(vec![round as u8; 100]), "table {round} row {tid}");
            }
        }
    }
    assert_eq!(cluster.host.lock().barriers, 4);
}

#[test]
fn what_was_logged_behind_the_flushed_position_but_not_flushed_comes_back_after_a_worker_crash() {
    let mut cluster = Cluster::new();
    let mut a = cluster.connect();
    a.put_row(1, 1, b"before");
    a.flush();
    a.put_row(1, 2, b"after");
    // Nobody flushed the log since.
    assert!(cluster.host.flushed_position() < cluster.host.position().unwrap());
    cluster.restart_after_worker_crash();
    let mut b = cluster.connect();
    assert_eq!(b.get_row(1, 1).unwrap(), b"before");
    assert_eq!(b.get_row(1, 2).unwrap(), b"after");
}

#[test]
fn a_batch_that_was_acknowledged_before_a_flush_and_logged_after_it_counts_once() {
    let mut cluster = Cluster::new();
    let (mut a, mut b) = (cluster.connect(), cluster.connect());
    let mut batch = Batch::new();
    batch.put(b"rkey", b"first");
    let Written::At(first) = a.write(&batch, &[]) else { panic!() };
    b.flush();
    b.put(b"rkey", b"second");
    a.log(&batch, first);
    b.commit();
    cluster.restart_after_server_crash();
    assert_eq!(cluster.connect().get(b"rkey").unwrap(), b"second");
}

#[test]
fn batches_of_several_pieces_come_back_and_unfinished_ones_do_not() {
    let mut cluster = Cluster::new();
    cluster.stop();
    // Nothing gets full, so nothing is flushed.
    cluster.memtable_bytes = 64 << 20;
    cluster.start();
    let mut a = cluster.connect();
    let value: Vec<u8> = (0..5 << 20).map(|i: u32| (i % 241) as u8).collect();
    a.put_row(1, 1, &value);
    let mut batch = Batch::new();
    batch.put(&keys::row(1, 2), &value);
    let Written::At(first) = a.write(&batch, &[]) else { panic!() };
    let head = RecordHead {
        kind: Kind::Batch,
        generation: a.session.generation(),
        sequence: first,
        xid: a.xid,
        incarnation: a.session.incarnation(),
    };
    let mut pieces = frames(&head, batch.as_bytes()).unwrap();
    pieces.pop();
    cluster.host.log(pieces, true).unwrap();
    cluster.restart_after_server_crash();
    let mut b = cluster.connect();
    assert!(b.get_row(1, 1).unwrap() == value);
    assert!(b.get_row(1, 2).is_none());
}

#[test]
fn stragglers_of_an_older_generation_are_dropped_by_the_replays_that_follow() {
    let mut cluster = Cluster::new();
    let mut old = cluster.connect();
    old.put_row(1, 1, b"committed");
    old.commit();
    let mut batch = Batch::new();
    batch.put(&keys::row(1, 1), b"straggler").put(&keys::row(1, 9), b"straggler");
    let Written::At(first) = old.write(&batch, &[]) else { panic!() };
    cluster.restart_after_worker_crash();
    let mut new = cluster.connect();
    assert!(new.session.generation() > old.session.generation());
    // Its transaction learns of the new worker only before it commits.
    old.log(&batch, first);
    new.put_row(1, 2, b"new");
    new.commit();
    for flush in [false, true] {
        cluster.restart_after_server_crash();
        let mut reader = cluster.connect();
        assert_eq!(reader.get_row(1, 1).unwrap(), b"committed");
        assert_eq!(reader.get_row(1, 2).unwrap(), b"new");
        assert_eq!(reader.get_row(1, 9), None);
        if flush {
            reader.flush();
        }
    }
}

#[test]
fn stragglers_are_dropped_when_the_younger_generation_record_lies_before_the_replayed_log() {
    let mut cluster = Cluster::new();
    let mut old = cluster.connect();
    let mut batch = Batch::new();
    batch.put(&keys::row(1, 9), b"straggler");
    let Written::At(first) = old.write(&batch, &[]) else { panic!() };
    cluster.restart_after_worker_crash();
    let mut new = cluster.connect();
    new.put_row(1, 1, b"new");
    new.flush();
    old.log(&batch, first);
    new.commit();
    cluster.restart_after_server_crash();
    let mut reader = cluster.connect();
    assert_eq!(reader.get_row(1, 1).unwrap(), b"new");
    assert_eq!(reader.get_row(1, 9), None);
}

#[test]
fn requests_of_another_generation_are_refused() {
    let mut cluster = Cluster::new();
    let generation = cluster.connect().session.generation();
    cluster.restart_after_worker_crash();
    let mut session = cluster.connect().session;
    let mut batch = Batch::new();
    batch.put(b"rkey", b"");
    let answer = session.write(generation, &batch, &[], &mut PollWait);
    assert!(matches!(answer, Err(ClientError::Generation { current }) if current == session.generation()));
}

#[test]
fn a_log_larger_than_all_memtables_is_replayed() {
    let mut cluster = Cluster::new();
    let mut a = cluster.connect();
    let value = vec![9; 3000];
    for tid in 0..2000 {
        a.put_row(1, tid, &value);
    }
    a.commit();
    // Six megabytes into memtables of 64 KiB, of which a handful may wait.
    cluster.memtable_bytes = 64 << 10;
    cluster.crash_worker();
    cluster.start();
    let mut b = cluster.connect();
    for tid in 0..2000 {
        assert_eq!(b.get_row(1, tid).as_deref(), Some(&value[..]), "row {tid}");
    }
}

#[test]
fn the_slot_never_passes_what_replay_needs() {
    let mut cluster = Cluster::new();
    for round in 0..3 {
        let mut a = cluster.connect();
        a.put_row(1, round, b"row");
        a.commit();
        a.flush();
        a.put_row(2, round, b"row");
        a.commit();
        let slot = cluster.host.lock().slot.unwrap();
        // The log before the slot goes.
        cluster.host.lock().records.retain(|record| record.start >= slot);
        cluster.restart_after_server_crash();
    }
    let mut b = cluster.connect();
    for round in 0..3 {
        assert!(b.get_row(1, round).is_some() && b.get_row(2, round).is_some(), "round {round}");
    }
}

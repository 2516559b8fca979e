//! Whose bucket it is.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use kriya_engine::worker::start;
use kriya_engine::{ClientError, PollWait, Session};

use crate::cluster::{Cluster, FakeHost, config, finished};

/// Every file below a folder with its length.
fn files(dir: &Path) -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.insert(entry.path().display().to_string(), entry.metadata().unwrap().len());
        }
    }
    found
}

fn refused(cluster: &Cluster) -> String {
    let before = files(&cluster.dir.path().join("objects"));
    let Err(ClientError::Refused { message, hint }) = cluster.try_connect() else { panic!("it was not refused") };
    assert!(!hint.is_empty());
    assert_eq!(files(&cluster.dir.path().join("objects")), before, "the bucket was written to");
    message
}

#[test]
fn a_bucket_whose_birth_record_is_not_in_the_log_is_refused_and_left_alone() {
    let mut cluster = Cluster::new();
    let mut a = cluster.connect();
    a.put_row(1, 1, b"row");
    a.commit();
    // Somebody copies the data directory, and both go on.
    let copied = cluster.host.copy();
    a.flush();
    cluster.crash_worker();
    cluster.host = copied;
    {
        // The copy has got as far, with other records.
        let mut state = cluster.host.lock();
        let bytes = state.next + 10_000;
        (state.next, state.flushed) = (bytes, bytes);
    }
    cluster.start();
    assert!(refused(&cluster).contains("does not belong to this server"));
    let worker = cluster.worker.take().unwrap();
    worker.stop();
    assert!(finished(&worker).is_err());
}

fn take_over(cluster: &Cluster, accept_loss: bool) -> Result<String, ClientError> {
    loop {
        match Session::take_over(&cluster.socket(), accept_loss, &mut PollWait) {
            Err(ClientError::NotServing(_)) => std::thread::yield_now(),
            other => return other,
        }
    }
}

#[test]
fn a_takeover_goes_on_with_the_newest_manifest_of_this_history_and_its_log() {
    let mut cluster = Cluster::new();
    let mut a = cluster.connect();
    a.put_row(1, 1, b"flushed");
    a.flush();
    a.put_row(1, 2, b"logged");
    a.commit();
    // A base backup; the original goes on and publishes.
    let backup = cluster.host.copy();
    a.put_row(1, 3, b"later");
    a.commit();
    a.flush();
    a.put_row(1, 1, b"overwritten later");
    a.commit();
    a.flush();
    cluster.crash_worker();
    cluster.host = backup;
    cluster.start();
    assert!(refused(&cluster).contains("does not belong to this server"));
    let told = take_over(&cluster, false).unwrap();
    assert!(told.contains("nothing that this server had is lost"), "{told}");
    let mut b = cluster.connect();
    assert_eq!(b.get_row(1, 1).as_deref(), Some(&b"flushed"[..]));
    assert_eq!(b.get_row(1, 2).as_deref(), Some(&b"logged"[..]));
    assert_eq!(b.get_row(1, 3), None);
    b.put_row(1, 4, b"new");
    b.commit();
    assert!(matches!(take_over(&cluster, true), Err(ClientError::Worker { .. })), "nothing is refused any more");
    drop(b);
    cluster.restart_after_server_crash();
    assert!(cluster.connect().get_row(1, 4).is_some());
}

#[test]
fn a_bucket_of_an_orderly_stop_is_taken_over_whole_without_its_log() {
    let mut cluster = Cluster::new();
    let mut a = cluster.connect();
    a.put_row(1, 1, b"row");
    a.commit();
    drop(a);
    cluster.stop();
    // As after pg_upgrade: another identity and another log, the transactions go on.
    let upgraded = FakeHost::new();
    upgraded.lock().system_identifier = 99;
    upgraded.lock().next_xid = 5000;
    cluster.host = upgraded;
    cluster.start();
    assert!(refused(&cluster).contains("system identifier"));
    let told = take_over(&cluster, false).unwrap();
    assert!(told.contains("orderly stop left whole"), "{told}");
    assert!(cluster.connect().get_row(1, 1).is_some());
    cluster.connect().put_row(1, 2, b"row");
    cluster.connect().commit();
    cluster.restart_after_server_crash();
    assert!(cluster.connect().get_row(1, 2).is_some());
}

#[test]
fn a_takeover_that_would_lose_something_asks_for_leave_and_one_that_would_reuse_transactions_is_refused() {
    let mut cluster = Cluster::new();
    let mut a = cluster.connect();
    a.put_row(1, 1, b"flushed");
    a.commit();
    a.flush();
    a.put_row(1, 2, b"logged");
    a.commit();
    drop(a);
    cluster.crash_worker();
    let reset = FakeHost::new();
    reset.lock().next_xid = 1;
    cluster.host = reset;
    cluster.start();
    refused(&cluster);
    let told = take_over(&cluster, true);
    let Err(ClientError::Worker { message, .. }) = told else { panic!("{told:?}") };
    assert!(message.contains("transactions"), "{message}");
    cluster.host.lock().next_xid = 5000;
    let Err(ClientError::Worker { message, hint }) = take_over(&cluster, false) else { panic!("it was taken over") };
    assert!(message.contains("would be lost") && hint.contains("accept_loss => true"), "{message} {hint}");
    refused(&cluster);
    let told = take_over(&cluster, true).unwrap();
    assert!(told.contains("REINDEX"), "{told}");
    let mut b = cluster.connect();
    assert_eq!((b.get_row(1, 1).as_deref(), b.get_row(1, 2)), (Some(&b"flushed"[..]), None));
}

#[test]
fn another_server_s_bucket_is_refused_and_transaction_ids_given_out_again_are_not() {
    let mut cluster = Cluster::new();
    cluster.connect().put_row(1, 1, b"row");
    cluster.stop();
    cluster.host.lock().system_identifier = 8;
    cluster.start();
    assert!(refused(&cluster).contains("system identifier"));
    cluster.worker = None;
    cluster.host.lock().system_identifier = 7;
    // As after a crash: ids that left nothing in the log are given out again.
    cluster.host.lock().next_xid = 1;
    cluster.start();
    assert!(cluster.connect().get_row(1, 1).is_some());
}

#[test]
fn a_log_whose_beginning_is_gone_is_refused() {
    let mut cluster = Cluster::new();
    let mut a = cluster.connect();
    a.put_row(1, 1, b"row");
    a.flush();
    a.put_row(1, 2, b"row");
    a.commit();
    cluster.crash_worker();
    let middle = cluster.host.lock().records.len() - 1;
    cluster.host.lock().records.drain(..middle);
    cluster.start();
    assert!(refused(&cluster).contains("birth"));
}

#[test]
fn a_second_worker_on_the_same_folder_ends_at_once() {
    let cluster = Cluster::new();
    let mut a = cluster.connect();
    let second = start(config(cluster.dir.path(), 4 << 20, Duration::from_secs(60)), cluster.host.clone());
    assert!(finished(&second).unwrap_err().to_string().contains("another storage worker"));
    assert!(a.session.status(&mut PollWait).is_ok());
}

//! Whose bucket it is.

use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use kriya_engine::catalogue::{CatalogueEntry, TableEntry};
use kriya_engine::worker::start;
use kriya_engine::{ClientError, Interrupted, PollWait, Session, Wait, keys};
use rustix::event::{PollFd, PollFlags, Timespec};

use crate::cluster::{Cluster, FakeHost, config, files, finished};

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
    assert!(cluster.refused().contains("does not belong to this server"));
    let worker = cluster.worker.take().unwrap();
    worker.stop();
    assert!(finished(&worker).is_err());
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
    assert!(cluster.refused().contains("does not belong to this server"));
    let told = cluster.take_over(false).unwrap();
    assert!(told.contains("nothing that this server had is lost"), "{told}");
    let mut b = cluster.connect();
    assert_eq!(b.get_row(1, 1).as_deref(), Some(&b"flushed"[..]));
    assert_eq!(b.get_row(1, 2).as_deref(), Some(&b"logged"[..]));
    assert_eq!(b.get_row(1, 3), None);
    b.put_row(1, 4, b"new");
    b.commit();
    assert!(matches!(cluster.take_over(true), Err(ClientError::Worker { .. })), "nothing is refused any more");
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
    assert!(cluster.refused().contains("system identifier"));
    let told = cluster.take_over(false).unwrap();
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
    cluster.refused();
    let told = cluster.take_over(true);
    let Err(ClientError::Worker { message, .. }) = told else { panic!("{told:?}") };
    assert!(message.contains("transactions"), "{message}");
    cluster.host.lock().next_xid = 5000;
    let Err(ClientError::Worker { message, hint }) = cluster.take_over(false) else { panic!("it was taken over") };
    assert!(message.contains("would be lost") && hint.contains("accept_loss => true"), "{message} {hint}");
    cluster.refused();
    let told = cluster.take_over(true).unwrap();
    assert!(told.contains("REINDEX"), "{told}");
    let mut b = cluster.connect();
    assert_eq!((b.get_row(1, 1).as_deref(), b.get_row(1, 2)), (Some(&b"flushed"[..]), None));
}

#[test]
fn what_became_of_another_server_s_transactions_is_not_guessed_be_it_ordered() {
    let mut cluster = Cluster::new();
    let mut a = cluster.connect();
    a.put_row(1, 1, b"flushed");
    a.commit();
    a.flush();
    drop(a);
    cluster.crash_worker();
    cluster.host = FakeHost::new();
    {
        let mut state = cluster.host.lock();
        (state.system_identifier, state.next_xid) = (99, 1_000_000);
    }
    cluster.start();
    cluster.refused();
    let Err(ClientError::Worker { message, hint }) = cluster.take_over(true) else { panic!("it was taken over") };
    assert!(message.contains("system identifier") && hint.contains("stopped in order"), "{message} {hint}");
    cluster.refused();
}

#[test]
fn another_server_s_bucket_is_refused_and_transaction_ids_given_out_again_are_not() {
    let mut cluster = Cluster::new();
    cluster.connect().put_row(1, 1, b"row");
    cluster.stop();
    cluster.host.lock().system_identifier = 8;
    cluster.start();
    assert!(cluster.refused().contains("system identifier"));
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
    assert!(cluster.refused().contains("birth"));
}

#[test]
fn a_failure_to_read_the_log_that_passes_refuses_nothing() {
    let mut cluster = Cluster::new();
    let mut a = cluster.connect();
    a.put_row(1, 1, b"row");
    a.commit();
    drop(a);
    cluster.crash_worker();
    cluster.host.lock().fail_to_read = true;
    cluster.start();
    let worker = cluster.worker.take().unwrap();
    assert!(finished(&worker).unwrap_err().to_string().contains("short of memory"), "the server starts it again");
    drop(worker);
    cluster.start();
    assert!(cluster.connect().get_row(1, 1).is_some());
}

#[test]
fn a_second_worker_on_the_same_folder_ends_at_once() {
    let cluster = Cluster::new();
    let mut a = cluster.connect();
    let second = start(config(cluster.dir.path(), 4 << 20, Duration::from_secs(60)), cluster.host.clone());
    assert!(finished(&second).unwrap_err().to_string().contains("another storage worker"));
    assert!(a.session.status(&mut PollWait).is_ok());
}

/// A server whose log is not the one that the bucket was written with, after all ids that were given out before.
fn reset(cluster: &mut Cluster) {
    cluster.crash_worker();
    cluster.host = FakeHost::new();
    cluster.host.lock().next_xid = 1_000_000;
    cluster.start();
}

#[test]
fn what_is_on_the_local_disk_alone_survives_a_takeover_without_the_log() {
    let mut cluster = Cluster::new();
    let mut a = cluster.connect();
    a.put_row(1, 1, b"published");
    a.commit();
    a.flush();
    drop(a);
    cluster.put_locally(1, 2, b"local");
    reset(&mut cluster);
    cluster.refused();
    let told = cluster.take_over(true).unwrap();
    assert!(told.contains("as the local disk has it"), "{told}");
    let mut b = cluster.connect();
    assert_eq!(b.get_row(1, 1).as_deref(), Some(&b"published"[..]));
    assert_eq!(b.get_row(1, 2).as_deref(), Some(&b"local"[..]));
    assert!(!cluster.dir.path().join("store/left-behind").exists());
}

#[test]
fn what_is_on_the_local_disk_alone_is_set_aside_when_it_cannot_be_used() {
    let mut cluster = Cluster::new();
    cluster.connect().flush();
    cluster.put_locally(1, 2, b"local");
    // Another server with this history takes the bucket meanwhile.
    cluster.crash_worker();
    let mut twin = cluster.twin();
    twin.start();
    twin.connect();
    twin.stop();
    cluster.start();
    cluster.refused();
    cluster.take_over(false).unwrap();
    assert!(cluster.host.warned("may be nowhere else"));
    let aside = files(&cluster.dir.path().join("store/left-behind"));
    assert_eq!(aside.len(), 2, "a table and its manifest: {aside:?}");
    assert_eq!(cluster.connect().get_row(1, 2).as_deref(), Some(&b"local"[..]), "the log has it as well");
}

#[test]
fn after_a_loss_no_number_that_was_lost_is_given_out_again() {
    let mut cluster = Cluster::new();
    let mut a = cluster.connect();
    let table = a.session.new_id(&mut PollWait).unwrap().unwrap();
    let entry = CatalogueEntry::Table(TableEntry {
        database: 1,
        tablespace: 1,
        relfilenumber: 1,
        created_xid: a.xid,
        incarnation: 1,
        name: "table".into(),
    });
    a.put(&keys::catalogue(table), &entry.encode());
    a.commit();
    a.flush();
    // The bucket knows nothing of the rest.
    let (mut ids, mut tids) = (0, 0);
    for _ in 0..3000 {
        ids = a.session.new_id(&mut PollWait).unwrap().unwrap();
    }
    for _ in 0..300 {
        tids = a.lease(table, 10_000).end;
    }
    a.commit();
    drop(a);
    reset(&mut cluster);
    cluster.refused();
    cluster.take_over(true).unwrap();
    for _ in 0..2 {
        let mut b = cluster.connect();
        assert!(b.session.new_id(&mut PollWait).unwrap().unwrap() > ids);
        let first = b.lease(table, 1).start;
        assert!(first >= tids, "row {first}, {tids} were given out");
        drop(b);
        cluster.restart_after_server_crash();
    }
}

/// A server that was copied a while ago, beside a bucket that has gone on with `manifests` more of them.
fn behind(manifests: u64) -> Cluster {
    let mut cluster = Cluster::new();
    let mut a = cluster.connect();
    a.put_row(1, 0, b"row");
    a.commit();
    a.flush();
    let backup = cluster.host.copy();
    for tid in 1..=manifests {
        a.put_row(1, tid, b"later");
        a.commit();
        a.flush();
    }
    cluster.crash_worker();
    cluster.host = backup;
    // As far as the original, with other records.
    cluster.host.fill(1_000_000);
    cluster
}

fn manifest(cluster: &Cluster, from_the_end: usize) -> PathBuf {
    let mut names: Vec<_> = files(&cluster.objects()).into_keys().collect();
    names.retain(|name| name.contains("/manifest/"));
    names.iter().rev().nth(from_the_end).unwrap().into()
}

#[test]
fn a_takeover_passes_by_manifests_that_are_damaged_or_gone() {
    let mut cluster = behind(6);
    std::fs::write(manifest(&cluster, 2), b"damaged").unwrap();
    std::fs::remove_file(manifest(&cluster, 4)).unwrap();
    cluster.start();
    cluster.refused();
    cluster.take_over(false).unwrap();
    let mut b = cluster.connect();
    assert_eq!((b.get_row(1, 0).as_deref(), b.get_row(1, 1)), (Some(&b"row"[..]), None));
}

#[test]
fn a_takeover_looks_no_further_where_the_log_begins() {
    let mut cluster = behind(30);
    cluster.start();
    cluster.refused();
    let (slot, reads) = {
        let mut state = cluster.host.lock();
        state.removed = state.next - 1;
        (state.slot, state.reads)
    };
    assert!(cluster.take_over(false).is_err());
    let state = cluster.host.lock();
    assert!(state.reads - reads <= 4, "the log was read {} times", state.reads - reads);
    assert_eq!(state.slot, slot, "the slot stays where it was");
}

/// Waits, unless it is told not to.
struct Cancelled(Receiver<()>);

impl Wait for Cancelled {
    fn ready(&mut self, fd: BorrowedFd<'_>, write: bool) -> Result<(), Interrupted> {
        let interest = if write { PollFlags::OUT } else { PollFlags::IN };
        loop {
            let soon = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };
            if rustix::event::poll(&mut [PollFd::new(&fd, interest)], Some(&soon)).unwrap() > 0 {
                return Ok(());
            }
            if self.0.try_recv().is_ok() {
                return Err(Interrupted);
            }
        }
    }
}

#[test]
fn a_search_for_a_manifest_ends_with_the_worker_and_with_whoever_ordered_it() {
    for stop in [true, false] {
        let mut cluster = behind(40);
        cluster.start();
        cluster.refused();
        let (entered, enters) = channel();
        let before = cluster.host.lock().reads;
        *cluster.host.1.lock().unwrap() = Some(Box::new(move || {
            let _ = entered.send(());
            // A slow archive.
            std::thread::sleep(Duration::from_millis(50));
        }));
        let socket = cluster.socket();
        let (cancelled, cancel) = channel();
        let order = std::thread::spawn(move || Session::take_over(&socket, false, &mut Cancelled(cancel)));
        enters.recv().unwrap();
        let worker = cluster.worker.as_ref().unwrap();
        if stop {
            worker.stop();
            let _ = finished(worker);
        } else {
            cancelled.send(()).unwrap();
            assert!(order.join().unwrap().is_err());
            cluster.refused();
        }
        let reads = cluster.host.lock().reads - before;
        assert!(reads < 40, "the log was read {reads} times");
    }
}

#[test]
fn a_copy_of_a_bucket_without_all_tables_of_its_newest_manifest_goes_on_with_an_older_one_and_the_log() {
    let mut cluster = Cluster::new();
    let mut a = cluster.connect();
    a.put_row(1, 1, b"one");
    a.commit();
    a.flush();
    let tables = files(&cluster.objects());
    a.put_row(1, 2, b"two");
    a.commit();
    // The log from the older manifest on is still there: a backup keeps it.
    let slot = cluster.host.lock().slot;
    a.flush();
    cluster.crash_worker();
    cluster.host.lock().slot = slot;
    for name in files(&cluster.objects()).keys() {
        if name.contains("/sst/") && !tables.contains_key(name) {
            std::fs::remove_file(name).unwrap();
        }
    }
    std::fs::remove_dir_all(cluster.dir.path().join("store/mirror")).unwrap();
    cluster.start();
    let mut b = cluster.connect();
    assert_eq!(b.get_row(1, 1).as_deref(), Some(&b"one"[..]));
    assert_eq!(b.get_row(1, 2).as_deref(), Some(&b"two"[..]));
    assert!(cluster.host.warned("looking for an older manifest"));
}

#[test]
fn branches_of_one_history_have_different_generations() {
    let mut cluster = Cluster::new();
    cluster.connect().flush();
    cluster.stop();
    let branch = cluster.host.copy();
    cluster.start();
    let one = cluster.connect().session.generation();
    cluster.crash_worker();
    cluster.host = branch;
    cluster.start();
    cluster.refused();
    cluster.take_over(false).unwrap();
    assert_ne!(cluster.connect().session.generation(), one);
}

#[test]
fn while_a_bucket_is_refused_it_is_told_how_much_log_is_kept_and_what_to_do() {
    let mut cluster = behind(1);
    cluster.host.fill(100 << 20);
    cluster.start();
    cluster.refused();
    assert!(cluster.host.warned("replication slot lsm_s3 keeps 10"), "{:?}", cluster.host.lock().warnings);
    assert!(cluster.host.warned("pg_drop_replication_slot('lsm_s3')"));
}

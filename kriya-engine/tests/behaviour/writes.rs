//! Writing and reading while the worker runs.

use kriya_engine::{Check, ClientError, Interrupted, PollWait, Session, Wait, Written, keys};
use lsmstore::Batch;

use crate::cluster::Cluster;

#[test]
fn what_was_acknowledged_is_read_at_once_by_everybody_in_views_they_hold_already() {
    let cluster = Cluster::new();
    let (mut a, mut b) = (cluster.connect(), cluster.connect());
    assert_eq!(b.get_row(1, 1), None);
    let held = b.session.view(&mut PollWait).unwrap();
    for tid in 1..200 {
        a.put_row(1, tid, &tid.to_le_bytes());
        assert_eq!(b.get_row(1, tid).as_deref(), Some(&tid.to_le_bytes()[..]));
    }
    let row = held.get(&keys::row(1, 199), held.read_sequence()).unwrap();
    assert_eq!(row, Some(&199u64.to_le_bytes()[..]));
}

#[test]
fn a_view_follows_through_flushes_and_full_memtables() {
    let mut cluster = Cluster::new();
    cluster.stop();
    cluster.memtable_bytes = 64 << 10;
    cluster.start();
    let (mut a, mut b) = (cluster.connect(), cluster.connect());
    let value = vec![7; 1000];
    for tid in 0..500 {
        a.put_row(2, tid, &value);
        if tid % 97 == 0 {
            a.flush();
        }
        assert_eq!(b.get_row(2, tid).as_deref(), Some(&value[..]), "row {tid}");
    }
    let view = b.session.view(&mut PollWait).unwrap();
    let mut scan = view.scan_prefix(&keys::table_prefix(2), view.read_sequence()).unwrap();
    let mut tids = Vec::new();
    while let Some((key, _)) = scan.next().unwrap() {
        tids.push(keys::tid_of(key).unwrap());
    }
    assert_eq!(tids, (0..500).collect::<Vec<_>>());
}

#[test]
fn of_two_who_expect_the_same_value_one_loses_and_writes_nothing() {
    let cluster = Cluster::new();
    let mut a = cluster.connect();
    a.put(b"rkey", b"old");
    let (mut batch, mut other) = (Batch::new(), Batch::new());
    batch.put(b"rkey", b"a").put(b"rside", b"a");
    other.put(b"rkey", b"b").put(b"rside", b"b");
    let check = [Check { key: b"rkey".to_vec(), expected: Some(b"old".to_vec()) }];
    let absent = [Check { key: b"rkey".to_vec(), expected: None }];
    assert_eq!(a.write(&batch, &absent), Written::Lost);
    assert!(matches!(a.write(&batch, &check), Written::At(_)));
    assert_eq!(a.write(&other, &check), Written::Lost);
    assert_eq!(a.get(b"rside").unwrap(), b"a");
}

#[test]
fn many_sessions_count_one_counter_without_losing_a_step() {
    let cluster = Cluster::new();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut backend = cluster.connect();
                let mut done = 0;
                while done < 100 {
                    let old = backend.get(b"rcount");
                    let number = old.as_ref().map_or(0, |old| u64::from_le_bytes(old[..].try_into().unwrap()));
                    let mut batch = Batch::new();
                    batch.put(b"rcount", &(number + 1).to_le_bytes());
                    let check = Check { key: b"rcount".to_vec(), expected: old };
                    done += u64::from(matches!(backend.write(&batch, &[check]), Written::At(_)));
                }
            });
        }
    });
    assert_eq!(cluster.connect().get(b"rcount").unwrap(), 400u64.to_le_bytes());
}

#[test]
fn a_row_of_many_megabytes_goes_through() {
    let cluster = Cluster::new();
    let (mut a, mut b) = (cluster.connect(), cluster.connect());
    let value: Vec<u8> = (0..9 << 20).map(|i: u32| (i % 251) as u8).collect();
    a.put_row(1, 1, &value);
    assert!(b.get_row(1, 1).unwrap() == value);
}

#[test]
fn keys_that_the_worker_keeps_for_itself_cannot_be_written() {
    let cluster = Cluster::new();
    let mut a = cluster.connect();
    let generation = a.session.generation();
    for kind in [keys::CEILING, keys::ENTRY, keys::SEGMENT, keys::DELETED] {
        let mut batch = Batch::new();
        batch.put(&keys::object_prefix(kind, 1), b"");
        let answer = a.session.write(generation, &batch, &[], &mut PollWait);
        assert!(matches!(answer, Err(ClientError::Worker { .. })));
    }
    assert!(a.session.alive());
}

struct Impatient;

impl Wait for Impatient {
    fn ready(&mut self, _: std::os::fd::BorrowedFd<'_>, _: bool) -> Result<(), Interrupted> {
        Err(Interrupted)
    }
}

struct Unwinding;

impl Wait for Unwinding {
    fn ready(&mut self, _: std::os::fd::BorrowedFd<'_>, _: bool) -> Result<(), Interrupted> {
        panic!("cancelled")
    }
}

#[test]
fn a_session_that_was_interrupted_or_unwound_in_mid_request_is_broken_and_says_so() {
    let cluster = Cluster::new();
    let mut session = cluster.connect().session;
    assert!(session.alive());
    // The answer may be there before it is waited for; sooner or later it is not.
    while session.new_id(&mut Impatient).is_ok() {}
    assert!(!session.alive());
    assert!(matches!(session.new_id(&mut PollWait), Err(ClientError::Broken)));
    let mut session = cluster.connect().session;
    while std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| session.new_id(&mut Unwinding))).is_ok() {}
    assert!(!session.alive());
    assert!(cluster.connect().session.new_id(&mut PollWait).is_ok());
}

#[test]
fn there_is_no_serving_without_a_worker() {
    let mut cluster = Cluster::new();
    let backend = cluster.connect();
    cluster.crash_worker();
    assert!(!backend.session.alive());
    let answer = Session::connect(&cluster.socket(), 1, &mut PollWait);
    assert!(matches!(answer, Err(ClientError::NotServing(_))));
}

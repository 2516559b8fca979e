//! Row locks as sessions meet them.

use std::os::fd::BorrowedFd;
use std::sync::MutexGuard;

use kriya_engine::locks::LockMode::{self, KeyShare, NoKeyUpdate, Update};
use kriya_engine::locks::{Change, Claim, Obstacle};
use kriya_engine::worker::XidState;
use kriya_engine::{Changed, Check, Interrupted, Locked, PollWait, Wait, keys};
use lsmstore::Batch;
use rustix::event::{PollFd, PollFlags, Timespec};

use crate::cluster::{Backend, Cluster, LogState, eventually};

const TABLE: u64 = 3;

fn claim(backend: &Backend, mode: LockMode) -> Claim {
    Claim { table: TABLE, transaction: backend.xid, xid: backend.xid, mode, ended: Vec::new() }
}

fn lock(backend: &mut Backend, tid: u64, mode: LockMode) -> Locked {
    let claim = claim(backend, mode);
    let generation = backend.session.generation();
    backend.session.lock(generation, &claim, &[(tid, None)], &mut PollWait).unwrap()
}

/// Marks `tid`, replaced by `next`, if it has no mark.
fn update(backend: &mut Backend, tid: u64, next: u64, mode: LockMode) -> Changed {
    let (key, generation) = (keys::mark(TABLE, tid), backend.session.generation());
    let mut batch = Batch::new();
    batch.put(&keys::row(TABLE, next), b"new").put(&key, b"mark");
    let check = Check { key: key.to_vec(), expected: None };
    let change = Change { claim: claim(backend, mode), tid, next: Some(next) };
    backend.session.change(generation, &batch, &check, &change, &mut PollWait).unwrap()
}

fn in_the_way(xids: &[u64], member: bool) -> Obstacle {
    Obstacle { xids: xids.to_vec(), member }
}

#[test]
fn a_lock_holds_until_its_transaction_ends_or_is_said_to_have_ended() {
    let cluster = Cluster::new();
    let (mut a, mut b) = (cluster.connect(), cluster.connect());
    let first = a.xid;
    assert_eq!(lock(&mut a, 1, Update), Locked::Granted);
    assert_eq!(lock(&mut b, 1, KeyShare), Locked::InTheWay(in_the_way(&[first], false)));
    a.commit();
    eventually("the lock is free", || lock(&mut b, 1, KeyShare) == Locked::Granted);
    // Whether the worker has heard of the end or not: Postgres knows better.
    let second = b.xid;
    let (mut claim, generation) = (claim(&a, Update), a.session.generation());
    let answer = a.session.lock(generation, &claim, &[(1, None)], &mut PollWait).unwrap();
    assert_eq!(answer, Locked::InTheWay(in_the_way(&[second], false)));
    claim.ended.push(second);
    assert_eq!(a.session.lock(generation, &claim, &[(1, None)], &mut PollWait).unwrap(), Locked::Granted);
}

#[test]
fn a_change_waits_for_locks_and_hands_them_on_to_the_next_version() {
    let cluster = Cluster::new();
    let (mut a, mut b, mut c) = (cluster.connect(), cluster.connect(), cluster.connect());
    a.put_row(TABLE, 1, b"old");
    assert_eq!(lock(&mut a, 1, KeyShare), Locked::Granted);
    assert_eq!(update(&mut b, 1, 2, Update), Changed::InTheWay(in_the_way(&[a.xid], false)));
    assert_eq!(b.get_row(TABLE, 2), None);
    assert!(matches!(update(&mut b, 1, 2, NoKeyUpdate), Changed::At(_)));
    assert_eq!(update(&mut b, 1, 3, NoKeyUpdate), Changed::Lost);
    assert_eq!(update(&mut c, 2, 3, Update), Changed::InTheWay(in_the_way(&[a.xid], false)));
    // A lock of the old version, asked by one who does not know of the change.
    assert_eq!(lock(&mut c, 1, KeyShare), Locked::Lost);
    let generation = c.session.generation();
    let all = [(1, Some(b"mark".to_vec())), (2, None)];
    let claim = claim(&c, KeyShare);
    assert_eq!(c.session.lock(generation, &claim, &all, &mut PollWait).unwrap(), Locked::Granted);
    assert_eq!(update(&mut b, 2, 3, Update), Changed::InTheWay(in_the_way(&[a.xid, c.xid], false)));
}

#[test]
fn of_several_versions_all_are_locked_or_none() {
    let cluster = Cluster::new();
    let (mut a, mut b) = (cluster.connect(), cluster.connect());
    assert_eq!(lock(&mut a, 2, Update), Locked::Granted);
    let (claim, generation) = (claim(&b, KeyShare), b.session.generation());
    let answer = b.session.lock(generation, &claim, &[(1, None), (2, None)], &mut PollWait).unwrap();
    assert_eq!(answer, Locked::InTheWay(in_the_way(&[a.xid], false)));
    assert_eq!(a.session.held(TABLE, 1, b.xid, &mut PollWait).unwrap(), []);
    assert_eq!(a.session.held(TABLE, 2, a.xid, &mut PollWait).unwrap(), [(a.xid, Update)]);
}

#[test]
fn locks_outlive_their_connection_but_not_their_transaction() {
    let cluster = Cluster::new();
    let (mut a, mut b) = (cluster.connect(), cluster.connect());
    let holder = a.xid;
    assert_eq!(lock(&mut a, 1, Update), Locked::Granted);
    assert_eq!(lock(&mut a, 2, Update), Locked::Granted);
    drop(a);
    b.session.fence(&mut PollWait).unwrap();
    assert_eq!(lock(&mut b, 1, Update), Locked::InTheWay(in_the_way(&[holder], false)));
    cluster.host.lock().states.insert(holder, XidState::Aborted);
    // The end of any transaction makes the worker ask about those that it lost sight of, now and then.
    eventually("the lock is free", || {
        b.session.transaction_ended();
        lock(&mut b, 1, Update) == Locked::Granted
    });
    assert_eq!(lock(&mut b, 2, Update), Locked::Granted);
}

struct Impatient;

impl Wait for Impatient {
    fn ready(&mut self, _: BorrowedFd<'_>, _: bool) -> Result<(), Interrupted> {
        Err(Interrupted)
    }
}

/// Lets the host go on once it has seen that no answer comes before.
struct UntilAnswered<'a>(Option<MutexGuard<'a, LogState>>);

impl Wait for UntilAnswered<'_> {
    fn ready(&mut self, fd: BorrowedFd<'_>, write: bool) -> Result<(), Interrupted> {
        if !write && self.0.is_some() {
            let patience = Timespec { tv_sec: 0, tv_nsec: 300_000_000 };
            let answered = rustix::event::poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&patience));
            assert_eq!(answered, Ok(0), "the fence was answered while a request was under way");
            self.0 = None;
        }
        PollWait.ready(fd, write)
    }
}

#[test]
fn a_fence_waits_for_the_request_of_a_session_that_is_gone() {
    let cluster = Cluster::new();
    let (mut a, mut b) = (cluster.connect(), cluster.connect());
    // A lease of row numbers is logged first, and the host does not get to it.
    let held = cluster.host.lock();
    assert!(a.session.lease_tids(TABLE, 1, &mut Impatient).is_err());
    drop(a);
    let mut wait = UntilAnswered(Some(held));
    b.session.fence(&mut wait).unwrap();
    assert!(wait.0.is_none());
}

#[test]
fn a_rolled_back_subtransaction_frees_what_it_locked() {
    let cluster = Cluster::new();
    let (mut a, mut b) = (cluster.connect(), cluster.connect());
    let sub = cluster.host.begin();
    let (mut claim, generation) = (claim(&a, Update), a.session.generation());
    claim.xid = sub;
    assert_eq!(a.session.lock(generation, &claim, &[(1, None)], &mut PollWait).unwrap(), Locked::Granted);
    assert_eq!(lock(&mut b, 1, KeyShare), Locked::InTheWay(in_the_way(&[sub], false)));
    a.session.subtransactions_ended(vec![sub]);
    eventually("the lock is free", || lock(&mut b, 1, KeyShare) == Locked::Granted);
}

#[test]
fn an_orderly_stop_waits_for_those_who_hold_locks() {
    let mut cluster = Cluster::new();
    let mut a = cluster.connect();
    assert_eq!(lock(&mut a, 1, Update), Locked::Granted);
    cluster.worker.as_ref().unwrap().stop();
    eventually("the worker stops serving", || !a.session.serving());
    assert!(cluster.worker.as_ref().unwrap().finished().is_none());
    assert_eq!(lock(&mut a, 2, Update), Locked::Granted);
    a.commit();
    cluster.stop();
}

#[test]
fn whoever_holds_a_row_is_alone_with_it() {
    let cluster = Cluster::new();
    let rounds = 50;
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut backend = cluster.connect();
                for _ in 0..rounds {
                    while lock(&mut backend, 1, NoKeyUpdate) != Locked::Granted {
                        std::thread::yield_now();
                    }
                    let old = backend.get(b"rcount").map_or(0, |old| u64::from_le_bytes(old[..].try_into().unwrap()));
                    // Without any condition: the lock is what keeps others out.
                    backend.put(b"rcount", &(old + 1).to_le_bytes());
                    backend.commit();
                }
            });
        }
    });
    assert_eq!(cluster.connect().get(b"rcount").unwrap(), (4 * rounds as u64).to_le_bytes());
}

//! Numbers that are never given out twice.

use std::collections::HashSet;

use kriya_engine::PollWait;
use kriya_engine::keys::Counter;

use crate::cluster::Cluster;

#[test]
fn ids_and_row_numbers_are_never_given_out_twice_whatever_crashes() {
    let mut cluster = Cluster::new();
    let (mut ids, mut tids) = (HashSet::new(), HashSet::new());
    for round in 0..6 {
        let mut a = cluster.connect();
        for _ in 0..10 {
            assert!(ids.insert(a.session.new_id(&mut PollWait).unwrap().unwrap()), "round {round}");
            assert!(a.lease(5, 1000).all(|tid| tids.insert(tid)), "round {round}");
        }
        match round % 3 {
            0 => cluster.restart_after_worker_crash(),
            // Unlogged, nothing under the numbers can have survived; logged, their ceiling has.
            1 => {
                a.put_row(5, 1, b"row");
                a.commit();
                cluster.restart_after_server_crash();
            }
            _ => {
                cluster.stop();
                cluster.start();
            }
        }
    }
}

#[test]
fn sequence_numbers_grow_over_restarts() {
    let mut cluster = Cluster::new();
    let mut last = 0;
    for _ in 0..3 {
        let mut a = cluster.connect();
        a.put_row(1, 1, b"row");
        a.commit();
        let sequence = a.session.status(&mut PollWait).unwrap().sequence;
        assert!(sequence > last);
        last = sequence;
        cluster.restart_after_server_crash();
    }
}

#[test]
fn ceilings_have_keys_of_their_own() {
    assert_ne!(kriya_engine::keys::ceiling(Counter::Tids, 1), kriya_engine::keys::ceiling(Counter::Entries, 1));
}

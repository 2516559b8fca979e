//! The bucket holds what is needed, and little else.

use std::collections::HashSet;
use std::time::Duration;

use kriya_engine::PollWait;

use crate::cluster::{Backend, Cluster, eventually, files};
use crate::indexes::{build, check_all, insert};

/// A worker that keeps nothing longer than it must, and looks all the time.
fn cluster() -> Cluster {
    let mut cluster = Cluster::new();
    cluster.stop();
    (cluster.retention, cluster.collect_every) = (Duration::ZERO, Duration::from_millis(10));
    // Merges follow upon flushes of its own.
    cluster.flush_interval = Duration::from_millis(10);
    cluster.start();
    cluster
}

fn objects(cluster: &Cluster, kind: &str) -> usize {
    files(&cluster.objects()).keys().filter(|name| name.contains(kind)).count()
}

/// Another manifest, and a table that overlaps all others.
fn publish(backend: &mut Backend, table: u64, tid: u64) {
    for tid in [tid, 1 << 40] {
        backend.put_row(table, tid, &tid.to_le_bytes());
    }
    backend.commit();
    backend.flush();
}

#[test]
fn what_merges_have_replaced_goes_and_every_row_stays() {
    let mut cluster = cluster();
    let mut a = cluster.connect();
    for tid in 0..60 {
        publish(&mut a, 7, tid);
    }
    // Sixteen manifests stay in any case.
    eventually("manifests go", || objects(&cluster, "/manifest/") == 16);
    eventually("tables go", || objects(&cluster, "/sst/") < 40);
    cluster.restart_after_server_crash();
    let mut a = cluster.connect();
    for tid in 60..100 {
        publish(&mut a, 7, tid);
    }
    eventually("manifests go after a restart", || objects(&cluster, "/manifest/") == 16);
    cluster.stop();
    // Nothing but the objects.
    std::fs::remove_dir_all(cluster.dir.path().join("store/mirror")).unwrap();
    cluster.start();
    let mut a = cluster.connect();
    for tid in 0..100_u64 {
        assert_eq!(a.get_row(7, tid), Some(tid.to_le_bytes().to_vec()));
    }
    assert_eq!(cluster.host.lock().warnings, Vec::<String>::new());
}

#[test]
fn objects_of_segments_go_when_no_manifest_can_name_them_any_more() {
    let mut cluster = cluster();
    let mut a = cluster.connect();
    let index = build(&mut a, &(0..100).collect::<Vec<_>>());
    a.flush();
    let first: HashSet<String> =
        files(&cluster.objects()).into_keys().filter(|name| name.contains("/segments/")).collect();
    assert_eq!(first.len(), 2);
    let mut rows = 100;
    for _ in 0..2 {
        for _ in 0..10 {
            insert(&mut a, index, rows..rows + 1000);
            rows += 1000;
        }
        a.commit();
        a.flush();
        eventually("rows are sealed", || a.session.status(&mut PollWait).unwrap().indexes[0].active_rows == 0);
    }
    eventually("segments are merged", || a.session.status(&mut PollWait).unwrap().indexes[0].segments.len() < 3);
    a.flush();
    eventually("they are noted", || cluster.dir.path().join("store/UNUSED-SEGMENTS").exists());
    assert!(files(&cluster.objects()).keys().filter(|name| first.contains(*name)).count() == 2, "manifests name them");
    cluster.restart_after_worker_crash();
    let mut a = cluster.connect();
    let mut tid = 0;
    eventually("nothing but what is in use is left", || {
        publish(&mut a, 7, tid);
        tid += 1;
        let segments = a.session.status(&mut PollWait).unwrap().indexes[0].segments.len();
        objects(&cluster, "/segments/") == 2 * segments
    });
    assert!(tid > 16, "older manifests named the others");
    cluster.stop();
    std::fs::remove_dir_all(cluster.dir.path().join("segments")).unwrap();
    cluster.start();
    check_all(&mut cluster.connect(), index, &(0..rows).collect());
}

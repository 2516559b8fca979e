//! The mirrors and their budget: what is in use stays, what is not goes.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use kriya_engine::record::{Kind, head};
use kriya_engine::{ClientError, PollWait};

use crate::cluster::{Backend, Cluster, eventually, files};
use crate::indexes::{build, search, vector};

/// A cluster that looks after its mirrors all the time.
fn cluster(cache_bytes: u64) -> Cluster {
    let mut cluster = Cluster::new();
    cluster.stop();
    (cluster.cache_bytes, cluster.flush_interval) = (cache_bytes, Duration::from_millis(10));
    cluster.start();
    cluster
}

fn folders(cluster: &Cluster) -> [PathBuf; 2] {
    [cluster.dir.path().join("store/mirror"), cluster.dir.path().join("segments")]
}

/// A file that nobody uses, and that nobody has used for so many hours.
fn leave_behind(dir: &Path, name: &str, bytes: usize, hours: u64) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, vec![0; bytes]).unwrap();
    let then = SystemTime::now() - Duration::from_secs(hours * 3600);
    let times = std::fs::FileTimes::new().set_accessed(then).set_modified(then);
    std::fs::File::options().write(true).open(&path).unwrap().set_times(times).unwrap();
    path
}

fn fill(backend: &mut Backend, tids: std::ops::Range<u64>) {
    for tid in tids {
        backend.put_row(1, tid, &[tid as u8; 100]);
    }
    backend.commit();
    backend.flush();
}

fn there(backend: &mut Backend, tids: std::ops::Range<u64>) -> bool {
    tids.into_iter().all(|tid| backend.get_row(1, tid).as_deref() == Some(&[tid as u8; 100][..]))
}

#[test]
fn with_a_tiny_budget_all_answers_are_the_same_and_only_what_nobody_uses_goes() {
    let mut cluster = cluster(1);
    let (mut a, mut old) = (cluster.connect(), cluster.connect());
    let index = build(&mut a, &(0..500).collect::<Vec<_>>());
    fill(&mut a, 0..50);
    // A session that goes on reading what it had got while tables are replaced by merges.
    let view = old.session.view(&mut PollWait).unwrap();
    let found = search(&mut a, index, &vector(7));
    let [mirror, segments] = folders(&cluster);
    let strays = [
        leave_behind(&mirror, "ffffffffffffffff-0000000000000001.lsm", 1000, 1),
        leave_behind(&mirror, "ffffffffffffffff-0000000000000002.tmp", 1000, 2),
        leave_behind(&segments, "00000000000000ff-0000000000000001-1.graph", 1000, 3),
        leave_behind(&segments, "00000000000000ff-0000000000000001-1.rows.tmp", 1000, 4),
    ];
    for round in 1..20 {
        fill(&mut a, round * 50..(round + 1) * 50);
    }
    eventually("what nobody uses is removed", || !strays.iter().any(|path| path.exists()));
    assert!(there(&mut a, 0..1000));
    assert_eq!(search(&mut a, index, &vector(7)), found);
    for tid in 0..50 {
        let row = view.get(&kriya_engine::keys::row(1, tid), view.read_sequence()).unwrap();
        assert_eq!(row, Some(&[tid as u8; 100][..]));
    }
    let status = a.session.status(&mut PollWait).unwrap();
    assert!(status.cache_bytes > status.cache_budget, "what is in use stays, and is told");
    drop((a, old));
    cluster.restart_after_server_crash();
    let mut b = cluster.connect();
    assert!(there(&mut b, 0..1000));
    assert_eq!(search(&mut b, index, &vector(7)), found);
}

#[test]
fn what_was_not_used_for_longest_goes_first_and_no_more_than_is_needed() {
    let cluster = cluster(10 << 20);
    let mut a = cluster.connect();
    let [mirror, segments] = folders(&cluster);
    let oldest = leave_behind(&segments, "00000000000000ff-0000000000000001-1.rows", 4 << 20, 9);
    let older = leave_behind(&mirror, "ffffffffffffffff-0000000000000001.lsm", 4 << 20, 5);
    let newest = leave_behind(&segments, "00000000000000ff-0000000000000002-1.rows", 4 << 20, 1);
    fill(&mut a, 0..10);
    eventually("the budget is kept", || !oldest.exists());
    fill(&mut a, 10..20);
    assert!(older.exists() && newest.exists());
    assert!(there(&mut a, 0..20));
}

#[test]
fn a_segment_that_comes_to_nothing_leaves_no_files_behind() {
    let mut cluster = Cluster::new();
    cluster.memtable_bytes = 1 << 20;
    let mut a = cluster.connect();
    let [_, segments] = folders(&cluster);
    let objects = cluster.dir.path().join("objects/bucket/prefix/segments");
    std::fs::create_dir_all(objects.parent().unwrap()).unwrap();
    std::fs::write(&objects, b"not a folder").unwrap();
    let id = a.session.new_id(&mut PollWait).unwrap().unwrap();
    assert!(crate::indexes::try_build(&mut a, id, &(0..500).collect::<Vec<_>>()).is_err());
    assert_eq!(std::fs::read_dir(&segments).unwrap().count(), 0);
}

#[test]
fn a_folder_that_has_tables_which_are_nowhere_else_is_not_left_for_another_and_is_as_it_was_afterwards() {
    let mut cluster = Cluster::new();
    let dirs = ["a", "b"].map(|name| cluster.dir.path().join(name));
    cluster.stop();
    cluster.cache_dir = Some(dirs[0].clone());
    cluster.start();
    fill(&mut cluster.connect(), 0..10);
    cluster.put_locally(1, 10, &[10; 100]);
    cluster.crash_worker();
    let tables = files(&dirs[0].join("mirror"));
    cluster.cache_dir = Some(dirs[1].clone());
    cluster.start();
    let Err(ClientError::Refused { hint, .. }) = cluster.try_connect() else { panic!("it was not refused") };
    assert!(hint.contains(dirs[0].to_str().unwrap()), "{hint}");
    cluster.crash_worker();
    cluster.cache_dir = Some(dirs[0].clone());
    // Without the log: the tables are what is there.
    cluster.host.lock().records.retain(|record| !matches!(head(&record.payload).unwrap().kind, Kind::Batch));
    cluster.start();
    assert!(tables.keys().all(|table| std::path::Path::new(table).exists()));
    assert!(there(&mut cluster.connect(), 0..11));
    // With all of it in the bucket there is nothing against another folder, and nothing against the first one again.
    for dir in [&dirs[1], &dirs[0], &dirs[1]] {
        cluster.connect().flush();
        cluster.stop();
        cluster.cache_dir = Some(dir.clone());
        cluster.start();
        assert!(there(&mut cluster.connect(), 0..11));
    }
}

#[test]
fn what_another_server_left_in_a_folder_is_moved_aside() {
    let mut cluster = Cluster::new();
    cluster.stop();
    let dir = cluster.dir.path().join("a");
    std::fs::create_dir_all(dir.join("mirror")).unwrap();
    std::fs::set_permissions(&dir, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    std::fs::write(dir.join("mirror/table.lsm"), b"theirs").unwrap();
    std::fs::write(dir.join("CACHE"), b"theirs").unwrap();
    cluster.cache_dir = Some(dir.clone());
    cluster.start();
    cluster.connect();
    assert!(files(&dir.join("left-behind")).into_values().eq([6]));
}

//! A worker that stops in good order is noticed by nobody.

use kriya_testkit::Signal;

use crate::support::{builder, run, started, told, value};

#[test]
fn a_flush_that_is_asked_of_a_stopping_worker_is_done_by_the_next_one() {
    let points = tempfile::tempdir().expect("a folder");
    std::fs::set_permissions(points.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).expect("permissions");
    let server = started(builder().environment("KRIYA_FAIL_POINTS", points.path()));
    let mut client = server.connect().unwrap();
    run(&mut client, "CREATE TABLE l (id int) USING lsm_s3; INSERT INTO l VALUES (1)");
    // The worker halts in the middle of its last publication.
    let armed = points.path().join("before-manifest");
    std::fs::write(&armed, "pause").expect("an armed point");
    let workers = server.processes();
    let worker = workers.iter().find(|process| process.title.contains("kriya storage worker")).expect("a worker");
    worker.signal(Signal::TERM);
    let begin = std::time::Instant::now();
    while armed.exists() {
        assert!(begin.elapsed().as_secs() < 60, "the worker does not stop:\n{}", server.log_tail(20));
    }
    let flushed = std::thread::scope(|scope| {
        let flushing = scope.spawn(|| client.batch_execute("SELECT lsm_s3_flush()"));
        // The request is on its way, or was refused, when its statement is no longer waited for by the client.
        let mut watch = server.connect().unwrap();
        let active =
            "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT lsm_s3_flush%' AND state = 'active'";
        while value(&mut watch, active) == "0" && !flushing.is_finished() {}
        std::fs::write(points.path().join("before-manifest.go"), "").expect("a go");
        flushing.join().expect("the flushing session")
    });
    assert!(flushed.is_ok(), "{}", flushed.as_ref().err().map(told).unwrap_or_default());
    assert_eq!(value(&mut server.connect().unwrap(), "SELECT count(*) FROM l"), "1");
}

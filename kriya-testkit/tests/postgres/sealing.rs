//! Death while a full segment of a vector index is sealed.

use std::path::Path;

use crate::support::{builder, postgres::Client, rows, run, started};

/// Ids in order of the vector index, and by a scan: both must be the same set.
fn assert_complete(client: &mut Client, table: &str, expected: usize) {
    run(
        client,
        "SET enable_seqscan = off; SET enable_sort = off; SET enable_indexscan = on; SET lsm_s3.ef_search = 10000",
    );
    let mut found = rows(client, &format!("SELECT id FROM {table} WHERE id >= 0 ORDER BY e <-> '[1,2,3,4]'"));
    run(client, "SET enable_seqscan = on; SET enable_indexscan = off");
    let mut exact = rows(client, &format!("SELECT id FROM {table}"));
    found.sort();
    exact.sort();
    assert_eq!(exact.len(), expected, "{table}");
    let missing = exact.iter().filter(|id| found.binary_search(id).is_err()).count();
    assert!(found == exact, "{table}: {} through the index, {} by a scan, {missing} missing", found.len(), exact.len());
    run(client, "RESET ALL");
}

fn wait_until_fired(armed: &Path, server: &kriya_testkit::Postgres) {
    let begin = std::time::Instant::now();
    while armed.exists() {
        assert!(begin.elapsed().as_secs() < 60, "nobody came by {}:\n{}", armed.display(), server.log_tail(20));
        std::thread::yield_now();
    }
}

#[test]
fn a_worker_that_dies_while_it_seals_loses_no_entry_and_seals_again() {
    let points = tempfile::tempdir().expect("a folder");
    std::fs::set_permissions(points.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).expect("permissions");
    let mut server = started(builder().environment("KRIYA_FAIL_POINTS", points.path()));
    let mut client = server.connect().unwrap();
    run(
        &mut client,
        "CREATE TABLE l (id int, e lsmvector(4)) USING lsm_s3; CREATE INDEX ON l USING lsm_hnsw (e);
         CREATE TABLE h (id int, e lsmvector(4)) USING heap; CREATE INDEX ON h USING lsm_hnsw (e)",
    );
    let mut count = 0;
    let moments = ["before-segment-files", "before-segment-upload", "after-segment-upload", "after-seal-record"];
    for (round, moment) in moments.into_iter().enumerate() {
        // Enough for sealing to be worth it at the next flush.
        let more = 10_500;
        for table in ["l", "h"] {
            run(
                &mut client,
                &format!(
                    "INSERT INTO {table} SELECT g, ARRAY[g % 101, g % 103, g % 107, {round}]::real[]::lsmvector
                     FROM generate_series({count}, {}) g",
                    count + more - 1
                ),
            );
        }
        count += more;
        // Some are gone: what is sealed then is made anew of the rest.
        let gone = if round % 2 == 1 { 500 } else { 0 };
        run(&mut client, &format!("DELETE FROM h WHERE id < {gone}; VACUUM h").replace("; VACUUM h", ""));
        run(&mut client, "VACUUM h");
        let armed = points.path().join(moment);
        std::fs::write(&armed, "").expect("an armed point");
        // It may take the flush with it.
        let _ended = client.batch_execute("SELECT lsm_s3_flush()");
        wait_until_fired(&armed, &server);
        if round >= 2 {
            server.kill_all().unwrap();
            server.start().unwrap();
        }
        client = loop {
            if let Ok(mut client) = server.connect()
                && client.batch_execute("SELECT count(*) FROM l").is_ok()
            {
                break client;
            }
            std::thread::yield_now();
        };
        let left: usize = rows(&mut client, "SELECT count(*) FROM h WHERE id >= 0").concat().parse().unwrap();
        assert_complete(&mut client, "l", count);
        assert_complete(&mut client, "h", left);
        assert_eq!(left, count - if round >= 1 { 500 } else { 0 });
    }
    run(&mut client, "SELECT lsm_s3_flush()");
    let status = || rows(&mut server.connect().unwrap(), "SELECT lsm_s3_status()").concat();
    let begin = std::time::Instant::now();
    while status().matches("0 sealed segments").count() > 0 {
        assert!(begin.elapsed().as_secs() < 60, "nothing is sealed: {}", status());
    }
}

//! What Postgres gives out twice: heap row pointers after VACUUM, transaction ids after a crash, and the lower halves of
//! transaction ids after 2^32 of them.

use std::path::PathBuf;
use std::process::Command;

use kriya_testkit::{Builder, Postgres, StopMode};

use crate::support::{builder, postgres::Client, rows, run, started, value};

/// A folder in which a point is armed by making a file, and the server that looks there.
struct Points {
    folder: tempfile::TempDir,
}

impl Points {
    fn new() -> Points {
        let folder = tempfile::tempdir().expect("a folder");
        // Whoever runs the server removes the file.
        std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777))
            .expect("permissions");
        Points { folder }
    }

    fn given_to(&self, builder: Builder) -> Builder {
        builder.environment("KRIYA_FAIL_POINTS", self.folder.path())
    }

    fn arm(&self, name: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, "").expect("an armed point");
        path
    }
}

/// Every row once through the vector index, and each vector leads to its own row first.
fn assert_index_agrees(client: &mut Client, table: &str) {
    run(client, "SET enable_seqscan = on; SET enable_indexscan = off");
    let mut exact = rows(client, &format!("SELECT id, ctid, e FROM {table}"));
    exact.sort();
    let samples = rows(client, &format!("SELECT id, e FROM {table} ORDER BY id % 17, id LIMIT 25"));
    run(
        client,
        "SET enable_seqscan = off; SET enable_sort = off; SET enable_indexscan = on; SET lsm_s3.ef_search = 10000",
    );
    let by_index = format!("SELECT id, ctid, e FROM {table} ORDER BY e <-> '[1,2,3]'");
    assert!(rows(client, &format!("EXPLAIN {by_index}")).concat().contains("Index Scan"));
    let mut found = rows(client, &by_index);
    found.sort();
    assert_eq!(found, exact, "{table}: rows through the vector index (left) and by a scan (right)");
    for sample in samples {
        let (id, e) = sample.split_once('|').expect("id and vector");
        let nearest = value(client, &format!("SELECT id FROM {table} ORDER BY e <-> '{e}' LIMIT 1"));
        assert_eq!(nearest, id, "{table}: nearest to {e}");
    }
    run(client, "RESET ALL");
}

/// Rows with vectors of their own: `e` tells `id` and `salt`.
fn fill(from: u32, to: u32, salt: u32) -> String {
    format!("INSERT INTO h SELECT g, ARRAY[g, {salt}, g % 7]::real[]::lsmvector FROM generate_series({from}, {to}) g")
}

fn kill_all_and_start(server: &mut Postgres) -> Client {
    server.kill_all().expect("a kill");
    server.start().expect("a start");
    let mut client = server.connect().expect("a session");
    // It waits for the worker, without which no vector index is planned with.
    run(&mut client, "SELECT lsm_s3_status()");
    client
}

#[test]
fn row_pointers_that_vacuum_frees_and_others_take_never_lead_to_a_wrong_row() {
    let points = Points::new();
    let mut server = started(points.given_to(builder().setting("autovacuum", "off")));
    let mut client = server.connect().unwrap();
    run(&mut client, "CREATE TABLE h (id int, e lsmvector(3)) USING heap; CREATE INDEX ON h USING lsm_hnsw (e)");
    let mut reused = 0;
    // During VACUUM's deletion of index entries, during a flush after it, and at no point at all.
    let moments = ["after-announce", "after-ack", "after-log", "after-birth", "before-manifest", "before-slot", "none"];
    for (round, moment) in (1u32..).zip(moments) {
        let base = round * 10_000;
        run(&mut client, &fill(base, base + 400, 1));
        // Half of them never were, some are gone.
        run(&mut client, &format!("BEGIN; {}; ROLLBACK", fill(base + 1000, base + 1400, 2)));
        run(&mut client, &format!("DELETE FROM h WHERE id BETWEEN {base} AND {}", base + 150));
        let taken = rows(&mut client, "SELECT ctid FROM h");
        if moment == "none" {
            run(&mut client, "VACUUM h");
        } else {
            let armed = points.arm(moment);
            // Whoever comes by dies: this session in VACUUM, or the worker.
            let _ended = client.batch_execute("VACUUM h");
            let begin = std::time::Instant::now();
            while armed.exists() {
                assert!(begin.elapsed().as_secs() < 60, "nobody came by {moment}:\n{}", server.log_tail(20));
                if let Ok(mut flusher) = server.connect() {
                    let sql = "CREATE TABLE another (id int) USING lsm_s3; DROP TABLE another; SELECT lsm_s3_flush()";
                    let _ended = flusher.batch_execute(sql);
                }
            }
        }
        client = kill_all_and_start(&mut server);
        assert_index_agrees(&mut client, "h");
        run(&mut client, "VACUUM h");
        assert_index_agrees(&mut client, "h");
        // Others take the freed pointers.
        run(&mut client, &fill(base + 2000, base + 2600, 3));
        assert_index_agrees(&mut client, "h");
        let fresh = rows(&mut client, &format!("SELECT ctid FROM h WHERE id >= {}", base + 2000));
        let before = format!("(0,1)|{}", taken.join("|"));
        let last_block =
            |ctid: &str| ctid.trim_start_matches('(').split(',').next().and_then(|b| b.parse::<u32>().ok());
        let highest = before.split('|').filter_map(last_block).max();
        reused += fresh.iter().filter(|ctid| last_block(ctid) < highest).count();
        client = kill_all_and_start(&mut server);
        assert_index_agrees(&mut client, "h");
    }
    assert!(reused > 100, "only {reused} pointers were taken again: nothing was tried");
}

#[test]
fn rows_of_a_transaction_that_a_crash_forgot_do_not_appear_under_the_next_one_with_its_id() {
    // Nobody flushes the log behind the session's back.
    let mut server = started(
        builder()
            .setting("wal_writer_delay", "10s")
            .setting("lsm_s3.flush_interval_ms", "60000")
            .setting("autovacuum", "off"),
    );
    let mut client = server.connect().unwrap();
    run(
        &mut client,
        "CREATE TABLE l (id int PRIMARY KEY, e lsmvector(2)) USING lsm_s3; CREATE INDEX ON l USING lsm_hnsw (e);
         CREATE TABLE h (id int, e lsmvector(2)) USING heap; CREATE INDEX ON h USING lsm_hnsw (e);
         INSERT INTO l VALUES (0, '[0,0]'); INSERT INTO h VALUES (0, '[0,0]')",
    );
    let mut taken_again = 0;
    for round in 1..=6 {
        run(&mut client, "CHECKPOINT");
        run(&mut client, "SET synchronous_commit = off");
        run(
            &mut client,
            &format!(
                "BEGIN; SAVEPOINT s; INSERT INTO l VALUES ({round}, '[9,9]'); INSERT INTO h VALUES ({round}, '[9,9]')"
            ),
        );
        let subxid: u64 = value(&mut client, "SELECT xmin FROM h ORDER BY id DESC LIMIT 1").parse().unwrap();
        let xid: u64 = value(&mut client, "SELECT txid_current()").parse().unwrap();
        run(&mut client, "RELEASE s");
        // Every second time it is still running when the lights go out; at times its rows are made durable before.
        if round % 2 == 0 {
            run(&mut client, "COMMIT");
        }
        let durable = round >= 5;
        if durable {
            run(&mut server.connect().unwrap(), "SELECT lsm_s3_flush()");
        }
        client = kill_all_and_start(&mut server);
        let there = rows(&mut client, &format!("SELECT id FROM h WHERE id = {round}"));
        assert_eq!(rows(&mut client, &format!("SELECT id FROM l WHERE id = {round}")), there, "round {round}");
        // Other transactions get its ids.
        for _ in 0..10 {
            let now: u64 = value(&mut client, "BEGIN; SELECT txid_current()").parse().unwrap();
            if durable {
                assert!(now > subxid, "round {round}: {now} is given out again, and rows of it are in the store");
            }
            taken_again += u32::from(now == xid || now == subxid);
            run(&mut client, &format!("INSERT INTO l VALUES ({}, '[{now},1]'); COMMIT", now * 1000 + round));
        }
        for order in ["", "ORDER BY id", "ORDER BY e <-> '[9,9]'"] {
            run(
                &mut client,
                &format!("SET enable_seqscan = {}; SET enable_sort = off", if order.is_empty() { "on" } else { "off" }),
            );
            let ghosts =
                format!("SELECT id FROM (SELECT id FROM l {order}) x WHERE id BETWEEN 1 AND 100 AND id = {round}");
            assert_eq!(rows(&mut client, &ghosts), there, "round {round}, {order}");
        }
        run(&mut client, "RESET ALL");
        run(&mut client, "VACUUM h");
    }
    assert!(taken_again >= 3, "only {taken_again} ids were given out again: nothing was tried");
}

/// Sets the next transaction id of a stopped server, and makes the piece of the commit log that belongs to it.
fn set_next_xid(server: &Postgres, xid: u32) {
    let data = server.folder().data();
    let segment = data.join(format!("pg_xact/{:04X}", xid / (32 * 32_768)));
    std::fs::write(&segment, vec![0; 256 * 1024]).expect("a piece of the commit log");
    server.account().own(&segment).expect("its owner");
    let mut command = Command::new(server.installation().program("pg_resetwal"));
    command.args(["-x", &xid.to_string(), "-D"]).arg(&data).current_dir("/");
    server.account().apply(&mut command);
    let out = command.output().expect("pg_resetwal runs");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn running_transactions_with_ids_above_2_to_the_31_are_judged_right() {
    let folder = tempfile::Builder::new().prefix("kriya-xid-").tempdir_in("/tmp").expect("a folder");
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("permissions");
    let root = folder.path().join("server");
    // In two steps, each less than 2^31, with everything frozen in between; before there is a store.
    let mut server = builder().without_library().folder(&root).start().expect("a server");
    run(&mut server.connect().unwrap(), "ALTER DATABASE template0 ALLOW_CONNECTIONS true");
    for xid in [1_500_000_000, 3_000_000_000] {
        for database in ["postgres", "template1", "template0"] {
            run(&mut server.connect_to(database).unwrap(), "VACUUM (FREEZE)");
        }
        server.stop(StopMode::Fast).unwrap();
        set_next_xid(&server, xid);
        server.start().unwrap();
    }
    server.stop(StopMode::Fast).unwrap();
    drop(server);

    let busy = builder().setting("lsm_s3.memtable_size_mb", "1").setting("lsm_s3.flush_interval_ms", "20");
    let mut server = started(busy.folder(&root));
    let mut open = server.connect().unwrap();
    run(
        &mut open,
        "BEGIN; CREATE TABLE l (id int PRIMARY KEY, v text, e lsmvector(2)) USING lsm_s3; CREATE INDEX ON l USING lsm_hnsw (e);
         INSERT INTO l SELECT g, repeat('x', 200), ARRAY[g, 1]::real[]::lsmvector FROM generate_series(1, 2000) g",
    );
    assert!(value(&mut open, "SELECT txid_current()").parse::<u64>().unwrap() >= 3_000_000_000);
    let mut other = server.connect().unwrap();
    run(&mut other, "CREATE TABLE m (id int, v text) USING lsm_s3");
    // Flushes and merges while it runs: whatever took it for aborted would drop its rows.
    for round in 0..8 {
        run(
            &mut other,
            &format!("INSERT INTO m SELECT g, repeat('y', 300) FROM generate_series(1, 1000) g WHERE {round} >= 0"),
        );
        run(&mut other, "SELECT lsm_s3_flush()");
    }
    run(&mut other, "BEGIN; DELETE FROM m WHERE id <= 10; ROLLBACK; DELETE FROM m WHERE id > 990");
    run(&mut open, "COMMIT");
    for _ in 0..3 {
        let mut client = server.connect().unwrap();
        run(&mut client, "SELECT lsm_s3_flush()");
        assert_eq!(rows(&mut client, "SELECT count(*), sum(id) FROM l"), ["2000|2001000"]);
        assert_eq!(rows(&mut client, "SELECT count(*), max(id) FROM m"), ["7920|990"]);
        run(&mut client, "SET enable_seqscan = off");
        assert_eq!(rows(&mut client, "SELECT id FROM l ORDER BY e <-> '[777,1]' LIMIT 1"), ["777"]);
        assert_eq!(rows(&mut client, "SELECT length(v) FROM l WHERE id = 1999"), ["200"]);
        drop(client);
        kill_all_and_start(&mut server);
    }
}

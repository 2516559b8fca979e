//! Restarts and kill -9.

use crate::support::{rows, run, server, value};
use kriya_testkit::StopMode;

const FILL: &str = "
    CREATE TABLE t (id int PRIMARY KEY, v text, e lsmvector(3)) USING lsm_s3;
    CREATE TABLE h (id int PRIMARY KEY, e lsmvector(3)) USING heap;
    CREATE INDEX t_e ON t USING lsm_hnsw (e);
    CREATE INDEX h_e ON h USING lsm_hnsw (e);
    INSERT INTO t SELECT g, 'row ' || g, ARRAY[g, g % 10, 1]::real[]::lsmvector FROM generate_series(1, 2000) g;
    INSERT INTO h SELECT id, e FROM t;
    UPDATE t SET v = 'changed' WHERE id % 10 = 0;
    DELETE FROM t WHERE id % 10 = 1;
    DELETE FROM h WHERE id % 10 = 1;
";

fn content(server: &kriya_testkit::Postgres) -> Vec<String> {
    let mut client = server.connect().expect("a session");
    let mut all = rows(&mut client, "SELECT count(*), sum(id), md5(string_agg(v || e::text, ',' ORDER BY id)) FROM t");
    run(&mut client, "SET enable_seqscan = off");
    all.extend(rows(&mut client, "SELECT v FROM t WHERE id = 500"));
    all.extend(rows(&mut client, "SELECT id FROM t ORDER BY e <-> '[700,0,1]' LIMIT 5"));
    all.extend(rows(&mut client, "SELECT id FROM h ORDER BY e <-> '[700,0,1]' LIMIT 5"));
    all
}

#[test]
fn everything_committed_is_there_after_a_restart() {
    let mut server = server();
    run(&mut server.connect().unwrap(), FILL);
    let before = content(&server);
    server.stop(StopMode::Fast).unwrap();
    server.start().unwrap();
    assert_eq!(content(&server), before);
}

#[test]
fn everything_committed_is_there_after_kill_9_and_nothing_else() {
    let mut server = server();
    let mut client = server.connect().unwrap();
    run(&mut client, FILL);
    let before = content(&server);
    let mut open = server.connect().unwrap();
    run(
        &mut open,
        "BEGIN; INSERT INTO t SELECT g, 'ghost', '[1,1,1]' FROM generate_series(10000, 11000) g; DELETE FROM t WHERE id < 100",
    );
    server.kill().unwrap();
    server.start().unwrap();
    assert_eq!(content(&server), before);
    // And it goes on: numbers given out before the crash are not given out again.
    let mut client = server.connect().unwrap();
    run(&mut client, "INSERT INTO t SELECT g, 'after', '[2,2,2]' FROM generate_series(20000, 20100) g");
    assert_eq!(value(&mut client, "SELECT count(*) FROM t WHERE v = 'after'"), "101");
    assert_eq!(value(&mut client, "SELECT count(*) FROM t WHERE v = 'ghost'"), "0");
    run(&mut client, "SET enable_seqscan = off");
    assert_eq!(value(&mut client, "SELECT v FROM t WHERE id = 20050"), "after");
}

#[test]
fn killed_again_and_again_between_flushes() {
    let mut server = server();
    run(&mut server.connect().unwrap(), "CREATE TABLE t (round int, id int) USING lsm_s3; CREATE INDEX ON t (round)");
    for round in 1..=6 {
        let mut client = server.connect().unwrap();
        run(&mut client, &format!("INSERT INTO t SELECT {round}, g FROM generate_series(1, 500) g"));
        if round % 2 == 0 {
            run(&mut client, "SELECT lsm_s3_flush()");
        }
        run(&mut client, &format!("BEGIN; INSERT INTO t SELECT -{round}, g FROM generate_series(1, 500) g; ROLLBACK"));
        run(&mut client, &format!("DELETE FROM t WHERE round = {round} AND id > 400"));
        server.kill().unwrap();
        server.start().unwrap();
        let mut client = server.connect().unwrap();
        let seen = rows(&mut client, "SELECT round, count(*) FROM t GROUP BY round ORDER BY round");
        let expected: Vec<String> = (1..=round).map(|n| format!("{n}|400")).collect();
        assert_eq!(seen, expected);
        run(&mut client, "SET enable_seqscan = off");
        assert_eq!(value(&mut client, &format!("SELECT count(*) FROM t WHERE round = {round}")), "400");
    }
}

#[test]
fn a_worker_that_is_asked_to_stop_comes_back_and_loses_nothing() {
    let server = server();
    let mut client = server.connect().unwrap();
    run(&mut client, FILL);
    let before = content(&server);
    let pid = value(&mut client, "SELECT pid FROM pg_stat_activity WHERE backend_type = 'kriya storage worker'");
    run(&mut client, &format!("SELECT pg_terminate_backend({pid})"));
    assert_eq!(content(&server), before);
    // A transaction that began to write in the very moment of the stop is told to run again.
    while let Err(error) = client.batch_execute("INSERT INTO t VALUES (5000, 'new worker', '[1,2,3]')") {
        assert_eq!(error.code().map(|state| state.code()), Some("40001"), "{error}");
    }
    assert_eq!(value(&mut client, "SELECT v FROM t WHERE id = 5000"), "new worker");
}

#[test]
fn a_killed_backend_takes_only_its_own_transaction_with_it() {
    let server = server();
    let mut client = server.connect().unwrap();
    run(&mut client, "CREATE TABLE t (id int) USING lsm_s3; INSERT INTO t VALUES (1)");
    let mut victim = server.connect().unwrap();
    run(&mut victim, "BEGIN; INSERT INTO t VALUES (2)");
    let pid = value(&mut victim, "SELECT pg_backend_pid()");
    run(&mut client, &format!("SELECT pg_terminate_backend({pid})"));
    run(&mut client, "INSERT INTO t VALUES (3)");
    assert_eq!(rows(&mut client, "SELECT id FROM t ORDER BY id"), ["1", "3"]);
}

#[test]
fn large_batches_split_over_log_records_survive_flushes_and_kills_in_between() {
    let mut server = crate::support::started(crate::support::builder().setting("lsm_s3.flush_interval_ms", "10"));
    run(
        &mut server.connect().unwrap(),
        "CREATE TABLE t (round int, id int, v text) USING lsm_s3; CREATE TABLE h (round int)",
    );
    for round in 1..=4 {
        let mut client = server.connect().unwrap();
        // A function with an exception block in the middle: a subtransaction starts while rows wait in a buffer.
        run(
            &mut client,
            &format!(
                "DO $$ BEGIN
                     FOR i IN 1..20 LOOP
                         INSERT INTO t SELECT {round}, g, repeat(md5((g * i)::text), 90) FROM generate_series(1, 100) g;
                         BEGIN INSERT INTO h VALUES ({round}); EXCEPTION WHEN division_by_zero THEN NULL; END;
                     END LOOP;
                 END $$"
            ),
        );
        let mut open = server.connect().unwrap();
        run(&mut open, "BEGIN; INSERT INTO t SELECT -1, g, repeat('x', 3000) FROM generate_series(1, 1500) g");
        server.kill().unwrap();
        server.start().unwrap();
        let mut client = server.connect().unwrap();
        let seen = rows(&mut client, "SELECT round, count(*), min(length(v)) FROM t GROUP BY round ORDER BY round");
        let expected: Vec<String> = (1..=round).map(|n| format!("{n}|2000|2880")).collect();
        assert_eq!(seen, expected);
        assert_eq!(value(&mut client, "SELECT count(*) FROM h"), (20 * round).to_string());
    }
}

#[test]
fn what_was_in_memory_is_missed_loudly_after_a_restart_and_can_be_truncated() {
    let mut server = crate::support::started(crate::support::builder().setting("lsm_s3.endpoint", "memory"));
    let mut client = server.connect().unwrap();
    run(&mut client, "CREATE TABLE t (id int PRIMARY KEY) USING lsm_s3; INSERT INTO t VALUES (1)");
    assert_eq!(value(&mut client, "SELECT count(*) FROM t"), "1");
    server.restart().unwrap();
    let mut client = server.connect().unwrap();
    let (code, message) = crate::support::failure(&mut client, "SELECT * FROM t");
    assert_eq!(code, "55000", "{message}");
    assert_eq!(crate::support::failure(&mut client, "INSERT INTO t VALUES (1)").0, "55000");
    run(&mut client, "TRUNCATE t; INSERT INTO t VALUES (2)");
    assert_eq!(rows(&mut client, "SELECT id FROM t"), ["2"]);
}

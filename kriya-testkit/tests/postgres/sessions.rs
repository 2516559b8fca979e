//! Two sessions at once.

use crate::support::{failure, rows, run, server, value};

#[test]
fn uncommitted_rows_are_invisible_to_others_and_committed_ones_visible_at_once() {
    let server = server();
    let (mut one, mut two) = (server.connect().unwrap(), server.connect().unwrap());
    run(&mut one, "CREATE TABLE t (id int) USING lsm_s3");
    run(&mut one, "BEGIN; INSERT INTO t VALUES (1)");
    assert_eq!(value(&mut one, "SELECT count(*) FROM t"), "1");
    assert_eq!(value(&mut two, "SELECT count(*) FROM t"), "0");
    run(&mut one, "COMMIT");
    assert_eq!(value(&mut two, "SELECT count(*) FROM t"), "1");
    run(&mut one, "BEGIN; DELETE FROM t");
    assert_eq!(value(&mut two, "SELECT count(*) FROM t"), "1");
    run(&mut one, "COMMIT");
    assert_eq!(value(&mut two, "SELECT count(*) FROM t"), "0");
}

#[test]
fn a_repeatable_snapshot_does_not_move() {
    let server = server();
    let (mut one, mut two) = (server.connect().unwrap(), server.connect().unwrap());
    run(&mut one, "CREATE TABLE t (id int, v int) USING lsm_s3; INSERT INTO t VALUES (1, 1), (2, 1)");
    run(&mut two, "BEGIN ISOLATION LEVEL REPEATABLE READ");
    assert_eq!(rows(&mut two, "SELECT id, v FROM t ORDER BY id"), ["1|1", "2|1"]);
    run(&mut one, "UPDATE t SET v = 2 WHERE id = 1; DELETE FROM t WHERE id = 2; INSERT INTO t VALUES (3, 3)");
    assert_eq!(rows(&mut two, "SELECT id, v FROM t ORDER BY id"), ["1|1", "2|1"]);
    assert_eq!(failure(&mut two, "UPDATE t SET v = 9 WHERE id = 1").0, "40001");
    run(&mut two, "ROLLBACK");
    assert_eq!(rows(&mut two, "SELECT id, v FROM t ORDER BY id"), ["1|2", "3|3"]);
}

#[test]
fn a_transaction_over_heap_and_lsm_s3_is_atomic() {
    let server = server();
    let (mut one, mut two) = (server.connect().unwrap(), server.connect().unwrap());
    run(&mut one, "CREATE TABLE l (id int) USING lsm_s3; CREATE TABLE h (id int) USING heap");
    let both = "SELECT (SELECT count(*) FROM l), (SELECT count(*) FROM h)";
    run(&mut one, "BEGIN; INSERT INTO l VALUES (1); INSERT INTO h VALUES (1)");
    assert_eq!(rows(&mut two, both), ["0|0"]);
    run(&mut one, "ROLLBACK");
    assert_eq!(rows(&mut two, both), ["0|0"]);
    run(&mut one, "BEGIN; INSERT INTO l VALUES (1); INSERT INTO h VALUES (1); COMMIT");
    assert_eq!(rows(&mut two, both), ["1|1"]);
}

#[test]
fn a_unique_violation_waits_for_the_other_session() {
    let server = server();
    let (mut one, mut two) = (server.connect().unwrap(), server.connect().unwrap());
    run(&mut one, "CREATE TABLE t (id int PRIMARY KEY) USING lsm_s3");
    for (end, expected) in [("COMMIT", Err("23505")), ("ROLLBACK", Ok(()))] {
        run(&mut one, "TRUNCATE t");
        run(&mut one, "BEGIN; INSERT INTO t VALUES (1)");
        let mut watch = server.connect().unwrap();
        let done = std::thread::scope(|scope| {
            let waiting = scope.spawn(|| two.batch_execute("INSERT INTO t VALUES (1)"));
            let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
            while value(&mut watch, waits) == "0" {
                assert!(!waiting.is_finished(), "the second insert did not wait");
                std::thread::yield_now();
            }
            run(&mut one, end);
            waiting.join().expect("the second session")
        });
        let code = done.map_err(|error| error.code().map(|state| state.code().to_owned()));
        assert_eq!(code, expected.map_err(|code| Some(code.to_owned())));
    }
}

#[test]
fn a_writer_waits_for_the_first_one_and_takes_the_row_after_its_rollback() {
    let server = server();
    let (mut one, mut two) = (server.connect().unwrap(), server.connect().unwrap());
    run(&mut one, "CREATE TABLE t (id int, v text) USING lsm_s3; INSERT INTO t VALUES (1, 'old')");
    run(&mut one, "BEGIN; UPDATE t SET v = 'first'");
    let mut watch = server.connect().unwrap();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| two.batch_execute("UPDATE t SET v = 'second'"));
        while value(&mut watch, "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'") == "0" {
            assert!(!waiting.is_finished(), "the second update did not wait");
            std::thread::yield_now();
        }
        run(&mut one, "ROLLBACK");
        waiting.join().expect("the second session").expect("the update");
    });
    assert_eq!(rows(&mut one, "SELECT v FROM t"), ["second"]);
}

#[test]
fn what_is_not_supported_says_so_by_name() {
    let server = server();
    let mut client = server.connect().unwrap();
    run(
        &mut client,
        "CREATE TABLE t (id int PRIMARY KEY, v lsmvector(2)) USING lsm_s3; INSERT INTO t VALUES (1, '[1,2]')",
    );
    for sql in [
        "BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT * FROM t",
        "ROLLBACK; BEGIN; INSERT INTO t VALUES (7); PREPARE TRANSACTION 'x'",
        "ROLLBACK; CREATE UNLOGGED TABLE u (id int) USING lsm_s3",
        "CREATE TEMPORARY TABLE u (id int) USING lsm_s3",
        "CREATE INDEX CONCURRENTLY ON t (v)",
        "VACUUM FULL t",
        "CLUSTER t USING t_pkey",
        "SELECT * FROM t TABLESAMPLE SYSTEM (10)",
    ] {
        // Statements of one simple query share a transaction, which CONCURRENTLY and VACUUM refuse: one by one.
        let mut statements: Vec<&str> = sql.split("; ").collect();
        let last = statements.pop().unwrap_or_default();
        for statement in statements {
            run(&mut client, statement);
        }
        let (code, message) = failure(&mut client, last);
        let prepared_off = message.contains("prepared transactions are disabled");
        assert!(code == "0A000" && message.contains("not supported yet") || prepared_off, "{last}: {code} {message}");
    }
    run(&mut client, "ROLLBACK");
    assert_eq!(value(&mut client, "SELECT count(*) FROM t"), "1");
}

#[test]
fn a_copied_database_does_not_touch_what_it_was_copied_from() {
    let server = server();
    let mut client = server.connect().unwrap();
    run(&mut client, "CREATE DATABASE one");
    let mut one = server.connect_to("one").unwrap();
    run(&mut one, "CREATE EXTENSION kriya_pg; CREATE TABLE t (id int, e lsmvector(2)) USING lsm_s3");
    run(&mut one, "INSERT INTO t VALUES (1, '[1,2]'); CREATE INDEX ON t USING lsm_hnsw (e)");
    drop(one);
    run(&mut client, "CREATE DATABASE two TEMPLATE one");
    let mut two = server.connect_to("two").unwrap();
    assert_eq!(failure(&mut two, "SELECT * FROM t").0, "55000");
    run(&mut two, "DROP TABLE t");
    run(&mut two, "SELECT lsm_s3_flush()");
    drop(two);
    run(&mut client, "DROP DATABASE two");
    let mut one = server.connect_to("one").unwrap();
    run(&mut one, "SET enable_seqscan = off");
    assert_eq!(rows(&mut one, "SELECT id FROM t ORDER BY e <-> '[1,1]' LIMIT 1"), ["1"]);
}

#[test]
fn a_backend_ended_while_it_waits_for_another_leaves_no_lock_behind() {
    let server = server();
    let (mut one, mut two) = (server.connect().unwrap(), server.connect().unwrap());
    run(&mut one, "CREATE TABLE t (id int PRIMARY KEY) USING lsm_s3");
    run(&mut one, "BEGIN; INSERT INTO t VALUES (1)");
    let pid = value(&mut two, "SELECT pg_backend_pid()");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| two.batch_execute("INSERT INTO t VALUES (1)"));
        let mut watch = server.connect().unwrap();
        while value(&mut watch, "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'") == "0" {
            assert!(!waiting.is_finished(), "the second insert did not wait");
        }
        run(&mut watch, &format!("SELECT pg_terminate_backend({pid})"));
        assert!(waiting.join().expect("the second session").is_err());
        run(&mut one, "COMMIT");
        while value(&mut watch, &format!("SELECT count(*) FROM pg_locks WHERE pid = {pid}")) != "0" {
            std::thread::yield_now();
        }
        run(&mut watch, "DROP TABLE t");
    });
}

#[test]
fn index_entries_that_wait_keep_a_transaction_from_being_prepared() {
    let server = crate::support::started(crate::support::builder().setting("max_prepared_transactions", "5"));
    let mut client = server.connect().unwrap();
    run(&mut client, "CREATE TABLE h (id int, e lsmvector(2)) USING heap; CREATE INDEX ON h USING lsm_hnsw (e)");
    run(&mut client, "BEGIN; INSERT INTO h VALUES (1, '[1,2]')");
    assert_eq!(failure(&mut client, "PREPARE TRANSACTION 'x'").0, "0A000");
    run(&mut client, "BEGIN; CREATE TABLE plain (id int) USING heap; PREPARE TRANSACTION 'y'");
    run(&mut client, "COMMIT PREPARED 'y'");
}

#[test]
fn a_sending_that_is_cut_short_in_a_subtransaction_is_an_error_that_can_be_caught() {
    let server = server();
    let mut client = server.connect().unwrap();
    // Rows of tables without indexes wait in a buffer; the trigger begins a subtransaction behind each of them.
    run(
        &mut client,
        "CREATE TABLE t (id int) USING lsm_s3; CREATE TABLE u (id int) USING lsm_s3; CREATE TABLE told (what text);
         CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN
                 BEGIN IF TG_ARGV[0] = 'writes' THEN INSERT INTO u VALUES (NEW.id); END IF;
                 EXCEPTION WHEN query_canceled THEN NULL; END;
                 RETURN NEW;
             END $$;
         SELECT count(*) FROM t, u",
    );
    let worker = || {
        let worker = server.processes().into_iter().find(|process| process.title.contains("kriya storage worker"));
        worker.expect("the worker")
    };
    let outer = "DO $$ BEGIN
         BEGIN INSERT INTO t SELECT generate_series(1, 3); EXCEPTION WHEN query_canceled THEN INSERT INTO told VALUES ('caught'); END;
     END $$";
    for (argument, fails) in [("reads", false), ("writes", true)] {
        run(&mut client, &format!("CREATE TRIGGER g AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION f('{argument}')"));
        run(&mut client, "BEGIN; INSERT INTO t VALUES (0); SET LOCAL statement_timeout = '1s'");
        worker().freeze();
        let stopped = client.batch_execute(outer);
        worker().signal(rustix::process::Signal::CONT);
        // Caught inside: what was to be sent before it is in doubt. Caught outside: all of it is rolled back.
        let ended = stopped.and_then(|()| client.batch_execute("COMMIT"));
        assert!(!client.is_closed(), "the session was ended");
        if let Err(error) = ended {
            assert!(fails, "{error}");
            run(&mut client, "ROLLBACK");
        }
        let (rows, caught) =
            (value(&mut client, "SELECT count(*) FROM t"), value(&mut client, "SELECT count(*) FROM told"));
        assert!(["0", "1"].contains(&rows.as_str()), "{rows} rows after {argument}");
        assert_eq!(rows, if argument == "reads" { caught } else { rows.clone() });
        run(&mut client, "DROP TRIGGER g ON t; TRUNCATE t; TRUNCATE u; TRUNCATE told; RESET statement_timeout");
    }
}

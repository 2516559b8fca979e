//! Row locks and conflicts under load, and when something breaks.

use std::sync::atomic::{AtomicBool, Ordering};

use kriya_testkit::Postgres;
use postgres::Client;

use crate::support::{Numbers, builder, failure, postgres, rows, run, server, started, value};

const SEED: u64 = 20_261_121;

/// Runs a transaction until it commits; serialization failures and deadlocks are run again.
fn insist(client: &mut Client, statements: &[String]) {
    loop {
        let done = statements.iter().try_for_each(|sql| client.batch_execute(sql));
        let Err(error) = done else { return };
        let code = error.code().map(|state| state.code().to_owned()).unwrap_or_default();
        assert!(code == "40001" || code == "40P01", "{statements:?}: {error}");
        run(client, "ROLLBACK");
    }
}

/// Runs `job` in `count` sessions at once, while `watch` looks again and again.
fn at_once(
    server: &Postgres,
    count: u64,
    job: impl Fn(u64, &mut Client) + Sync,
    mut watch: impl FnMut(&mut Client) + Send,
) {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let jobs: Vec<_> = (0..count)
            .map(|number| {
                let job = &job;
                scope.spawn(move || {
                    let mut client = server.connect().expect("a session");
                    run(&mut client, "SET deadlock_timeout = '10ms'");
                    job(number, &mut client);
                })
            })
            .collect();
        let watching = scope.spawn(|| {
            let mut client = server.connect().expect("a session");
            while !over.load(Ordering::Relaxed) {
                watch(&mut client);
            }
            watch(&mut client);
        });
        let ended: Vec<_> = jobs.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        over.store(true, Ordering::Relaxed);
        watching.join().expect("the watching session");
        for end in ended {
            end.expect("a session");
        }
    });
}

#[test]
fn no_money_is_made_or_lost_by_transfers_with_savepoints() {
    let server = server();
    let mut client = server.connect().unwrap();
    run(
        &mut client,
        "CREATE TABLE account (id int PRIMARY KEY, balance int) USING lsm_s3;
         INSERT INTO account SELECT i, 100 FROM generate_series(0, 5) i",
    );
    let transfers = |number: u64, client: &mut Client| {
        let mut numbers = Numbers(SEED + number);
        for _ in 0..60 {
            let (from, to, sum) = (numbers.below(6), numbers.below(6), numbers.below(20) + 1);
            let isolation = ["READ COMMITTED", "REPEATABLE READ"][numbers.below(2) as usize];
            let lock = ["FOR UPDATE", "FOR NO KEY UPDATE", "FOR SHARE"][numbers.below(3) as usize];
            let mut statements = vec![
                format!("BEGIN ISOLATION LEVEL {isolation}"),
                format!("SELECT * FROM account WHERE id IN ({from}, {to}) {lock}"),
                format!("UPDATE account SET balance = balance - {sum} WHERE id = {from}"),
                "SAVEPOINT a".to_owned(),
                format!("UPDATE account SET balance = balance + {sum} WHERE id = {to}"),
            ];
            if numbers.below(3) == 0 {
                statements.push("ROLLBACK TO a".to_owned());
                statements.push(format!("SELECT * FROM account WHERE id = {to} FOR UPDATE"));
                statements.push(format!("UPDATE account SET balance = balance + {sum} WHERE id = {to}"));
            }
            statements.push("COMMIT".to_owned());
            insist(client, &statements);
        }
    };
    at_once(&server, 4, transfers, |client| {
        assert_eq!(rows(client, "SELECT count(*), sum(balance) FROM account"), ["6|600"], "seed {SEED}");
    });
}

#[test]
fn no_child_is_ever_without_its_parent() {
    let server = server();
    let mut client = server.connect().unwrap();
    run(
        &mut client,
        "CREATE TABLE parent (id int PRIMARY KEY, v int) USING lsm_s3;
         CREATE TABLE ours (id serial PRIMARY KEY, p int REFERENCES parent) USING lsm_s3;
         CREATE TABLE theirs (id serial PRIMARY KEY, p int REFERENCES parent) USING heap;
         INSERT INTO parent SELECT i, 0 FROM generate_series(0, 4) i",
    );
    let family = |number: u64, client: &mut Client| {
        let mut numbers = Numbers(SEED + 100 + number);
        for _ in 0..80 {
            let parent = numbers.below(5);
            let child = ["ours", "theirs"][numbers.below(2) as usize];
            let sql = match numbers.below(6) {
                0 => format!("DELETE FROM parent WHERE id = {parent}"),
                1 => format!("INSERT INTO parent VALUES ({parent}, 0) ON CONFLICT DO NOTHING"),
                2 => format!("UPDATE parent SET v = v + 1 WHERE id = {parent}"),
                3 => format!("DELETE FROM {child} WHERE p = {parent}"),
                _ => format!("INSERT INTO {child} (p) VALUES ({parent})"),
            };
            run(client, "BEGIN");
            match client.batch_execute(&sql) {
                Ok(()) if numbers.below(4) == 0 => run(client, "ROLLBACK"),
                Ok(()) => run(client, "COMMIT"),
                Err(error) => {
                    let code = error.code().map(|state| state.code().to_owned()).unwrap_or_default();
                    assert!(["23503", "40P01"].contains(&code.as_str()), "{sql}: {error}");
                    run(client, "ROLLBACK");
                }
            }
        }
    };
    at_once(&server, 4, family, |client| {
        let orphans = "SELECT (SELECT count(*) FROM ours c WHERE NOT EXISTS (SELECT FROM parent WHERE id = c.p)),
                              (SELECT count(*) FROM theirs c WHERE NOT EXISTS (SELECT FROM parent WHERE id = c.p))";
        assert_eq!(rows(client, orphans), ["0|0"], "seed {SEED}");
    });
}

#[test]
fn every_insert_on_conflict_counts_once() {
    let server = server();
    let mut client = server.connect().unwrap();
    run(&mut client, "CREATE TABLE t (id int PRIMARY KEY, v int, e lsmvector(2)) USING lsm_s3");
    run(&mut client, "CREATE INDEX ON t USING lsm_hnsw (e)");
    let upserts = |number: u64, client: &mut Client| {
        let mut numbers = Numbers(SEED + 200 + number);
        for _ in 0..80 {
            let id = numbers.below(4);
            let sql = format!("INSERT INTO t VALUES ({id}, 1, '[{id},1]') ON CONFLICT (id) DO UPDATE SET v = t.v + 1");
            run(client, &sql);
            run(client, &format!("INSERT INTO t VALUES ({id}, 0, '[0,0]') ON CONFLICT DO NOTHING"));
        }
    };
    at_once(&server, 4, upserts, |client| {
        assert_eq!(rows(client, "SELECT id FROM t GROUP BY id HAVING count(*) > 1"), [""; 0]);
    });
    assert_eq!(rows(&mut client, "SELECT count(*), sum(v) FROM t"), ["4|320"]);
    run(&mut client, "SET enable_seqscan = off");
    assert_eq!(rows(&mut client, "SELECT id FROM t ORDER BY e <-> '[3,1]'"), ["3", "2", "1", "0"]);
}

#[test]
fn a_queue_hands_out_every_job_once() {
    let server = server();
    let mut client = server.connect().unwrap();
    run(
        &mut client,
        "CREATE TABLE job (id int PRIMARY KEY, done int DEFAULT 0) USING lsm_s3;
         INSERT INTO job SELECT i FROM generate_series(1, 120) i",
    );
    let work = |number: u64, client: &mut Client| {
        let mut numbers = Numbers(SEED + 300 + number);
        loop {
            run(client, "BEGIN");
            let took = rows(
                client,
                "UPDATE job SET done = done + 1 WHERE id IN
                 (SELECT id FROM job WHERE done = 0 ORDER BY id LIMIT 3 FOR UPDATE SKIP LOCKED) RETURNING id",
            );
            run(client, if numbers.below(4) == 0 && !took.is_empty() { "ROLLBACK" } else { "COMMIT" });
            if took.is_empty() {
                break;
            }
        }
    };
    at_once(&server, 4, work, |_| {});
    // Who came last to a row that was being given back may have left it.
    work(9, &mut client);
    assert_eq!(rows(&mut client, "SELECT done, count(*) FROM job GROUP BY done"), ["1|120"]);
}

#[test]
fn a_lock_outlives_a_connection_to_the_worker_that_was_cut_under_a_savepoint() {
    let server = server();
    let (mut one, mut two) = (server.connect().unwrap(), server.connect().unwrap());
    run(&mut one, "CREATE TABLE t (id int PRIMARY KEY) USING lsm_s3; INSERT INTO t VALUES (1), (2)");
    run(&mut one, "BEGIN; SELECT * FROM t WHERE id = 1 FOR UPDATE");
    let cut = |one: &mut Client| {
        let code = loop {
            run(one, "SAVEPOINT a; SET LOCAL statement_timeout = '1ms'");
            if let Err(error) = one.batch_execute("SELECT lsm_s3_flush()") {
                break error.code().map(|state| state.code().to_owned()).unwrap_or_default();
            }
            run(one, "ROLLBACK TO a");
        };
        assert_eq!(code, "57014");
        run(one, "ROLLBACK TO a");
    };
    cut(&mut one);
    run(&mut one, "SELECT * FROM t WHERE id = 2 FOR UPDATE");
    cut(&mut one);
    for id in [1, 2] {
        let sql = format!("SELECT * FROM t WHERE id = {id} FOR KEY SHARE NOWAIT");
        assert_eq!(failure(&mut two, &sql).0, "55P03");
    }
    run(&mut one, "COMMIT");
    run(&mut two, "SELECT * FROM t FOR UPDATE NOWAIT");
}

#[test]
fn the_locks_of_a_backend_that_is_gone_are_free() {
    let server = server();
    let (mut one, mut two) = (server.connect().unwrap(), server.connect().unwrap());
    run(&mut one, "CREATE TABLE t (id int PRIMARY KEY) USING lsm_s3; INSERT INTO t VALUES (1)");
    run(&mut one, "BEGIN; SELECT * FROM t FOR UPDATE");
    let pid = value(&mut one, "SELECT pg_backend_pid()");
    run(&mut two, &format!("SELECT pg_terminate_backend({pid})"));
    run(&mut two, "SELECT * FROM t FOR UPDATE");
}

#[test]
fn a_worker_that_is_asked_to_stop_lets_those_who_hold_locks_finish() {
    let server = server();
    let (mut one, mut two) = (server.connect().unwrap(), server.connect().unwrap());
    run(
        &mut one,
        "CREATE TABLE parent (id int PRIMARY KEY) USING lsm_s3; INSERT INTO parent VALUES (1);
         CREATE TABLE child (p int REFERENCES parent) USING heap",
    );
    // Nothing of this transaction goes through the worker but a lock.
    run(&mut one, "BEGIN; INSERT INTO child VALUES (1)");
    let worker = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'kriya storage worker'";
    let pid = value(&mut two, worker);
    run(&mut two, &format!("SELECT pg_terminate_backend({pid})"));
    // The row stays locked: by the worker that stops, or because its successor does not serve before.
    run(&mut two, "SET statement_timeout = '300ms'");
    let refused = failure(&mut two, "DELETE FROM parent").0;
    assert!(["57014", "40001"].contains(&refused.as_str()), "{refused}");
    run(&mut one, "COMMIT");
    run(&mut two, "SET statement_timeout = 0");
    let refused = loop {
        let refused = failure(&mut two, "DELETE FROM parent").0;
        if refused != "40001" {
            break refused;
        }
    };
    assert_eq!(refused, "23503");
    assert_ne!(value(&mut two, worker), pid);
}

#[test]
fn rows_on_trial_are_settled_by_a_crash() {
    let mut server = server();
    let mut client = server.connect().unwrap();
    // An index on a function that stops a session twice: when it looks for a conflict, and between its row and the entry.
    run(
        &mut client,
        "CREATE FUNCTION gate(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$
             DECLARE me int := coalesce(nullif(current_setting('stage.me', true), ''), '0');
             BEGIN
                 IF me > 0 THEN
                     IF pg_try_advisory_xact_lock_shared(me, 1) THEN
                         PERFORM pg_advisory_xact_lock_shared(me, 2);
                     ELSE
                         PERFORM pg_advisory_xact_lock_shared(me, 1);
                     END IF;
                 END IF;
                 RETURN $1;
             END $$;
         CREATE TABLE t (id int, v int, e lsmvector(2)) USING lsm_s3;
         CREATE INDEX ON t USING lsm_hnsw (e);
         CREATE UNIQUE INDEX ON t (gate(id));
         INSERT INTO t VALUES (1, 1, '[1,1]') ON CONFLICT DO NOTHING;
         INSERT INTO t VALUES (2, 2, '[2,2]') ON CONFLICT (gate(id)) DO UPDATE SET v = 0;
         SELECT pg_advisory_lock(s, n) FROM generate_series(1, 3) s, generate_series(1, 2) n",
    );
    let mut sessions: Vec<Client> = (0..3).map(|_| server.connect().unwrap()).collect();
    std::thread::scope(|scope| {
        let meeting: Vec<_> = (1..)
            .zip(&mut sessions)
            .map(|(me, client)| {
                scope.spawn(move || {
                    run(client, &format!("SET stage.me = {me}"));
                    let sql = "INSERT INTO t VALUES (3, 3, '[3,3]') ON CONFLICT (gate(id)) DO UPDATE SET v = 33";
                    client.batch_execute(sql).is_ok()
                })
            })
            .collect();
        let mut wait_at = |gate: u32, count: usize| {
            let at =
                format!("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND objid = {gate}");
            while value(&mut client, &at) != count.to_string() {
                assert_eq!(meeting.iter().filter(|session| !session.is_finished()).count(), 3);
            }
            run(&mut client, &format!("SELECT pg_advisory_unlock(s, {gate}) FROM generate_series(1, 2) s"));
        };
        wait_at(1, 3);
        // Two have their rows in the table, on trial; the third never gets so far.
        wait_at(2, 2);
        // One of the two takes its row back; the third is there when the server is killed.
        while meeting.iter().filter(|session| session.is_finished()).count() < 2 {
            std::thread::yield_now();
        }
        run(&mut client, "SELECT pg_advisory_unlock(3, 1)");
        let mut watch = server.connect().unwrap();
        let expected = ["1|1", "2|2", "3|33"];
        assert_eq!(rows(&mut watch, "SELECT id, v FROM t ORDER BY id"), expected);
        server.kill().unwrap();
        let ended: Vec<bool> = meeting.into_iter().map(|session| session.join().expect("a session")).collect();
        assert_eq!(ended, [true, true, false]);
    });
    server.start().unwrap();
    let expected = ["1|1", "2|2", "3|33"];
    for round in 0..2 {
        if round == 1 {
            run(&mut server.connect().unwrap(), "SELECT lsm_s3_flush()");
        }
        server.kill().unwrap();
        server.start().unwrap();
        let mut client = server.connect().unwrap();
        assert_eq!(rows(&mut client, "SELECT id, v FROM t ORDER BY id"), expected);
        run(&mut client, "SET enable_seqscan = off");
        assert_eq!(rows(&mut client, "SELECT id FROM t ORDER BY e <-> '[0,0]'"), ["1", "2", "3"]);
        run(&mut client, "INSERT INTO t VALUES (3, 3, '[3,3]') ON CONFLICT DO NOTHING");
        assert_eq!(value(&mut client, "SELECT v FROM t WHERE id = 3"), "33");
    }
}

#[test]
fn a_transaction_that_only_locked_cannot_be_prepared() {
    let server = started(builder().setting("max_prepared_transactions", "5"));
    let mut client = server.connect().unwrap();
    run(&mut client, "CREATE TABLE t (id int PRIMARY KEY) USING lsm_s3; INSERT INTO t VALUES (1)");
    run(&mut client, "BEGIN; SELECT * FROM t FOR KEY SHARE");
    assert_eq!(failure(&mut client, "PREPARE TRANSACTION 'x'").0, "0A000");
    run(&mut client, "SELECT * FROM t FOR UPDATE NOWAIT");
}

#[test]
fn vacuum_of_a_heap_table_goes_on_beside_sessions_that_are_cut_short() {
    let server = server();
    let mut client = server.connect().unwrap();
    run(
        &mut client,
        "CREATE TABLE h (id int, e lsmvector(2)) USING heap; CREATE INDEX ON h USING lsm_hnsw (e);
         ALTER TABLE h SET (autovacuum_enabled = off)",
    );
    let insert = |number: u64, client: &mut Client| {
        let mut numbers = Numbers(SEED + 400 + number);
        for round in 0..40 {
            run(client, &format!("BEGIN; SET LOCAL statement_timeout = '{}ms'", numbers.below(12) + 1));
            let sql = format!(
                "INSERT INTO h SELECT {number}, ARRAY[{number}, {round}]::real[]::lsmvector FROM generate_series(1, 200)"
            );
            if let Err(error) = client.batch_execute(&sql).and_then(|()| client.batch_execute("COMMIT")) {
                assert_eq!(error.code().map(|state| state.code()), Some("57014"), "{error}");
            }
            // The patience that was set runs out for this as well.
            while client.batch_execute("ROLLBACK").is_err() {}
        }
    };
    at_once(&server, 3, insert, |client| run(client, "VACUUM h"));
    // An entry that led to a stranger would show that row twice.
    let all = value(&mut client, "SELECT count(*) FROM h");
    run(&mut client, "SET enable_seqscan = off; SET enable_sort = off");
    let found = "SELECT count(*), count(DISTINCT c) FROM (SELECT ctid AS c FROM h ORDER BY e <-> '[0,0]') x";
    assert_eq!(rows(&mut client, found), [format!("{all}|{all}")]);
}

//! A store that is slow, fails, breaks off or hangs, under commits of several sessions: they go on, nobody hangs, a stop
//! ends, and afterwards the bucket alone gives the same answers.

use std::time::{Duration, Instant};

use kriya_testkit::fault::{Fault, Kind, Operation};
use kriya_testkit::{Postgres, StopMode};

use crate::s3::{BUCKET, on, remove_mirrors, store};
use crate::support::{eventually, failure, postgres, run, started, value};

/// Transactions of several sessions, some rolled back, with flushes among them; what they left must be what they say.
fn load(server: &Postgres, sessions: u32, transactions: u32) {
    std::thread::scope(|scope| {
        for session in 0..sessions {
            scope.spawn(move || {
                let mut client = server.connect().expect("a session");
                for n in 0..transactions {
                    let id = session * 10_000 + n;
                    run(&mut client, &format!("INSERT INTO items VALUES ({id}, '[{n}, 1, {session}]')"));
                    match n % 10 {
                        3 => run(&mut client, &format!("BEGIN; DELETE FROM items WHERE id = {id}; ROLLBACK")),
                        6 => run(&mut client, &format!("UPDATE items SET embedding = '[0, 0, 1]' WHERE id = {id}")),
                        9 => run(&mut client, &format!("DELETE FROM items WHERE id = {id}")),
                        _ => {}
                    }
                    if n % 25 == 24 {
                        // It may fail; then it is tried again by the worker.
                        let _ = client.batch_execute("SELECT lsm_s3_flush()");
                    }
                }
            });
        }
    });
}

fn check_load(client: &mut postgres::Client, sessions: u32, transactions: u32) {
    let ids = (0..sessions)
        .flat_map(|session| (0..transactions).filter(|n| n % 10 != 9).map(move |n| u64::from(session * 10_000 + n)));
    let (count, sum) = ids.fold((0, 0), |(count, sum), id| (count + 1, sum + id));
    let updated = sessions * (0..transactions).filter(|n| n % 10 == 6).count() as u32;
    assert_eq!(value(client, "SELECT count(*) || '|' || sum(id) FROM items"), format!("{count}|{sum}"));
    assert_eq!(value(client, "SELECT count(*) FROM items WHERE embedding = '[0, 0, 1]'"), updated.to_string());
}

fn begin(store: &kriya_testkit::s3::S3Server) -> Postgres {
    let server = started(on(store).setting("lsm_s3.flush_interval_ms", "50"));
    run(
        &mut server.connect().expect("a session"),
        "CREATE TABLE items (id int, embedding lsmvector(3)) USING lsm_s3;
         CREATE INDEX ON items USING lsm_hnsw (embedding);",
    );
    server
}

fn flush(server: &Postgres) {
    let mut client = server.connect().expect("a session");
    eventually("a flush succeeds", || client.batch_execute("SELECT lsm_s3_flush()").is_ok());
}

/// Loads with `faults`, then starts from the bucket alone with `faults_at_start`.
fn survives(transactions: u32, faults: Vec<Fault>, faults_at_start: Vec<Fault>) {
    let store = store();
    let mut server = begin(&store);
    store.set_faults(faults);
    load(&server, 3, transactions);
    assert!(store.struck() > 0, "no fault struck");
    check_load(&mut server.connect().expect("a session"), 3, transactions);
    store.up();
    flush(&server);
    server.stop(StopMode::Fast).expect("it stops");
    remove_mirrors(&server);
    store.set_faults(faults_at_start);
    server.start().expect("it starts");
    let mut client = server.connect().expect("a session");
    eventually("the tables are served", || client.batch_execute("SELECT count(*) FROM items").is_ok());
    check_load(&mut client, 3, transactions);
}

#[test]
fn nothing_is_lost_while_requests_fail_before_and_after_they_take_effect() {
    let failing = || {
        vec![
            Fault::always(Kind::Before).chance(0.15, 21),
            Fault::always(Kind::After).on(&[Operation::Put]).chance(0.15, 22),
            Fault::always(Kind::Conflict).chance(0.1, 23),
        ]
    };
    survives(100, failing(), failing());
}

#[test]
fn nothing_is_lost_while_connections_break_in_the_middle_of_bodies() {
    let breaking = || {
        vec![
            Fault::always(Kind::Break).chance(0.25, 31),
            Fault::always(Kind::Cut).chance(0.25, 32),
            Fault::always(Kind::After).on(&[Operation::Put]).chance(0.1, 33),
        ]
    };
    survives(100, breaking(), breaking());
}

#[test]
fn nothing_is_lost_on_a_slow_store() {
    survives(100, vec![Fault::always(Kind::Slow(Duration::from_millis(150)))], Vec::new());
}

#[test]
fn commits_timeouts_and_cancels_do_not_wait_for_a_store_that_takes_two_seconds_for_everything() {
    let store = store();
    let mut server = begin(&store);
    store.set_faults(vec![Fault::always(Kind::Slow(Duration::from_secs(2)))]);
    let mut client = server.connect().expect("a session");
    let before = store.requests().len();
    load(&server, 3, 24);
    // Far more transactions than the store answered requests.
    assert!(store.requests().len() - before < 3 * 24, "{:?}", store.requests());
    check_load(&mut client, 3, 24);
    run(&mut client, "SET statement_timeout = '300ms'");
    assert_eq!(failure(&mut client, "SELECT lsm_s3_flush()").0, "57014");
    run(&mut client, "RESET statement_timeout");
    let cancel = client.cancel_token();
    let waiting = std::thread::spawn(move || {
        let code = failure(&mut client, "SELECT lsm_s3_flush()").0;
        (client, code)
    });
    eventually("the flush is cancelled", || {
        cancel.cancel_query(postgres::NoTls).expect("a request to cancel");
        waiting.is_finished()
    });
    let (mut client, code) = waiting.join().expect("a session");
    assert_eq!(code, "57014");
    flush(&server);
    check_load(&mut client, 3, 24);
    drop(client);
    server.stop(StopMode::Fast).expect("it stops");
    remove_mirrors(&server);
    server.start().expect("it starts");
    let mut client = server.connect().expect("a session");
    eventually("the tables are served", || client.batch_execute("SELECT count(*) FROM items").is_ok());
    check_load(&mut client, 3, 24);
}

/// Stops a server that hangs at an upload of a segment.
fn stop(server: &mut Postgres, store: &kriya_testkit::s3::S3Server) {
    let uploading = |request: &String| request.starts_with("PUT ") && request.contains("/segments/");
    eventually("a segment is being uploaded", || store.requests().iter().any(uploading));
    let began = Instant::now();
    server.stop(StopMode::Fast).expect("it stops");
    // Not a timing: each upload would be waited for as long as its size allows.
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
}

const MANY: &str = "INSERT INTO items SELECT i, ARRAY[i, i % 7, i % 11]::real[]::lsmvector FROM generate_series(1, ";

#[test]
fn a_stop_does_not_wait_for_a_segment_that_the_store_does_not_take() {
    let store = store();
    let mut server = begin(&store);
    let mut client = server.connect().expect("a session");
    run(&mut client, &format!("{MANY} 12000) i"));
    store.set_faults(vec![Fault::always(Kind::Silent).within("/segments/")]);
    run(&mut client, "SELECT lsm_s3_flush()");
    stop(&mut server, &store);
    store.up();
    server.start().expect("it starts");
    assert_eq!(value(&mut server.connect().expect("a session"), "SELECT count(*) FROM items"), "12000");
}

#[test]
fn a_stop_does_not_wait_for_an_index_that_the_store_does_not_take() {
    let store = store();
    let mut server = begin(&store);
    let mut client = server.connect().expect("a session");
    run(&mut client, &format!("DROP INDEX items_embedding_idx; {MANY} 40000) i; SELECT lsm_s3_flush()"));
    store.set_faults(vec![Fault::always(Kind::Silent).within("/segments/")]);
    std::thread::scope(|scope| {
        let building = scope.spawn(move || client.batch_execute("CREATE INDEX ON items USING lsm_hnsw (embedding)"));
        stop(&mut server, &store);
        assert!(building.join().expect("a session").is_err());
    });
    store.up();
    server.start().expect("it starts");
    assert_eq!(value(&mut server.connect().expect("a session"), "SELECT count(*) FROM items"), "40000");
    assert!(store.objects(BUCKET).iter().any(|name| name.contains("/sst/")));
}

#[test]
fn a_stop_does_not_wait_for_a_flush_that_a_session_in_a_transaction_had_asked_for() {
    let store = store();
    // Nothing is flushed before it is asked for: so it is one large table.
    let mut server = started(on(&store).setting("lsm_s3.flush_interval_ms", "3600000"));
    let mut client = server.connect().expect("a session");
    run(&mut client, "CREATE TABLE wide (id int, filler text) USING lsm_s3; SELECT lsm_s3_flush()");
    let before = store.requests().len();
    store.set_faults(vec![Fault::always(Kind::Silent)]);
    let wide = "SELECT i, (SELECT string_agg(md5(i * 1000 + n || ''), '') FROM generate_series(1, 30) n)";
    run(&mut client, &format!("BEGIN; INSERT INTO wide {wide} FROM generate_series(1, 15000) i"));
    std::thread::scope(|scope| {
        let mut other = server.connect().expect("a session");
        let asking = scope.spawn(move || client.batch_execute("SELECT lsm_s3_flush()"));
        let active = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT lsm_s3_flush()' AND state = 'active'";
        eventually("the flush is asked for", || value(&mut other, active) == "1");
        let uploading = |request: &String| request.starts_with("PUT ") && request.contains("/sst/");
        eventually("it is being uploaded", || store.requests().iter().skip(before).any(uploading));
        let began = Instant::now();
        server.stop(StopMode::Fast).expect("it stops");
        // Not a timing: the store would be waited for as long as the table's size allows, which is more.
        assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
        assert!(asking.join().expect("a session").is_err());
    });
    store.up();
    server.start().expect("it starts");
    assert_eq!(value(&mut server.connect().expect("a session"), "SELECT count(*) FROM wide"), "0");
}

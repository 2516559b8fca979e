//! The object store is away: commits go on, crashes lose nothing, and what cannot be done says why.

use std::path::{Path, PathBuf};

use kriya_testkit::{Postgres, StopMode};

use crate::support::{builder, eventually, failure, rows, run, started, value};

/// The folder of objects, with something that is no folder in its place until this is dropped.
struct Outage {
    objects: PathBuf,
    aside: PathBuf,
}

impl Outage {
    fn begin(server: &Postgres) -> Outage {
        let objects = server.folder().data().join("kriya/objects");
        let aside = objects.with_file_name("away");
        std::fs::rename(&objects, &aside).unwrap();
        std::fs::write(&objects, b"not a folder").unwrap();
        Outage { objects, aside }
    }

    fn end(self) {
        std::fs::remove_file(&self.objects).unwrap();
        std::fs::rename(&self.aside, &self.objects).unwrap();
    }
}

fn small() -> Postgres {
    let server = started(builder().setting("lsm_s3.memtable_size_mb", "1").setting("lsm_s3.flush_interval_ms", "50"));
    let mut client = server.connect().unwrap();
    run(&mut client, "CREATE TABLE t (id int PRIMARY KEY, v text, e lsmvector(3)) USING lsm_s3");
    run(&mut client, "CREATE INDEX ON t USING lsm_hnsw (e)");
    server
}

fn fill(server: &Postgres, from: i32, to: i32) {
    let mut client = server.connect().unwrap();
    let rows = format!(
        "SELECT g, repeat(md5(g::text), 30), ARRAY[g, g % 7, 1]::real[]::lsmvector FROM generate_series({from}, {to}) g"
    );
    run(&mut client, &format!("INSERT INTO t {rows}"));
}

fn check(server: &Postgres, rows_there: i32) {
    let mut client = server.connect().unwrap();
    assert_eq!(value(&mut client, "SELECT count(*) || ' ' || max(id) FROM t"), format!("{rows_there} {rows_there}"));
    run(&mut client, "SET enable_seqscan = off");
    let nearest = rows(&mut client, &format!("SELECT id FROM t ORDER BY e <-> '[{rows_there},0,1]' LIMIT 1"));
    assert_eq!(nearest.len(), 1);
    assert_eq!(value(&mut client, &format!("SELECT id FROM t WHERE id = {rows_there}")), rows_there.to_string());
}

fn worker_log(server: &Postgres) -> String {
    server.log_text()
}

#[test]
fn commits_go_on_far_beyond_the_memtables_and_everything_is_there_when_the_store_is_back() {
    let mut server = small();
    fill(&server, 1, 2000);
    let outage = Outage::begin(&server);
    // Some twenty megabytes, with memtables of one.
    for part in 1..10 {
        fill(&server, part * 2000 + 1, (part + 1) * 2000);
    }
    check(&server, 20_000);
    eventually("the outage is reported", || worker_log(&server).contains("the object store cannot be written to"));
    let mut client = server.connect().unwrap();
    assert!(value(&mut client, "SELECT lsm_s3_status()").contains("last error: the object store cannot be written to"));
    outage.end();
    eventually("everything is uploaded", || {
        value(&mut client, "SELECT lsm_s3_status()").contains("bytes to upload: 0")
    });
    server.kill().unwrap();
    server.start().unwrap();
    check(&server, 20_000);
}

#[test]
fn a_crash_while_the_store_is_away_loses_nothing_and_the_server_waits_for_it_without_hanging() {
    let mut server = small();
    fill(&server, 1, 2000);
    let outage = Outage::begin(&server);
    fill(&server, 2001, 12_000);
    server.kill().unwrap();
    server.start().unwrap();
    let mut client = server.connect().unwrap();
    run(&mut client, "SET statement_timeout = '1s'");
    assert_eq!(failure(&mut client, "SELECT count(*) FROM t").0, "57014", "cancelled, not hung");
    run(&mut client, "RESET statement_timeout; CREATE TABLE other (v int); INSERT INTO other VALUES (1)");
    server.stop(StopMode::Fast).unwrap();
    server.start().unwrap();
    outage.end();
    check(&server, 12_000);
}

#[test]
fn a_fast_shutdown_while_the_store_is_away_does_not_wait_for_it_for_ever() {
    let mut server = small();
    fill(&server, 1, 2000);
    let outage = Outage::begin(&server);
    fill(&server, 2001, 6000);
    server.stop(StopMode::Fast).unwrap();
    outage.end();
    server.start().unwrap();
    check(&server, 6000);
}

#[test]
fn beyond_the_backlog_writers_wait_can_be_cancelled_and_go_on_when_the_store_is_back() {
    let server = started(
        builder()
            .setting("lsm_s3.memtable_size_mb", "1")
            .setting("lsm_s3.flush_interval_ms", "50")
            .setting("lsm_s3.backlog_mb", "16"),
    );
    let mut client = server.connect().unwrap();
    run(&mut client, "CREATE TABLE t (id int, v text) USING lsm_s3");
    let outage = Outage::begin(&server);
    run(&mut client, "SET statement_timeout = '20s'");
    let flood = "INSERT INTO t SELECT g, repeat(md5(g::text), 100) FROM generate_series(1, 20000) g";
    assert_eq!(failure(&mut client, flood).0, "57014");
    assert_eq!(value(&mut client, "SELECT count(*) FROM t"), "0");
    run(&mut client, "RESET statement_timeout");
    let still = |dir: &Path| dir.join("kriya/objects").is_file();
    assert!(still(&server.folder().data()));
    outage.end();
    run(&mut client, flood);
    assert_eq!(value(&mut client, "SELECT count(*) FROM t"), "20000");
}

/// A server that keeps little of the log for slots.
fn keeps_little() -> Postgres {
    let builder = builder()
        .initdb("--wal-segsize=1")
        .setting("max_slot_wal_keep_size", "16MB")
        .setting("min_wal_size", "2MB")
        .setting("max_wal_size", "8MB")
        .setting("lsm_s3.flush_interval_ms", "3600000");
    let server = started(builder);
    run(&mut server.connect().unwrap(), "CREATE TABLE t (id int PRIMARY KEY, v text, e lsmvector(3)) USING lsm_s3");
    run(&mut server.connect().unwrap(), "CREATE INDEX ON t USING lsm_hnsw (e); CREATE TABLE traffic (v text)");
    server
}

const TRAFFIC: &str = "INSERT INTO traffic SELECT repeat('x', 1000) FROM generate_series(1, 3000); CHECKPOINT";
/// While an invalidated slot is made anew there is none.
const SLOT: &str = "SELECT coalesce((SELECT wal_status FROM pg_replication_slots WHERE slot_name = 'lsm_s3'), 'none')";

#[test]
fn an_outage_longer_than_the_server_keeps_log_for_slots_loses_nothing_in_a_crash() {
    let mut server = keeps_little();
    fill(&server, 1, 2000);
    let mut client = server.connect().unwrap();
    run(&mut client, "SELECT lsm_s3_flush()");
    let restart = "SELECT restart_lsn - '0/0'::pg_lsn FROM pg_replication_slots WHERE slot_name = 'lsm_s3'";
    let from: u64 = value(&mut client, restart).parse().unwrap();
    let outage = Outage::begin(&server);
    fill(&server, 2001, 4000);
    // Several times as much log as is kept.
    for _ in 0..16 {
        run(&mut client, TRAFFIC);
        eventually("the slot follows the local disk", || value(&mut client, SLOT) == "reserved");
    }
    assert!(value(&mut client, restart).parse::<u64>().unwrap() > from + (32 << 20));
    assert!(server.log_text().contains("max_slot_wal_keep_size allows"));
    server.kill().unwrap();
    server.start().unwrap();
    outage.end();
    check(&server, 4000);
    assert_ne!(value(&mut server.connect().unwrap(), SLOT), "lost");
}

#[test]
fn a_slot_that_was_invalidated_is_made_anew_and_nothing_is_lost() {
    let mut server = keeps_little();
    fill(&server, 1, 2000);
    let mut client = server.connect().unwrap();
    let worker = server.processes().into_iter().find(|process| process.title.contains("kriya storage worker"));
    let worker = worker.expect("the worker");
    worker.freeze();
    for _ in 0..10 {
        run(&mut client, TRAFFIC);
    }
    assert_eq!(value(&mut client, SLOT), "lost");
    worker.signal(rustix::process::Signal::CONT);
    eventually("the slot is there again", || value(&mut client, SLOT) == "reserved");
    assert!(server.log_text().contains("no longer kept"));
    let status = value(&mut client, "SELECT lsm_s3_status()");
    assert!(status.contains("log: replication slot lsm_s3 keeps"), "{status}");
    fill(&server, 2001, 2100);
    server.kill().unwrap();
    server.start().unwrap();
    check(&server, 2100);
}

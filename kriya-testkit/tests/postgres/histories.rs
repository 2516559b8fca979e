//! Backups, restored copies, and how much of the log is kept.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};

use kriya_testkit::{Postgres, StopMode};
use postgres::Client;

use crate::support::{builder, eventually, failure, rows, run, server, started, value};

const FILL: &str = "
    CREATE TABLE t (id int PRIMARY KEY, e lsmvector(3)) USING lsm_s3;
    CREATE TABLE h (id int PRIMARY KEY, e lsmvector(3)) USING heap;
    CREATE INDEX t_e ON t USING lsm_hnsw (e);
    CREATE INDEX h_e ON h USING lsm_hnsw (e);
    INSERT INTO t SELECT g, ARRAY[g, g % 10, 1]::real[]::lsmvector FROM generate_series(1, 2000) g;
    INSERT INTO h SELECT id, e FROM t;
";

fn content(server: &Postgres) -> Vec<String> {
    let mut client = server.connect().expect("a session");
    let mut all = Vec::new();
    for table in ["t", "h"] {
        all.extend(rows(&mut client, &format!("SELECT count(*), sum(id) FROM {table}")));
        run(&mut client, "SET enable_seqscan = off");
        all.extend(rows(&mut client, &format!("SELECT id FROM {table} ORDER BY e <-> '[700,0,1]' LIMIT 5")));
        run(&mut client, "RESET enable_seqscan");
    }
    all
}

fn lsn(server: &Postgres, what: &str) -> u64 {
    let mut client = server.connect().expect("a session");
    value(&mut client, &format!("SELECT ({what}) - '0/0'::pg_lsn")).parse().expect("a number")
}

fn kept_from(server: &Postgres) -> u64 {
    lsn(server, "SELECT restart_lsn FROM pg_replication_slots WHERE slot_name = 'lsm_s3'")
}

#[test]
fn traffic_on_heap_alone_does_not_make_the_log_pile_up() {
    let server = server();
    run(&mut server.connect().unwrap(), FILL);
    let before = kept_from(&server);
    let mut client = server.connect().unwrap();
    run(
        &mut client,
        "CREATE TABLE traffic (v text); INSERT INTO traffic SELECT repeat('x', 1000) FROM generate_series(1, 40000)",
    );
    let now = lsn(&server, "SELECT pg_current_wal_lsn()");
    assert!(now > before + (40 << 20));
    assert!(kept_from(&server) <= now);
    run(&mut client, "CHECKPOINT");
    eventually("the slot follows the checkpoint", || kept_from(&server) >= now);
}

/// Copies a data directory as a backup tool does: everything but the log, then what the log was meanwhile.
fn copy(from: &Path, to: &Path, what: &[&str]) {
    let status = Command::new("cp").arg("-a").args(what.iter().map(|name| from.join(name))).arg(to).status();
    assert!(status.expect("cp runs").success());
}

/// What begins and what ends a base backup.
fn backup_functions(client: &mut Client) -> (&'static str, &'static str) {
    match value(client, "SELECT current_setting('server_version_num')::int >= 150000").as_str() {
        "t" => ("pg_backup_start('b', true)", "pg_backup_stop(false)"),
        _ => ("pg_start_backup('b', true, false)", "pg_stop_backup(false, false)"),
    }
}

#[test]
fn a_base_backup_with_a_flush_inside_is_restored_by_itself() {
    let mut original = server();
    run(&mut original.connect().unwrap(), FILL);
    let mut backup = original.connect().unwrap();
    run(&mut backup, "CHECKPOINT");
    let function = backup_functions(&mut backup);
    run(&mut backup, &format!("SELECT {}", function.0));
    run(&mut original.connect().unwrap(), "INSERT INTO t SELECT g, '[1,1,1]' FROM generate_series(5001, 5100) g");
    run(&mut backup, "SELECT lsm_s3_flush()");
    // Another server's folder takes the files; it was never started.
    let mut restored = builder().start().unwrap();
    restored.stop(StopMode::Fast).unwrap();
    let (from, to) = (original.folder().data(), restored.folder().data());
    let config = std::fs::read(to.join("postgresql.auto.conf")).unwrap();
    for entry in std::fs::read_dir(&to).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if entry.file_type().unwrap().is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) }
            .unwrap();
    }
    let names: Vec<String> = (std::fs::read_dir(&from).unwrap())
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !["pg_wal", "postmaster.pid", "postmaster.opts", "pg_replslot"].contains(&name.as_str()))
        .collect();
    copy(&from, &to, &names.iter().map(String::as_str).collect::<Vec<_>>());
    run(&mut original.connect().unwrap(), "INSERT INTO t SELECT g, '[2,2,2]' FROM generate_series(6001, 6100) g");
    let stop = rows(&mut backup, &format!("SELECT labelfile FROM {}", function.1));
    let expected = content(&original);
    copy(&from, &to, &["pg_wal"]);
    std::fs::create_dir_all(to.join("pg_replslot")).unwrap();
    std::fs::write(to.join("backup_label"), stop.join("\n")).unwrap();
    std::fs::write(to.join("postgresql.auto.conf"), config).unwrap();
    let owner = Command::new("chown").arg("-R").arg("--reference").arg(&from).arg(&to).status();
    assert!(owner.expect("chown runs").success());
    restored.start().unwrap();
    assert_eq!(content(&restored), expected);
    // Both go on, each on its own.
    run(&mut restored.connect().unwrap(), "INSERT INTO t VALUES (7001, '[3,3,3]'); SELECT lsm_s3_flush()");
    run(&mut original.connect().unwrap(), "INSERT INTO t VALUES (7002, '[3,3,3]'); SELECT lsm_s3_flush()");
    original.kill().unwrap();
    original.start().unwrap();
    assert_eq!(value(&mut original.connect().unwrap(), "SELECT id FROM t WHERE id > 7000"), "7002");
    assert_eq!(value(&mut restored.connect().unwrap(), "SELECT id FROM t WHERE id > 7000"), "7001");
}

#[test]
fn a_log_segment_that_is_gone_comes_from_the_archive() {
    let archive = tempfile::tempdir().unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(archive.path(), open).unwrap();
    let place = archive.path().display();
    let mut server = started(
        builder()
            .setting("lsm_s3.flush_interval_ms", "3600000")
            .setting("restore_command", &format!("cp {place}/%f \"%p\"")),
    );
    let mut client = server.connect().unwrap();
    run(&mut client, FILL);
    run(&mut client, "SELECT lsm_s3_flush()");
    let first = value(&mut client, "SELECT pg_walfile_name(restart_lsn) FROM pg_replication_slots");
    run(&mut client, "INSERT INTO t SELECT g, '[1,1,1]' FROM generate_series(5001, 5100) g; SELECT pg_switch_wal()");
    run(&mut client, "INSERT INTO t SELECT g, '[2,2,2]' FROM generate_series(6001, 6100) g");
    let expected = content(&server);
    server.kill().unwrap();
    // Postgres itself needs the segment for its own recovery, so it goes only after that.
    run_alone(&server, "postgres", &["--single"], &["-c", "shared_preload_libraries=", "template1"]);
    let segment = server.folder().data().join("pg_wal").join(&first);
    let archived = archive.path().join(&first);
    std::fs::copy(&segment, &archived).unwrap();
    std::fs::set_permissions(&archived, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    std::fs::remove_file(&segment).unwrap();
    server.start().unwrap();
    assert_eq!(content(&server), expected);
}

/// Lets another program of the server's installation work on its data.
fn run_alone(server: &Postgres, program: &str, first: &[&str], then: &[&str]) {
    let mut alone = Command::new(server.installation().program(program));
    alone.args(first).arg("-D").arg(server.folder().data()).args(then);
    alone.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    server.account().apply(&mut alone);
    assert!(alone.status().expect("the program runs").success());
}

#[test]
fn after_pg_resetwal_on_a_stopped_server_the_store_is_refused_and_a_takeover_has_everything() {
    let mut server = server();
    run(&mut server.connect().unwrap(), FILL);
    let expected = content(&server);
    server.stop(StopMode::Fast).unwrap();
    run_alone(&server, "pg_resetwal", &["-f"], &[]);
    server.start().unwrap();
    let mut client = server.connect().unwrap();
    assert!(failure(&mut client, "SELECT count(*) FROM t").1.contains("the log cannot be read"));
    let told = value(&mut client, "SELECT lsm_s3_takeover()");
    assert!(told.contains("an orderly stop left whole"), "{told}");
    assert_eq!(content(&server), expected);
    run(&mut client, "INSERT INTO t VALUES (9001, '[3,3,3]')");
    server.kill().unwrap();
    server.start().unwrap();
    assert_eq!(value(&mut server.connect().unwrap(), "SELECT id FROM t WHERE id > 9000"), "9001");
}

#[test]
fn after_pg_resetwal_on_a_crashed_server_what_was_logged_only_is_missed_by_order_alone() {
    let mut server = started(builder().setting("lsm_s3.flush_interval_ms", "3600000"));
    let mut client = server.connect().unwrap();
    run(&mut client, FILL);
    run(&mut client, "SELECT lsm_s3_flush(); CHECKPOINT");
    let expected = content(&server);
    run(&mut client, "INSERT INTO t SELECT g, '[2,2,2]' FROM generate_series(6001, 6100) g; CHECKPOINT");
    server.kill_all().unwrap();
    std::fs::remove_file(server.folder().data().join("postmaster.pid")).unwrap();
    run_alone(&server, "pg_resetwal", &["-f"], &[]);
    server.start().unwrap();
    let mut client = server.connect().unwrap();
    assert!(failure(&mut client, "SELECT count(*) FROM t").1.contains("the log cannot be read"));
    for refused in ["SELECT lsm_s3_takeover()", "SELECT count(*) FROM t"] {
        assert!(failure(&mut client, refused).1.contains("would be lost"), "{refused}");
    }
    let told = value(&mut client, "SELECT lsm_s3_takeover(accept_loss => true)");
    assert!(told.contains("REINDEX"), "{told}");
    run(&mut client, "REINDEX TABLE t; REINDEX TABLE h");
    assert_eq!(content(&server), expected);
    // Index entries of rows that are lost must not come to mean others.
    run(&mut client, "INSERT INTO t SELECT g, '[2,2,2]' FROM generate_series(7001, 7200) g");
    run(&mut client, "SET enable_seqscan = off");
    assert_eq!(value(&mut client, "SELECT count(*) FROM t WHERE id BETWEEN 6001 AND 6100"), "0");
    assert_eq!(value(&mut client, "SELECT count(*) FROM t WHERE id BETWEEN 7001 AND 7200"), "200");
}

#[test]
fn a_slot_that_somebody_drops_is_made_anew_while_its_store_is_served() {
    let server = server();
    let mut client = server.connect().unwrap();
    run(&mut client, FILL);
    run(&mut client, "SELECT pg_drop_replication_slot('lsm_s3')");
    eventually("the slot is there again", || {
        value(&mut server.connect().unwrap(), "SELECT count(*) FROM pg_replication_slots") == "1"
    });
}

#[test]
fn a_slot_that_somebody_dropped_is_not_put_back_by_a_start() {
    let mut server = server();
    run(&mut server.connect().unwrap(), FILL);
    run(&mut server.connect().unwrap(), "SELECT lsm_s3_flush(); CHECKPOINT; SELECT lsm_s3_flush()");
    server.stop(StopMode::Fast).unwrap();
    let data = server.folder().data();
    // A store that is refused needs no slot, and makes none.
    let objects = data.join("kriya/objects");
    std::fs::rename(&objects, objects.with_file_name("not mounted")).unwrap();
    std::fs::remove_dir_all(data.join("pg_replslot/lsm_s3")).unwrap();
    server.start().unwrap();
    let mut client = server.connect().unwrap();
    assert!(failure(&mut client, "SELECT count(*) FROM t").1.contains("is empty, but"));
    assert_eq!(value(&mut client, "SELECT count(*) FROM pg_replication_slots"), "0");
}

#[test]
fn a_copy_of_the_slot_that_is_damaged_is_not_put_back() {
    // The log of the backup that the starts begin with.
    let mut server = started(builder().setting("wal_keep_size", "256MB"));
    run(&mut server.connect().unwrap(), FILL);
    run(&mut server.connect().unwrap(), "SELECT lsm_s3_flush(); CHECKPOINT; SELECT lsm_s3_flush()");
    let expected = content(&server);
    let mut backup = server.connect().unwrap();
    let function = backup_functions(&mut backup);
    run(&mut backup, &format!("SELECT {}", function.0));
    let label = rows(&mut backup, &format!("SELECT labelfile FROM {}", function.1)).join("\n");
    server.stop(StopMode::Fast).unwrap();
    let data = server.folder().data();
    let copies: Vec<_> = (std::fs::read_dir(data.join("kriya")).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("slot-")))
        .collect();
    let [copy] = &copies[..] else { panic!("{copies:?}") };
    let whole = std::fs::read(copy).unwrap();
    for damage in [&whole[..whole.len() - 1], &[0; 200][..], &[][..]] {
        std::fs::write(copy, damage).unwrap();
        let backup_label = data.join("backup_label");
        std::fs::write(&backup_label, &label).unwrap();
        let owner = std::fs::metadata(&data).unwrap();
        std::os::unix::fs::chown(&backup_label, Some(owner.uid()), Some(owner.gid())).unwrap();
        std::fs::remove_dir_all(data.join("pg_replslot/lsm_s3")).unwrap();
        server.start().unwrap();
        assert_eq!(content(&server), expected);
        assert!(server.log_text().contains("is damaged"));
        server.stop(StopMode::Fast).unwrap();
    }
}

#[test]
fn a_bucket_that_is_not_mounted_is_refused_until_it_is_back() {
    let mut server = started(builder().setting("lsm_s3.flush_interval_ms", "50"));
    run(&mut server.connect().unwrap(), FILL);
    let expected = content(&server);
    server.stop(StopMode::Fast).unwrap();
    let objects = server.folder().data().join("kriya/objects");
    let aside = objects.with_file_name("not mounted");
    std::fs::rename(&objects, &aside).unwrap();
    server.start().unwrap();
    let mut client = server.connect().unwrap();
    let error = client.batch_execute("SELECT count(*) FROM t").expect_err("it is refused");
    let error = error.as_db_error().expect("the server's error");
    assert!(error.message().contains("is empty, but"), "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("mounted")), "{error:?}");
    assert!(server.log_text().contains("replication slot lsm_s3 keeps"));
    server.stop(StopMode::Fast).unwrap();
    std::fs::remove_dir_all(&objects).unwrap();
    std::fs::rename(&aside, &objects).unwrap();
    server.start().unwrap();
    assert_eq!(content(&server), expected);
}

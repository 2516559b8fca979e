//! Tables in a bucket, over real HTTP: what works, what is said when it does not, and that nothing is lost meanwhile.

use std::path::Path;
use std::time::{Duration, Instant};

use kriya_testkit::fault::{Fault, Kind, Operation};
use kriya_testkit::s3::{KEY, S3Options, S3Server};
use kriya_testkit::{Builder, Postgres, StopMode};

use crate::support::{builder, eventually, failure, postgres, rows, run, started, told, value};

pub const BUCKET: &str = "bucket";

pub fn store() -> S3Server {
    S3Server::with_bucket(BUCKET).expect("an S3 server")
}

/// A server to be, whose tables are in the bucket.
pub fn on(store: &S3Server) -> Builder {
    builder()
        .setting("lsm_s3.endpoint", &store.url())
        .setting("lsm_s3.bucket", BUCKET)
        .setting("lsm_s3.prefix", "main/db")
        .setting("lsm_s3.access_key_id", KEY.0)
        .setting("lsm_s3.secret_access_key", KEY.1)
}

pub fn set(client: &mut postgres::Client, name: &str, value: &str) {
    run(client, &format!("ALTER SYSTEM SET {name} = '{value}'"));
    run(client, "SELECT pg_reload_conf()");
}

/// A table of 500 rows with an index, flushed.
pub const ITEMS: &str = "CREATE TABLE items (id int, embedding lsmvector(3)) USING lsm_s3;
    INSERT INTO items SELECT i, ARRAY[i, i % 7, i % 11]::real[]::lsmvector FROM generate_series(1, 500) i;
    CREATE INDEX items_embedding ON items USING lsm_hnsw (embedding);
    SELECT lsm_s3_flush();";
pub const NEAREST: &str = "SET enable_seqscan = off;
    SELECT id, embedding FROM items ORDER BY embedding <-> '[100, 2, 1]' LIMIT 5";

pub fn remove_mirrors(server: &Postgres) {
    for folder in ["kriya/store/mirror", "kriya/segments"] {
        std::fs::remove_dir_all(server.folder().data().join(folder)).expect("the folder of mirrors");
    }
}

#[test]
fn tables_and_indexes_live_in_a_bucket_and_come_back_from_it_alone() {
    let store = store();
    let mut server = started(on(&store));
    let mut client = server.connect().expect("a session");
    run(&mut client, ITEMS);
    let found = rows(&mut client, NEAREST);
    assert_eq!((found.len(), found[0].split('|').next()), (5, Some("100")));
    assert!(value(&mut client, "SELECT lsm_s3_status()").contains(&format!("bucket \"{BUCKET}\" at {}", store.url())));
    let names = store.objects(BUCKET);
    assert!(!names.is_empty() && names.iter().all(|name| name.starts_with("main/db/")), "{names:?}");
    drop(client);
    server.stop(StopMode::Fast).expect("it stops");
    remove_mirrors(&server);
    server.start().expect("it starts");
    let mut client = server.connect().expect("a session");
    assert_eq!(rows(&mut client, NEAREST), found);
    assert_eq!(value(&mut client, "SELECT count(*) || '|' || sum(id) FROM items"), "500|125250");
}

#[test]
fn a_store_that_is_down_when_the_server_starts_is_named_and_served_when_it_is_back() {
    let store = store();
    let mut server = started(on(&store));
    run(&mut server.connect().expect("a session"), ITEMS);
    server.stop(StopMode::Fast).expect("it stops");
    store.down();
    server.start().expect("it starts without its store");
    let mut client = server.connect().expect("a session");
    let (code, message) = failure(&mut client, "SELECT count(*) FROM items");
    assert_eq!(code, "58030", "{message}");
    assert!(message.contains("cannot be used") && message.contains("cannot be reached"), "{message}");
    assert_eq!(value(&mut client, "SELECT 1 + 1"), "2");
    let checked = rows(&mut client, "SELECT operation, ok, detail FROM lsm_s3_check()");
    assert!(checked[0].starts_with("PUT|f|") && checked[0].contains("cannot be reached"), "{checked:?}");
    store.up();
    eventually("the worker serves again by itself", || client.batch_execute("SELECT count(*) FROM items").is_ok());
    assert_eq!(value(&mut client, "SELECT count(*) FROM items"), "500");
}

#[test]
fn nobody_hangs_because_of_a_store_that_does_not_answer() {
    let store = store();
    let mut server = started(on(&store));
    run(&mut server.connect().expect("a session"), ITEMS);
    server.stop(StopMode::Fast).expect("it stops");
    store.set_faults(vec![Fault::always(Kind::Silent)]);
    server.start().expect("it starts without its store");
    let mut client = server.connect().expect("a session");
    run(&mut client, "SET statement_timeout = '300ms'");
    // Either the timeout strikes or the worker has given up already; it does not wait for the store.
    let (code, message) = failure(&mut client, "SELECT count(*) FROM items");
    assert!(matches!(code.as_str(), "57014" | "58030"), "{code} {message}");
    run(&mut client, "RESET statement_timeout");
    let (code, message) = failure(&mut client, "SELECT count(*) FROM items");
    assert_eq!(code, "58030", "{message}");
    assert!(message.contains("does not answer"), "{message}");
    drop(client);
    let begin = Instant::now();
    server.stop(StopMode::Fast).expect("it stops although the store does not answer");
    assert!(begin.elapsed() < Duration::from_secs(30), "{:?}", begin.elapsed());
    store.up();
    server.start().expect("it starts");
    assert_eq!(value(&mut server.connect().expect("a session"), "SELECT count(*) FROM items"), "500");
}

#[test]
fn wrong_keys_are_told_from_a_wrong_store_and_can_be_replaced_by_a_reload() {
    let store = store();
    let server = started(on(&store).setting("lsm_s3.secret_access_key", "quite-a-wrong-secret"));
    let mut client = server.connect().expect("a session");
    let error = client.batch_execute("CREATE TABLE t (i int) USING lsm_s3").expect_err("wrong keys");
    assert!(told(&error).contains("credentials are not accepted"), "{}", told(&error));
    let hint = error.as_db_error().and_then(|error| error.hint()).unwrap_or_default().to_owned();
    assert!(hint.contains("lsm_s3.secret_access_key"), "{hint}");
    set(&mut client, "lsm_s3.secret_access_key", KEY.1);
    eventually("the new key is used", || client.batch_execute("CREATE TABLE t (i int) USING lsm_s3").is_ok());
    // Rotation, while it serves.
    store.set_keys(&[("rotated-id", "rotated-secret")]);
    run(&mut client, "INSERT INTO t VALUES (1)");
    assert!(client.batch_execute("SELECT lsm_s3_flush()").is_err());
    run(&mut client, "ALTER SYSTEM SET lsm_s3.access_key_id = 'rotated-id'");
    set(&mut client, "lsm_s3.secret_access_key", "rotated-secret");
    eventually("the rotated key is used", || client.batch_execute("SELECT lsm_s3_flush()").is_ok());
    for name in ["access_key_id", "secret_access_key", "session_token", "profile"] {
        assert_eq!(value(&mut client, &format!("SHOW lsm_s3.{name}")), "(not shown)");
    }
    assert_eq!(value(&mut client, "SELECT count(*) FROM pg_settings WHERE name LIKE 'lsm_s3.%key%'"), "0");
    run(&mut client, "CREATE ROLE nobody; SET ROLE nobody");
    assert_eq!(failure(&mut client, "SHOW lsm_s3.access_key_id").0, "42501");
    let log = server.log_text();
    let statements: String = log.lines().filter(|line| !line.contains("STATEMENT")).collect();
    for secret in ["quite-a-wrong-secret", "rotated-secret", "rotated-id", KEY.0, KEY.1] {
        assert!(!statements.contains(secret), "the log tells {secret}");
    }
}

#[test]
fn a_missing_bucket_is_named_and_used_once_it_is_made() {
    let store = S3Server::start(&S3Options::default()).expect("an S3 server");
    let server = started(on(&store));
    let mut client = server.connect().expect("a session");
    let (code, message) = failure(&mut client, "CREATE TABLE t (i int) USING lsm_s3");
    assert_eq!(code, "58030", "{message}");
    assert!(message.contains("the bucket \"bucket\" does not exist"), "{message}");
    let checked = rows(&mut client, "SELECT detail FROM lsm_s3_check()");
    assert!(checked[0].contains("does not exist"), "{checked:?}");
    store.make_bucket(BUCKET).expect("a bucket");
    eventually("the bucket is used", || client.batch_execute("CREATE TABLE t (i int) USING lsm_s3").is_ok());
}

#[test]
fn a_check_names_the_permission_that_is_missing() {
    let store = store();
    let server = started(on(&store));
    let mut client = server.connect().expect("a session");
    let check = "SELECT operation, ok, detail FROM lsm_s3_check() WHERE NOT ok";
    assert_eq!(rows(&mut client, check), Vec::<String>::new());
    for (operation, name, right) in [
        (Operation::Put, "PUT", "s3:PutObject"),
        (Operation::Get, "GET", "s3:GetObject"),
        (Operation::List, "LIST", "s3:ListBucket"),
        (Operation::Delete, "DELETE", "s3:DeleteObject"),
    ] {
        store.set_faults(vec![Fault::always(Kind::Deny).on(&[operation])]);
        let wrong = rows(&mut client, check);
        let line = wrong.iter().find(|line| line.starts_with(&format!("{name}|f|")));
        assert!(line.is_some_and(|line| line.contains(right)), "{name}: {wrong:?}");
        store.up();
    }
    run(&mut client, "CREATE ROLE nobody; SET ROLE nobody");
    assert_eq!(failure(&mut client, "SELECT * FROM lsm_s3_check()").0, "42501");
}

#[test]
fn a_store_without_conditional_puts_is_refused_and_the_check_says_why() {
    let options = S3Options { buckets: vec![BUCKET.into()], unconditional: true, ..S3Options::default() };
    let store = S3Server::start(&options).expect("an S3 server");
    let server = started(on(&store));
    let mut client = server.connect().expect("a session");
    let (_, message) = failure(&mut client, "CREATE TABLE t (i int) USING lsm_s3");
    assert!(message.contains("conditional PUT"), "{message}");
    let wrong = rows(&mut client, "SELECT operation, detail FROM lsm_s3_check() WHERE NOT ok");
    assert!(wrong.len() == 1 && wrong[0].contains("cannot fence writers"), "{wrong:?}");
}

#[test]
fn a_store_that_falls_silent_does_not_hold_up_commits_that_memory_has_room_for() {
    let store = store();
    let server = started(on(&store).setting("lsm_s3.flush_interval_ms", "100"));
    let mut client = server.connect().expect("a session");
    run(&mut client, ITEMS);
    store.set_faults(vec![Fault::always(Kind::Silent)]);
    for id in 1001..1101 {
        run(&mut client, &format!("INSERT INTO items VALUES ({id}, '[1, 2, 3]')"));
    }
    assert_eq!(value(&mut client, "SELECT count(*) FROM items"), "600");
    let (_, message) = failure(&mut client, "SELECT lsm_s3_flush()");
    assert!(message.contains("does not answer"), "{message}");
    store.up();
    eventually("a flush succeeds", || client.batch_execute("SELECT lsm_s3_flush()").is_ok());
    assert_eq!(value(&mut client, "SELECT count(*) FROM items"), "600");
}

#[test]
fn commits_go_on_while_the_store_is_down_for_more_than_memory_holds() {
    let store = store();
    let server = started(on(&store).setting("lsm_s3.memtable_size_mb", "1"));
    let mut client = server.connect().expect("a session");
    run(&mut client, "CREATE TABLE wide (id int, filler text) USING lsm_s3");
    store.down();
    run(&mut client, "SET statement_timeout = '60s'");
    for round in 0..40 {
        run(
            &mut client,
            &format!(
                "INSERT INTO wide SELECT i, repeat(md5(i::text), 32) FROM generate_series({0}, {0} + 999) i",
                round * 1000
            ),
        );
    }
    assert_eq!(value(&mut client, "SELECT count(*) FROM wide"), "40000");
    store.up();
    eventually("a flush succeeds", || client.batch_execute("SELECT lsm_s3_flush()").is_ok());
    assert_eq!(value(&mut client, "SELECT count(*) FROM wide"), "40000");
}

#[test]
fn what_was_written_is_flushed_when_the_interval_has_passed_and_a_reload_changes_it() {
    let store = store();
    let server = started(on(&store).setting("lsm_s3.flush_interval_ms", "3600000"));
    let mut client = server.connect().expect("a session");
    run(&mut client, "CREATE TABLE t (i int) USING lsm_s3; SELECT lsm_s3_flush(); INSERT INTO t VALUES (1)");
    let tables = || store.objects(BUCKET).iter().filter(|name| name.contains("/sst/")).count();
    let before = tables();
    set(&mut client, "lsm_s3.flush_interval_ms", "100");
    eventually("the row is flushed", || tables() > before);
    run(&mut client, "INSERT INTO t VALUES (2)");
    eventually("an idle server flushes", || tables() > before + 1);
}

#[test]
fn settings_that_cannot_work_are_refused_with_what_to_type() {
    let server = builder().start().expect("the server starts");
    let mut client = server.connect().expect("a session");
    run(&mut client, "LOAD 'kriya_pg'");
    for (name, value, said) in [
        ("endpoint", "s3://bucket", "http"),
        ("endpoint", "https://me:hidden@host", "must not carry credentials"),
        ("bucket", "Not_A_Bucket", "lower-case"),
        ("prefix", "/rooted", "begins with a slash"),
        ("prefix", "a/../b", "\"..\""),
        ("region", "no region", "region"),
        ("path_style", "perhaps", "auto"),
        ("cache_dir", "relative", "absolute"),
        ("ca_file", "relative", "absolute"),
        ("wal", "remote", "not supported yet"),
    ] {
        let error = client.batch_execute(&format!("ALTER SYSTEM SET lsm_s3.{name} = '{value}'")).expect_err(name);
        let error = error.as_db_error().expect("an answer");
        let text = format!("{} {}", error.message(), error.hint().unwrap_or_default());
        assert!(text.contains(said) && error.hint().is_some(), "{name} = {value}: {text}");
        assert!(!text.contains("hidden"), "{text}");
    }
    run(&mut client, "ALTER SYSTEM SET lsm_s3.endpoint = 'https://s3.eu-central-1.amazonaws.com'");
}

#[test]
fn another_place_is_taken_over_without_tables_and_waits_with_them() {
    let store = store();
    store.make_bucket("second").expect("a bucket");
    let mut server = started(on(&store));
    let mut client = server.connect().expect("a session");
    assert!(value(&mut client, "SELECT lsm_s3_status()").contains("bucket \"bucket\""));
    set(&mut client, "lsm_s3.bucket", "second");
    let status = |client: &mut postgres::Client, text: &str| {
        client.simple_query("SELECT lsm_s3_status()").is_ok() && value(client, "SELECT lsm_s3_status()").contains(text)
    };
    eventually("the second bucket is used", || status(&mut client, "place: prefix \"main/db\" of bucket \"second\""));
    run(&mut client, ITEMS);
    set(&mut client, "lsm_s3.bucket", BUCKET);
    eventually("the change is told", || status(&mut client, "pending change: prefix \"main/db\" of bucket \"bucket\""));
    assert_eq!(value(&mut client, "SELECT count(*) FROM items"), "500");
    assert!(server.log_text().contains("tables that exist would be lost there"));
    set(&mut client, "lsm_s3.bucket", "second");
    eventually("nothing is pending", || !status(&mut client, "pending change"));
    drop(client);
    server.restart().expect("a restart");
    assert_eq!(value(&mut server.connect().expect("a session"), "SELECT count(*) FROM items"), "500");
}

#[test]
fn what_was_in_memory_is_said_to_be_lost_until_the_table_is_truncated() {
    let mut server = started(builder().setting("lsm_s3.endpoint", "memory"));
    run(&mut server.connect().expect("a session"), "CREATE TABLE t (i int) USING lsm_s3; INSERT INTO t VALUES (1)");
    server.restart().expect("a restart");
    let mut client = server.connect().expect("a session");
    let error = client.batch_execute("SELECT * FROM t").expect_err("it was in memory");
    let error = error.as_db_error().expect("an answer").clone();
    assert!(error.detail().is_some_and(|detail| detail.contains("in memory")), "{error:?}");
    assert!(error.hint().is_some_and(|hint| hint.contains("TRUNCATE")), "{error:?}");
    run(&mut client, "TRUNCATE t; INSERT INTO t VALUES (2)");
    assert_eq!(value(&mut client, "SELECT i FROM t"), "2");
}

/// A folder that the servers' account owns.
fn folder_of(server: &Postgres, name: &str) -> std::path::PathBuf {
    server.folder().root().join(name)
}

fn files(dir: &Path) -> usize {
    std::fs::read_dir(dir).map_or(0, Iterator::count)
}

#[test]
fn mirrors_live_in_the_cache_folder_which_must_be_ours_and_nobody_elses() {
    let store = store();
    let mut server = started(on(&store));
    let cache = folder_of(&server, "cache");
    server.account().make_folder(&cache).expect("a folder");
    let mut client = server.connect().expect("a session");
    set(&mut client, "lsm_s3.cache_dir", &cache.display().to_string());
    drop(client);
    server.restart().expect("a restart");
    let mut client = server.connect().expect("a session");
    run(&mut client, ITEMS);
    assert!(files(&cache.join("mirror")) > 0 && files(&cache.join("segments")) > 0);
    assert_eq!(files(&server.folder().data().join("kriya/segments")), 0);
    // A second server may not use it too.
    let second = started(
        on(&store).setting("lsm_s3.prefix", "second").setting("lsm_s3.cache_dir", &cache.display().to_string()),
    );
    let (_, message) = failure(&mut second.connect().expect("a session"), "CREATE TABLE t (i int) USING lsm_s3");
    assert!(message.contains("another server uses it"), "{message}");
    drop(second);
    // Nor may anybody else look at it.
    drop(client);
    server.stop(StopMode::Fast).expect("it stops");
    let mode = |mode| std::os::unix::fs::PermissionsExt::from_mode(mode);
    std::fs::set_permissions(&cache, mode(0o755)).expect("its mode");
    server.start().expect("it starts");
    let mut client = server.connect().expect("a session");
    let (_, message) = failure(&mut client, "SELECT count(*) FROM items");
    assert!(message.contains("others may use it"), "{message}");
    std::fs::set_permissions(&cache, mode(0o700)).expect("its mode");
    drop(client);
    server.restart().expect("a restart");
    assert_eq!(value(&mut server.connect().expect("a session"), "SELECT count(*) FROM items"), "500");
}

//! The test kit itself, on ordinary heap tables and without the extension's library.

use kriya_testkit::postgres::Client;
use kriya_testkit::{Postgres, StopMode};

use crate::support::{builder, rows, run};

fn plain() -> Postgres {
    builder().without_library().start().expect("the server starts")
}

fn session(server: &Postgres) -> Client {
    server.connect().expect("a session")
}

#[test]
fn committed_rows_survive_a_restart_and_a_kill() {
    let mut server = plain();
    run(&mut session(&server), "CREATE TABLE h (id int); INSERT INTO h VALUES (1)");
    server.restart().unwrap();
    run(&mut session(&server), "INSERT INTO h VALUES (2)");
    server.kill().unwrap();
    server.start().unwrap();
    run(&mut session(&server), "INSERT INTO h VALUES (3)");
    server.stop(StopMode::Immediate).unwrap();
    server.start().unwrap();
    assert_eq!(rows(&mut session(&server), "SELECT id FROM h ORDER BY id"), ["1", "2", "3"]);
}

#[test]
fn a_stopped_server_answers_no_more_and_its_folder_goes_with_it() {
    let mut server = plain();
    let root = server.folder().root().to_owned();
    assert!(root.is_dir());
    server.stop(StopMode::Fast).unwrap();
    assert!(server.connect().is_err());
    assert_eq!(server.pid(), None);
    drop(server);
    assert!(!root.exists(), "{} is left behind", root.display());
}

#[test]
fn two_servers_at_once_do_not_disturb_each_other() {
    let (one, two) = (plain(), plain());
    assert_ne!(one.port(), two.port());
    run(&mut session(&one), "CREATE TABLE only_here (id int)");
    let answer = two.psql("SELECT count(*) FROM pg_class WHERE relname = 'only_here'").unwrap();
    assert_eq!(answer.stdout.trim(), "0", "{}", answer.stderr);
}

#[test]
fn psql_reports_errors_and_stops_at_the_first() {
    let server = plain();
    let answer = server.psql("SELECT 1/0; CREATE TABLE never (id int)").unwrap();
    assert!(!answer.success);
    assert!(answer.stderr.contains("division by zero"), "{}", answer.stderr);
    let answer = server.psql("SELECT count(*) FROM pg_class WHERE relname = 'never'").unwrap();
    assert_eq!(answer.stdout.trim(), "0");
}

#[test]
fn a_bad_setting_is_a_failure_that_shows_the_log() {
    let said = builder().without_library().setting("max_connections", "many").start();
    let said = said.err().map(|e| e.to_string()).unwrap_or_default();
    assert!(said.contains("max_connections"), "{said}");
}

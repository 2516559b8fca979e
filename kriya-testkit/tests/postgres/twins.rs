//! The same statements on heap and on lsm_s3 print the same: heap is the oracle.

use std::path::PathBuf;

use crate::support::{run, server};

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../kriya-pg/tests/twin")
}

fn printed_on(server: &kriya_testkit::Postgres, name: &str, method: &str) -> String {
    let database = format!("{name}_{method}");
    let mut client = server.connect().expect("a session");
    run(&mut client, &format!("CREATE DATABASE {database}"));
    run(&mut client, &format!("ALTER DATABASE {database} SET default_table_access_method = {method}"));
    run(&mut server.connect_to(&database).expect("a session"), "CREATE EXTENSION kriya_pg");
    let text = std::fs::read_to_string(folder().join(name).with_extension("sql")).expect("the file of statements");
    let script = server.folder().root().join(format!("{database}.sql"));
    std::fs::write(&script, text).expect("a script");
    let out = server.psql_command().args(["-d", &database, "-a", "-q", "-f"]).arg(&script).output().expect("psql");
    let printed = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    printed.replace(&format!("{}:", script.display()), "")
}

fn compare(name: &str) {
    let server = server();
    let (heap, ours) = (printed_on(&server, name, "heap"), printed_on(&server, name, "lsm_s3"));
    assert!(heap.lines().count() > 20, "{name} printed little:\n{heap}");
    if heap != ours {
        let mut first = None;
        for (number, (a, b)) in heap.lines().zip(ours.lines()).enumerate() {
            if a != b {
                first = Some(number);
                break;
            }
        }
        let at = first.unwrap_or(heap.lines().count().min(ours.lines().count()));
        let around = |text: &str| text.lines().skip(at.saturating_sub(6)).take(16).collect::<Vec<_>>().join("\n");
        panic!("{name} differs at line {at}\n--- heap\n{}\n--- lsm_s3\n{}", around(&heap), around(&ours));
    }
}

#[test]
fn rows_of_all_types_changes_and_copies() {
    compare("rows");
}

#[test]
fn rollbacks_savepoints_cursors_triggers_and_constraints() {
    compare("transactions");
}

#[test]
fn indexes_and_unique_constraints() {
    compare("indexes");
}

//! Sessions that meet: the same schedule on heap and on lsm_s3 ends the same, step by step; heap is the oracle.

use std::path::PathBuf;

use crate::schedules::{Stage, parse};
use crate::support::server;

fn compare(name: &str, at_least: usize) {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../kriya-pg/tests/isolation");
    let text = std::fs::read_to_string(folder.join(name).with_extension("txt")).expect("the file of schedules");
    let schedules = parse(&text);
    let orders: usize = schedules.iter().map(|schedule| schedule.orders().len()).sum();
    assert!(orders >= at_least, "{name} has {orders} orders only");
    let server = server();
    let mut stage = Stage::new(&server);
    for schedule in schedules {
        for order in schedule.orders() {
            let heap = schedule.run(&mut stage, "heap", &order);
            let ours = schedule.run(&mut stage, "lsm_s3", &order);
            assert!(heap == ours, "{} {order:?}\n--- heap\n{heap}\n--- lsm_s3\n{ours}", schedule.name);
        }
    }
}

#[test]
fn changes_of_one_row() {
    compare("changes", 80);
}

#[test]
fn row_locks() {
    compare("locks", 30);
}

#[test]
fn foreign_keys() {
    compare("foreign_keys", 60);
}

#[test]
fn inserts_of_one_key() {
    compare("inserts", 60);
}

#[test]
fn merges_moves_and_joins() {
    compare("plans", 24);
}

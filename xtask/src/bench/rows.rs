//! COPY into tables without a vector index, and single-row INSERT into tables with one.

use std::time::Instant;

use kriya_testkit::postgres::Client;

use super::Plan;
use super::client::{Text, copy, rest, settle};
use super::data::{Data, text};
use super::point::{Point, rounded};
use crate::demo::latency::Latency;
use crate::failure::Outcome;

/// COPY of all rows into an empty table, with a number and a vector; then with a primary key.
///
/// # Errors
/// What the server says.
pub fn copies(client: &mut Client, plan: &Plan, data: &Data, bytes: &[u8]) -> Outcome<Vec<Point>> {
    let mut points = Vec::new();
    for round in 0..plan.rounds {
        for (workload, primary_key) in [("copy", false), ("copy_primary_key", true)] {
            for subject in plan.in_turn(round) {
                let table = subject.table(workload);
                client.batch_execute(&subject.create_table(&table, data.base.dim(), primary_key))?;
                rest(client)?;
                let seconds = copy(client, &table, bytes)?.as_secs_f64();
                points.push(
                    Point::new(subject, workload, data, round)
                        .with("copy_s", rounded(seconds))
                        .with("rows_per_s", rounded(data.base.len() as f64 / seconds)),
                );
                client.batch_execute(&format!("DROP TABLE {table}"))?;
            }
        }
    }
    Ok(points)
}

/// One way to insert rows one by one.
struct Way {
    workload: &'static str,
    synchronous_commit: &'static str,
    one_transaction: bool,
}

const WAYS: [Way; 3] = [
    Way { workload: "insert", synchronous_commit: "on", one_transaction: false },
    Way { workload: "insert_async_commit", synchronous_commit: "off", one_transaction: false },
    Way { workload: "insert_one_transaction", synchronous_commit: "on", one_transaction: true },
];

/// INSERT of single rows into the indexed tables of all subjects, vectors as text parameters. An entry that is found but not
/// yet linked into the graph counts as inserted; `rows_per_s_linked` waits for the linking as well.
///
/// # Errors
/// What the server says.
pub fn inserts(
    client: &mut Client,
    plan: &Plan,
    data: &Data,
    ef_construction: usize,
    round: usize,
) -> Outcome<Vec<Point>> {
    let mut points = Vec::new();
    // Rows of the set again, under numbers of their own: no subject is treated otherwise for that.
    let rows: Vec<String> = data.base.rows().take(plan.inserts).map(text).collect();
    let mut next = i32::try_from(data.base.len()).unwrap_or(i32::MAX / 2);
    for way in &WAYS {
        client.batch_execute(&format!("SET synchronous_commit = {}", way.synchronous_commit))?;
        for subject in plan.in_turn(round) {
            rest(client)?;
            let insert = client.prepare(&format!("INSERT INTO {} VALUES ($1, $2)", subject.table("knn")))?;
            let mut latency = Latency::default();
            let begin = Instant::now();
            if way.one_transaction {
                client.batch_execute("BEGIN")?;
            }
            for row in &rows {
                let begin = Instant::now();
                client.execute(&insert, &[&next, &Text(row)])?;
                latency.add(begin.elapsed());
                next += 1;
            }
            if way.one_transaction {
                client.batch_execute("COMMIT")?;
            }
            let inserted = begin.elapsed();
            let linked = inserted + settle(client)?;
            points.push(
                Point::new(subject, way.workload, data, round)
                    .index(plan.m, ef_construction)
                    .with("synchronous_commit", way.synchronous_commit)
                    .with("rows_per_s", rounded(rows.len() as f64 / inserted.as_secs_f64()))
                    .with("rows_per_s_linked", rounded(rows.len() as f64 / linked.as_secs_f64()))
                    .latency(&latency),
            );
        }
    }
    client.batch_execute("RESET synchronous_commit")?;
    Ok(points)
}

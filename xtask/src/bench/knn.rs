//! CREATE INDEX, and searches at several widths by one client and by two.

use std::sync::Barrier;
use std::time::Instant;

use kriya_datasets::recall;
use kriya_testkit::Postgres;
use kriya_testkit::postgres::Client;

use super::Plan;
use super::client::{Text, connect, copy, rest};
use super::data::Data;
use super::point::{Point, rounded};
use super::subject::Subject;
use crate::demo::latency::Latency;
use crate::demo::sql;
use crate::failure::{Failure, Outcome};

/// Neighbours that a query asks for.
pub const K: usize = 10;
/// Clients of the workload `knn_2_clients`.
const CLIENTS: usize = 2;
/// Queries before the clock runs, of each pass.
const WARM_UP: usize = 50;
/// A subject that has reached this is not searched wider: that would tell nothing about the recall it is compared at.
const ENOUGH: f64 = 0.995;

/// Fills a table of each subject and builds the index on it.
///
/// # Errors
/// What the server says.
pub fn builds(
    client: &mut Client,
    plan: &Plan,
    data: &Data,
    bytes: &[u8],
    ef_construction: usize,
    round: usize,
) -> Outcome<Vec<Point>> {
    let mut points = Vec::new();
    for subject in plan.in_turn(round) {
        let table = subject.table("knn");
        client.batch_execute(&format!("DROP TABLE IF EXISTS {table}"))?;
        client.batch_execute(&subject.create_table(&table, data.base.dim(), false))?;
        copy(client, &table, bytes)?;
        client.batch_execute(&format!("VACUUM (ANALYZE) {table}"))?;
        rest(client)?;
        let begin = Instant::now();
        client.batch_execute(&subject.create_index(&table, data.metric, plan.m, ef_construction))?;
        let seconds = begin.elapsed().as_secs_f64();
        println!("    CREATE INDEX {} on {}: {seconds:.1} s", subject.library, subject.table_am);
        points.push(
            Point::new(subject, "build", data, round)
                .index(plan.m, ef_construction)
                .with("build_threads", plan.threads)
                .with("build_s", rounded(seconds)),
        );
        let plan = sql::plan(client, &search(subject, data).replace("$1", &format!("'{}'", data.queries[0])))?;
        if !plan.contains("Index Scan using") {
            return Err(Failure::new(format!("{} does not search by its index: {plan}", subject.library)));
        }
    }
    rest(client)?;
    Ok(points)
}

/// All queries at every width, up to the first that finds nearly everything, by one client and then by two, of each subject in turn.
///
/// # Errors
/// What the server says.
pub fn searches(
    server: &Postgres,
    plan: &Plan,
    data: &Data,
    ef_construction: usize,
    round: usize,
) -> Outcome<Vec<Point>> {
    let mut points = Vec::new();
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(connect(server)?);
    }
    let mut done: Vec<Subject> = Vec::new();
    for ef in &plan.widths {
        for subject in plan.in_turn(round) {
            if done.contains(&subject) {
                continue;
            }
            for (workload, count) in [("knn", 1), ("knn_2_clients", CLIENTS)] {
                let asked = ask(&mut clients[..count], subject, data, *ef)?;
                let recall = recall(&asked.answers, &data.truth, K);
                if recall >= ENOUGH {
                    done.push(subject);
                }
                points.push(
                    Point::new(subject, workload, data, round)
                        .index(plan.m, ef_construction)
                        .with("ef", *ef)
                        .with("k", K)
                        .with("recall", rounded(recall))
                        .with("qps", rounded(asked.per_second))
                        .latency(&asked.latency),
                );
            }
        }
    }
    Ok(points)
}

/// What came of a pass over all queries.
struct Asked {
    /// Of the first client.
    answers: Vec<Vec<i64>>,
    latency: Latency,
    per_second: f64,
}

fn search(subject: Subject, data: &Data) -> String {
    format!("SELECT id FROM {} ORDER BY embedding {} $1 LIMIT {K}", subject.table("knn"), data.operator)
}

/// Every client asks all queries; the clock runs from when all are ready until the last is done.
fn ask(clients: &mut [Client], subject: Subject, data: &Data, ef: usize) -> Outcome<Asked> {
    let (ready, statement, setting) = (Barrier::new(clients.len()), search(subject, data), subject.set_ef(ef));
    let one = |client: &mut Client| -> Outcome<_> {
        let prepared = client.batch_execute(&setting).and_then(|()| client.prepare(&statement));
        let warm = prepared.and_then(|search| {
            for query in data.queries.iter().cycle().take(WARM_UP) {
                client.query(&search, &[&Text(query)])?;
            }
            Ok(search)
        });
        // Who fails comes here too, or the others would wait for ever.
        ready.wait();
        let search = warm?;
        let (mut answers, mut latency) = (Vec::with_capacity(data.queries.len()), Latency::default());
        let begin = Instant::now();
        for query in &data.queries {
            let begin = Instant::now();
            let rows = client.query(&search, &[&Text(query)])?;
            latency.add(begin.elapsed());
            answers.push(rows.iter().map(|row| i64::from(row.get::<_, i32>(0))).collect());
        }
        Ok((answers, latency, begin, Instant::now()))
    };
    let done: Vec<Outcome<_>> = std::thread::scope(|scope| {
        let running: Vec<_> = clients.iter_mut().map(|client| scope.spawn(|| one(client))).collect();
        running
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| Err(Failure::new("a client panicked"))))
            .collect()
    });
    let done = done.into_iter().collect::<Outcome<Vec<_>>>()?;
    let (first, last) = (done.iter().map(|d| d.2).min(), done.iter().map(|d| d.3).max());
    let seconds = first.zip(last).map_or(f64::INFINITY, |(first, last)| (last - first).as_secs_f64());
    let per_second = (data.queries.len() * done.len()) as f64 / seconds;
    let (mut answers, mut latency) = (Vec::new(), Latency::default());
    for (of_one, taken, ..) in done {
        latency.extend(taken);
        answers = of_one;
    }
    Ok(Asked { answers, latency, per_second })
}

//! Fashion-MNIST through SQL: 60,000 images by COPY, an index, and recall against speed for several `ef_search`.
//!
//! Rows are in the published order, so the published ground truth (here: exact, L2) applies.

use std::path::Path;
use std::time::Instant;

use kriya_datasets::{Matrix, ids, recall, vectors};
use kriya_testkit::postgres::Client;

use super::latency::Latency;
use super::sql::{self, Field, Vector};
use crate::failure::{Failure, Outcome};

/// Neighbours that a query asks for.
const K: usize = 10;
/// The widths of the search that are measured.
const WIDTHS: [u32; 5] = [10, 20, 40, 64, 100];

/// What one width of the search gave.
#[derive(Debug)]
pub struct Point {
    /// `lsm_s3.ef_search`.
    pub ef: u32,
    /// Share of the true 10 nearest that were found.
    pub recall: f64,
    /// Of single queries.
    pub latency: Latency,
}

/// What a run has found out.
#[derive(Debug)]
pub struct Report {
    /// Rows in the table.
    pub rows: u64,
    /// Seconds for the COPY.
    pub copy: f64,
    /// Seconds for CREATE INDEX.
    pub build: f64,
    /// The plan of the search.
    pub plan: String,
    /// Per width.
    pub points: Vec<Point>,
}

/// Loads the set in the folder `data`, indexes it, and asks its first 1,000 queries at each width.
///
/// # Errors
/// What the server or the data say.
pub fn run(client: &mut Client, data: &Path) -> Outcome<Report> {
    let base = vectors(&data.join("train-images-idx3-ubyte.gz"))?;
    let queries = vectors(&data.join("query-1k.u8bin.gz"))?;
    let truth = ids(&data.join("gt-l2-1k.ibin"))?;
    if queries.dim() != base.dim() || truth.len() != queries.len() {
        return Err(Failure::new(format!("{}: images, queries and ground truth do not fit", data.display())));
    }
    client.batch_execute(&format!(
        "CREATE EXTENSION IF NOT EXISTS kriya_pg; DROP TABLE IF EXISTS fashion_mnist;
         CREATE TABLE fashion_mnist (id int, embedding LsmVector({})) USING lsm_s3;",
        base.dim()
    ))?;
    let begin = Instant::now();
    let rows = base.rows().zip(0_i32..).map(|(vector, id)| vec![Field::Int(id), Field::Vector(vector)]);
    let rows = sql::copy(client, "fashion_mnist", rows)?;
    let copy = begin.elapsed().as_secs_f64();
    println!("  COPY {rows} x {}: {copy:.1} s", base.dim());

    let begin = Instant::now();
    client.batch_execute(
        "CREATE INDEX ON fashion_mnist USING lsm_hnsw (embedding lsm_vector_l2_ops)
         WITH (m = 16, ef_construction = 200)",
    )?;
    let build = begin.elapsed().as_secs_f64();
    println!("  CREATE INDEX: {build:.1} s");
    client.batch_execute("ANALYZE fashion_mnist")?;

    let first = sql::literal(queries.row(0));
    let plan = sql::plan(client, &format!("SELECT id FROM fashion_mnist ORDER BY embedding <-> {first} LIMIT {K}"))?;
    println!("  {:>4} {:>9} {:>8} {:>8} {:>8}", "ef", "recall@10", "QPS", "p50 ms", "p99 ms");
    let mut points = Vec::new();
    for ef in WIDTHS {
        client.batch_execute(&format!("SET lsm_s3.ef_search = {ef}"))?;
        let (answers, latency) = ask(client, &queries)?;
        let recall = recall(&answers, &truth, K);
        let (p50, p99) = (latency.quantile_ms(0.5), latency.quantile_ms(0.99));
        println!("  {ef:>4} {recall:>9.4} {:>8.0} {p50:>8.2} {p99:>8.2}", latency.per_second());
        points.push(Point { ef, recall, latency });
    }
    Ok(Report { rows, copy, build, plan, points })
}

fn ask(client: &mut Client, queries: &Matrix<f32>) -> Outcome<(Vec<Vec<i64>>, Latency)> {
    let search = client.prepare(&format!("SELECT id FROM fashion_mnist ORDER BY embedding <-> $1 LIMIT {K}"))?;
    let mut latency = Latency::default();
    let mut answers = Vec::with_capacity(queries.len());
    for query in queries.rows() {
        let begin = Instant::now();
        let rows = client.query(&search, &[&Vector(query)])?;
        latency.add(begin.elapsed());
        answers.push(rows.iter().map(|row| i64::from(row.get::<_, i32>(0))).collect());
    }
    Ok((answers, latency))
}

impl Report {
    /// The report for other programs.
    pub fn json(&self) -> serde_json::Value {
        let point = |p: &Point| {
            serde_json::json!({
                "ef_search": p.ef,
                "recall_at_10": p.recall,
                "qps": p.latency.per_second(),
                "p50_ms": p.latency.quantile_ms(0.5),
                "p99_ms": p.latency.quantile_ms(0.99),
            })
        };
        serde_json::json!({
            "rows": self.rows,
            "copy_s": self.copy,
            "build_s": self.build,
            "plan": self.plan,
            "points": self.points.iter().map(point).collect::<Vec<_>>(),
        })
    }
}

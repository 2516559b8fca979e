//! The demo proper: the checked-in package descriptions in an `lsm_s3` table, searched in plain English.

use std::path::PathBuf;
use std::time::Instant;

use kriya_datasets::{Matrix, ids, recall, vectors};
use kriya_testkit::postgres::Client;

use super::latency::Latency;
use super::sql::{self, Field, Vector};
use crate::dataset::table;
use crate::failure::{Failure, Outcome};
use crate::{places, progress};

/// Neighbours that a query asks for.
const K: usize = 10;
/// How often all questions are asked for the latency.
const ROUNDS: usize = 10;
/// The questions whose answers are shown.
const SHOWN: [usize; 4] = [0, 9, 31, 37];

/// What a run has found out.
#[derive(Debug)]
pub struct Report {
    /// Rows in the table.
    pub rows: u64,
    /// Share of the true 10 nearest that were found.
    pub recall: f64,
    /// The plan of the search.
    pub plan: String,
    /// Of single queries.
    pub latency: Latency,
}

/// Loads the descriptions, indexes them and asks the questions; `show` prints some answers.
///
/// # Errors
/// What the server or the data say.
pub fn run(client: &mut Client, show: bool) -> Outcome<Report> {
    let data = Data::read()?;
    client.batch_execute(
        "CREATE EXTENSION IF NOT EXISTS kriya_pg;
         CREATE TABLE packages (
             id int, package text, section text, priority text, arch text, installed_size_kb int,
             description text, embedding LsmVector(384)) USING lsm_s3;",
    )?;
    let rows = progress::step(&format!("COPY {} descriptions with vectors", data.rows.len()), || data.load(client))?;
    progress::step("CREATE INDEX ... USING lsm_hnsw", || {
        let index = "CREATE INDEX packages_embedding ON packages USING lsm_hnsw (embedding lsm_vector_cosine_ops)
                     WITH (m = 16, ef_construction = 200)";
        Ok(client.batch_execute(index)?)
    })?;
    client.batch_execute("ANALYZE packages")?;

    let first = sql::literal(data.queries.row(0));
    let plan = sql::plan(client, &format!("SELECT id FROM packages ORDER BY embedding <=> {first} LIMIT {K}"))?;
    if show {
        for question in SHOWN {
            data.show(client, question)?;
        }
    }
    let (answers, latency) = data.ask(client)?;
    Ok(Report { rows, recall: recall(&answers, &data.truth, K), plan, latency })
}

struct Data {
    rows: Vec<Vec<String>>,
    base: Matrix<f32>,
    questions: Vec<Vec<String>>,
    queries: Matrix<f32>,
    truth: Matrix<u32>,
}

impl Data {
    fn read() -> Outcome<Data> {
        let file = |name: &str| -> PathBuf { places::workspace().join("datasets/packages").join(name) };
        let data = Data {
            rows: table(&file("packages.tsv.gz"), 7)?,
            base: vectors(&file("base.f16bin.gz"))?,
            questions: table(&file("queries.tsv"), 2)?,
            queries: vectors(&file("query.fbin"))?,
            truth: ids(&file("gt-cosine.ibin"))?,
        };
        if data.rows.len() != data.base.len() || data.questions.len() != data.queries.len() {
            return Err(Failure::new("datasets/packages: descriptions and vectors are not equally many"));
        }
        Ok(data)
    }

    fn load(&self, client: &mut Client) -> Outcome<u64> {
        let number = |text: &str| text.parse().map_err(|e| Failure::new(format!("the number {text:?}: {e}")));
        let mut numbers = Vec::with_capacity(self.rows.len());
        for row in &self.rows {
            numbers.push((number(&row[0])?, number(&row[5])?));
        }
        let rows = self.rows.iter().zip(&numbers).zip(self.base.rows()).map(|((row, (id, size)), vector)| {
            vec![
                Field::Int(*id),
                Field::Text(&row[1]),
                Field::Text(&row[2]),
                Field::Text(&row[3]),
                Field::Text(&row[4]),
                Field::Int(*size),
                Field::Text(&row[6]),
                Field::Vector(vector),
            ]
        });
        sql::copy(client, "packages", rows)
    }

    /// Prints a question with its three best answers.
    fn show(&self, client: &mut Client, question: usize) -> Outcome<()> {
        println!("\n  {}", self.questions[question][1]);
        let rows = client.query(
            "SELECT package, section, left(split_part(description, ': ', 2), 60), embedding <=> $1
             FROM packages ORDER BY embedding <=> $1 LIMIT 3",
            &[&Vector(self.queries.row(question))],
        )?;
        for row in rows {
            let (package, section): (String, String) = (row.get(0), row.get(1));
            let (text, distance): (String, f64) = (row.get(2), row.get(3));
            println!("    {distance:.3}  {package:<28} {section:<12} {text}");
        }
        Ok(())
    }

    /// Asks every question several times; the answers are those of the last round.
    fn ask(&self, client: &mut Client) -> Outcome<(Vec<Vec<i64>>, Latency)> {
        let search = client.prepare(&format!("SELECT id FROM packages ORDER BY embedding <=> $1 LIMIT {K}"))?;
        let mut latency = Latency::default();
        let mut answers = Vec::new();
        for _ in 0..ROUNDS {
            answers.clear();
            for query in self.queries.rows() {
                let begin = Instant::now();
                let rows = client.query(&search, &[&Vector(query)])?;
                latency.add(begin.elapsed());
                answers.push(rows.iter().map(|row| i64::from(row.get::<_, i32>(0))).collect());
            }
        }
        Ok((answers, latency))
    }
}

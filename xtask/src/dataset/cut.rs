//! `cargo xtask dataset cut`: the checked-in package descriptions (`datasets/packages/`), chosen from the whole data set.
//!
//! The choice is a rule, so that the cut can be made again: the true 25 nearest descriptions of every demo query, so
//! that each has good answers, and then the data set's first rows (it is shuffled) until there are 6,000. Rows keep
//! their order and get new ids. Ground truth is computed anew, on the cut.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use kriya_datasets::{Matrix, Metric, bytes, exact, ids, vectors, write_f16bin, write_fbin, write_ibin, write_text};

use crate::failure::{Failure, Outcome};
use crate::places;

/// Rows of the cut.
const ROWS: usize = 6_000;
/// Answers of each demo query that are taken for sure.
const ANSWERS: usize = 25;
/// Neighbours per query in the ground truth.
const NEIGHBOURS: usize = 50;

/// Makes the cut from the data set in `from` and writes it to `to`.
///
/// # Errors
/// If the data set is not there or not what it is said to be.
pub fn cut(from: Option<PathBuf>, to: Option<PathBuf>) -> Outcome<()> {
    let from = from.unwrap_or_else(|| places::shared_datasets().join("deb-minilm-384-cosine"));
    let to = to.unwrap_or_else(|| places::workspace().join("datasets/packages"));
    fs::create_dir_all(&to).map_err(Failure::doing("making", &to))?;

    let base = vectors(&from.join("base.f16bin.gz"))?;
    let queries = vectors(&from.join("demo-query.fbin"))?;
    let chosen = choose(&ids(&from.join("demo-gt-cosine.ibin"))?, base.len());
    let rows = base.select(&chosen);
    write_f16bin(&to.join("base.f16bin.gz"), &rows)?;
    write_fbin(&to.join("query.fbin"), &queries)?;
    write_text(&to.join("packages.tsv.gz"), &descriptions(&from, &chosen)?)?;
    write_text(&to.join("queries.tsv"), &questions(&from, queries.len())?)?;

    let truth = exact(Metric::Cosine, &rows, &queries, NEIGHBOURS)?;
    let matrix = "every row of the truth has the same length";
    let found = Matrix::new(truth.ids.concat(), NEIGHBOURS).ok_or_else(|| Failure::new(matrix))?;
    let distances = truth.distances.concat().iter().map(|d| *d as f32).collect();
    let distances = Matrix::new(distances, NEIGHBOURS).ok_or_else(|| Failure::new(matrix))?;
    write_ibin(&to.join("gt-cosine.ibin"), &found)?;
    write_fbin(&to.join("gt-cosine.dist.fbin"), &distances)?;
    println!("{} rows, {} queries in {}", rows.len(), queries.len(), to.display());
    Ok(())
}

/// The numbers of the chosen rows, ascending.
fn choose(answers: &Matrix<u32>, rows: usize) -> Vec<usize> {
    let sure = answers.rows().flat_map(|row| row.iter().take(ANSWERS)).map(|id| *id as usize);
    let mut chosen: BTreeSet<usize> = sure.filter(|id| *id < rows).collect();
    for row in 0..rows {
        if chosen.len() >= ROWS {
            break;
        }
        chosen.insert(row);
    }
    chosen.into_iter().collect()
}

/// The cut's `packages.tsv`: attributes and text, under new ids.
fn descriptions(from: &Path, chosen: &[usize]) -> Outcome<String> {
    let (attributes, texts) = (from.join("attrs.tsv.gz"), from.join("texts.tsv.gz"));
    let (attributes, texts) = (table(&attributes, 7)?, table(&texts, 2)?);
    let mut out = String::from("id\tpackage\tsection\tpriority\tarch\tinstalled_size_kb\ttext\n");
    for (id, row) in chosen.iter().enumerate() {
        let (Some(attributes), Some(text)) = (attributes.get(*row), texts.get(*row)) else {
            return Err(Failure::new(format!("row {row} has a vector but no attributes or no text")));
        };
        if attributes[0] != row.to_string() || text[0] != attributes[0] {
            return Err(Failure::new(format!("row {row} is called {} and {}", attributes[0], text[0])));
        }
        // Writing to a string cannot fail.
        let _ok = writeln!(out, "{id}\t{}\t{}", attributes[1..6].join("\t"), text[1]);
    }
    Ok(out)
}

/// The cut's `queries.tsv`: number and question, without the whole set's answers.
fn questions(from: &Path, count: usize) -> Outcome<String> {
    let rows = table(&from.join("demo-queries.tsv"), 3)?;
    if rows.len() != count {
        return Err(Failure::new(format!("{} questions but {count} vectors of questions", rows.len())));
    }
    let lines: Vec<String> = rows.iter().map(|row| format!("{}\t{}\n", row[0], row[1])).collect();
    Ok(format!("qid\tquery\n{}", lines.concat()))
}

/// The rows of a table with a heading and `columns` columns, divided by tabs.
///
/// # Errors
/// If it cannot be read, or a row has another number of columns.
pub fn table(path: &Path, columns: usize) -> Outcome<Vec<Vec<String>>> {
    let text = String::from_utf8(bytes(path)?).map_err(Failure::doing("reading", path))?;
    let rows: Vec<Vec<String>> = text.lines().skip(1).map(|l| l.split('\t').map(str::to_owned).collect()).collect();
    match rows.iter().position(|row| row.len() != columns) {
        None => Ok(rows),
        Some(bad) => Err(Failure::new(format!(
            "{}: line {} has {} columns, expected {columns}",
            path.display(),
            bad + 2,
            rows[bad].len()
        ))),
    }
}

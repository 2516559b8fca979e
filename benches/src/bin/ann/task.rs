//! What is searched, and how: the arguments, read.

use std::path::PathBuf;

use kriya_datasets::{Matrix, ids, vectors};
use vecindex::{HnswParams, IdSet, Metric};

use super::Outcome;

/// Rows, queries and parameters.
pub struct Task {
    /// The rows.
    pub base: Matrix<f32>,
    /// The queries.
    pub queries: Matrix<f32>,
    /// How rows are compared.
    pub metric: Metric,
    /// How the graph is built.
    pub params: HnswParams,
    /// Neighbours that a query asks for.
    pub k: usize,
    /// Which rows may be answers; all of them if none.
    pub allowed: Option<Allowed>,
    /// Whether every row that may be an answer is compared.
    pub scan: bool,
    /// Whether what was found is compared once more with rows of f32.
    pub rerank: bool,
    /// Where answers go.
    pub answers: PathBuf,
}

/// Rows that a filter lets through.
pub struct Allowed {
    /// Their numbers, ascending.
    pub ids: Vec<u32>,
    /// The same, to be asked for a number.
    pub set: IdSet,
}

impl Task {
    /// Of the program's arguments, with the name of the encoding.
    ///
    /// # Errors
    /// Arguments that say nothing, files that cannot be read.
    pub fn of(arguments: &[String]) -> Outcome<(Task, &str)> {
        let [method, base, queries, metric, m, ef_construction, k, answers, filter, encoding, rerank] = arguments
        else {
            return Err(
                "usage: ann METHOD BASE QUERIES METRIC M EF_CONSTRUCTION K ANSWERS FILTER ENCODING RERANK".into()
            );
        };
        let scan = match method.as_str() {
            "graph" => false,
            "scan" => true,
            other => return Err(format!("method {other:?}, expected graph or scan").into()),
        };
        let metric = match metric.as_str() {
            "l2" => Metric::L2,
            "cosine" => Metric::Cosine,
            "ip" => Metric::InnerProduct,
            other => return Err(format!("metric {other:?}, expected l2, cosine or ip").into()),
        };
        let rerank = match rerank.as_str() {
            "-" => false,
            "f32" => true,
            other => return Err(format!("rerank {other:?}, expected - or f32").into()),
        };
        let params = HnswParams { m: m.parse()?, ef_construction: ef_construction.parse()?, ..HnswParams::default() };
        let (base, queries) = (vectors(base.as_ref())?, vectors(queries.as_ref())?);
        let allowed = match filter.as_str() {
            "-" => None,
            file => Some(Allowed::of(&ids(file.as_ref())?, base.len())?),
        };
        let (k, answers) = (k.parse()?, answers.into());
        Ok((Task { base, queries, metric, params, k, allowed, scan, rerank, answers }, encoding))
    }
}

impl Allowed {
    /// Of the numbers in a list, among `rows` rows.
    fn of(list: &Matrix<u32>, rows: usize) -> Outcome<Allowed> {
        if let Some(id) = list.values().iter().find(|id| **id as usize >= rows) {
            return Err(format!("the filter names row {id}, there are {rows}").into());
        }
        let set: IdSet = list.values().iter().copied().collect();
        Ok(Allowed { ids: set.iter().collect(), set })
    }
}

//! One measured thing, as a line of JSON and as a line to read.

use serde_json::{Map, Value};

use super::data::Data;
use super::subject::Subject;
use crate::demo::latency::Latency;

/// A measurement: who, what, and its figures.
#[derive(Debug, Clone)]
pub struct Point {
    /// Who.
    pub subject: Subject,
    /// What was done, for example `knn`.
    pub workload: &'static str,
    /// Which round.
    pub round: usize,
    /// Everything else by name, in the order in which it is printed.
    fields: Map<String, Value>,
}

impl Point {
    /// A measurement on a set of vectors, still without figures.
    pub fn new(subject: Subject, workload: &'static str, data: &Data, round: usize) -> Point {
        let fields = Map::new();
        Point { subject, workload, round, fields }
            .with("set", data.name)
            .with("rows", data.base.len())
            .with("dim", data.base.dim())
            .with("metric", data.metric)
    }

    /// Adds a figure.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Point {
        self.fields.insert(name.to_owned(), value.into());
        self
    }

    /// Adds the parameters of an index.
    #[must_use]
    pub fn index(self, m: usize, ef_construction: usize) -> Point {
        self.with("m", m).with("ef_construction", ef_construction)
    }

    /// Adds the median and the 99th percentile of single operations.
    #[must_use]
    pub fn latency(self, latency: &Latency) -> Point {
        let us = |quantile| rounded(1e3 * latency.quantile_ms(quantile));
        self.with("p50_us", us(0.5)).with("p99_us", us(0.99))
    }

    /// A figure by its name.
    pub fn figure(&self, name: &str) -> Option<f64> {
        self.fields.get(name)?.as_f64()
    }

    /// Everything, for other programs.
    pub fn json(&self) -> Value {
        let mut all = Map::new();
        all.insert("library".into(), self.subject.library.into());
        all.insert("table_am".into(), self.subject.table_am.into());
        all.insert("workload".into(), self.workload.into());
        all.extend(self.fields.clone());
        all.insert("round".into(), self.round.into());
        all.into()
    }
}

/// With as many digits as mean something.
pub fn rounded(figure: f64) -> f64 {
    let digits = 4 - (figure.abs().max(1e-9).log10().floor() as i32) - 1;
    let scale = 10f64.powi(digits.clamp(0, 9));
    (figure * scale).round() / scale
}

#[cfg(test)]
mod tests {
    use super::rounded;

    #[test]
    fn figures_keep_four_digits_and_whole_numbers_all_of_theirs() {
        assert_eq!(rounded(0.012_345_6), 0.01235);
        assert_eq!(rounded(12.345_6), 12.35);
        assert_eq!(rounded(123_456.7), 123_457.0);
        assert_eq!(rounded(0.0), 0.0);
    }
}

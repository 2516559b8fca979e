//! A run as tables to read: medians over the rounds.

use std::collections::BTreeMap;

use serde_json::Value;

use super::curve::{median, speed_at};
use super::record::{Line, figure, per_width, text};
use super::subjects::{self, OWN};

/// The recalls at which subjects are compared.
pub const RECALLS: [f64; 3] = [0.9, 0.95, 0.99];

/// What is said of a subject in a table.
pub struct Subject {
    /// Its name and encoding.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Seconds that building took.
    pub build_s: Option<f64>,
    /// Length of the saved index over its rows.
    pub bytes_per_vector: Option<f64>,
    /// (recall, queries per second) at ascending widths.
    pub curve: Vec<(f64, f64)>,
    /// (recall, queries per second of processor time): what a busy machine disturbs least.
    pub processor: Vec<(f64, f64)>,
}

impl Subject {
    /// Every subject of some lines, in the order of their names, our own first.
    pub fn all(lines: &[&Line]) -> Vec<Subject> {
        let mut by_name: BTreeMap<(bool, String), Vec<&Line>> = BTreeMap::new();
        for line in lines {
            by_name.entry((text(line, "library") != OWN, name(line))).or_default().push(line);
        }
        by_name.into_iter().map(|((_, name), lines)| Subject::of(name, &lines)).collect()
    }

    fn of(name: String, lines: &[&Line]) -> Subject {
        let of = |what: &str| median(lines.iter().filter_map(|line| figure(line, what)).collect());
        let per = |what: &str| per_width(lines.iter().copied(), what);
        let (recall, qps, cpu_us) = (per("recall"), per("qps"), per("cpu_us"));
        Subject {
            name,
            version: lines.first().map(|line| text(line, "version").to_owned()).unwrap_or_default(),
            build_s: of("build_s"),
            bytes_per_vector: of("bytes_per_vector"),
            curve: recall.iter().filter_map(|(ef, recall)| Some((*recall, *qps.get(ef)?))).collect(),
            processor: recall.iter().filter_map(|(ef, recall)| Some((*recall, 1e6 / cpu_us.get(ef)?))).collect(),
        }
    }

    /// Queries per second at the recalls of [`RECALLS`], and the highest recall.
    pub fn speeds(&self) -> ([Option<f64>; 3], f64) {
        (RECALLS.map(|recall| speed_at(&self.curve, recall)), self.curve.iter().map(|p| p.0).fold(0.0, f64::max))
    }
}

/// A line's library and encoding.
pub fn name(line: &Line) -> String {
    let rerank = line.get("rerank").and_then(Value::as_bool).unwrap_or(false);
    subjects::shown(text(line, "library"), text(line, "encoding"), rerank)
}

/// Prints a run.
pub fn print(run: &[Line]) {
    let run: Vec<&Line> = run.iter().collect();
    println!("\n                       ef  recall       QPS   p50 us   p99 us  cpu us");
    let subjects = Subject::all(&run);
    for subject in &subjects {
        let of = || run.iter().copied().filter(|line| name(line) == subject.name);
        let [recall, qps, p50, p99, cpu] = ["recall", "qps", "p50_us", "p99_us", "cpu_us"].map(|f| per_width(of(), f));
        for (ef, recall) in recall {
            let at = |of: &BTreeMap<u64, f64>| of.get(&ef).copied().unwrap_or(f64::NAN);
            let (qps, p50, p99, cpu) = (at(&qps), at(&p50), at(&p99), at(&cpu));
            println!("{:<19} {ef:>5}  {recall:.4} {qps:>9.0} {p50:>8.1} {p99:>8.1} {cpu:>7.1}", subject.name);
        }
    }
    println!();
    subjects.iter().for_each(|subject| {
        let (speeds, highest) = subject.speeds();
        let [a, b, c] = speeds.map(|qps| shown(qps, 0));
        let (build, bytes) = (shown(subject.build_s, 1), shown(subject.bytes_per_vector, 0));
        println!(
            "{:<19} built in {build} s, {bytes} bytes a vector, QPS at recall 0.9 {a}, 0.95 {b}, 0.99 {c}, highest {highest:.4}",
            subject.name
        );
        let [a, b, c] = RECALLS.map(|recall| shown(speed_at(&subject.processor, recall), 0));
        println!("{:<19} per second of processor time: {a}, {b}, {c}", "");
    });
}

/// A figure, or a dash.
pub fn shown(figure: Option<f64>, digits: usize) -> String {
    figure.map_or_else(|| "-".to_owned(), |figure| format!("{figure:.digits$}"))
}

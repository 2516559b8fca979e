//! Lines of a record, and the check that a run is worth keeping.
//!
//! A line is one measurement: one subject at one width in one round, with everything that is needed to read it alone. The
//! lines of a run have the same `date`; its last line has no `library` but a `verdict`: `kept`, `unchecked` or `void`.
//!
//! A machine that others use, too, measures them as well. hnswlib does not change, so it is the gauge: a run in which it is
//! slower than 0.8 of the best that it was on this machine, set and parameters is void.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::curve::median;
use crate::failure::{Failure, Outcome};

/// The library that does not change.
pub const GAUGE: &str = "hnswlib";
/// What the gauge must reach of its own best.
const HOLDS: f64 = 0.8;

/// One measurement, or a verdict.
pub type Line = Map<String, Value>;

/// What two measurements have in common that may be compared.
const SAME: [&str; 11] =
    ["machine", "set", "rows", "dim", "metric", "m", "ef_construction", "k", "threads", "allowed", "profile"];

/// What may be compared with a line: the values of [`SAME`].
pub fn kind(line: &Line) -> String {
    SAME.map(|field| line.get(field).map(ToString::to_string).unwrap_or_default()).join(" ")
}

/// A text of a line.
pub fn text<'a>(line: &'a Line, field: &str) -> &'a str {
    line.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// A figure of a line.
pub fn figure(line: &Line, field: &str) -> Option<f64> {
    line.get(field).and_then(Value::as_f64)
}

/// Every measurement of approximate search in the `.jsonl` files of a folder, without those of void runs.
///
/// # Errors
/// A file that cannot be read, or a line that is not an object.
pub fn read(folder: &Path) -> Outcome<Vec<Line>> {
    let mut files: Vec<_> = match fs::read_dir(folder) {
        Ok(entries) => entries.filter_map(|entry| Some(entry.ok()?.path())).collect(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(e) => return Err(Failure::doing("reading", folder)(e)),
    };
    files.retain(|path| path.extension().is_some_and(|e| e == "jsonl"));
    files.sort();
    let mut all = Vec::new();
    for path in files {
        let text = fs::read_to_string(&path).map_err(Failure::doing("reading", &path))?;
        for (number, line) in text.lines().enumerate() {
            let line: Line = serde_json::from_str(line)
                .map_err(|e| Failure::new(format!("{}, line {}: {e}", path.display(), number + 1)))?;
            all.push(line);
        }
    }
    let void: BTreeSet<String> =
        all.iter().filter(|line| text(line, "verdict") == "void").map(|line| text(line, "date").to_owned()).collect();
    // Other kinds of measurement have no encoding.
    all.retain(|line| line.contains_key("encoding") && !void.contains(text(line, "date")));
    Ok(all)
}

/// Medians of a figure per width of the search, over the rounds.
pub fn per_width<'a>(lines: impl Iterator<Item = &'a Line>, field: &str) -> BTreeMap<u64, f64> {
    let mut all: BTreeMap<u64, Vec<f64>> = BTreeMap::new();
    for line in lines {
        if let (Some(ef), Some(figure)) = (line.get("ef").and_then(Value::as_u64), figure(line, field)) {
            all.entry(ef).or_default().push(figure);
        }
    }
    all.into_iter().filter_map(|(ef, figures)| Some((ef, median(figures)?))).collect()
}

/// Whether a run is worth keeping.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// The gauge was as fast as it can be, up to the given share of its best.
    Kept(f64),
    /// Nothing to compare with, for this reason.
    Unchecked(&'static str),
    /// The gauge reached only this share of its best: the machine was busy with something else.
    Void(f64),
}

impl Verdict {
    /// Compares a run's gauge with its best in earlier records: the geometric mean over the widths that both have.
    pub fn of(run: &[Line], earlier: &[Line]) -> Verdict {
        let gauge = |line: &&Line| text(line, "library") == GAUGE;
        let Some(first) = run.iter().find(gauge) else { return Verdict::Unchecked("hnswlib took no part") };
        let now = per_width(run.iter().filter(gauge), "qps");
        let mut runs: BTreeMap<&str, Vec<&Line>> = BTreeMap::new();
        let same = |line: &&Line| kind(line) == kind(first) && text(line, "version") == text(first, "version");
        for line in earlier.iter().filter(gauge).filter(same) {
            runs.entry(text(line, "date")).or_default().push(line);
        }
        let mut best: BTreeMap<u64, f64> = BTreeMap::new();
        for lines in runs.into_values() {
            for (ef, qps) in per_width(lines.into_iter(), "qps") {
                let best = best.entry(ef).or_insert(qps);
                *best = best.max(qps);
            }
        }
        let ratios: Vec<f64> =
            now.iter().filter_map(|(ef, qps)| Some((qps / best.get(ef)?).ln())).filter(|ln| ln.is_finite()).collect();
        if ratios.is_empty() {
            return Verdict::Unchecked("there is no earlier record of hnswlib on this machine, set and parameters");
        }
        let ratio = (ratios.iter().sum::<f64>() / ratios.len() as f64).exp();
        if ratio < HOLDS { Verdict::Void(ratio) } else { Verdict::Kept(ratio) }
    }

    /// As the last line of a record.
    pub fn line(&self, date: &str, commit: &str) -> Value {
        match self {
            Verdict::Kept(ratio) => {
                json!({ "verdict": "kept", "hnswlib_to_its_best": ratio, "date": date, "commit": commit })
            }
            Verdict::Void(ratio) => {
                json!({ "verdict": "void", "hnswlib_to_its_best": ratio, "date": date, "commit": commit })
            }
            Verdict::Unchecked(why) => json!({ "verdict": "unchecked", "why": why, "date": date, "commit": commit }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(library: &str, date: &str, machine: &str, ef: u64, qps: f64) -> Line {
        let line = json!({
            "library": library, "encoding": "f32", "date": date, "machine": machine, "set": "s", "ef": ef, "qps": qps
        });
        line.as_object().unwrap().clone()
    }

    #[test]
    fn a_run_is_void_when_hnswlib_is_slower_than_four_fifths_of_its_best() {
        let earlier = [
            line(GAUGE, "1", "here", 10, 1000.0),
            line(GAUGE, "2", "here", 10, 800.0),
            line("usearch", "1", "here", 10, 9e9),
        ];
        let now = |qps| [line("kriyadb", "3", "here", 10, 5.0), line(GAUGE, "3", "here", 10, qps)];
        assert_eq!(Verdict::of(&now(900.0), &earlier), Verdict::Kept(0.9));
        assert!(matches!(Verdict::of(&now(790.0), &earlier), Verdict::Void(ratio) if (ratio - 0.79).abs() < 1e-9));
    }

    #[test]
    fn rounds_count_by_their_median_and_widths_by_their_mean_ratio() {
        let earlier = [line(GAUGE, "1", "here", 10, 1000.0), line(GAUGE, "1", "here", 20, 500.0)];
        let now: Vec<Line> = [(10, 1.0), (10, 1000.0), (10, 900.0), (20, 450.0)]
            .map(|(ef, qps)| line(GAUGE, "2", "here", ef, qps))
            .to_vec();
        assert!(matches!(Verdict::of(&now, &earlier), Verdict::Kept(ratio) if (ratio - 0.9).abs() < 1e-9));
    }

    #[test]
    fn nothing_to_compare_with_is_said() {
        let now = [line(GAUGE, "3", "here", 10, 900.0)];
        let elsewhere = [line(GAUGE, "1", "there", 10, 1000.0)];
        assert!(matches!(Verdict::of(&now, &elsewhere), Verdict::Unchecked(why) if why.contains("no earlier record")));
        let alone = [line("kriyadb", "3", "here", 10, 900.0)];
        assert!(matches!(Verdict::of(&alone, &now), Verdict::Unchecked(why) if why.contains("took no part")));
    }

    #[test]
    fn void_runs_and_other_measurements_are_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let lines = [
            Value::Object(line(GAUGE, "1", "here", 10, 1000.0)),
            Verdict::Kept(1.0).line("1", "c"),
            Value::Object(line(GAUGE, "2", "here", 10, 2000.0)),
            Verdict::Void(0.5).line("2", "c"),
            json!({ "library": "kriyadb", "workload": "copy" }),
        ];
        fs::write(folder.path().join("a.jsonl"), lines.map(|line| line.to_string()).join("\n")).unwrap();
        let read = read(folder.path()).unwrap();
        assert_eq!(read.iter().map(|line| text(line, "date")).collect::<Vec<_>>(), ["1"]);
        assert!(super::read(&folder.path().join("nothing")).unwrap().is_empty());
    }
}

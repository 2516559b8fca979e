//! `cargo xtask bench report`: the newest records of every set as curves (SVG) and as a table (Markdown).
//!
//! Recall is drawn as the share that is missed, in the logarithm: what tells libraries apart is between 0.9 and 0.999, and
//! would be a sliver at the right edge otherwise.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};

use clap::Args;
use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, ValueFormatter};
use plotters::prelude::*;

use super::curve::speed_at;
use super::record::{Line, kind, read, text};
use super::summary::{RECALLS, Subject, name, shown};
use crate::failure::{Failure, Outcome};
use crate::places;

/// What a report is made of.
#[derive(Args)]
pub struct ReportOptions {
    /// The records [default: benches/records]
    #[arg(long, value_name = "DIR")]
    records: Option<PathBuf>,
    /// Where to write `ann-SET.svg` and `ann.md` [default: benches/figures]
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
}

/// Misses of less than this share are drawn as this.
const FINEST: f64 = 1e-4;

/// Recalls that the axis names.
const MARKS: [f64; 9] = [0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995];

/// Of the curves, one after the other.
const COLOURS: [RGBColor; 10] = [
    RED,
    BLUE,
    GREEN,
    MAGENTA,
    CYAN,
    BLACK,
    RGBColor(255, 140, 0),
    RGBColor(120, 80, 40),
    RGBColor(0, 110, 90),
    RGBColor(120, 120, 120),
];

/// Draws and writes.
///
/// # Errors
/// Records that cannot be read, none at all, files that cannot be written.
pub fn report(options: &ReportOptions) -> Outcome<()> {
    let from = options.records.clone().unwrap_or_else(|| places::workspace().join("benches/records"));
    let to = options.to.clone().unwrap_or_else(|| places::workspace().join("benches/figures"));
    let lines = read(&from)?;
    if lines.is_empty() {
        return Err(Failure::new(format!("there are no records of `bench ann` in {}", from.display())));
    }
    std::fs::create_dir_all(&to).map_err(Failure::doing("making", &to))?;
    let mut markdown = String::new();
    let mut names: BTreeMap<String, usize> = BTreeMap::new();
    for lines in newest(&lines) {
        let subjects = Subject::all(&lines);
        let count = names.entry(text(lines[0], "set").to_owned()).or_default();
        *count += 1;
        let number = if *count == 1 { String::new() } else { format!("-{count}") };
        let svg = to.join(format!("ann-{}{number}.svg", text(lines[0], "set")));
        draw(&svg, &title(lines[0]), &subjects)?;
        println!("{}", svg.display());
        table(&mut markdown, lines[0], &subjects);
    }
    let path = to.join("ann.md");
    std::fs::write(&path, &markdown).map_err(Failure::doing("writing", &path))?;
    print!("\n{markdown}");
    Ok(())
}

/// The lines of what may be compared with each other; of every library in every encoding those of its newest run.
fn newest(lines: &[Line]) -> Vec<Vec<&Line>> {
    let mut dates: BTreeMap<(String, String), &str> = BTreeMap::new();
    for line in lines.iter().filter(|line| text(line, "profile") != "dev") {
        let date = dates.entry((kind(line), name(line))).or_default();
        *date = (*date).max(text(line, "date"));
    }
    let mut groups: BTreeMap<String, Vec<&Line>> = BTreeMap::new();
    for line in lines {
        if dates.get(&(kind(line), name(line))) == Some(&text(line, "date")) {
            groups.entry(kind(line)).or_default().push(line);
        }
    }
    groups.into_values().collect()
}

fn title(line: &Line) -> String {
    let of = |field: &str| line.get(field).map(ToString::to_string).unwrap_or_default();
    let filter = line.get("allowed").and_then(serde_json::Value::as_u64);
    let filter = filter.map_or_else(String::new, |rows| format!(", {rows} rows allowed"));
    format!(
        "{}: {} x {}, {}, m = {}, ef_construction = {}{filter}",
        text(line, "set"),
        of("rows"),
        of("dim"),
        text(line, "metric"),
        of("m"),
        of("ef_construction")
    )
}

fn table(out: &mut String, line: &Line, subjects: &[Subject]) {
    let [a, b, c] = RECALLS;
    // Writing to a string cannot fail.
    let _ok = write!(
        out,
        "### {}\n\n{}, commit {}, {}; queries/s by {} thread(s)\n\n\
         | | build s | bytes/vector | QPS at {a} | {b} | {c} | per CPU second at {c} | highest recall |\n\
         |---|---|---|---|---|---|---|---|\n",
        title(line),
        text(line, "machine"),
        text(line, "commit"),
        text(line, "date"),
        line.get("threads").map(ToString::to_string).unwrap_or_default()
    );
    for subject in subjects {
        let (speeds, highest) = subject.speeds();
        let [a, b, c] = speeds.map(|qps| shown(qps, 0));
        let (build, bytes) = (shown(subject.build_s, 1), shown(subject.bytes_per_vector, 0));
        let name = format!("{} {}", subject.name, subject.version);
        let processor = shown(speed_at(&subject.processor, RECALLS[2]), 0);
        let _ok = writeln!(out, "| {name} | {build} | {bytes} | {a} | {b} | {c} | {processor} | {highest:.4} |");
    }
    out.push('\n');
}

/// How far to the right a recall is drawn: its nines.
fn nines(recall: f64) -> f64 {
    -(1.0 - recall).max(FINEST).log10()
}

/// The axis of recalls, drawn by their nines.
struct Recalls(Range<f64>);

impl Ranged for Recalls {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, recall: &f64, (left, right): (i32, i32)) -> i32 {
        let (low, high) = (nines(self.0.start), nines(self.0.end));
        let part = (nines(*recall) - low) / (high - low).max(f64::MIN_POSITIVE);
        left + (part * f64::from(right - left)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        MARKS.into_iter().filter(|mark| self.0.contains(mark)).collect()
    }

    fn range(&self) -> Range<f64> {
        self.0.clone()
    }
}

impl ValueFormatter<f64> for Recalls {
    fn format(recall: &f64) -> String {
        recall.to_string()
    }
}

fn draw(path: &Path, title: &str, subjects: &[Subject]) -> Outcome<()> {
    // Below nine in ten nobody searches.
    let curve = |subject: &Subject| -> Vec<(f64, f64)> {
        subject.curve.iter().copied().filter(|p| p.0 >= MARKS[0] && p.1 > 0.0).collect()
    };
    let all: Vec<(f64, f64)> = subjects.iter().flat_map(curve).collect();
    let speeds = || all.iter().map(|p| p.1);
    let (low, high) = (speeds().fold(f64::MAX, f64::min), speeds().fold(1.0, f64::max));
    let left = all.iter().map(|p| p.0).fold(0.9, f64::min);
    let right = all.iter().map(|p| p.0).fold(0.999, f64::max);
    let failed = |e: &dyn std::fmt::Display| Failure::new(format!("drawing {}: {e}", path.display()));
    let root = SVGBackend::new(path, (860, 480)).into_drawing_area();
    root.fill(&WHITE).map_err(|e| failed(&e))?;
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d(Recalls(left..right), (low.min(high) * 0.8..high * 1.25).log_scale())
        .map_err(|e| failed(&e))?;
    chart
        .configure_mesh()
        .x_desc("recall")
        .y_desc("queries/s")
        .y_label_formatter(&|qps| format!("{qps:.0}"))
        .light_line_style(BLACK.mix(0.06))
        .draw()
        .map_err(|e| failed(&e))?;
    for (number, subject) in subjects.iter().enumerate() {
        let colour = COLOURS[number % COLOURS.len()].stroke_width(2);
        let points = curve(subject);
        let line = LineSeries::new(points.clone(), colour);
        let name = format!("{} {}", subject.name, subject.version);
        let legend = move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour);
        chart.draw_series(line).map_err(|e| failed(&e))?.label(name).legend(legend);
        chart
            .draw_series(points.into_iter().map(|point| Circle::new(point, 3, colour.filled())))
            .map_err(|e| failed(&e))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.9))
        .border_style(BLACK.mix(0.3))
        .draw()
        .map_err(|e| failed(&e))?;
    root.present().map_err(|e| failed(&e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn line(library: &str, date: &str, ef: u64, recall: f64, qps: f64) -> Line {
        stored("f32", library, date, ef, recall, qps)
    }

    fn stored(encoding: &str, library: &str, date: &str, ef: u64, recall: f64, qps: f64) -> Line {
        let line = json!({
            "library": library, "version": "1", "encoding": encoding, "set": "images", "rows": 5, "dim": 2, "metric": "l2",
            "m": 16, "ef_construction": 200, "date": date, "ef": ef, "recall": recall, "qps": qps
        });
        line.as_object().unwrap().clone()
    }

    #[test]
    fn the_newest_run_of_every_library_is_drawn_and_told() {
        let folder = tempfile::tempdir().unwrap();
        let lines = [
            line("kriyadb", "2", 10, 0.9, 3000.0),
            line("kriyadb", "2", 20, 0.995, 2000.0),
            line("kriyadb", "1", 10, 0.9, 7777.0),
            line("hnswlib", "1", 10, 0.92, 1500.0),
            line("hnswlib", "1", 20, 1.0, 700.0),
        ];
        let text = lines.map(|line| serde_json::Value::Object(line).to_string()).join("\n");
        std::fs::write(folder.path().join("a.jsonl"), text).unwrap();
        let to = folder.path().join("figures");
        report(&ReportOptions { records: Some(folder.path().to_owned()), to: Some(to.clone()) }).unwrap();
        let table = std::fs::read_to_string(to.join("ann.md")).unwrap();
        assert!(table.contains("| kriyadb f32 1 | - | - | 3000 |") && !table.contains("7777"), "{table}");
        assert!(table.contains("| hnswlib f32 1 | - | - | 1500 |"), "{table}");
        let svg = std::fs::read_to_string(to.join("ann-images.svg")).unwrap();
        assert!(svg.contains("kriyadb") && svg.contains("hnswlib") && svg.contains("</svg>"), "{svg}");
    }

    #[test]
    fn recall_is_drawn_by_its_nines() {
        assert!((nines(0.9) - 1.0).abs() < 1e-9 && (nines(0.999) - 3.0).abs() < 1e-9);
        assert!((nines(1.0) - 4.0).abs() < 1e-9, "all of them is drawn at the finest");
    }
}

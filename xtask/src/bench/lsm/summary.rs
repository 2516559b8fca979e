//! The measurements of one load as a table: a line for each figure that matters, a column for each engine.

use super::super::point::rounded;
use super::{Line, WORKLOADS};

/// Figures of a workload that are shown, with their units.
fn shown(workload: &str) -> &'static [(&'static str, &'static str)] {
    match workload {
        "fill" => &[
            ("mb_per_s", "MB/s"),
            ("settled_s", "s until at rest"),
            ("cpu_s", "s CPU"),
            ("batch_p99_ms", "ms p99 of a batch"),
            ("batch_max_ms", "ms at most"),
            ("write_amp", "bytes written per byte"),
            ("local_write_amp", "of the local disk"),
            ("space_amp", "bytes kept per byte"),
            ("rss_mb", "MB RSS at most"),
            ("puts", "puts"),
        ],
        "durable" => &[("ops_per_s", "keys/s"), ("batch_p50_ms", "ms p50"), ("cpu_us_per_op", "us CPU a key")],
        "reopen" => &[("wall_s", "s"), ("cpu_s", "s CPU")],
        "scan" => &[("mb_per_s", "MB/s"), ("mb_per_cpu_s", "MB per CPU second")],
        "follow" => &[
            ("open_s", "s to open"),
            ("requests_per_get", "requests a get"),
            ("requests_most", "requests of a get at most"),
            ("get_ms", "ms a get"),
            ("mb_per_s", "MB/s of a scan"),
            ("requests_of_scan", "requests of a scan"),
            ("object_mb_per_s", "MB/s of objects"),
            ("raw_mb_per_s", "MB/s by raw requests"),
            ("share_of_raw", "of what raw requests reach"),
        ],
        "cold" => &[
            ("open_s", "s to open"),
            ("gets_at_open", "requests to open"),
            ("requests_per_get", "requests a get"),
            ("get_ms", "ms a get"),
            ("mb_per_s", "MB/s of a scan"),
        ],
        _ => &[("ops_per_s", "/s"), ("cpu_us_per_op", "us CPU"), ("rss_mb", "MB RSS at most")],
    }
}

/// The middle one of some figures.
fn median(mut figures: Vec<f64>) -> Option<f64> {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied()
}

/// Prints a table of medians over the rounds.
pub fn print(lines: &[Line]) {
    let text = |line: &Line, name: &str| line.get(name).and_then(|v| v.as_str()).unwrap_or_default().to_owned();
    let mut engines: Vec<String> = Vec::new();
    for line in lines {
        let engine = text(line, "engine");
        if !engines.contains(&engine) {
            engines.push(engine);
        }
    }
    let heads: String = engines.iter().map(|engine| format!("{engine:>12}")).collect();
    println!("{:<34}{heads}", "");
    for workload in WORKLOADS {
        for (figure, unit) in shown(workload) {
            let of = |engine: &String| {
                let own = lines.iter().filter(|l| text(l, "workload") == workload && text(l, "engine") == *engine);
                median(own.filter_map(|line| line.get(*figure)?.as_f64()).collect())
            };
            let all: Vec<Option<f64>> = engines.iter().map(of).collect();
            if all.iter().any(Option::is_some) {
                let cells = all
                    .into_iter()
                    .map(|x| x.map_or_else(|| format!("{:>12}", "-"), |x| format!("{:>12}", rounded(x))));
                println!("{:<34}{}", format!("{workload}: {unit}"), cells.collect::<String>());
            }
        }
    }
}

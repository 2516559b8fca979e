//! `cargo xtask bench lsm --quick`: every workload of our engine is measured, and it answers rightly meanwhile. The figures
//! themselves are nobody's business here.

use std::process::Command;

use serde_json::Value;

use super::logs;
use super::tally::Tally;
use crate::failure::{Failure, Outcome};

/// Runs it.
///
/// # Errors
/// If the program cannot be run or its record not be read.
pub fn bench(tally: &mut Tally) -> Outcome<()> {
    let record = logs().join("bench-lsm.jsonl");
    let program = std::env::current_exe().map_err(|e| Failure::new(format!("where is this program? {e}")))?;
    let out = Command::new(&program).args(["bench", "lsm", "--quick", "--json"]).arg(&record).output();
    let out = out.map_err(|e| Failure::new(format!("running bench lsm: {e}")))?;
    if !out.status.success() {
        return Err(Failure::new(format!("bench lsm: {}", String::from_utf8_lossy(&out.stderr))));
    }
    let text = std::fs::read_to_string(&record).map_err(Failure::doing("reading", &record))?;
    let lines: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let workloads: Vec<_> = lines.iter().filter_map(|line| line["workload"].as_str()).collect();
    let expected = ["fill", "reopen", "get", "absent", "scan", "ranges", "durable", "cold", "follow"];
    tally.check(workloads == expected, &format!("every workload of the engine is measured ({workloads:?})"));
    let measured = |line: &Value, names: &[&str]| names.iter().all(|name| line[name].as_f64().is_some_and(|x| x > 0.0));
    let every = ["ops_per_s", "cpu_us_per_op", "wall_s", "rss_mb", "keys", "value_bytes"];
    tally.check(lines.iter().all(|line| measured(line, &every)), "every figure of every workload is measured");
    let fill = lines.first().cloned().unwrap_or_default();
    tally.check(measured(&fill, &["write_amp", "local_write_amp", "space_amp", "puts"]), "filling says what it wrote");
    Ok(())
}

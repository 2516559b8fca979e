//! The workloads, and the clock around them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use crate::engine::{Engine, Outcome, Place};
use crate::objects::Counted;
use crate::process;
use crate::rows::{KEY_BYTES, Key, Row, Rows};

/// Writes of a batch.
const BATCH: u64 = 1_000;
/// Rows of a short scan.
const RANGE: u64 = 100;

/// What a program was started for.
#[derive(Debug)]
pub struct Task {
    /// Who does it.
    pub engine: String,
    workload: String,
    pub(crate) folder: PathBuf,
    pub(crate) rows: Rows,
    ops: u64,
    pub(crate) latency: Duration,
}

impl Task {
    /// Reads the arguments of a subject.
    ///
    /// # Errors
    /// If one is missing or is not a number.
    pub fn of(arguments: impl Iterator<Item = String>) -> Outcome<Task> {
        let all: Vec<String> = arguments.collect();
        let [engine, workload, folder, keys, value_bytes, ops, latency] = &all[..] else {
            return Err("expected ENGINE WORKLOAD FOLDER KEYS VALUE_BYTES OPS LATENCY_MS".into());
        };
        Ok(Task {
            engine: engine.clone(),
            workload: workload.clone(),
            folder: folder.into(),
            rows: Rows { count: keys.parse()?, value_bytes: value_bytes.parse()? },
            ops: ops.parse()?,
            latency: Duration::from_millis(latency.parse()?),
        })
    }

    fn place(&self, folder: &Path, durable: bool) -> Outcome<Place> {
        let objects = Arc::new(Counted::open(&folder.join("objects"), durable, self.latency)?);
        Ok(Place { folder: folder.to_owned(), objects, durable })
    }
}

/// A clock that has been started.
pub(crate) struct Clock {
    wall: Instant,
    cpu: Duration,
    written: u64,
}

impl Clock {
    pub(crate) fn start() -> Clock {
        Clock { wall: Instant::now(), cpu: process::cpu(), written: process::written() }
    }

    pub(crate) fn wall(&self) -> f64 {
        self.wall.elapsed().as_secs_f64()
    }

    /// Figures of `ops` that moved `bytes`.
    pub(crate) fn figures(&self, ops: u64, bytes: u64) -> Map<String, Value> {
        let (wall, cpu) = (self.wall(), (process::cpu() - self.cpu).as_secs_f64());
        let all = json!({
            "ops": ops,
            "wall_s": wall,
            "cpu_s": cpu,
            "ops_per_s": ops as f64 / wall,
            "cpu_us_per_op": cpu * 1e6 / ops.max(1) as f64,
            "mb_per_s": bytes as f64 / 1e6 / wall,
            "mb_per_cpu_s": bytes as f64 / 1e6 / cpu,
        });
        all.as_object().cloned().unwrap_or_default()
    }
}

/// Does a task and prints its figures.
///
/// # Errors
/// What the engine says, or that it answered wrongly.
pub fn run<E: Engine>(task: &Task) -> Outcome<()> {
    let mut figures = match task.workload.as_str() {
        "fill" => fill::<E>(task)?,
        "durable" => durable::<E>(task)?,
        "reopen" => reopen::<E>(task)?,
        "cold" => cold::<E>(task)?,
        "follow" => crate::follow::measure(task)?,
        "get" | "absent" | "scan" | "ranges" => read::<E>(task)?,
        other => return Err(format!("workload {other:?} is not known").into()),
    };
    figures.insert("rss_mb".into(), (process::peak_rss() as f64 / 1e6).into());
    println!("{}", Value::Object(figures));
    Ok(())
}

fn write_all<E: Engine>(engine: &mut E, rows: Rows) -> Outcome<Vec<f64>> {
    let (mut from, mut millis) = (0, Vec::new());
    let mut batch: Vec<Row> = Vec::new();
    while from < rows.count {
        let to = (from + BATCH).min(rows.count);
        batch.clear();
        batch.extend((from..to).map(|n| rows.row(n)));
        let begin = Instant::now();
        engine.write(&batch)?;
        millis.push(begin.elapsed().as_secs_f64() * 1e3);
        from = to;
    }
    millis.sort_by(f64::total_cmp);
    Ok(millis)
}

fn percentiles(figures: &mut Map<String, Value>, millis: &[f64]) {
    for (name, share) in [("batch_p50_ms", 0.5), ("batch_p99_ms", 0.99), ("batch_max_ms", 1.0)] {
        let at = (millis.len().saturating_sub(1) as f64 * share).round() as usize;
        figures.insert(name.into(), millis.get(at).copied().into());
    }
}

/// Bytes of all files below a folder.
fn bytes_below(folder: &Path) -> Outcome<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        // A file may go while we look.
        let Ok(metadata) = entry.metadata() else { continue };
        bytes += if metadata.is_dir() { bytes_below(&entry.path())? } else { metadata.len() };
    }
    Ok(bytes)
}

fn fill<E: Engine>(task: &Task) -> Outcome<Map<String, Value>> {
    let place = task.place(&task.folder, false)?;
    let mut engine = E::open(&place)?;
    let clock = Clock::start();
    let millis = write_all(&mut engine, task.rows)?;
    let filled = clock.wall();
    engine.settle()?;
    let logical = task.rows.bytes();
    let mut figures = clock.figures(task.rows.count, logical);
    // How fast writers were served is one thing, what it costs until all is done another.
    figures.insert("settled_s".into(), clock.wall().into());
    figures.insert("wall_s".into(), filled.into());
    figures.insert("ops_per_s".into(), (task.rows.count as f64 / filled).into());
    figures.insert("mb_per_s".into(), (logical as f64 / 1e6 / filled).into());
    percentiles(&mut figures, &millis);
    let (written, amplified) = (process::written() - clock.written, engine.amplified()?);
    let per_byte = |bytes: u64| Value::from(bytes as f64 / logical as f64);
    match amplified.objects_put {
        Some(objects) => {
            figures.insert("write_amp".into(), per_byte(objects));
            figures.insert("local_write_amp".into(), per_byte(written.saturating_sub(objects)));
        }
        None => drop(figures.insert("write_amp".into(), per_byte(written))),
    }
    figures.insert("anonymous_mb".into(), (process::anonymous() as f64 / 1e6).into());
    let requests = place.objects.requests();
    for (name, count) in [("puts", requests.puts), ("gets", requests.gets), ("lists", requests.lists)] {
        figures.insert(name.into(), count.into());
    }
    engine.close()?;
    let kept = bytes_below(&task.folder)?;
    figures.insert("space_amp".into(), per_byte(amplified.live.unwrap_or(kept)));
    figures.insert("disk_amp".into(), per_byte(kept));
    Ok(figures)
}

fn durable<E: Engine>(task: &Task) -> Outcome<Map<String, Value>> {
    let folder = task.folder.with_extension("durable");
    let rows = Rows { count: task.ops * BATCH, ..task.rows };
    let mut engine = E::open(&task.place(&folder, true)?)?;
    let clock = Clock::start();
    let millis = write_all(&mut engine, rows)?;
    let mut figures = clock.figures(rows.count, rows.bytes());
    percentiles(&mut figures, &millis);
    engine.close()?;
    std::fs::remove_dir_all(&folder)?;
    Ok(figures)
}

fn one<E: Engine>(engine: &E, rows: &Rows, n: u64) -> Outcome<()> {
    let found = engine.gets(&mut std::iter::once(rows.key(rows.draw(n))))?;
    if found == 1 { Ok(()) } else { Err("a key that was written is not there".into()) }
}

fn reopen<E: Engine>(task: &Task) -> Outcome<Map<String, Value>> {
    let place = task.place(&task.folder, false)?;
    let clock = Clock::start();
    let engine = E::open(&place)?;
    one(&engine, &task.rows, 0)?;
    let figures = clock.figures(1, 0);
    engine.close()?;
    Ok(figures)
}

fn read<E: Engine>(task: &Task) -> Outcome<Map<String, Value>> {
    let engine = E::open(&task.place(&task.folder, false)?)?;
    let (rows, workload) = (task.rows, task.workload.as_str());
    let pass = |ops: u64, salt: u64| -> Outcome<(u64, u64)> {
        let draws = (0..ops).map(move |n| rows.draw(n + salt));
        let present = workload == "get";
        match workload {
            "scan" => {
                let done = engine.scans(&mut std::iter::once(Key::default()), u64::MAX)?;
                if done == (rows.count, rows.bytes()) { Ok(done) } else { Err(format!("the scan saw {done:?}").into()) }
            }
            "ranges" => engine.scans(&mut draws.map(|n| rows.key(n)), RANGE),
            _ => {
                let found = engine.gets(&mut draws.map(|n| if present { rows.key(n) } else { rows.absent(n) }))?;
                let expected = if present { ops } else { 0 };
                if found != expected {
                    return Err(format!("{found} of {ops} keys were found, expected {expected}").into());
                }
                Ok((ops, found * (KEY_BYTES + rows.value_bytes) as u64))
            }
        }
    };
    let ops = if workload == "ranges" { (task.ops / RANGE).max(1) } else { task.ops };
    pass(ops.div_ceil(5), 1 << 32)?;
    let clock = Clock::start();
    let (count, bytes) = pass(ops, 0)?;
    let figures = clock.figures(if workload == "ranges" { ops } else { count }, bytes);
    engine.close()?;
    Ok(figures)
}

fn cold<E: Engine>(task: &Task) -> Outcome<Map<String, Value>> {
    let place = task.place(&task.folder, false)?;
    // What the local disk has is gone; only objects are left.
    let local = task.folder.join("local");
    if local.exists() {
        std::fs::rename(&local, task.folder.join("local-before"))?;
    }
    let (rows, before) = (task.rows, place.objects.requests());
    let clock = Clock::start();
    let engine = E::open(&place)?;
    let (opened, at_open) = (clock.wall(), place.objects.requests());
    let gets = 20;
    (0..gets).try_for_each(|n| one(&engine, &rows, n))?;
    let (got, at_gets) = (clock.wall(), place.objects.requests());
    let (_, bytes) = engine.scans(&mut std::iter::once(Key::default()), u64::MAX)?;
    let scanned = clock.wall();
    let mut figures = clock.figures(gets, bytes);
    figures.insert("mb_per_s".into(), (bytes as f64 / 1e6 / (scanned - got)).into());
    figures.insert("open_s".into(), opened.into());
    figures.insert("get_ms".into(), ((got - opened) * 1e3 / gets as f64).into());
    figures.insert("gets_at_open".into(), (at_open.gets - before.gets).into());
    figures.insert("requests_per_get".into(), ((at_gets.gets - at_open.gets) as f64 / gets as f64).into());
    engine.close()?;
    Ok(figures)
}

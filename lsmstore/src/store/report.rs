//! What follows from the figures: amplifications, and a table of the levels for people.

use std::fmt::{self, Display, Formatter};
use std::time::Duration;

use crate::store::{LevelStats, Stats};

fn ratio(of: u64, to: u64) -> Option<f64> {
    (to > 0).then(|| of as f64 / to as f64)
}

impl LevelStats {
    /// Bytes written to the level for each byte that came to be merged into it; none if nothing did.
    pub fn write_amplification(&self) -> Option<f64> {
        ratio(self.written_bytes, self.above_bytes)
    }

    fn plus(self, other: &LevelStats) -> LevelStats {
        LevelStats {
            tables: self.tables + other.tables,
            entries: self.entries + other.entries,
            mirror_bytes: self.mirror_bytes + other.mirror_bytes,
            object_bytes: self.object_bytes + other.object_bytes,
            jobs: self.jobs + other.jobs,
            time: self.time + other.time,
            above_bytes: self.above_bytes + other.above_bytes,
            same_bytes: self.same_bytes + other.same_bytes,
            written_bytes: self.written_bytes + other.written_bytes,
            moved_bytes: self.moved_bytes + other.moved_bytes,
        }
    }
}

impl Stats {
    /// Bytes put to the object store for each byte of keys and values that was applied; none if nothing was.
    pub fn write_amplification(&self) -> Option<f64> {
        ratio(self.requests.put.bytes, self.logical_bytes)
    }

    /// Bytes written to the local disk, log and mirrors and all, for each byte of keys and values that was applied; none if
    /// nothing was.
    pub fn local_write_amplification(&self) -> Option<f64> {
        ratio(self.log.bytes + self.mirror.bytes + self.other.bytes, self.logical_bytes)
    }

    /// Tables that a point read looked into on average; none if there was none.
    pub fn read_amplification(&self) -> Option<f64> {
        ratio(self.get_tables, self.gets_found + self.gets_absent)
    }

    /// Bytes of all levels for each byte of the lowest one, which holds each key about once: an estimate of how much room old
    /// versions and deletions take. None without tables.
    pub fn space_amplification(&self) -> Option<f64> {
        let lowest = self.levels.iter().rev().find(|level| level.tables > 0)?;
        ratio(self.levels.iter().map(|level| level.mirror_bytes).sum(), lowest.mirror_bytes)
    }
}

/// A number of bytes with three digits.
struct Bytes(u64);

impl Display for Bytes {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
        let (mut value, mut unit) = (self.0 as f64, 0);
        while value >= 1000.0 && unit + 1 < UNITS.len() {
            value /= 1024.0;
            unit += 1;
        }
        let digits = if unit == 0 || value >= 100.0 { 0 } else { 1 };
        f.pad(&format!("{value:.digits$} {}", UNITS[unit]))
    }
}

/// A ratio, or a dash.
struct Ratio(Option<f64>);

impl Display for Ratio {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.pad(&self.0.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}")))
    }
}

fn row(f: &mut Formatter<'_>, name: &str, level: &LevelStats) -> fmt::Result {
    let LevelStats { tables, entries, jobs, .. } = level;
    let (mirror, object) = (Bytes(level.mirror_bytes), Bytes(level.object_bytes));
    let (above, same, written) = (Bytes(level.above_bytes), Bytes(level.same_bytes), Bytes(level.written_bytes));
    let (moved, amplification) = (Bytes(level.moved_bytes), Ratio(level.write_amplification()));
    let seconds = level.time.as_secs_f64();
    writeln!(
        f,
        "{name:<5}{tables:>8}{mirror:>11}{object:>11}{entries:>12}{jobs:>8}{seconds:>10.2}{above:>11}{same:>11}\
         {written:>11}{moved:>11}{amplification:>7}"
    )
}

/// A table of the levels and the sums below it, for people.
impl Display for Stats {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<5}{:>8}{:>11}{:>11}{:>12}{:>8}{:>10}{:>11}{:>11}{:>11}{:>11}{:>7}",
            "level",
            "tables",
            "mirrors",
            "objects",
            "entries",
            "jobs",
            "seconds",
            "from above",
            "own",
            "written",
            "moved",
            "w-amp"
        )?;
        let mut sum = LevelStats::default();
        for (number, level) in self.levels.iter().enumerate() {
            row(f, &format!("L{number}"), level)?;
            sum = sum.plus(level);
        }
        // Of what was applied, the flushed bytes are what came from above all levels.
        sum.above_bytes = self.levels.first().map_or(0, |l0| l0.above_bytes);
        row(f, "sum", &sum)?;
        writeln!(
            f,
            "applied   {} in {} writes ({} deletions) of {} batches; sequence {}, in the object store up to {}",
            Bytes(self.logical_bytes),
            self.writes,
            self.deletes,
            self.batches,
            self.last_sequence,
            self.durable_sequence
        )?;
        writeln!(
            f,
            "memory    {} active, {} in {} full memtables",
            Bytes(self.active_bytes),
            Bytes(self.frozen_bytes),
            self.frozen
        )?;
        writeln!(
            f,
            "local     log {} ({} syncs), mirrors {}, other {}; {} wait for the object store",
            Bytes(self.log.bytes),
            self.log.syncs,
            Bytes(self.mirror.bytes),
            Bytes(self.other.bytes),
            Bytes(self.pending_bytes)
        )?;
        let requests = &self.requests;
        for (name, class) in [
            ("put", requests.put),
            ("get", requests.get),
            ("head", requests.head),
            ("list", requests.list),
            ("delete", requests.delete),
            ("copy", requests.copy),
        ] {
            if class.requests > 0 {
                let (bytes, mean) = (Bytes(class.bytes), class.time.div_f64(class.requests as f64));
                let (count, failures, retries) = (class.requests, class.failures, class.retries);
                writeln!(
                    f,
                    "{name:<10}{count} requests, {bytes}, {mean:.1?} each, {failures} failed, {retries} tried again"
                )?;
            }
        }
        writeln!(
            f,
            "reads     {} found, {} absent, {} scans; mirrors at the start: {} there, {} fetched",
            self.gets_found, self.gets_absent, self.scans, self.mirror_hits, self.mirror_fetches
        )?;
        let stalled = Duration::from_millis(self.stalled.as_millis() as u64);
        writeln!(
            f,
            "stalls    {} in {stalled:?}: {} writes refused as full, {} as behind",
            self.stalls, self.refused_full, self.refused_behind
        )?;
        write!(
            f,
            "amplification: write {} (local disk {}), read {} tables a get, space {}",
            Ratio(self.write_amplification()),
            Ratio(self.local_write_amplification()),
            Ratio(self.read_amplification()),
            Ratio(self.space_amplification())
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_keep_three_digits() {
        let shown = [0, 999, 1024, 1_500_000, 999 << 20, 1 << 40].map(|bytes| Bytes(bytes).to_string());
        assert_eq!(shown, ["0 B", "999 B", "1.0 KiB", "1.4 MiB", "999 MiB", "1.0 TiB"]);
        assert_eq!(format!("{:>8}|{:<6}|", Bytes(1), Ratio(None)), "     1 B|-     |");
    }
}

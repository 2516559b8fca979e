//! How long single queries took.

use std::time::Duration;

/// Durations of single queries, one after the other in one session.
#[derive(Debug, Default)]
pub struct Latency {
    taken: Vec<Duration>,
}

impl Latency {
    /// Adds one query.
    pub fn add(&mut self, taken: Duration) {
        self.taken.push(taken);
    }

    /// Adds another session's queries.
    pub fn extend(&mut self, other: Latency) {
        self.taken.extend(other.taken);
    }

    /// The duration that the share `quantile` (0 to 1) of queries did not exceed, in milliseconds; 0 if there were none.
    pub fn quantile_ms(&self, quantile: f64) -> f64 {
        let mut sorted = self.taken.clone();
        sorted.sort_unstable();
        let last = sorted.len().saturating_sub(1);
        let place = (last as f64 * quantile).round() as usize;
        sorted.get(place).map_or(0.0, |d| d.as_secs_f64() * 1e3)
    }

    /// Queries per second of this one session.
    pub fn per_second(&self) -> f64 {
        let total: f64 = self.taken.iter().map(Duration::as_secs_f64).sum();
        if total > 0.0 { self.taken.len() as f64 / total } else { 0.0 }
    }
}

//! What this process has used (Linux).

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Processor time of all threads.
pub fn cpu() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap_or_default()
}

fn field(file: &str, name: &str) -> u64 {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.trim_start_matches(':').split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// Most memory that was ever in use, mapped files included, in bytes.
pub fn peak_rss() -> u64 {
    field("/proc/self/status", "VmHWM") << 10
}

/// Memory in use now that belongs to no file, in bytes.
pub fn anonymous() -> u64 {
    field("/proc/self/status", "RssAnon") << 10
}

/// Bytes that were given to `write` and its like.
pub fn written() -> u64 {
    field("/proc/self/io", "wchar")
}

//! What a seed draws before anything happens.

use std::time::Duration;

use lsmstore::DeterministicReactor;

use crate::bucket::Weather;

/// What stays the same during a simulation.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub own_log: bool,
    /// The owner keeps it.
    pub journal: bool,
    pub remote_log: bool,
    pub memtable: usize,
    pub max_frozen: usize,
    pub l0_trigger: usize,
    pub table: usize,
    pub level: u64,
    pub pending: u64,
    pub rate: Option<u64>,
    pub manifests: usize,
    pub keep_for: Duration,
    pub quarantine: Duration,
    pub weather: Weather,
    /// One of so many syncs fails, and of ten times as many other changes of files; none if zero.
    pub disk_faults: u64,
    pub writers: u64,
    pub pace: u64,
    pub events: u64,
}

impl Settings {
    pub fn draw(reactor: &DeterministicReactor) -> Settings {
        let one_of = |values: &[u64]| values[reactor.random(values.len() as u64) as usize];
        let seconds = |most: u64| Duration::from_millis(reactor.random(most * 1000));
        let own_log = reactor.random(4) > 0;
        Settings {
            own_log,
            journal: !own_log && reactor.random(3) > 0,
            remote_log: own_log && reactor.random(2) == 0,
            memtable: one_of(&[4096, 8192, 16384]) as usize,
            max_frozen: one_of(&[1, 2, 4]) as usize,
            l0_trigger: one_of(&[1, 2, 4]) as usize,
            table: one_of(&[1024, 2048, 8192]) as usize,
            level: one_of(&[2048, 8192, 32768]),
            pending: one_of(&[u64::MAX, u64::MAX, 20_000]),
            rate: (reactor.random(5) == 0).then(|| one_of(&[50_000, 400_000])),
            manifests: one_of(&[1, 1, 2, 5]) as usize,
            keep_for: if reactor.random(2) == 0 { Duration::ZERO } else { seconds(5) },
            quarantine: if reactor.random(2) == 0 { Duration::ZERO } else { seconds(5) },
            weather: Weather {
                before: one_of(&[0, 5, 60, 200]),
                after: one_of(&[0, 5, 60, 200]),
                conflict: one_of(&[0, 5, 100]),
                late: one_of(&[0, 0, 5, 60]),
                cut: one_of(&[0, 5, 60]),
                latency: one_of(&[0, 2, 20, 60]),
                down: false,
            },
            disk_faults: one_of(&[0, 0, 0, 150]),
            writers: 1 + reactor.random(3),
            pace: one_of(&[20, 60, 150]),
            events: 2 + reactor.random(4),
        }
    }
}

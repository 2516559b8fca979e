//! A campaign: clients change twin tables, one heap and one lsm_s3, in the same transactions, while the server is
//! killed again and again; after each attack everything acknowledged must be there, nothing rolled back may be, and what
//! was being committed is there as a whole or not at all, in both twins alike.
//!
//! Each client owns a range of ids of the shared twins `h` and `l` (btree primary key, a second UNIQUE, lsm_hnsw on
//! both) and a pair of twins of its own that it makes, truncates and drops, so what it may expect follows from its own
//! journal alone. All choices come from one seed; what the machine's scheduling adds cannot be repeated.

mod actions;
mod attack;
mod check;
mod client;
mod power;
mod state;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use postgres::Client;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::error::Error;
use crate::server::{Builder, Postgres};
use attack::PATIENCE;
pub use attack::{Attack, LOAD_POINTS, START_POINTS};
use client::{End, Round};
pub use power::{Keep, PowerSupply};
use state::State;

/// Clients of a campaign.
const CLIENTS: usize = 4;
/// Statements after which an attack may come, at most.
const STATEMENTS: u64 = 600;

/// A server under attack, and what its clients expect of it.
pub struct Campaign {
    server: Postgres,
    points: Option<PathBuf>,
    states: Vec<State>,
    rng: StdRng,
    seed: u64,
    asynchronous: bool,
    report: Report,
}

/// What a campaign has done.
#[derive(Debug, Default, Clone)]
pub struct Report {
    /// How often each attack was carried out.
    pub attacks: BTreeMap<String, usize>,
    /// Transactions that were acknowledged.
    pub committed: u64,
    /// Transactions that were rolled back, by their client or by the server.
    pub rolled_back: u64,
    /// COMMITs without an answer that turned out to be done.
    pub in_doubt_done: usize,
    /// COMMITs without an answer that turned out not to be done.
    pub in_doubt_undone: usize,
    /// Acknowledged transactions of sessions with `synchronous_commit = off` that are gone.
    pub given_up: usize,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kills: usize = self.attacks.values().sum();
        write!(
            f,
            "{kills} attacks {:?}: {} committed, {} rolled back, in doubt: {} done, {} not; {} given up",
            self.attacks, self.committed, self.rolled_back, self.in_doubt_done, self.in_doubt_undone, self.given_up
        )
    }
}

impl Campaign {
    /// Starts the server and makes the shared twins. `seed` decides everything that is chosen; without fail points none
    /// can be attacked.
    ///
    /// # Errors
    /// What the server says.
    pub fn start(builder: Builder, seed: u64, fail_points: bool) -> Result<Campaign, Error> {
        let mut builder = builder;
        let mut points = None;
        if fail_points {
            let account = crate::account::Account::for_servers()?;
            let folder = crate::folder::ServerFolder::temporary(&account)?.root().to_owned();
            builder = builder.environment("KRIYA_FAIL_POINTS", &folder);
            points = Some(folder);
        }
        let server = builder.start()?;
        let mut client = server.connect()?;
        client.batch_execute("CREATE EXTENSION kriya_pg")?;
        for (table, method) in [("h", "heap"), ("l", "lsm_s3")] {
            client.batch_execute(&format!(
                "CREATE TABLE {table} {} USING {method}; CREATE INDEX ON {table} USING lsm_hnsw (e)",
                actions::COLUMNS
            ))?;
        }
        Ok(Campaign {
            server,
            points,
            states: vec![State::default(); CLIENTS + 1],
            rng: StdRng::seed_from_u64(seed),
            seed,
            asynchronous: false,
            report: Report::default(),
        })
    }

    /// Lets all clients commit with `synchronous_commit = off` from now on: what was acknowledged may be lost in a crash
    /// of the whole server, but only as a whole, the last first, and in both twins alike.
    pub fn asynchronous(&mut self) {
        self.asynchronous = true;
    }

    /// One attack that is chosen at random.
    ///
    /// # Errors
    /// As [`Campaign::attack`].
    pub fn attack_somehow(&mut self) -> Result<(), Error> {
        let attack = Attack::any(&mut self.rng);
        self.attack(&attack)
    }

    /// Lets the clients work, carries out `attack` at a random moment, brings the server up again and checks everything.
    ///
    /// # Errors
    /// What was lost, came back or differs; a statement that failed for no good reason; a server that does not come up.
    pub fn attack(&mut self, attack: &Attack) -> Result<(), Error> {
        let spares = attack.spares_sessions();
        let ends = self.under_load(|campaign, round, rng| {
            attack::carry_out(attack, &mut campaign.server, campaign.points.as_deref(), rng)?;
            if spares {
                // The clients meet the next worker.
                let target = round.statements.load(Ordering::Relaxed) + 20;
                campaign.progress(round, target)?;
            }
            Ok(())
        })?;
        *self.report.attacks.entry(attack.name()).or_default() += 1;
        let given_up = self.report.given_up;
        self.settle(ends, &attack.name())?;
        if attack.is_orderly() && self.report.given_up > given_up {
            return Err(self.failed(&format!("checking after {}", attack.name()), "an orderly stop lost transactions"));
        }
        Ok(())
    }

    /// Loses power at a random moment: see [`PowerSupply`].
    ///
    /// # Errors
    /// As [`Campaign::attack`].
    pub fn lose_power(&mut self, supply: &PowerSupply, keep: Keep) -> Result<(), Error> {
        let ends = self.under_load(|campaign, _, rng| {
            campaign.server.kill_all()?;
            supply.cut(&campaign.server, keep, rng)
        })?;
        *self.report.attacks.entry(format!("power cut, {keep:?}")).or_default() += 1;
        self.settle(ends, "a power cut")
    }

    /// What was done so far.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// The server.
    pub fn server(&mut self) -> &mut Postgres {
        &mut self.server
    }

    /// Runs the clients, and `disturb` at a random moment.
    fn under_load(
        &mut self,
        disturb: impl FnOnce(&mut Campaign, &Round, &mut StdRng) -> Result<(), Error>,
    ) -> Result<Vec<End>, Error> {
        let round = Round {
            url: self.server.url().to_string(),
            asynchronous: self.asynchronous,
            stop: AtomicBool::new(false),
            statements: AtomicU64::new(0),
            committed: AtomicU64::new(0),
            rolled_back: AtomicU64::new(0),
        };
        let states = std::mem::take(&mut self.states);
        let seeds: Vec<u64> = states.iter().map(|_| self.rng.random()).collect();
        let target = self.rng.random_range(1..STATEMENTS);
        let moment = Duration::from_micros(self.rng.random_range(0..30_000));
        let mut rng = StdRng::seed_from_u64(self.rng.random());
        let round_ref = &round;
        let ends = std::thread::scope(|scope| {
            let mut working = Vec::new();
            // Number 0 is nobody: its rows, if any, are what a test has put there.
            for (number, (state, seed)) in states.into_iter().zip(seeds).enumerate().skip(1) {
                working.push(scope.spawn(move || client::work(round_ref, number, state, seed)));
            }
            let disturbed = self.progress(round_ref, target).and_then(|()| {
                // A moment that no statement's end decides.
                std::thread::sleep(moment);
                disturb(self, round_ref, &mut rng)
            });
            round_ref.stop.store(true, Ordering::Relaxed);
            let mut ends = vec![End { candidates: vec![State::default()], in_doubt: false, failure: None }];
            ends.extend(working.into_iter().map(|client| client.join().unwrap_or_else(|_| panicked())));
            let failures: Vec<&str> = ends.iter().filter_map(|end| end.failure.as_deref()).collect();
            if !failures.is_empty() {
                return Err(self.failed("working under load", &failures.join("\n")));
            }
            disturbed.map(|()| ends)
        })?;
        self.report.committed += round.committed.load(Ordering::Relaxed);
        self.report.rolled_back += round.rolled_back.load(Ordering::Relaxed);
        Ok(ends)
    }

    /// Waits until that many statements were done.
    fn progress(&self, round: &Round, target: u64) -> Result<(), Error> {
        let begin = Instant::now();
        while round.statements.load(Ordering::Relaxed) < target {
            if begin.elapsed() > PATIENCE {
                return Err(self.failed("working under load", "the clients do not get ahead"));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Brings the server up where it is down and checks everything.
    fn settle(&mut self, ends: Vec<End>, after: &str) -> Result<(), Error> {
        if self.server.pid().is_none() {
            self.server.start()?;
        }
        let mut client = self.connect_patiently()?;
        let candidates: Vec<Vec<State>> = ends.iter().map(|end| end.candidates.clone()).collect();
        let chosen = check::settle(&mut client, &candidates)
            .map_err(|said| self.failed(&format!("checking after {after}"), &said))?;
        for (end, which) in ends.iter().zip(&chosen) {
            let last = end.candidates.len() - 1;
            match (end.in_doubt, *which == last) {
                (true, true) => self.report.in_doubt_done += 1,
                (true, false) => self.report.in_doubt_undone += 1,
                (false, _) => {}
            }
            self.report.given_up += last.saturating_sub(usize::from(end.in_doubt)).saturating_sub(*which);
        }
        self.states = ends
            .into_iter()
            .zip(chosen)
            .filter_map(|(mut end, which)| (which < end.candidates.len()).then(|| end.candidates.swap_remove(which)))
            .collect();
        self.check_log()
    }

    fn connect_patiently(&self) -> Result<Client, Error> {
        attack::until(&self.server, "the server answers", || {
            let mut client = self.server.connect().ok()?;
            client.batch_execute("SET statement_timeout = '60s'; SELECT count(*) FROM l").ok()?;
            Some(client)
        })
    }

    /// The server's log must not tell of anything that a crash does not excuse.
    fn check_log(&self) -> Result<(), Error> {
        const NEVER: [&str; 6] =
            ["PANIC:", "panicked", "should be rebuilt", "cannot be used", "is damaged", "could not access status"];
        let log = self.server.log_text();
        let bad: Vec<&str> = log.lines().filter(|line| NEVER.iter().any(|word| line.contains(word))).take(5).collect();
        if bad.is_empty() { Ok(()) } else { Err(self.failed("reading the server's log", &bad.join("\n"))) }
    }

    fn failed(&self, what: &str, said: &str) -> Error {
        Error::Failed {
            what: format!("{what} (seed {}, so far {})", self.seed, self.report),
            said: format!("{said}\nthe end of the server's log:\n{}", self.server.log_tail(25)),
        }
    }
}

impl fmt::Debug for Campaign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Campaign").field("seed", &self.seed).field("report", &self.report).finish_non_exhaustive()
    }
}

impl Drop for Campaign {
    fn drop(&mut self) {
        if let Some(points) = &self.points {
            // A few empty files in a temporary place.
            let _left = std::fs::remove_dir_all::<&Path>(points);
        }
    }
}

fn panicked() -> End {
    End { candidates: vec![State::default()], in_doubt: false, failure: Some("a client panicked".into()) }
}

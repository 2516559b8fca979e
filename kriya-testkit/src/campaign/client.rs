//! One client: transactions over the twin tables until the server is gone or it is told to stop, with a journal of
//! what it may expect to find.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use postgres::{Client, NoTls, SimpleQueryMessage};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::actions;
use super::check::told;
use super::state::State;

/// What clients and their director share during one round.
pub(super) struct Round {
    /// Where the server answers.
    pub url: String,
    /// `synchronous_commit` is off: what was acknowledged may be lost, the last first.
    pub asynchronous: bool,
    pub stop: AtomicBool,
    /// Statements done by all clients.
    pub statements: AtomicU64,
    pub committed: AtomicU64,
    pub rolled_back: AtomicU64,
}

/// How a client's round ended.
pub(super) struct End {
    /// The states that it may be in now; the last is the newest.
    pub candidates: Vec<State>,
    /// Whether the last state is that of a COMMIT without an answer.
    pub in_doubt: bool,
    /// What must not have happened.
    pub failure: Option<String>,
}

/// Why a statement did not succeed.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The session is gone.
    Gone,
    /// The transaction was rolled back by the server, for a reason that a client must expect.
    RolledBack,
    /// Anything else.
    Failure(String),
}

/// The session of a client.
pub(super) struct Session<'a> {
    pub number: usize,
    pub rng: StdRng,
    round: &'a Round,
    client: Client,
}

impl Session<'_> {
    /// Runs a statement; returns how many rows it touched.
    pub fn execute(&mut self, sql: &str) -> Result<u64, Trouble> {
        self.round.statements.fetch_add(1, Ordering::Relaxed);
        let messages = self.client.simple_query(sql).map_err(|error| trouble(sql, &error))?;
        Ok(messages.iter().map(|m| if let SimpleQueryMessage::CommandComplete(n) = m { *n } else { 0 }).sum())
    }

    /// Runs a statement that must fail with the given SQLSTATE.
    pub fn fails(&mut self, sql: &str, code: &str) -> Result<(), Trouble> {
        match self.client.simple_query(sql) {
            Ok(_) => Err(Trouble::Failure(format!("{sql}: succeeded, {code} was expected"))),
            Err(error) if error.code().is_some_and(|found| found.code() == code) => Ok(()),
            Err(error) => Err(trouble(sql, &error)),
        }
    }

    /// The single value of a query.
    pub fn value(&mut self, sql: &str) -> Result<String, Trouble> {
        let messages = self.client.simple_query(sql).map_err(|error| trouble(sql, &error))?;
        let value = messages.iter().find_map(|m| if let SimpleQueryMessage::Row(row) = m { row.get(0) } else { None });
        Ok(value.unwrap_or_default().to_owned())
    }

    /// Sends `lines` by COPY.
    pub fn copy(&mut self, table: &str, lines: &str) -> Result<u64, Trouble> {
        self.round.statements.fetch_add(1, Ordering::Relaxed);
        let sql = format!("COPY {table} FROM STDIN");
        let mut writer = self.client.copy_in(&sql).map_err(|error| trouble(&sql, &error))?;
        std::io::Write::write_all(&mut writer, lines.as_bytes()).map_err(|_| Trouble::Gone)?;
        writer.finish().map_err(|error| trouble(&sql, &error))
    }
}

fn trouble(sql: &str, error: &postgres::Error) -> Trouble {
    match error.code().map(|code| code.code()) {
        // Its connection ended without a word, or with one of a dying server.
        None | Some("57P01" | "57P02" | "57P03") => Trouble::Gone,
        // The worker was replaced meanwhile, or two sessions waited for each other.
        Some("40001" | "40P01") => Trouble::RolledBack,
        // A parallel worker noticed the postmaster's death before its leader did.
        Some("55000") if told(error).contains("lost connection to parallel worker") => Trouble::RolledBack,
        Some(_) => {
            let sql: String = sql.chars().take(160).collect();
            Trouble::Failure(format!("{sql}: {}", told(error)))
        }
    }
}

/// Works until the session is gone or the round is over.
pub(super) fn work(round: &Round, number: usize, state: State, seed: u64) -> End {
    let mut end = End { candidates: vec![state], in_doubt: false, failure: None };
    let settings = format!(
        "SET statement_timeout = '60s'; SET synchronous_commit = {}; SET client_min_messages = error; SET log_min_messages = log",
        if round.asynchronous { "off" } else { "on" }
    );
    let Ok(mut client) = Client::connect(&round.url, NoTls) else { return end };
    if client.batch_execute(&settings).is_err() {
        return end;
    }
    let mut session = Session { number, rng: StdRng::seed_from_u64(seed), round, client };
    while !round.stop.load(Ordering::Relaxed) {
        let before = end.candidates.last().cloned().unwrap_or_default();
        let done = if session.rng.random_bool(0.06) {
            actions::maintain(&mut session, &before).map(|()| None).map_err(Aborted::from)
        } else {
            transaction(&mut session, before)
        };
        match done {
            Ok(None) => {}
            Ok(Some(after)) => {
                round.committed.fetch_add(1, Ordering::Relaxed);
                if !round.asynchronous {
                    end.candidates.clear();
                }
                end.candidates.push(after);
            }
            Err(Aborted { trouble: Trouble::RolledBack, .. }) => {
                round.rolled_back.fetch_add(1, Ordering::Relaxed);
                if session.execute("ROLLBACK").is_err() {
                    break;
                }
            }
            Err(Aborted { trouble: Trouble::Gone, committing }) => {
                end.in_doubt = committing.is_some();
                end.candidates.extend(committing);
                break;
            }
            Err(Aborted { trouble: Trouble::Failure(said), .. }) => {
                end.failure = Some(format!("client {number}: {said}"));
                break;
            }
        }
    }
    end
}

/// A transaction that did not end as asked.
struct Aborted {
    trouble: Trouble,
    /// COMMIT was sent: the state that it would lead to.
    committing: Option<State>,
}

impl From<Trouble> for Aborted {
    fn from(trouble: Trouble) -> Aborted {
        Aborted { trouble, committing: None }
    }
}

/// One transaction; returns the new state if it committed.
fn transaction(session: &mut Session<'_>, mut state: State) -> Result<Option<State>, Aborted> {
    session.execute("BEGIN")?;
    for _ in 0..session.rng.random_range(1..5) {
        if !session.rng.random_bool(0.3) {
            actions::change(session, &mut state)?;
            continue;
        }
        session.execute("SAVEPOINT one")?;
        let before = state.clone();
        for _ in 0..session.rng.random_range(1..4) {
            actions::change(session, &mut state)?;
        }
        if session.rng.random_bool(0.5) {
            session.execute("ROLLBACK TO one")?;
            state = before;
        }
        session.execute("RELEASE one")?;
    }
    if session.rng.random_bool(0.3) {
        actions::look(session, &state)?;
    }
    if session.rng.random_bool(0.2) {
        session.execute("ROLLBACK")?;
        session.round.rolled_back.fetch_add(1, Ordering::Relaxed);
        return Ok(None);
    }
    match session.execute("COMMIT") {
        Ok(_) => Ok(Some(state)),
        Err(trouble) => Err(Aborted { trouble, committing: Some(state) }),
    }
}

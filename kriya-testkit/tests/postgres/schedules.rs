//! Schedules: statements of several sessions in one order, and what came of each, as text.
//!
//! A file holds schedules like this one:
//!
//! ```text
//! == the second writer waits (every order)
//! setup CREATE TABLE t (id int PRIMARY KEY, v int)
//! 1 BEGIN
//! 1 UPDATE t SET v = 1
//! 1 COMMIT
//! 2 UPDATE t SET v = 2
//! check SELECT * FROM t
//! ```
//! A number names a session. `(every order)` runs every interleaving of the sessions' steps. A step of a session that
//! still waits comes as soon as it does not. A session counts as waiting when Postgres says that it is blocked, directly
//! or through other waiting sessions, by one that has nothing to do: nothing will happen then until the next step. So
//! the outcome depends on the server's rules alone, not on timing. `2!` is a step that stops waiting by itself: nothing
//! else is done until it has.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt::Write as _;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use kriya_testkit::Postgres;
use postgres::{Client, SimpleQueryMessage};

use crate::support::{postgres, rows, run, told, value};

const PATIENCE: Duration = Duration::from_secs(60);

struct Step {
    session: usize,
    sql: String,
    /// It gives up waiting by itself.
    impatient: bool,
}

/// What sessions do, in the order of the file.
pub struct Schedule {
    pub name: String,
    every_order: bool,
    setup: Vec<String>,
    steps: Vec<Step>,
    checks: Vec<String>,
}

/// What came of a schedule.
pub struct Played {
    /// Each step and what it returned.
    pub trace: String,
    /// One step set several sessions going at once: the server promises no order between them.
    pub raced: bool,
}

/// The schedules of a file.
pub fn parse(text: &str) -> Vec<Schedule> {
    let mut schedules: Vec<Schedule> = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(title) = line.strip_prefix("== ") {
            let every_order = title.ends_with("(every order)");
            let name = title.trim_end_matches("(every order)").trim().to_owned();
            schedules.push(Schedule { name, every_order, setup: vec![], steps: vec![], checks: vec![] });
            continue;
        }
        let schedule = schedules.last_mut().expect("a file begins with a title");
        let (who, sql) = line.split_once(' ').expect("a session and a statement");
        match who {
            "setup" => schedule.setup.push(sql.to_owned()),
            "check" => schedule.checks.push(sql.to_owned()),
            number => {
                let session = number.trim_end_matches('!').parse().expect("a session's number");
                schedule.steps.push(Step { session, sql: sql.to_owned(), impatient: number.ends_with('!') });
            }
        }
    }
    schedules
}

impl Schedule {
    /// Of steps in this order, each with its session.
    pub fn new(name: String, setup: &[&str], steps: Vec<(usize, String)>, checks: &[&str]) -> Schedule {
        let owned = |list: &[&str]| list.iter().map(|sql| (*sql).to_owned()).collect();
        let steps = steps.into_iter().map(|(session, sql)| Step { session, sql, impatient: false }).collect();
        Schedule { name, every_order: false, setup: owned(setup), steps, checks: owned(checks) }
    }

    /// The orders to be run: lists of sessions, each once for each of its steps.
    pub fn orders(&self) -> Vec<Vec<usize>> {
        let written: Vec<usize> = self.steps.iter().map(|step| step.session).collect();
        if !self.every_order {
            return vec![written];
        }
        let mut left: BTreeMap<usize, usize> = BTreeMap::new();
        written.iter().for_each(|session| *left.entry(*session).or_default() += 1);
        let mut orders = Vec::new();
        interleave(&mut left, &mut Vec::new(), written.len(), &mut orders);
        orders
    }

    /// Runs the steps in that order on tables of that access method; says what happened.
    pub fn run(&self, stage: &mut Stage, method: &str, order: &[usize]) -> Played {
        stage.set(method, &self.setup);
        let mut queues: HashMap<usize, VecDeque<&Step>> = HashMap::new();
        for step in &self.steps {
            queues.entry(step.session).or_default().push_back(step);
        }
        let mut due: VecDeque<usize> = order.iter().copied().collect();
        let (mut trace, mut raced) = (String::new(), false);
        while let Some(at) = due.iter().position(|session| !stage.waiting.contains_key(session)) {
            let session = due.remove(at).expect("a position that was found");
            let Step { sql, impatient, .. } =
                queues.get_mut(&session).and_then(VecDeque::pop_front).expect("a step for each entry");
            let waited = stage.waiting.len();
            stage.begin(session, sql);
            let ended = stage.settle(&trace, impatient.then_some(session));
            if !ended.iter().any(|(who, ..)| *who == session) {
                let _ = writeln!(trace, "{session} {sql}\n    waits");
            }
            raced |= waited > 1 && ended.iter().any(|(who, ..)| *who != session);
            for (who, sql, result) in ended {
                let again = if who == session { "" } else { "  goes on: " };
                let _ = writeln!(trace, "{again}{who} {sql}\n    {result}");
            }
        }
        assert!(due.is_empty(), "{}: sessions wait for each other for ever\n{trace}", self.name);
        for (who, sql, result) in stage.clear() {
            let _ = writeln!(trace, "  goes on in the end: {who} {sql}\n    {result}");
        }
        for sql in &self.checks {
            let _ = writeln!(trace, "{sql}\n    {}", rows(&mut stage.watch, sql).join(", "));
        }
        Played { trace, raced }
    }
}

fn interleave(left: &mut BTreeMap<usize, usize>, so_far: &mut Vec<usize>, length: usize, into: &mut Vec<Vec<usize>>) {
    if so_far.len() == length {
        into.push(so_far.clone());
        return;
    }
    let sessions: Vec<usize> = left.iter().filter(|(_, count)| **count > 0).map(|(session, _)| *session).collect();
    for session in sessions {
        *left.get_mut(&session).expect("a session of the list") -= 1;
        so_far.push(session);
        interleave(left, so_far, length, into);
        so_far.pop();
        *left.get_mut(&session).expect("a session of the list") += 1;
    }
}

struct Actor {
    orders: Sender<String>,
    pid: String,
}

/// Sessions of a server, each with a thread, and one that watches them.
pub struct Stage {
    watch: Client,
    actors: BTreeMap<usize, Actor>,
    results: Receiver<(usize, String)>,
    /// Sessions with a statement under way, and the statement.
    waiting: BTreeMap<usize, String>,
}

/// Ends whatever a session has begun and holds.
const END: &str = "ROLLBACK; SELECT pg_advisory_unlock_all()";

/// Sessions that a schedule may have.
const SESSIONS: usize = 4;

impl Stage {
    pub fn new(server: &Postgres) -> Stage {
        let (sender, results) = channel();
        let mut actors = BTreeMap::new();
        for session in 1..=SESSIONS {
            let mut client = server.connect().expect("a session");
            let pid = value(&mut client, "SELECT pg_backend_pid()");
            let (orders, inbox) = channel::<String>();
            let sender = sender.clone();
            std::thread::spawn(move || {
                while let Ok(sql) = inbox.recv() {
                    let result = outcome(&mut client, &sql);
                    if sender.send((session, result)).is_err() {
                        break;
                    }
                }
            });
            actors.insert(session, Actor { orders, pid });
        }
        Stage { watch: server.connect().expect("a session"), actors, results, waiting: BTreeMap::new() }
    }

    fn set(&mut self, method: &str, setup: &[String]) {
        let fresh = "SET client_min_messages = error; DROP SCHEMA IF EXISTS stage CASCADE; CREATE SCHEMA stage";
        run(&mut self.watch, fresh);
        run(&mut self.watch, "SET search_path = stage, public");
        run(&mut self.watch, &format!("SET default_table_access_method = {method}"));
        for sql in setup {
            run(&mut self.watch, sql);
        }
        let settings = format!(
            "RESET ALL; SET search_path = stage, public; SET default_table_access_method = {method}; \
             SET deadlock_timeout = '30s'"
        );
        self.all(&settings);
    }

    /// Lets every session do something that does not wait.
    fn all(&mut self, sql: &str) {
        let sessions: Vec<usize> = self.actors.keys().copied().collect();
        for session in sessions {
            self.begin(session, sql);
        }
        while !self.waiting.is_empty() {
            self.settle("", None);
        }
    }

    fn begin(&mut self, session: usize, sql: &str) {
        self.actors[&session].orders.send(sql.to_owned()).expect("the thread of a session");
        self.waiting.insert(session, sql.to_owned());
    }

    /// Waits until every session has either finished or waits for one that has; returns who has finished, in order of
    /// their numbers. `impatient` is waited for in any case.
    fn settle(&mut self, trace: &str, impatient: Option<usize>) -> Vec<(usize, String, String)> {
        let deadline = Instant::now() + PATIENCE;
        let (mut ended, mut quiet) = (Vec::new(), 0);
        while !self.waiting.is_empty() && quiet < 2 {
            assert!(Instant::now() < deadline, "nothing happens any more:\n{trace}{:?}", self.waiting);
            if let Ok((session, result)) = self.results.recv_timeout(Duration::from_millis(2)) {
                let sql = self.waiting.remove(&session).expect("who has something under way");
                ended.push((session, sql, result));
                quiet = 0;
            } else {
                // Twice, for the lists are not read in one moment.
                let over = impatient.is_none_or(|session| !self.waiting.contains_key(&session));
                quiet = if over && self.is_quiet() { quiet + 1 } else { 0 };
            }
        }
        ended.sort();
        ended
    }

    fn is_quiet(&mut self) -> bool {
        let pids: Vec<&str> = self.waiting.keys().map(|session| self.actors[session].pid.as_str()).collect();
        let sql = format!(
            "SELECT pid, array_to_string(pg_blocking_pids(pid), ' ') FROM unnest(ARRAY[{}]) AS pid",
            pids.join(", ")
        );
        let blockers: HashMap<String, Vec<String>> = rows(&mut self.watch, &sql)
            .iter()
            .filter_map(|row| row.split_once('|'))
            .map(|(pid, by)| (pid.to_owned(), by.split_whitespace().map(str::to_owned).collect()))
            .collect();
        let idle = |pid: &str| !blockers.contains_key(pid);
        pids.iter().all(|pid| {
            let (mut reached, mut at) = (vec![(*pid).to_owned()], 0);
            while at < reached.len() {
                let next = reached[at].clone();
                if idle(&next) {
                    return true;
                }
                for by in blockers.get(&next).into_iter().flatten() {
                    if !reached.contains(by) {
                        reached.push(by.clone());
                    }
                }
                at += 1;
            }
            false
        })
    }

    /// Ends whatever the sessions have begun.
    fn clear(&mut self) -> Vec<(usize, String, String)> {
        let mut ended = Vec::new();
        let mut open: Vec<usize> = self.actors.keys().copied().collect();
        while !open.is_empty() {
            let at = open.iter().position(|session| !self.waiting.contains_key(session));
            let session = open.remove(at.expect("somebody who does not wait"));
            self.begin(session, END);
            ended.extend(self.settle("", None).into_iter().filter(|(_, sql, _)| sql != END));
        }
        ended
    }
}

/// What a statement returned, as text.
fn outcome(client: &mut Client, sql: &str) -> String {
    match client.simple_query(sql) {
        Err(error) => {
            // The error is told before the transaction is rolled back; an empty statement is answered after that.
            let _ = client.simple_query("");
            let code = error.code().map(|state| state.code().to_owned()).unwrap_or_default();
            format!("ERROR {code} {}", told(&error))
        }
        Ok(messages) => {
            let said = messages.iter().filter_map(|message| match message {
                SimpleQueryMessage::Row(row) => {
                    let columns: Vec<&str> = (0..row.len()).map(|i| row.get(i).unwrap_or("null")).collect();
                    Some(columns.join("|"))
                }
                SimpleQueryMessage::CommandComplete(count) => Some(format!("({count})")),
                _ => None,
            });
            said.collect::<Vec<_>>().join(", ")
        }
    }
}

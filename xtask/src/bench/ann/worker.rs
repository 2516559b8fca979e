//! A subject: a process that has read the vectors and builds and searches when it is told to, so that one is measured while
//! the others wait. What is said between here and there stands in `benches/src/bin/ann.rs`.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Map, Value};

use super::input::Input;
use super::peers::Peers;
use super::subjects::{OWN, SCAN, Subject};
use crate::failure::{Failure, Outcome};
use crate::{places, progress};

/// Figures by name, as a process tells them.
pub type Figures = Map<String, Value>;

/// A running subject.
pub struct Worker {
    /// What is measured.
    pub subject: Subject,
    /// Its version.
    pub version: String,
    process: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    answers: PathBuf,
    k: usize,
}

impl Worker {
    /// Starts a subject's process.
    ///
    /// # Errors
    /// If it cannot be started, or refuses the data (it says why on the standard error).
    pub fn start(subject: Subject, own: &Path, peers: &Peers, input: &Input) -> Outcome<Worker> {
        let (library, encoding) = (subject.library.as_str(), subject.encoding.name());
        let answers = input.folder().join(format!("{library}-{encoding}.answers"));
        let mut command = match library {
            OWN | SCAN => Command::new(own),
            _ => peers.command(),
        };
        command.arg(match library {
            OWN => "graph",
            SCAN => "scan",
            peer => peer,
        });
        command.args([input.base_file(), input.query_file()]);
        command.args([input.metric.name(), &input.m.to_string(), &input.ef_construction.to_string()]);
        command.arg(input.k.to_string()).arg(&answers).arg(input.filter_file().unwrap_or_else(|| "-".into()));
        command.args([encoding, if subject.rerank { "f32" } else { "-" }]);
        // Threads of one that waits must not spin while another is measured.
        command.env("OMP_WAIT_POLICY", "passive").env("OPENBLAS_NUM_THREADS", "1");
        let shown = progress::display(&command);
        let failed = |e| Failure::new(format!("running {shown}: {e}"));
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(failed)?;
        let (Some(to), Some(from)) = (process.stdin.take(), process.stdout.take()) else {
            return Err(Failure::new(format!("{shown}: no pipes to it")));
        };
        let from = BufReader::new(from);
        let mut worker = Worker { subject, version: String::new(), process, to, from, answers, k: input.k };
        let hello = worker.listen()?;
        worker.version = hello.get("version").and_then(Value::as_str).unwrap_or_default().to_owned();
        Ok(worker)
    }

    /// Builds the index anew.
    ///
    /// # Errors
    /// If the process has ended.
    pub fn build(&mut self, threads: usize) -> Outcome<Figures> {
        self.ask(&format!("build {threads}"))
    }

    /// Searches for all queries; the figures, and the row numbers of the answers.
    ///
    /// # Errors
    /// If the process has ended.
    pub fn search(&mut self, ef: usize, threads: usize, seconds: f64) -> Outcome<(Figures, Vec<Vec<i64>>)> {
        let figures = self.ask(&format!("search {ef} {threads} {seconds}"))?;
        let bytes = fs::read(&self.answers).map_err(Failure::doing("reading", &self.answers))?;
        let ids: Vec<i64> = bytes.as_chunks::<4>().0.iter().map(|b| i64::from(i32::from_le_bytes(*b))).collect();
        Ok((figures, ids.chunks(self.k).map(<[i64]>::to_vec).collect()))
    }

    fn ask(&mut self, command: &str) -> Outcome<Figures> {
        // If it has ended, its answer says so.
        let _ended = writeln!(self.to, "{command}").and_then(|()| self.to.flush());
        self.listen()
    }

    fn listen(&mut self) -> Outcome<Figures> {
        let mut line = String::new();
        let read = self.from.read_line(&mut line);
        match serde_json::from_str(&line) {
            Ok(Value::Object(figures)) if read.is_ok() => Ok(figures),
            _ => Err(Failure::new(format!(
                "{} gave up after {:?}; above it says why, if it knows",
                self.subject.library,
                line.trim_end()
            ))),
        }
    }
}

impl Drop for Worker {
    /// Ends the process: a subject has nothing to save.
    fn drop(&mut self) {
        let _gone = self.process.kill();
        let _gone = self.process.wait();
    }
}

/// The program of our own subject, freshly built.
///
/// # Errors
/// If it does not compile.
pub fn own(optimised: bool) -> Outcome<PathBuf> {
    let mut cargo = places::cargo();
    cargo.args(["build", "--quiet", "--package", "kriya-benches", "--bin", "ann"]);
    if optimised {
        cargo.arg("--release");
    }
    let status = progress::step("building the subject", || {
        cargo.status().map_err(|e| Failure::new(format!("running {}: {e}", progress::display(&cargo))))
    })?;
    if !status.success() {
        return Err(Failure::new("the subject's program does not compile"));
    }
    Ok(places::target().join(if optimised { "release" } else { "debug" }).join("ann"))
}

//! One line per step, with the time it took; what a step's programs print goes to a log, of which only the end is shown
//! when one fails.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::failure::{Failure, Outcome};

/// Does `step`, saying what it is and how long it took. Steps under a tenth of a second are not worth a line.
pub fn step<T>(what: &str, step: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
    let begin = Instant::now();
    let outcome = step();
    let seconds = begin.elapsed().as_secs_f64();
    match &outcome {
        Ok(_) if seconds < 0.1 => {}
        Ok(_) => println!("  {what}: {seconds:.1} s"),
        Err(_) => println!("  {what}: failed after {seconds:.1} s"),
    }
    outcome
}

/// A file that collects what programs print.
pub struct Log {
    path: PathBuf,
}

impl Log {
    /// An empty log at `path`.
    ///
    /// # Errors
    /// If the file cannot be made.
    pub fn create(path: PathBuf) -> Outcome<Log> {
        File::create(&path).map_err(Failure::doing("making", &path))?;
        Ok(Log { path })
    }

    /// Runs `command` to its end, its output appended here.
    ///
    /// # Errors
    /// If it cannot be run or fails; the end of what it printed is in the message.
    pub fn run(&self, command: &mut Command) -> Outcome<()> {
        let name = display(command);
        let open = || OpenOptions::new().append(true).open(&self.path).map_err(Failure::doing("opening", &self.path));
        let from = open()?.metadata().map_or(0, |m| m.len());
        let status = command
            .stdin(Stdio::null())
            .stdout(open()?)
            .stderr(open()?)
            .status()
            .map_err(|e| Failure::new(format!("running {name}: {e}")))?;
        if status.success() {
            return Ok(());
        }
        let end = tail(&self.path, from, 25);
        Err(Failure::new(format!("{name}: {status}; the whole of it is in {}, its end:\n{end}", self.path.display())))
    }
}

/// A command as one would type it, for messages.
pub fn display(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|a| a.to_string_lossy().into_owned()));
    words.join(" ")
}

/// The last `lines` lines of what stands in the file after `from`.
fn tail(path: &Path, from: u64, lines: usize) -> String {
    let bytes = std::fs::read(path).unwrap_or_default();
    let fresh = usize::try_from(from).ok().and_then(|at| bytes.get(at..)).unwrap_or_default();
    let text = String::from_utf8_lossy(fresh);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

//! What `cargo test` runs, counted from what it prints.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use kriya_testkit::Installation;

use crate::failure::{Failure, Outcome};
use crate::{places, progress};

use super::logs;
use super::tally::Tally;

/// The tests of all crates that need no server.
///
/// # Errors
/// If cargo cannot be run, or fails without a failing test.
pub fn crates(tally: &mut Tally) -> Outcome<()> {
    run(tally, places::cargo().args(["test", "--no-fail-fast"]).env("LSMSTORE_SIM_SEEDS", "1000"), "crates")?;
    let testkit = ["test", "--no-fail-fast", "--package", "kriya-testkit", "--lib", "--bins", "--test", "objects"];
    run(tally, places::cargo().args(testkit), "testkit")?;
    let s3 = ["test", "--no-fail-fast", "--package", "lsmstore", "--features", "s3", "--lib"];
    run(tally, places::cargo().args(s3), "s3")?;
    let vectors = ["test", "--no-fail-fast", "--package", "lsmstore", "--features", "vectors", "--test", "vectors"];
    run(tally, places::cargo().args(vectors), "vectors")?;
    let example = ["test", "--package", "lsmstore", "--features", "vectors", "--doc", "vectors"];
    run(tally, places::cargo().args(example), "vectors-doc")?;
    let ctl = ["test", "--no-fail-fast", "--package", "lsmstore", "--features", "ctl", "--test", "ctl", "--bins"];
    run(tally, places::cargo().args(ctl), "ctl")
}

/// The tests that need a server with the extension: restart, kill, sessions side by side. `name` is the log's.
///
/// # Errors
/// If cargo cannot be run, or fails without a failing test.
pub fn server(tally: &mut Tally, pg: &Installation, name: &str) -> Outcome<()> {
    let mut cargo = places::cargo();
    cargo.args(["test", "--no-fail-fast", "--package", "kriya-testkit", "--test", "postgres"]);
    run(tally, cargo.env("KRIYA_TEST_PG_CONFIG", &pg.pg_config), name)
}

/// Runs `cargo`, its whole output to the log called `name`, and counts the tests in it.
///
/// # Errors
/// If cargo cannot be run, or fails without a failing test.
pub fn run(tally: &mut Tally, cargo: &mut Command, name: &str) -> Outcome<()> {
    let path = logs().join(format!("{name}.log"));
    let mut log = File::create(&path).map_err(Failure::doing("making", &path))?;
    let errors = log.try_clone().map_err(Failure::doing("opening", &path))?;
    let shown = progress::display(cargo);
    let failed_to_run = |e| Failure::new(format!("running {shown}: {e}"));
    let mut child = cargo.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors).spawn().map_err(failed_to_run)?;
    let (failed_before, mut counted) = (tally.failed(), 0);
    let mut panics = Vec::new();
    if let Some(out) = child.stdout.take() {
        for line in BufReader::new(out).split(b'\n') {
            let line = line.map_err(Failure::doing("reading the output of", shown.as_ref()))?;
            let line = String::from_utf8_lossy(&line).into_owned();
            writeln!(log, "{line}").map_err(Failure::doing("writing", &path))?;
            match verdict(&line) {
                Some((_, Verdict::Passed)) => tally.pass(1),
                Some((test, Verdict::Failed)) => {
                    println!("  FAILED {test}");
                    tally.fail(test.to_owned());
                }
                Some((test, Verdict::Ignored)) => tally.skip(format!("{test}: ignored")),
                None => {
                    if line.contains("panicked at") || line.starts_with("assertion") {
                        panics.push(line);
                    }
                    continue;
                }
            }
            counted += 1;
        }
    }
    let status = child.wait().map_err(failed_to_run)?;
    for line in panics.iter().take(20) {
        println!("    {line}");
    }
    if !status.success() && tally.failed() == failed_before {
        let text = std::fs::read(&path).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let end = lines[lines.len().saturating_sub(25)..].join("\n");
        return Err(Failure::new(format!("{shown}: {status}, and no test said so:\n{end}")));
    }
    if counted == 0 && name != "testkit" {
        return Err(Failure::new(format!("{shown} ran no test")));
    }
    Ok(())
}

/// How a test ended.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Passed,
    Failed,
    Ignored,
}

/// Reads a line `test NAME ... ok` of the test harness. Doc tests that are only compiled say `- compile` in their name.
fn verdict(line: &str) -> Option<(&str, Verdict)> {
    let (name, said) = line.strip_prefix("test ")?.rsplit_once(" ... ")?;
    let verdict = match said.split(',').next()?.trim() {
        "ok" => Verdict::Passed,
        "FAILED" => Verdict::Failed,
        "ignored" => Verdict::Ignored,
        _ => return None,
    };
    Some((name, verdict))
}

#[cfg(test)]
mod tests {
    use super::{Verdict, verdict};

    #[test]
    fn the_harness_lines_are_read_and_others_are_not() {
        assert_eq!(verdict("test a::b ... ok"), Some(("a::b", Verdict::Passed)));
        assert_eq!(verdict("test a - should panic ... FAILED"), Some(("a - should panic", Verdict::Failed)));
        assert_eq!(verdict("test a ... ignored, needs a disk"), Some(("a", Verdict::Ignored)));
        assert_eq!(verdict("test result: ok. 3 passed; 0 failed"), None);
        assert_eq!(verdict("running 3 tests"), None);
    }
}

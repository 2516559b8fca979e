//! The count of a test run, and the one line that ends it.

use std::process::ExitCode;

/// What has passed, failed and been left out so far.
#[derive(Debug, Default)]
pub struct Tally {
    passed: usize,
    failed: Vec<String>,
    skipped: Vec<String>,
}

impl Tally {
    /// Counts `n` passed tests.
    pub fn pass(&mut self, n: usize) {
        self.passed += n;
    }

    /// Counts a failed test.
    pub fn fail(&mut self, name: String) {
        self.failed.push(name);
    }

    /// Counts a test that was left out.
    pub fn skip(&mut self, name: String) {
        self.skipped.push(name);
    }

    /// Counts one statement about behaviour that was checked.
    pub fn check(&mut self, holds: bool, statement: &str) {
        println!("  {} {statement}", if holds { "ok    " } else { "FAILED" });
        if holds { self.pass(1) } else { self.fail(statement.to_owned()) }
    }

    /// How many have passed.
    pub fn passed(&self) -> usize {
        self.passed
    }

    /// How many have failed.
    pub fn failed(&self) -> usize {
        self.failed.len()
    }

    /// Names what failed and what was skipped, prints the last line, and gives the exit code.
    pub fn conclude(&self) -> ExitCode {
        for name in &self.skipped {
            println!("skipped: {name}");
        }
        for name in &self.failed {
            println!("failed: {name}");
        }
        println!("{} passed, {} failed, {} skipped", self.passed, self.failed.len(), self.skipped.len());
        if self.failed.is_empty() && self.passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

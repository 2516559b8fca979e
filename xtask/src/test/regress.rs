//! The SQL tests of the extension: `kriya-pg/tests/sql/*.sql` against `expected/*.out`, by Postgres's own `pg_regress`,
//! on a server of their own. `setup` comes first, the others in the order of their names.
//!
//! Inputs are copied into the server's folder: its account may not be able to read the clone.

use std::fs;
use std::path::Path;
use std::process::Command;

use kriya_testkit::{Installation, Postgres};

use crate::failure::{Failure, Outcome};
use crate::places;

use super::logs;
use super::tally::Tally;

/// Runs them all.
///
/// # Errors
/// If there is no `pg_regress`, the server does not start, or the tool fails without a failing test.
pub fn run(tally: &mut Tally, pg: &Installation) -> Outcome<()> {
    let pg_regress = pg.pg_regress().ok_or_else(|| {
        Failure::new(format!("{} comes without pg_regress (it belongs to the server's development files)", pg.version))
    })?;
    let source = places::workspace().join("kriya-pg/tests");
    let names = names(&source.join("sql"))?;
    let server = Postgres::builder(pg).start()?;
    let work = server.folder().root().join("regress");
    server.account().make_folder(&work)?;
    for folder in ["sql", "expected"] {
        copy_files(&source.join(folder), &work.join(folder))?;
    }
    let output = work.join("output");
    server.account().make_folder(&output)?;

    let mut command = Command::new(&pg_regress);
    server.account().apply(&mut command);
    for name in ["RUST_BACKTRACE", "LD_LIBRARY_PATH", "PGOPTIONS", "PGDATABASE", "PGSERVICE"] {
        command.env_remove(name);
    }
    command
        .arg(format!("--bindir={}", pg.bindir.display()))
        .arg(format!("--inputdir={}", work.display()))
        .arg(format!("--outputdir={}", output.display()))
        .args(["--host=127.0.0.1", "--user=postgres", "--dbname=regress"])
        .arg(format!("--port={}", server.port()))
        .args(&names)
        .current_dir(&output);
    let out = command.output().map_err(|e| Failure::new(format!("running {}: {e}", pg_regress.display())))?;
    let said = String::from_utf8_lossy(&out.stdout).into_owned();

    let failed_before = tally.failed();
    let verdicts: Vec<(&str, bool)> = said.lines().filter_map(verdict).collect();
    for (name, passed) in &verdicts {
        tally.check(*passed, &format!("SQL test {name}"));
    }
    if let Ok(diffs) = fs::read_to_string(output.join("regression.diffs")) {
        let path = logs().join("sql.diffs");
        fs::write(&path, &diffs).map_err(Failure::doing("writing", &path))?;
        diffs.lines().take(80).for_each(|line| println!("    {line}"));
    }
    if verdicts.len() != names.len() || (!out.status.success() && tally.failed() == failed_before) {
        let errors = String::from_utf8_lossy(&out.stderr).into_owned();
        return Err(Failure::new(format!(
            "pg_regress: {}, {} of {} tests had a result: {}\n{}\nthe end of the server's log:\n{}",
            out.status,
            verdicts.len(),
            names.len(),
            said.trim(),
            errors.trim(),
            server.log_tail(15)
        )));
    }
    Ok(())
}

fn names(folder: &Path) -> Outcome<Vec<String>> {
    let entries = fs::read_dir(folder).map_err(Failure::doing("reading", folder))?;
    let mut names: Vec<String> = entries
        .flatten()
        .filter_map(|entry| Some(entry.file_name().to_str()?.strip_suffix(".sql")?.to_owned()))
        .collect();
    names.sort_by_key(|name| (name != "setup", name.clone()));
    Ok(names)
}

fn copy_files(from: &Path, to: &Path) -> Outcome<()> {
    fs::create_dir_all(to).map_err(Failure::doing("making", to))?;
    for entry in fs::read_dir(from).map_err(Failure::doing("reading", from))?.flatten() {
        let target = to.join(entry.file_name());
        fs::copy(entry.path(), &target).map_err(Failure::doing("copying to", &target))?;
    }
    Ok(())
}

/// Reads `ok 1  - name  12 ms` and `not ok 2 ...` (16 and later), or `test name ... ok` and `... FAILED` (before).
fn verdict(line: &str) -> Option<(&str, bool)> {
    let line = line.trim();
    if let Some(rest) = line.strip_prefix("test ") {
        let (name, said) = rest.split_once(" ... ")?;
        return Some((name.trim(), said.trim().starts_with("ok")));
    }
    let (passed, rest) = match line.strip_prefix("not ok ") {
        Some(rest) => (false, rest),
        None => (true, line.strip_prefix("ok ")?),
    };
    // The sign after the number is - for a test alone and + for one of a parallel group.
    let name = rest.split_once(['-', '+'])?.1.split_whitespace().next()?;
    Some((name, passed))
}

#[cfg(test)]
mod tests {
    use super::verdict;

    #[test]
    fn results_of_both_generations_of_pg_regress_are_read() {
        assert_eq!(verdict("ok 1         - setup                         12 ms"), Some(("setup", true)));
        assert_eq!(verdict("not ok 2     - vector_type                   34 ms"), Some(("vector_type", false)));
        assert_eq!(verdict("test setup                        ... ok           32 ms"), Some(("setup", true)));
        assert_eq!(verdict("test vector_type                  ... FAILED       34 ms"), Some(("vector_type", false)));
        assert_eq!(verdict("# All 7 tests passed."), None);
        assert_eq!(verdict("1..7"), None);
    }
}

//! `vecindex` as somebody uses it who has nothing else of this workspace: a crate of its own whose program is the example in
//! the README, built with default features.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::failure::{Failure, Outcome};
use crate::places;

use super::tally::Tally;

/// Packages that come with it: all that it needs on Linux, itself and macros included.
const MOST_PACKAGES: usize = 26;
/// Those that it names itself.
const NAMED: [&str; 5] = ["crc32c", "half", "kriya-region", "rayon", "wide"];

/// Makes the crate, runs it, and counts what it depends on.
///
/// # Errors
/// If the crate cannot be made or cargo cannot be run; an example that does not run is a failure in `tally`.
pub fn readme(tally: &mut Tally) -> Outcome<()> {
    let crate_dir = places::workspace().join("vecindex");
    let readme = crate_dir.join("README.md");
    let text = std::fs::read_to_string(&readme).map_err(Failure::doing("reading", &readme))?;
    let example = first_example(&text).ok_or_else(|| Failure::new("the README of vecindex has no example in Rust"))?;

    let folder = places::state().join("alone");
    let write = |name: &str, content: &str| {
        let path = folder.join(name);
        std::fs::write(&path, content).map_err(Failure::doing("writing", &path))
    };
    let source = folder.join("src");
    std::fs::create_dir_all(&source).map_err(Failure::doing("making", &source))?;
    write("Cargo.toml", &manifest(&crate_dir))?;
    write("src/main.rs", example)?;
    // The versions that everything else is tested with: nothing is looked up or fetched.
    let lock = places::workspace().join("Cargo.lock");
    let versions = std::fs::read_to_string(&lock).map_err(Failure::doing("reading", &lock))?;
    write("Cargo.lock", &versions)?;

    let ran = cargo(&folder, &["run", "--quiet", "--offline"])?;
    let said = ran.text.trim();
    if !ran.ok {
        println!("  {said}");
    }
    tally.check(ran.ok, "the example in the README of vecindex runs in a crate of its own");
    let lines = example.lines().filter(|line| !line.trim().is_empty()).count();
    tally.check(lines <= 25, &format!("it is short ({lines} lines)"));

    let tree = ["tree", "--offline", "--edges", "normal,build", "--prefix", "none", "--package", "vecindex"];
    let all = packages(&cargo(&folder, &tree)?.text);
    let few = (2..=MOST_PACKAGES).contains(&all.len());
    tally.check(few, &format!("vecindex needs few packages ({}: {})", all.len(), all.join(", ")));
    let direct = cargo(&folder, &[&tree[..], &["--depth", "1"]].concat())?;
    let mut direct = packages(&direct.text);
    direct.retain(|name| name != "vecindex");
    tally.check(direct == NAMED, &format!("it names {} itself", direct.join(", ")));
    Ok(())
}

fn manifest(vecindex: &Path) -> String {
    format!(
        "[package]\nname = \"alone\"\nversion = \"0.0.0\"\nedition = \"2024\"\npublish = false\n\n\
         [dependencies]\nvecindex = {{ path = {:?} }}\n\n[workspace]\n",
        vecindex.display().to_string()
    )
}

/// What stands between the first fence that says it is Rust and the next one.
fn first_example(readme: &str) -> Option<&str> {
    let (_, rest) = readme.split_once("```rust\n")?;
    Some(rest.split_once("```")?.0)
}

/// Names of the packages in the lines of `cargo tree --prefix none`, each once.
fn packages(tree: &str) -> Vec<String> {
    let mut names: Vec<String> = tree.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect();
    names.retain(|name| !name.is_empty() && !name.starts_with('['));
    names.sort_unstable();
    names.dedup();
    names
}

struct Ran {
    ok: bool,
    /// What it printed, or why it failed.
    text: String,
}

fn cargo(folder: &Path, args: &[&str]) -> Outcome<Ran> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(folder).env("CARGO_TARGET_DIR", folder.join("target")).args(args).stdin(Stdio::null());
    let out = command.output().map_err(|e| Failure::new(format!("running cargo {}: {e}", args.join(" "))))?;
    let ok = out.status.success();
    let text = String::from_utf8_lossy(if ok { &out.stdout } else { &out.stderr }).into_owned();
    Ok(Ran { ok, text })
}

#[cfg(test)]
mod tests {
    use super::{first_example, packages};

    #[test]
    fn the_first_example_is_what_stands_between_its_fences() {
        let readme = "# A\n```console\n$ ls\n```\ntext\n```rust\nfn main() {}\n```\n```rust\nother\n```\n";
        assert_eq!(first_example(readme), Some("fn main() {}\n"));
        assert_eq!(first_example("```rust\nunclosed"), None);
        assert_eq!(first_example("none"), None);
    }

    #[test]
    fn packages_are_counted_once() {
        let tree = "a v1.0.0 (/x)\nb v2.0.0\n\n[build-dependencies]\nb v2.0.0 (*)\nc v0.1.0 (proc-macro)\n";
        assert_eq!(packages(tree), ["a", "b", "c"]);
    }
}

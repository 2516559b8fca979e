//! Licences, bans and sources of every dependency, from `cargo metadata`: each must be usable under a licence of the
//! list below, come from the registry, and not be banned.

use serde_json::Value;

use crate::failure::{Failure, Outcome};
use crate::places;

use super::tally::Tally;

/// Licences that a dependency may have; of alternatives one is enough.
const ALLOWED: [&str; 14] = [
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Crates that must not come in: name, start of the version, why.
const BANNED: [(&str, &str, &str); 2] = [
    ("bincode", "3.", "3.0 is an empty tombstone"),
    ("openssl-sys", "", "TLS is rustls, so that no system library is needed"),
];

/// Checks every package that the workspace depends on.
///
/// # Errors
/// If cargo cannot tell; a dependency that does not fit is a failure in `tally`.
pub fn check(tally: &mut Tally) -> Outcome<()> {
    let out = places::cargo()
        .args(["metadata", "--format-version", "1", "--locked"])
        .output()
        .map_err(|e| Failure::new(format!("running cargo metadata: {e}")))?;
    if !out.status.success() {
        return Err(Failure::new(format!("cargo metadata: {}", String::from_utf8_lossy(&out.stderr).trim())));
    }
    let metadata: Value =
        serde_json::from_slice(&out.stdout).map_err(|e| Failure::new(format!("cargo metadata: {e}")))?;
    let packages = metadata["packages"].as_array().ok_or_else(|| Failure::new("cargo metadata: no packages"))?;
    let problems: Vec<String> = packages.iter().filter_map(problem).collect();
    for problem in &problems {
        println!("  {problem}");
    }
    let statement = format!("{} dependencies have allowed licences and sources", packages.len());
    tally.check(problems.is_empty(), &statement);
    Ok(())
}

/// What is wrong with a package, if anything.
fn problem(package: &Value) -> Option<String> {
    let text = |key: &str| package[key].as_str().unwrap_or_default();
    let name = format!("{} {}", text("name"), text("version"));
    // Without a source it is a member of the workspace.
    let source = package["source"].as_str()?;
    if !source.starts_with("registry+") {
        return Some(format!("{name} does not come from the registry but from {source}"));
    }
    let banned = BANNED.iter().find(|(n, v, _)| *n == text("name") && text("version").starts_with(v));
    if let Some((_, _, why)) = banned {
        return Some(format!("{name} is banned: {why}"));
    }
    (!is_allowed(text("license"))).then(|| format!("{name} has the licence {:?}", text("license")))
}

/// Whether an SPDX expression can be satisfied with the allowed licences: `OR` by either side, `AND` by both. The old
/// form `A/B` means `A OR B`. What cannot be read is not allowed.
fn is_allowed(expression: &str) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    let allowed = alternatives(&words, &mut at);
    allowed && at == words.len()
}

fn alternatives(words: &[&str], at: &mut usize) -> bool {
    let mut allowed = conjunction(words, at);
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        // Both sides are always read, so that the place after them is right.
        allowed |= conjunction(words, at);
    }
    allowed
}

fn conjunction(words: &[&str], at: &mut usize) -> bool {
    let mut allowed = licence(words, at);
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        allowed &= licence(words, at);
    }
    allowed
}

fn licence(words: &[&str], at: &mut usize) -> bool {
    let Some(word) = words.get(*at) else {
        // A place that no whole expression ends at.
        *at = words.len() + 1;
        return false;
    };
    *at += 1;
    if *word == "(" {
        let allowed = alternatives(words, at);
        let closed = words.get(*at) == Some(&")");
        *at += 1;
        return allowed && closed;
    }
    let mut name = (*word).to_owned();
    if let (Some(&"WITH"), Some(exception)) = (words.get(*at), words.get(*at + 1)) {
        name = format!("{name} WITH {exception}");
        *at += 2;
    }
    ALLOWED.contains(&&*name)
}

#[cfg(test)]
mod tests {
    use super::is_allowed;

    #[test]
    fn an_expression_is_allowed_if_it_can_be_satisfied() {
        for good in [
            "MIT",
            "MIT/Apache-2.0",
            "GPL-3.0 OR MIT",
            "(MIT OR GPL-3.0) AND Unicode-3.0",
            "Apache-2.0 WITH LLVM-exception OR GPL-2.0",
        ] {
            assert!(is_allowed(good), "{good}");
        }
    }

    #[test]
    fn what_cannot_be_satisfied_or_read_is_not_allowed() {
        for bad in ["", "GPL-3.0", "MIT AND AGPL-3.0", "MIT OR", "(MIT", "MIT)", "MIT MIT", "GPL-2.0 WITH X OR ISC AND"]
        {
            assert!(!is_allowed(bad), "{bad}");
        }
    }
}

//! Whether clang and its library are there, which the bindings to PostgreSQL's headers are generated with.
//!
//! Looked for where `clang-sys` looks: `LIBCLANG_PATH`, `llvm-config`, the usual folders.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Whether both the program and the library are there.
pub fn is_there() -> bool {
    has_program("clang") && places().iter().any(|place| has_library(place))
}

fn has_program(name: &str) -> bool {
    Command::new(name).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
}

fn has_library(place: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(place) else { return false };
    entries.flatten().any(|entry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let stem = name.starts_with("libclang.") || name.starts_with("libclang-");
        stem && (name.contains(".so") || name.ends_with(".dylib"))
    })
}

fn places() -> Vec<PathBuf> {
    let mut places: Vec<PathBuf> = std::env::var_os("LIBCLANG_PATH").map(PathBuf::from).into_iter().collect();
    if let Ok(out) = Command::new("llvm-config").arg("--libdir").stderr(Stdio::null()).output() {
        places.push(String::from_utf8_lossy(&out.stdout).trim().into());
    }
    for parent in ["/usr/lib", "/usr/local/opt", "/opt/homebrew/opt"] {
        let Ok(entries) = std::fs::read_dir(parent) else { continue };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with("llvm") {
                places.push(entry.path().join("lib"));
            } else if name.ends_with("-linux-gnu") {
                places.push(entry.path());
            }
        }
    }
    places.extend(["/usr/lib", "/usr/lib64", "/usr/local/lib"].map(PathBuf::from));
    places
}

//! Where things are: the workspace, the folder that cargo builds into, what a test run finds beside the clone.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The root of the workspace that this program was built from.
pub fn workspace() -> &'static Path {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask)
}

/// The folder that cargo builds into, which is where this program stands (`<target>/debug/xtask`).
pub fn target() -> PathBuf {
    let built_into = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.parent()?.to_owned()));
    built_into.unwrap_or_else(|| workspace().join("target"))
}

/// What this clone remembers of its servers.
pub fn state() -> PathBuf {
    target().join("kriya")
}

/// A cargo command in this workspace, building into the same folder as this program was.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace()).env("CARGO_TARGET_DIR", target()).env_remove("LD_LIBRARY_PATH");
    command
}

/// Where the large public data sets are looked for: beside the clone.
pub fn shared_datasets() -> PathBuf {
    workspace().parent().unwrap_or(workspace()).join("shared/datasets")
}

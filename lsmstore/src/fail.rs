//! Named places at which a test lets a process die: what recovery must make good can be made to happen exactly there.
//!
//! Off unless `KRIYA_FAIL_POINTS` names a folder when the process first comes by a point; off, a point costs one relaxed
//! load. A point `p` is armed by a file `p` in that folder. Whoever passes first removes it, so it fires once, and then
//! kills its own process by `SIGKILL`, as nothing but the kernel and an administrator do. If the file says `pause`, the
//! process waits instead until the file `p.go` appears, which it removes.
//!
//! Only the environment of the server's own start reaches this, and whoever controls that controls the server.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

const UNKNOWN: u8 = 0;
const OFF: u8 = 1;
const ON: u8 = 2;

static STATE: AtomicU8 = AtomicU8::new(UNKNOWN);
static FOLDER: OnceLock<Option<PathBuf>> = OnceLock::new();

/// The environment variable that names the folder of armed points.
pub const VARIABLE: &str = "KRIYA_FAIL_POINTS";

/// A place at which the process dies if a test has armed it.
#[inline]
pub fn point(name: &str) {
    if STATE.load(Ordering::Relaxed) != OFF {
        pass(name);
    }
}

#[cold]
fn pass(name: &str) {
    let folder = FOLDER.get_or_init(|| std::env::var_os(VARIABLE).filter(|dir| !dir.is_empty()).map(PathBuf::from));
    let Some(folder) = folder else { return STATE.store(OFF, Ordering::Relaxed) };
    STATE.store(ON, Ordering::Relaxed);
    let armed = folder.join(name);
    let Ok(what) = std::fs::read(&armed) else { return };
    // Of several that come by at once one removes the file; the others pass.
    if std::fs::remove_file(&armed).is_err() {
        return;
    }
    match what.trim_ascii() {
        b"pause" => pause(&folder.join(format!("{name}.go"))),
        _ => die(),
    }
}

fn pause(go: &Path) {
    while std::fs::remove_file(go).is_err() {
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn die() {
    // It cannot fail for the own process; nothing after this line runs.
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    std::process::abort();
}

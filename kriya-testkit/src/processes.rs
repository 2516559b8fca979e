//! The processes of one server, looked up in `/proc` as children of its postmaster, so that one of them can be killed.

use rustix::process::{Pid, Signal, kill_process};

/// A process of a server.
#[derive(Debug, Clone)]
pub struct ServerProcess {
    pid: Pid,
    /// When the kernel started it: with the id, that is one process and no other.
    started: String,
    /// What it calls itself, for example `postgres: checkpointer`.
    pub title: String,
}

impl ServerProcess {
    /// The children of the process `parent`, dead ones left out.
    pub(crate) fn children_of(parent: u32) -> Vec<ServerProcess> {
        let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        pids.filter_map(|pid| {
            let stat = Stat::of(pid)?;
            if stat.parent != parent || stat.dead {
                return None;
            }
            let title = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            let title = String::from_utf8_lossy(&title).replace('\0', " ").trim().to_owned();
            Some(ServerProcess { pid: Pid::from_raw(pid)?, started: stat.started, title })
        })
        .collect()
    }

    /// Stops it until it is sent [`Signal::CONT`]: none of its threads runs any more when this returns.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
        let stopped = |task: &std::path::Path| {
            let stat = std::fs::read_to_string(task.join("stat")).unwrap_or_default();
            stat.rsplit_once(')').is_none_or(|(_, fields)| matches!(fields.trim_start().as_bytes().first(), Some(b'T')))
        };
        let tasks = || std::fs::read_dir(format!("/proc/{}/task", self.id())).into_iter().flatten().flatten();
        while self.is_alive() && !tasks().all(|task| stopped(&task.path())) {
            std::thread::yield_now();
        }
    }

    /// Sends `signal` to it, if it is still there.
    pub fn signal(&self, signal: Signal) {
        if self.is_alive() {
            // It may end in this very moment; then there is nothing to tell it.
            let _gone = kill_process(self.pid, signal);
        }
    }

    /// Whether it still runs.
    pub fn is_alive(&self) -> bool {
        Stat::of(self.pid.as_raw_nonzero().get()).is_some_and(|stat| !stat.dead && stat.started == self.started)
    }

    /// Its id.
    pub fn id(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }
}

struct Stat {
    parent: u32,
    dead: bool,
    started: String,
}

impl Stat {
    fn of(pid: i32) -> Option<Stat> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in parentheses may itself hold anything: fields are counted from behind it (proc(5): state is 3rd).
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let dead = matches!(*fields.first()?, "Z" | "X");
        Some(Stat { parent: fields.get(1)?.parse().ok()?, dead, started: (*fields.get(19)?).to_owned() })
    }
}

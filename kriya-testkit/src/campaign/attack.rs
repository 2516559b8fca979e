//! What is done to a server under load.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rand::Rng;
use rand::seq::IndexedRandom;
use rustix::process::Signal;

use crate::error::Error;
use crate::processes::ServerProcess;
use crate::server::Postgres;

/// Fail points that somebody comes by under load.
pub const LOAD_POINTS: [&str; 16] = [
    "after-announce",
    "after-ack",
    "after-log",
    "before-commit-check",
    "after-commit-check",
    "after-birth",
    "after-mirror-rename",
    "before-local-manifest",
    "after-local-manifest",
    "before-manifest",
    "before-slot",
    "during-merge",
    "before-segment-files",
    "before-segment-upload",
    "after-segment-upload",
    SEALING,
];
/// Come by when a segment of an index is sealed, and not when one is built.
const SEALING: &str = "before-seal-record";
/// More rows than a segment of recent rows must have for a flush to have it sealed.
const WORTH_SEALING: &str = "
    CREATE TABLE IF NOT EXISTS to_be_sealed (e lsmvector(2)) USING lsm_s3;
    CREATE INDEX IF NOT EXISTS to_be_sealed_e_idx ON to_be_sealed USING lsm_hnsw (e);
    INSERT INTO to_be_sealed SELECT ARRAY[g, g % 7]::real[]::lsmvector FROM generate_series(1, 11000) g;
    SELECT lsm_s3_flush()";
/// Fail points that a starting worker comes by.
pub const START_POINTS: [&str; 2] = ["after-generation", "during-replay"];

/// How the storage worker calls itself.
const WORKER: &str = "kriya storage worker";
/// How long something may take that a living server does in a moment.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// One way to disturb a server.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Attack {
    /// `SIGKILL` for the storage worker; the postmaster resets all sessions.
    KillWorker,
    /// `SIGKILL` for a session's process; the postmaster resets all sessions.
    KillSession,
    /// `SIGKILL` for all processes at once.
    KillAll,
    /// `SIGKILL` for the postmaster; the others notice and end by themselves.
    KillPostmaster,
    /// `SIGTERM` for the storage worker: an orderly restart under load.
    StopWorker,
    /// An orderly stop of the server under load.
    StopServer,
    /// A process dies at this fail point; then, if told so, all others die too.
    FailPoint {
        /// The point.
        name: String,
        /// What has to happen before it can be come by: the worker's start is one of few such things.
        first: Option<Box<Attack>>,
        /// Kill the rest.
        then_all: bool,
    },
}

impl Attack {
    /// One at random, those that are over sooner more often.
    pub fn any(rng: &mut impl Rng) -> Attack {
        use Attack::*;
        let kinds = [
            KillWorker,
            KillWorker,
            KillSession,
            KillAll,
            KillAll,
            KillAll,
            KillPostmaster,
            StopWorker,
            StopWorker,
            StopServer,
        ];
        kinds.choose(rng).cloned().unwrap_or(KillAll)
    }

    /// Its name in reports.
    pub fn name(&self) -> String {
        match self {
            Attack::KillWorker => "kill worker".into(),
            Attack::KillSession => "kill session".into(),
            Attack::KillAll => "kill all".into(),
            Attack::KillPostmaster => "kill postmaster".into(),
            Attack::StopWorker => "stop worker".into(),
            Attack::StopServer => "stop server".into(),
            Attack::FailPoint { name, then_all: true, .. } => format!("{name}, then all"),
            Attack::FailPoint { name, .. } => name.clone(),
        }
    }

    /// Whether nothing acknowledged may be lost by it, not even what was not synced yet.
    pub(super) fn is_orderly(&self) -> bool {
        matches!(self, Attack::StopWorker | Attack::StopServer)
    }

    /// Whether sessions and their transactions survive it.
    pub(super) fn spares_sessions(&self) -> bool {
        *self == Attack::StopWorker
    }
}

/// The storage worker's process, once there is one.
pub(super) fn worker(server: &Postgres) -> Result<ServerProcess, Error> {
    until(server, "the storage worker runs", || {
        server.processes().into_iter().find(|process| process.title.contains(WORKER))
    })
}

/// Looks again and again until there is something to be seen.
pub(super) fn until<T>(server: &Postgres, what: &str, mut look: impl FnMut() -> Option<T>) -> Result<T, Error> {
    let begin = Instant::now();
    loop {
        if let Some(seen) = look() {
            return Ok(seen);
        }
        if begin.elapsed() > PATIENCE {
            return Err(Error::Failed {
                what: format!("waiting until {what}"),
                said: format!("not within {} s; the end of the log:\n{}", PATIENCE.as_secs(), server.log_tail(30)),
            });
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// Does it. After this the server runs, or its postmaster has ended.
pub(super) fn carry_out(
    attack: &Attack,
    server: &mut Postgres,
    points: Option<&Path>,
    rng: &mut impl Rng,
) -> Result<(), Error> {
    match attack {
        Attack::KillWorker => worker(server)?.signal(Signal::KILL),
        Attack::StopWorker => {
            let old = worker(server)?;
            old.signal(Signal::TERM);
            until(server, "the storage worker has ended", || (!old.is_alive()).then_some(()))?;
            worker(server)?;
        }
        Attack::KillSession => {
            let sessions: Vec<ServerProcess> =
                server.processes().into_iter().filter(|process| process.title.contains(" 127.0.0.1(")).collect();
            if let Some(session) = sessions.choose(rng) {
                session.signal(Signal::KILL);
            }
        }
        Attack::KillAll => server.kill_all()?,
        Attack::KillPostmaster => server.kill()?,
        Attack::StopServer => server.stop(crate::server::StopMode::Fast)?,
        Attack::FailPoint { name, first, then_all } => {
            let armed = arm(server, points, name)?;
            if let Some(first) = first {
                // Whatever the clients did last: there is something that the next worker must replay.
                server.connect()?.batch_execute(
                    "CREATE TABLE IF NOT EXISTS to_be_replayed (id int) USING lsm_s3; INSERT INTO to_be_replayed VALUES (1)",
                )?;
                carry_out(first, server, points, rng)?;
                if server.pid().is_none() {
                    server.start()?;
                }
            }
            if name == SEALING {
                // The clients alone may take minutes to insert as much as is worth sealing. The worker may die meanwhile.
                let _ = server.connect()?.batch_execute(WORTH_SEALING);
            }
            until(server, &format!("somebody comes by {name}"), || (!armed.exists()).then_some(()))?;
            if *then_all {
                server.kill_all()?;
            }
        }
    }
    Ok(())
}

/// Arms a fail point.
pub(super) fn arm(server: &Postgres, points: Option<&Path>, name: &str) -> Result<PathBuf, Error> {
    let folder = points.ok_or_else(|| Error::Failed {
        what: format!("arming {name}"),
        said: "the server was not started with a folder for fail points".into(),
    })?;
    let (aside, armed) = (folder.join(format!(".{name}")), folder.join(name));
    std::fs::write(&aside, "").map_err(|e| Error::io("writing", &aside, e))?;
    server.account().own(&aside)?;
    std::fs::rename(&aside, &armed).map_err(|e| Error::io("writing", &armed, e))?;
    Ok(armed)
}

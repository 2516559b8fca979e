//! Reaching the worker, and waiting for it so that cancel works.

use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use kriya_engine::{ClientError, Interrupted, Session, Wait};
use pgrx::prelude::*;
use rustix::event::{PollFd, PollFlags, Timespec};

use crate::error::{Failure, raise};
use crate::{glue, worker};

/// Waits for the worker's socket; a cancelled statement ends the wait by raising its error.
pub struct PollWait;

impl Wait for PollWait {
    fn ready(&mut self, fd: BorrowedFd<'_>, write: bool) -> Result<(), Interrupted> {
        let events = if write { PollFlags::OUT } else { PollFlags::IN };
        loop {
            let patience = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
            match rustix::event::poll(&mut [PollFd::from_borrowed_fd(fd, events)], Some(&patience)) {
                Ok(0) => interrupts(),
                Ok(_) => return Ok(()),
                Err(rustix::io::Errno::INTR) => interrupts(),
                // A broken descriptor shows itself in the read or write that follows.
                Err(_) => return Ok(()),
            }
        }
    }
}

/// Serves interrupts; also where Postgres holds them off because a page is locked, so that nobody hangs behind us.
pub fn interrupts() {
    check_for_interrupts!();
    // SAFETY: plain variables of this process, written by signal handlers.
    unsafe {
        if pg_sys::InterruptHoldoffCount > 0 && pg_sys::ProcDiePending != 0 {
            // The session ends where interrupts are served again; until then nobody may take this for a wish of theirs.
            let why = "terminating connection due to administrator command";
            raise(Failure::new(PgSqlErrorCode::ERRCODE_ADMIN_SHUTDOWN, why));
        }
        if pg_sys::InterruptHoldoffCount > 0 && pg_sys::QueryCancelPending != 0 {
            raise(Failure::new(PgSqlErrorCode::ERRCODE_QUERY_CANCELED, "canceling statement due to user request"));
        }
        if !glue::kriya_postmaster_is_alive() {
            pg_sys::proc_exit(1);
        }
    }
}

/// Sleeps for a moment, cancellable.
pub fn nap(time: Duration) {
    let time = Timespec { tv_sec: 0, tv_nsec: i64::from(time.subsec_nanos()) };
    let _ = rustix::event::poll(&mut [], Some(&time));
    interrupts();
}

pub(super) fn connect() -> Session {
    // SAFETY: a plain variable of this process.
    let pid = unsafe { pg_sys::MyProcPid } as u32;
    until_served(|socket| Session::connect(socket, pid, &mut PollWait))
}

/// Speaks to the worker's socket; starts the worker if need be, and waits until it is there.
pub(super) fn until_served<T>(mut speak: impl FnMut(&Path) -> Result<T, ClientError>) -> T {
    let socket = worker::folder().join("worker.sock");
    let began = Instant::now();
    let mut asked: Option<Instant> = None;
    let mut patience = Duration::from_secs(1);
    let mut not_serving;
    loop {
        match speak(&socket) {
            Ok(answer) => return answer,
            Err(ClientError::NotServing(why)) => not_serving = why,
            Err(error) => raise(Failure::from(error)),
        }
        if !crate::was_preloaded() && asked.is_none_or(|at| at.elapsed() > Duration::from_secs(2)) {
            if let Err(message) = worker::start_from_session() {
                raise(Failure::new(PgSqlErrorCode::ERRCODE_INSUFFICIENT_RESOURCES, message).hint(
                    "Raise max_worker_processes, or add kriya_pg to shared_preload_libraries and restart the server.",
                ));
            }
            asked = Some(Instant::now());
        }
        if began.elapsed() > patience {
            patience *= 4;
            ereport!(
                PgLogLevel::NOTICE,
                PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION,
                "waiting for the storage worker, which does not serve yet",
                format!(
                    "{not_serving}. It serves when it has replayed the log; if it does not, the server log says why."
                )
            );
        }
        nap(Duration::from_millis(20));
    }
}

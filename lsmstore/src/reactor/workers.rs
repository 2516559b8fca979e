//! Threads for jobs that may block, of which only one ever runs, and only while the executor waits for it: a job runs
//! until it ends or pauses, and then gives the word back.

use std::any::Any;
use std::cell::OnceCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

pub(super) type Job = Box<dyn FnOnce() + Send>;

enum Order {
    Run(Job),
    GoOn,
}

/// How far a job has come.
pub(super) enum Report {
    /// It pauses for this long.
    Paused(Duration),
    /// It has ended, perhaps by a panic.
    Ended(Result<(), Box<dyn Any + Send>>),
}

/// What a worker's thread has of it.
struct Bench {
    orders: Receiver<Order>,
    reports: Sender<Report>,
}

thread_local! {
    static BENCH: OnceCell<Bench> = const { OnceCell::new() };
}

/// A thread, as the executor sees it.
pub(super) struct Worker {
    orders: Sender<Order>,
    reports: Receiver<Report>,
}

impl Worker {
    /// Starts a thread; it ends when the value is dropped, or with the job that it is at then.
    pub(super) fn new() -> std::io::Result<Worker> {
        let (orders, taken) = channel();
        let (told, reports) = channel();
        let bench = Bench { orders: taken, reports: told };
        std::thread::Builder::new().name("simulated".into()).spawn(move || work(bench))?;
        Ok(Worker { orders, reports })
    }

    /// Runs a job until it ends or pauses.
    pub(super) fn run(&self, job: Job) -> Report {
        self.order(Order::Run(job))
    }

    /// Runs the job that pauses until it ends or pauses again.
    pub(super) fn go_on(&self) -> Report {
        self.order(Order::GoOn)
    }

    fn order(&self, order: Order) -> Report {
        let gone = || Report::Ended(Err(Box::new("a simulated thread is gone")));
        match self.orders.send(order) {
            Ok(()) => self.reports.recv().unwrap_or_else(|_| gone()),
            Err(_) => gone(),
        }
    }
}

fn work(bench: Bench) {
    BENCH.with(|here| {
        let bench = here.get_or_init(|| bench);
        while let Ok(order) = bench.orders.recv() {
            let Order::Run(job) = order else { continue };
            let ended = catch_unwind(AssertUnwindSafe(job));
            if bench.reports.send(Report::Ended(ended)).is_err() {
                return;
            }
        }
    });
}

/// Gives the word back until the executor lets this thread go on; no if it is not a worker's.
pub(super) fn pause(time: Duration) -> bool {
    BENCH.with(|here| {
        let Some(bench) = here.get() else { return false };
        if bench.reports.send(Report::Paused(time)).is_ok() {
            // Nobody waits any more for a job whose executor is gone.
            let _ = bench.orders.recv();
        }
        true
    })
}

//! A reactor for tests: one thing at a time, in an order that is drawn from a seed, in time that passes only when nothing
//! else can happen. The same seed gives the same run, step by step.
//!
//! Tasks are polled by whoever calls [`DeterministicReactor::run`]. Jobs that may block have threads, but only one thread
//! ever runs: a job runs until it ends or [pauses](Reactor::pause). Now and then a task that was woken or a job that was
//! asked for is late, by milliseconds of virtual time.
//!
//! # Invariants
//! * Nothing but the seed, and what tasks and jobs themselves do, decides what is done next: no clock, no thread, no hash.
//! * No lock of this file is held while a task is polled, a job runs, a waker is called or a future is dropped.

use std::fmt::{self, Debug, Display, Formatter};
use std::panic::resume_unwind;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures::future::BoxFuture;

use super::Reactor;
use super::state::{State, Task, Timer, Turn, Waiting};
use super::workers::{self, Job, Report, Worker};

/// Runs tasks and jobs in an order that is drawn from a seed; see the module's text in the source. A clone is the same
/// reactor.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::sync::Arc;
/// use std::time::Duration;
/// use lsmstore::{Config, DeterministicReactor, LogChoice, Reactor, Store, SystemEnv, objects};
///
/// # let folder = tempfile::tempdir()?;
/// # let config = Config::new(folder.path(), "demo").memtable_bytes(1 << 20);
/// let reactor = DeterministicReactor::new(17);
/// let env = Arc::new(SystemEnv::with(Arc::new(reactor.clone())));
/// let clock = reactor.clone();
/// reactor.run(async move {
///     let store = Store::open(config, objects::memory(), env, LogChoice::Own).await?;
///     store.put(b"key", b"value").await?;
///     clock.sleep(Duration::from_secs(3600)).await; // takes no time at all
///     Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
/// })?.map_err(|error| error.to_string())?;
/// assert!(reactor.monotonic() >= Duration::from_secs(3600));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct DeterministicReactor {
    core: Arc<Core>,
    /// Tasks and jobs of a process end together.
    process: u32,
}

/// Nothing can happen any more, or too much did, and what was waited for has not come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stalled {
    /// The virtual time.
    pub at: Duration,
    /// Steps done.
    pub steps: u64,
}

impl Display for Stalled {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "what was waited for has not come after {} steps and {:?} of virtual time", self.steps, self.at)
    }
}

impl std::error::Error for Stalled {}

struct Core {
    state: Mutex<State>,
    idle: Mutex<Vec<Worker>>,
}

struct TaskWaker {
    id: u64,
    core: Weak<Core>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        let Some(core) = self.core.upgrade() else { return };
        let mut state = core.state();
        if let Some(task) = state.tasks.get_mut(&self.id)
            && !std::mem::replace(&mut task.queued, true)
        {
            state.queue(self.id);
        }
    }
}

impl Core {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Worker>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One step; no if there is nothing to be done.
    fn step(self: &Arc<Core>) -> bool {
        let wakers = self.state().advance();
        wakers.into_iter().for_each(Waker::wake);
        let turn = {
            let mut state = self.state();
            match state.turn() {
                Some(turn) => turn,
                None => return !state.timers.is_empty(),
            }
        };
        match turn {
            Turn::Task(id, mut future, waker) => {
                let ended = future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
                let mut state = self.state();
                let task = match ended {
                    true => state.tasks.remove(&id),
                    false => {
                        // One that was killed while it was polled is dropped, below.
                        if let Some(task) = state.tasks.get_mut(&id) {
                            task.future = Some(future);
                            return true;
                        }
                        None
                    }
                };
                drop(state);
                drop(task);
            }
            Turn::Job(id, process, job) => self.run(id, process, job),
            Turn::Nothing => {}
        }
        true
    }

    /// Runs a job until it ends or pauses; one of a process that is gone, to its end.
    fn run(self: &Arc<Core>, id: u64, process: u32, job: Waiting) {
        let (worker, mut report) = match job {
            Waiting::Paused(worker) => {
                let report = worker.go_on();
                (worker, report)
            }
            Waiting::Fresh(job) => {
                let idle = self.idle().pop();
                let worker = match idle.map_or_else(Worker::new, Ok) {
                    Ok(worker) => worker,
                    Err(error) => panic!("no thread for a simulated job: {error}"),
                };
                let report = worker.run(job);
                (worker, report)
            }
        };
        loop {
            match report {
                Report::Paused(time) => {
                    let mut state = self.state();
                    if !state.is_dead(process) {
                        let (at, number) = (state.now + time, state.number());
                        state.timers.insert((at, number), Timer::Ready(id));
                        state.jobs.insert(id, (process, Waiting::Paused(worker)));
                        return;
                    }
                    drop(state);
                    report = worker.go_on();
                }
                Report::Ended(ended) => {
                    self.idle().push(worker);
                    return ended.unwrap_or_else(|panic| resume_unwind(panic));
                }
            }
        }
    }

    /// Ends all that belongs to the processes.
    fn kill(self: &Arc<Core>, processes: impl Fn(u32) -> bool) {
        let mut state = self.state();
        let tasks: Vec<Task> =
            state.tasks.extract_if(.., |_, task| processes(task.process)).map(|(_, task)| task).collect();
        let jobs: Vec<_> = state.jobs.extract_if(.., |_, (process, _)| processes(*process)).collect();
        drop(state);
        drop(tasks);
        for (id, (process, job)) in jobs {
            // A thread cannot be taken from a job that pauses. It goes to its end, in a world that is over.
            if let Waiting::Paused(worker) = job {
                self.run(id, process, Waiting::Paused(worker));
            }
        }
    }
}

impl DeterministicReactor {
    /// One whose order is drawn from this seed.
    pub fn new(seed: u64) -> DeterministicReactor {
        let state = State::new(seed);
        DeterministicReactor { core: Arc::new(Core { state: Mutex::new(state), idle: Mutex::default() }), process: 0 }
    }

    /// Gives up a run after so many steps.
    pub fn limit(&self, steps: u64) {
        self.core.state().most_steps = steps;
    }

    /// Runs `main`, and everything that is started meanwhile, until it ends; then all of that ends, where it is.
    ///
    /// # Errors
    /// [`Stalled`] if it does not end.
    ///
    /// # Panics
    /// When a task or a job does.
    pub fn run<T: Send + 'static>(&self, main: impl Future<Output = T> + Send + 'static) -> Result<T, Stalled> {
        let result = Arc::new(Mutex::new(None));
        let slot = Arc::clone(&result);
        self.core.state().over = false;
        let take = || result.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.spawn(Box::pin(async move {
            let ended = main.await;
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(ended);
        }));
        let ended = loop {
            if let Some(ended) = take() {
                break Ok(ended);
            }
            let most = self.core.state().most_steps;
            if !self.core.step() || self.steps() > most {
                break Err(Stalled { at: self.monotonic(), steps: self.steps() });
            }
        };
        self.core.state().over = true;
        self.core.kill(|_| true);
        let left = std::mem::take(&mut self.core.state().timers);
        drop(left);
        ended
    }

    /// The same reactor for another process: what is started there can be killed together.
    pub fn process(&self) -> DeterministicReactor {
        let process = {
            let mut state = self.core.state();
            state.processes += 1;
            state.processes
        };
        DeterministicReactor { core: Arc::clone(&self.core), process }
    }

    /// Ends everything of this process where it is, as a kill does. What it starts later is not done.
    pub fn kill(&self) {
        self.core.state().dead.insert(self.process);
        self.core.kill(|process| process == self.process);
    }

    /// A random number below `below`, from the seed.
    pub fn random(&self, below: u64) -> u64 {
        self.core.state().draw() % below.max(1)
    }

    /// Makes bytes a part of the [trace](DeterministicReactor::trace).
    pub fn note(&self, bytes: &[u8]) {
        self.core.state().note(bytes);
    }

    /// A hash of everything that was done, in order. Equal seeds have equal traces, unless something beside the seed
    /// decides what is done.
    pub fn trace(&self) -> u64 {
        self.core.state().trace
    }

    /// Steps done so far.
    pub fn steps(&self) -> u64 {
        self.core.state().steps
    }
}

impl Debug for DeterministicReactor {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeterministicReactor").field("process", &self.process).finish_non_exhaustive()
    }
}

impl Reactor for DeterministicReactor {
    fn monotonic(&self) -> Duration {
        self.core.state().now
    }

    fn sleep(&self, time: Duration) -> BoxFuture<'static, ()> {
        let until = self.monotonic() + time;
        Box::pin(Sleep { core: Arc::clone(&self.core), until, timer: None })
    }

    fn pause(&self, time: Duration) {
        if self.core.state().is_dead(self.process) {
            return;
        }
        if !workers::pause(time) {
            // Nobody else can go on meanwhile.
            self.core.state().now += time;
        }
    }

    fn spawn(&self, job: BoxFuture<'static, ()>) {
        let mut state = self.core.state();
        if state.is_dead(self.process) {
            drop(state);
            return drop(job);
        }
        let id = state.number();
        let waker = Waker::from(Arc::new(TaskWaker { id, core: Arc::downgrade(&self.core) }));
        state.tasks.insert(id, Task { process: self.process, future: Some(job), waker, queued: true });
        state.queue(id);
    }

    fn spawn_blocking(&self, job: Job) {
        let mut state = self.core.state();
        if state.is_dead(self.process) {
            drop(state);
            return drop(job);
        }
        let id = state.number();
        state.jobs.insert(id, (self.process, Waiting::Fresh(job)));
        state.queue(id);
    }
}

struct Sleep {
    core: Arc<Core>,
    until: Duration,
    timer: Option<(Duration, u64)>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let core = Arc::clone(&self.core);
        let mut state = core.state();
        let before = self.timer.take().and_then(|timer| state.timers.remove(&timer));
        let over = state.now >= self.until;
        if !over {
            let timer = (self.until, state.number());
            state.timers.insert(timer, Timer::Wake(context.waker().clone()));
            self.timer = Some(timer);
        }
        drop(state);
        drop(before);
        if over { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        let mut state = self.core.state();
        let timer = self.timer.take().and_then(|timer| state.timers.remove(&timer));
        drop(state);
        drop(timer);
    }
}

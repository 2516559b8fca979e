//! What a deterministic run has to do, and the order in which it is done, drawn from the seed.

use std::collections::{BTreeMap, BTreeSet};
use std::task::Waker;
use std::time::Duration;

use futures::future::BoxFuture;

use super::workers::{Job, Worker};

/// What a step takes.
const STEP: Duration = Duration::from_micros(1);
/// One in so many is late, by as many microseconds at most.
const LATE: u64 = 24;
const LATEST: u64 = 20_000;

/// All that there is to know of a run.
pub(super) struct State {
    pub(super) random: u64,
    pub(super) now: Duration,
    pub(super) steps: u64,
    pub(super) most_steps: u64,
    pub(super) trace: u64,
    /// Numbers tasks, jobs and timers.
    pub(super) last: u64,
    pub(super) tasks: BTreeMap<u64, Task>,
    pub(super) jobs: BTreeMap<u64, (u32, Waiting)>,
    pub(super) ready: Vec<u64>,
    pub(super) timers: BTreeMap<(Duration, u64), Timer>,
    pub(super) processes: u32,
    pub(super) dead: BTreeSet<u32>,
    /// The run has ended.
    pub(super) over: bool,
}

pub(super) struct Task {
    pub(super) process: u32,
    /// Not there while it is polled.
    pub(super) future: Option<BoxFuture<'static, ()>>,
    pub(super) waker: Waker,
    pub(super) queued: bool,
}

/// A job that does not run now.
pub(super) enum Waiting {
    Fresh(Job),
    Paused(Worker),
}

pub(super) enum Timer {
    Wake(Waker),
    /// A task or a job.
    Ready(u64),
}

pub(super) enum Turn {
    Task(u64, BoxFuture<'static, ()>, Waker),
    Job(u64, u32, Waiting),
    Nothing,
}

impl State {
    pub(super) fn new(seed: u64) -> State {
        State {
            random: seed,
            now: Duration::ZERO,
            steps: 0,
            most_steps: u64::MAX,
            trace: 0xcbf2_9ce4_8422_2325,
            last: 0,
            tasks: BTreeMap::new(),
            jobs: BTreeMap::new(),
            ready: Vec::new(),
            timers: BTreeMap::new(),
            processes: 0,
            dead: BTreeSet::new(),
            over: false,
        }
    }

    pub(super) fn number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    pub(super) fn is_dead(&self, process: u32) -> bool {
        self.over || self.dead.contains(&process)
    }

    /// SplitMix64: what a seed gives never changes with a library.
    pub(super) fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(super) fn note(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.trace = (self.trace ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// Lets a task or job have its turn, sooner or later.
    pub(super) fn queue(&mut self, id: u64) {
        if self.draw().is_multiple_of(LATE) {
            let late = Duration::from_micros(self.draw() % LATEST);
            let (at, number) = (self.now + late, self.number());
            self.timers.insert((at, number), Timer::Ready(id));
        } else {
            self.ready.push(id);
        }
    }

    /// Moves on; the wakers of timers that are due are to be called.
    pub(super) fn advance(&mut self) -> Vec<Waker> {
        self.steps += 1;
        self.now += STEP;
        if self.ready.is_empty()
            && let Some((&(at, _), _)) = self.timers.first_key_value()
        {
            self.now = self.now.max(at);
        }
        let mut wakers = Vec::new();
        while let Some(entry) = self.timers.first_entry().filter(|entry| entry.key().0 <= self.now) {
            match entry.remove() {
                Timer::Wake(waker) => wakers.push(waker),
                Timer::Ready(id) => self.ready.push(id),
            }
        }
        wakers
    }

    /// Draws who is next; none if nobody is.
    pub(super) fn turn(&mut self) -> Option<Turn> {
        if self.ready.is_empty() {
            return None;
        }
        let chosen = self.draw() % self.ready.len() as u64;
        let id = self.ready.swap_remove(chosen as usize);
        self.note(&id.to_le_bytes());
        if let Some(task) = self.tasks.get_mut(&id) {
            task.queued = false;
            let waker = task.waker.clone();
            return Some(task.future.take().map_or(Turn::Nothing, |future| Turn::Task(id, future, waker)));
        }
        Some(self.jobs.remove(&id).map_or(Turn::Nothing, |(process, job)| Turn::Job(id, process, job)))
    }
}

//! Durable writes: batches of many callers go to the store's own log together.
//!
//! Callers queue; one background job at a time takes what has queued, writes it as records, syncs once if any of them
//! asked for that, applies it and answers. While it syncs the next group gathers, so the number of syncs adapts to the
//! disk.
//!
//! # Invariants
//! * The log comes before the memtable: what is readable is in the log (and durable there, for those who asked for
//!   [`Durability::Local`]).
//! * Only the leader writes to memtables, and it holds the log's lock from the numbers to the memtable; a flush takes
//!   that lock to rotate both together. So a segment and the memtables of its flush hold the same batches.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use tokio::sync::oneshot;

use crate::batch::Batch;
use crate::error::{Unusable, WriteError};
use crate::key::MAX_SEQUENCE;
use crate::log::LogChoice;
use crate::store::shipping::Shipping;
use crate::store::{Applied, Inner, Store, lock};
use crate::wal::OwnLog;

/// When a write counts as done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Durability {
    /// When it is readable. It survives the process, not the machine.
    Memory,
    /// When it is synced to the local disk.
    Local,
    /// When it, and all that was written before it, is in the object store: it survives the loss of the machine. For stores
    /// with [`Config::remote_log`](crate::Config::remote_log). It is readable before that, and for as long as the object store
    /// is away it waits; others go on meanwhile, until 64 MiB of the log wait.
    Remote,
}

/// Bytes of batches that are written together at most.
const GROUP: usize = 4 << 20;

pub(super) type Answer = oneshot::Sender<Result<Applied, WriteError>>;

struct Waiting {
    batch: Batch,
    durability: Durability,
    answer: Answer,
}

#[derive(Default)]
struct Queue {
    waiting: std::collections::VecDeque<Waiting>,
    leader: bool,
}

/// The own log and those who wait for it.
pub(super) struct Group {
    pub(super) log: Mutex<OwnLog>,
    pub(super) shipping: Option<Shipping>,
    queue: Mutex<Queue>,
}

impl Group {
    pub(super) fn new(log: OwnLog, shipping: Option<Shipping>) -> Group {
        Group { log: Mutex::new(log), shipping, queue: Mutex::default() }
    }
}

impl Store {
    /// Writes a batch to the store's own log and applies it. If the caller gives up waiting the batch may be applied all
    /// the same. While flushes, merges or uploads are behind, writes take longer ([`Store::write_delay`]).
    ///
    /// # Errors
    /// [`WriteError::Full`]: wait and try again. [`WriteError::WrongLog`] if somebody else keeps the log (without any
    /// log, [`Durability::Memory`] is possible). [`Unusable::Poisoned`] after a failed sync.
    pub async fn write(&self, batch: Batch, durability: Durability) -> Result<Applied, WriteError> {
        let Some(group) = &self.inner.group else {
            return match (&self.inner.log, durability) {
                (LogChoice::Nobody, Durability::Memory) => self.apply(&batch),
                _ => Err(WriteError::WrongLog { instead: "Store::apply" }),
            };
        };
        if durability == Durability::Remote && group.shipping.is_none() {
            return Err(WriteError::WrongLog { instead: "Config::remote_log" });
        }
        self.inner.usable()?;
        batch.check()?;
        let (answer, answered) = oneshot::channel();
        let lead = {
            let mut queue = lock(&group.queue);
            queue.waiting.push_back(Waiting { batch, durability, answer });
            !std::mem::replace(&mut queue.leader, true)
        };
        if lead {
            let leader = Leader { inner: Arc::clone(&self.inner), orderly: false };
            self.inner.env.reactor().spawn_blocking(Box::new(move || leader.lead()));
        }
        let answer = answered.await.unwrap_or_else(|_| Err(self.inner.lost("writes the log").into()));
        self.inner.noted(answer)
    }
}

/// The job that writes the log. If it is lost, on its way or by a panic, nobody waits for ever.
struct Leader {
    inner: Arc<Inner>,
    orderly: bool,
}

impl Drop for Leader {
    fn drop(&mut self) {
        let Some(group) = self.inner.group.as_ref().filter(|_| !self.orderly) else { return };
        let why = self.inner.lost("writes the log");
        let mut queue = lock(&group.queue);
        queue.leader = false;
        // Whoever does not wait any more needs no answer.
        queue.waiting.drain(..).for_each(|waiting| drop(waiting.answer.send(Err(why.clone().into()))));
    }
}

impl Leader {
    fn lead(mut self) {
        self.inner.lead();
        self.orderly = true;
    }
}

impl Inner {
    /// A job that others depend on ended without a result (a panic, or the runtime is shut down).
    pub(super) fn lost(&self, job: &str) -> Unusable {
        self.poison(Unusable::Poisoned { what: format!("the job that {job} ended without an answer") })
    }

    /// Writes groups until nobody waits.
    fn lead(self: &Arc<Inner>) {
        let Some(group) = &self.group else { return };
        loop {
            let mut taken = Vec::new();
            {
                let mut queue = lock(&group.queue);
                let mut bytes = 0;
                while let Some(next) = queue.waiting.front() {
                    bytes += next.batch.encoded_len();
                    if !taken.is_empty() && bytes > GROUP {
                        break;
                    }
                    taken.extend(queue.waiting.pop_front());
                }
                if taken.is_empty() {
                    queue.leader = false;
                    return;
                }
            }
            // A flush needs the log's lock.
            self.hold_back(taken.iter().map(|waiting: &Waiting| waiting.batch.encoded_len()).sum());
            let mut log = lock(&group.log);
            let mut taken = std::collections::VecDeque::from(taken);
            while !taken.is_empty() {
                self.write_group(&mut log, &mut taken);
            }
            drop(log);
            self.ship_what_is_due();
        }
    }

    /// Writes as many of `taken` as the active memtable has room for, at least one, and answers them.
    fn write_group(self: &Arc<Inner>, log: &mut OwnLog, taken: &mut std::collections::VecDeque<Waiting>) {
        let mut group = Vec::new();
        let mut next = self.last_sequence.load(Ordering::Acquire) + 1;
        let mut sync = false;
        let mut room = 0;
        while let Some(waiting) = taken.pop_front() {
            let prepared = self.prepare(&waiting.batch, next, room);
            match prepared {
                Ok(Some(bytes)) => {
                    log.push(next, waiting.batch.as_bytes());
                    sync |= waiting.durability == Durability::Local;
                    room += bytes;
                    let first = next;
                    next += waiting.batch.len() as u64;
                    group.push((waiting, first));
                }
                Ok(None) => {
                    taken.push_front(waiting);
                    break;
                }
                Err(error) => drop(waiting.answer.send(Err(error))),
            }
        }
        if group.is_empty() {
            return;
        }
        let written = log.write().and_then(|()| if sync { log.sync() } else { Ok(()) });
        if let Err(error) = written {
            let what = format!("writing the log in {} failed: {error}", log.dir().display());
            let why = self.poison(Unusable::Poisoned { what });
            group.into_iter().for_each(|(waiting, _)| drop(waiting.answer.send(Err(why.clone().into()))));
            return;
        }
        let mut writer = lock(&self.writer);
        for (waiting, first) in group {
            let last = first + waiting.batch.len() as u64 - 1;
            let applied = Applied { first, last };
            let result = if waiting.batch.is_empty() {
                Ok(())
            } else {
                // The log has it: not applying it would lose the order, so a failure is the end of this handle.
                self.insert(&mut writer, &waiting.batch, first, last).map_err(|error| {
                    let what = format!("a logged batch could not be applied: {error}");
                    WriteError::Unusable(self.poison(Unusable::Poisoned { what }))
                })
            };
            let answer = match (result, waiting.durability) {
                (Ok(()), Durability::Remote) => Some(waiting.answer),
                (result, _) => {
                    let (stays, applied) = (result.is_ok(), result.map(|()| applied));
                    // Whoever does not wait any more needs no answer.
                    let _ = waiting.answer.send(applied);
                    if !stays {
                        continue;
                    }
                    None
                }
            };
            self.ship(applied, waiting.batch.as_bytes(), answer);
        }
    }

    /// Makes sure that a batch fits behind `before` bytes of the same group: the room it needs at most, or none if it has
    /// to wait for the next group.
    fn prepare(&self, batch: &Batch, first: u64, before: usize) -> Result<Option<usize>, WriteError> {
        self.usable()?;
        self.keeps_up()?;
        if let Some((bytes, limit)) = self.ships_too_slowly() {
            return Err(WriteError::Behind { bytes, limit });
        }
        if first + batch.len() as u64 > MAX_SEQUENCE {
            return Err(WriteError::Sequence { first, what: "the sequence numbers are used up" });
        }
        let bytes = crate::memtable::insert::most_bytes(batch);
        let mut writer = lock(&self.writer);
        if writer.active.has(before + bytes) {
            return Ok(Some(bytes));
        }
        if before > 0 {
            return Ok(None);
        }
        self.make_room(&mut writer, bytes)?;
        Ok(Some(bytes))
    }
}

//! Background work that is going on, waits, or has ended: a record of each, the latest of which are kept.
//!
//! # Invariants
//! * A record that is not over belongs to a [`Ticket`] that somebody holds; one that is dropped before its end was given up,
//!   or panicked.
//! * What found nothing to do leaves no record.

use std::collections::VecDeque;
use std::fmt::Display;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::error::{FlushError, Unusable};
use crate::gc::GcError;
use crate::reactor::Reactor;
use crate::store::{Store, lock};

/// Records that are kept, with those of jobs that are not over.
const KEPT: usize = 128;

/// What a background job does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum JobKind {
    /// Memtables become tables on the local disk.
    Flush,
    /// Tables become tables of the next level.
    Merge,
    /// Tables, and a manifest that names them, go to the object store.
    Publication,
    /// A pass of garbage collection.
    Garbage,
}

/// How far a job has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum JobState {
    /// It waits for another one.
    Queued,
    /// It is being done.
    Running,
    /// It did what it was to do.
    Done,
    /// It failed; what it was to do is due again.
    Failed,
    /// It was ended early: the store is closed or fenced, or a merge's policy said so, or nobody waited for it any more.
    GivenUp,
}

/// A background job.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct JobRecord {
    /// Ascends from job to job of one handle. Some are left out: a job that finds nothing to do is forgotten.
    pub id: u64,
    /// What it does.
    pub kind: JobKind,
    /// The level that a merge writes to, as soon as that is known.
    pub level: Option<usize>,
    /// How far it has come.
    pub state: JobState,
    /// Bytes of tables written, put, or deleted so far; of merges once they are done.
    pub bytes: u64,
    /// Why it failed, or why the store refused it.
    pub error: Option<String>,
    /// When it was asked for, by the [clock](Reactor::monotonic) of the store's reactor.
    pub asked: Duration,
    /// When it began.
    pub began: Option<Duration>,
    /// When it was over.
    pub ended: Option<Duration>,
}

/// Work that pays a debt while it is going on, as `pressure` distinguishes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    Flush,
    /// Of L0 or L1.
    UpperMerge,
    DeepMerge,
    Publication,
}

/// How a job ended.
pub(super) enum Ending {
    Nothing,
    Done(u64),
    GivenUp,
}

/// What a job ends early with.
pub(super) trait Reason: Display {
    /// That the store refuses everything, if it is that.
    fn unusable(&self) -> Option<&Unusable>;

    /// The store wants no more of this work, which is no failure of the job.
    fn is_refusal(&self) -> bool {
        matches!(self.unusable(), Some(Unusable::Closed | Unusable::Fenced { .. }))
    }
}

impl Reason for FlushError {
    fn unusable(&self) -> Option<&Unusable> {
        if let FlushError::Unusable(why) = self { Some(why) } else { None }
    }
}

impl Reason for GcError {
    fn unusable(&self) -> Option<&Unusable> {
        if let GcError::Unusable(why) = self { Some(why) } else { None }
    }
}

#[derive(Debug, Default)]
struct Book {
    last: u64,
    /// By id.
    records: VecDeque<JobRecord>,
}

impl Book {
    fn find(&mut self, id: u64) -> Option<&mut JobRecord> {
        self.records.iter_mut().rfind(|record| record.id == id)
    }
}

/// All jobs of a store.
#[derive(Debug, Default)]
pub(super) struct Jobs {
    running: [AtomicUsize; 4],
    book: Mutex<Book>,
}

impl Jobs {
    /// A job is asked for.
    pub(super) fn queue<'a>(&'a self, kind: JobKind, reactor: &'a dyn Reactor) -> Ticket<'a> {
        let mut book = lock(&self.book);
        book.last += 1;
        let (id, asked) = (book.last, reactor.monotonic());
        let (state, level, error) = (JobState::Queued, None, None);
        book.records.push_back(JobRecord { id, kind, level, state, bytes: 0, error, asked, began: None, ended: None });
        while book.records.len() > KEPT
            && let Some(over) = book.records.iter().position(|record| record.ended.is_some())
        {
            book.records.remove(over);
        }
        Ticket { jobs: self, reactor, id, work: None, over: false }
    }

    /// Whether some is going on.
    pub(super) fn any(&self, work: Work) -> bool {
        self.running[work as usize].load(Ordering::Acquire) > 0
    }
}

/// A job that is not over.
pub(super) struct Ticket<'a> {
    jobs: &'a Jobs,
    reactor: &'a dyn Reactor,
    id: u64,
    work: Option<Work>,
    over: bool,
}

impl Ticket<'_> {
    /// It begins; of merges the level is known by now.
    pub(super) fn begin(&mut self, work: Option<Work>, level: Option<usize>) {
        if let Some(work) = work {
            self.jobs.running[work as usize].fetch_add(1, Ordering::AcqRel);
        }
        self.work = work;
        if let Some(record) = lock(&self.jobs.book).find(self.id) {
            (record.state, record.level, record.began) = (JobState::Running, level, Some(self.reactor.monotonic()));
        }
    }

    pub(super) fn has_begun(&self) -> bool {
        lock(&self.jobs.book).find(self.id).is_some_and(|record| record.began.is_some())
    }

    /// It has come further by so many bytes.
    pub(super) fn add(&self, bytes: u64) {
        if let Some(record) = lock(&self.jobs.book).find(self.id) {
            record.bytes += bytes;
        }
    }

    /// It is over.
    pub(super) fn end<E: Reason>(mut self, ending: Result<Ending, &E>) {
        let mut book = lock(&self.jobs.book);
        if let Ok(Ending::Nothing) = ending {
            book.records.retain(|record| record.id != self.id);
        } else if let Some(record) = book.find(self.id) {
            record.ended = Some(self.reactor.monotonic());
            (record.state, record.error) = match ending {
                Ok(Ending::Done(_)) => (JobState::Done, None),
                Ok(_) => (JobState::GivenUp, None),
                Err(error) if error.is_refusal() => (JobState::GivenUp, Some(error.to_string())),
                Err(error) => (JobState::Failed, Some(error.to_string())),
            };
            if let Ok(Ending::Done(bytes)) = ending {
                record.bytes = record.bytes.max(bytes);
            }
        }
        drop(book);
        self.over = true;
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        if let Some(work) = self.work {
            self.jobs.running[work as usize].fetch_sub(1, Ordering::AcqRel);
        }
        if self.over {
            return;
        }
        if let Some(record) = lock(&self.jobs.book).find(self.id) {
            record.ended = Some(self.reactor.monotonic());
            (record.state, record.error) = match std::thread::panicking() {
                true => (JobState::Failed, Some("it panicked".to_owned())),
                false => (JobState::GivenUp, None),
            };
        }
    }
}

impl Store {
    /// The background jobs of this handle that are not over, and the latest of those that are, by id.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use lsmstore::{JobKind, JobState, Store};
    ///
    /// let store = Store::in_memory().await?;
    /// store.put(b"key", b"value").await?;
    /// store.flush().await?;
    /// let jobs = store.jobs();
    /// assert_eq!((jobs[0].kind, jobs[0].state), (JobKind::Flush, JobState::Done));
    /// assert!(jobs[0].bytes > 0);
    /// # Ok(())
    /// # }
    /// ```
    pub fn jobs(&self) -> Vec<JobRecord> {
        lock(&self.inner.jobs.book).records.iter().cloned().collect()
    }
}

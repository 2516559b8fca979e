//! A walk through a snapshot in one direction, which waits for what it needs and has asked for what it will need.
//!
//! The walk itself is that of a view ([`Iter`]). What is not at hand ends it; when it has come, the walk begins again behind
//! the last key that it came by, shown or deleted. It is on the view with which it began until it has to wait, or until
//! another one, that holds less, has taken its place: so a scan of any length keeps no more in memory than the budget and
//! what was asked for ahead.

use std::fmt::{self, Debug, Formatter};
use std::ops::Bound;
use std::sync::Arc;

use futures::future::try_join_all;

use crate::error::ReadError;
use crate::follow::ahead::Ahead;
use crate::follow::contents::{runs, within};
use crate::follow::error::FollowError;
use crate::follow::snapshot::Snapshot;
use crate::sstable::fault::Absent;
use crate::view::{Iter, KeyValue, View};

/// Bytes of rows between two looks at what to ask for next.
const STEP: usize = 32 << 10;

/// The keys of a range of a snapshot, in one direction; made by [`Snapshot::scan`].
pub struct SnapshotScan {
    snapshot: Snapshot,
    from: Bound<Vec<u8>>,
    to: Bound<Vec<u8>>,
    forward: bool,
    /// The view of the contents that `walk` is on.
    base: Arc<View>,
    walk: Option<(Arc<View>, Iter)>,
    /// The last key that was returned or found deleted, if one was.
    last: Vec<u8>,
    begun: bool,
    /// It is not known yet whether `last` is deleted.
    undecided: bool,
    ended: bool,
    /// Something was waited for on the view of the walk, which is kept until it comes by a key: each attempt, after an error or
    /// by somebody who had stopped waiting, finds more than the one before.
    waiting: bool,
    ahead: Ahead,
    walked: usize,
}

impl Debug for SnapshotScan {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnapshotScan").field("snapshot", &self.snapshot).field("ended", &self.ended).finish()
    }
}

impl SnapshotScan {
    pub(super) fn new(snapshot: Snapshot, from: Bound<Vec<u8>>, to: Bound<Vec<u8>>) -> SnapshotScan {
        let base = snapshot.contents.view();
        let ahead = Ahead::new(snapshot.fetcher.read_ahead);
        SnapshotScan {
            snapshot,
            from,
            to,
            forward: true,
            base,
            walk: None,
            last: Vec::new(),
            begun: false,
            undecided: false,
            ended: false,
            waiting: false,
            ahead,
            walked: 0,
        }
    }

    /// From the last key to the first; to be said before the first of them is asked for.
    pub fn reverse(mut self) -> SnapshotScan {
        self.forward = !self.forward;
        self
    }

    /// All of it will be read: as much as may be asked for ahead is asked for from the begin on, not little by little.
    pub fn eager(mut self) -> SnapshotScan {
        self.ahead.hurry();
        self
    }

    /// The next key and value, none at the end. After an error it can be asked again.
    ///
    /// # Errors
    /// [`FollowError`].
    #[allow(clippy::should_implement_trait, reason = "what it returns borrows from it")]
    pub async fn next(&mut self) -> Result<Option<KeyValue<'_>>, FollowError> {
        if !self.ended && !self.step() {
            self.advance().await?;
        }
        if self.ended {
            self.walk = None;
            return Ok(None);
        }
        Ok(self.walk.as_ref().map(|(_, iter)| (iter.key(), iter.value())))
    }

    /// One step on without waiting, as nearly all are. Whether there was one.
    #[inline]
    fn step(&mut self) -> bool {
        let Some((_, iter)) = self.walk.as_mut().filter(|(_, iter)| self.walked < STEP && iter.valid()) else {
            return false;
        };
        match if self.forward { iter.next() } else { iter.prev() } {
            Ok(standing) => {
                self.stand(standing);
                true
            }
            Err(_) => {
                // What went wrong is found again; where the runs stood is still known.
                self.come_by();
                self.look_ahead();
                false
            }
        }
    }

    async fn advance(&mut self) -> Result<(), FollowError> {
        if self.walked >= STEP {
            self.look_ahead();
            self.leave_old();
        }
        if self.begun && !self.inside(&self.last) {
            // A deleted key behind the end was all that it came by.
            self.ended = true;
            return Ok(());
        }
        loop {
            let moved = match &mut self.walk {
                Some((_, iter)) if !self.waiting && iter.valid() => {
                    if self.forward {
                        iter.next()
                    } else {
                        iter.prev()
                    }
                }
                _ => {
                    self.renew()?;
                    if !self.waiting && !self.begun {
                        self.begin().await?;
                    }
                    self.seek()
                }
            };
            match moved {
                Ok(standing) => {
                    self.stand(standing);
                    return Ok(());
                }
                Err(ReadError::Absent(absent)) => {
                    if self.come_by() {
                        let table = self.snapshot.contents.table(&self.base, absent.table);
                        let lazy = table.and_then(|table| Some((table, table.lazy()?)));
                        let handle = lazy.zip(absent.block).and_then(|((table, lazy), n)| lazy.handle(table.name(), n));
                        self.walked += handle.and_then(Result::ok).map_or(0, |handle| handle.len as usize);
                        if !self.inside(&self.last) {
                            self.ended = true;
                            return Ok(());
                        }
                        // It goes on from there on the newest view.
                        self.look_ahead();
                        self.leave_old();
                        self.waiting = false;
                    }
                    self.wait_for(absent).await?;
                }
                Err(error) => {
                    (self.walk, self.waiting) = (None, false);
                    return Err(error.into());
                }
            }
        }
    }

    /// Takes note of where the walk stands now.
    fn stand(&mut self, standing: bool) {
        self.waiting = false;
        let Some((_, iter)) = &self.walk else { return };
        let key = iter.key();
        if !standing || !self.inside(key) {
            self.ended = true;
            return;
        }
        self.walked += key.len() + iter.value().len();
        self.last.clear();
        self.last.extend_from_slice(key);
        (self.begun, self.undecided) = (true, false);
    }

    /// Whether the walk has not left the range at a key.
    fn inside(&self, key: &[u8]) -> bool {
        match (self.forward, &self.from, &self.to) {
            (true, _, Bound::Included(to)) => *key <= to[..],
            (true, _, Bound::Excluded(to)) => *key < to[..],
            (false, Bound::Included(from), _) => *key >= from[..],
            (false, Bound::Excluded(from), _) => *key > from[..],
            _ => true,
        }
    }

    /// Takes note of how far a move came that failed. Whether that is farther than it was.
    fn come_by(&mut self) -> bool {
        let Some((key, decided)) = self.walk.as_ref().and_then(|(_, iter)| iter.reached()) else { return false };
        if self.begun && self.last == key && self.undecided != decided {
            return false;
        }
        self.last.clear();
        self.last.extend_from_slice(key);
        (self.begun, self.undecided) = (true, !decided);
        true
    }

    /// A walk on the newest view, unless one has waited for something on the view that there is.
    fn renew(&mut self) -> Result<(), FollowError> {
        let view = match &self.walk {
            Some((view, _)) if self.waiting => Arc::clone(view),
            _ => {
                self.base = self.snapshot.contents.view();
                within(&self.base, &self.from, &self.to)
            }
        };
        let iter = view.iter(self.snapshot.sequence)?;
        self.walk = Some((view, iter));
        Ok(())
    }

    /// To where it goes on.
    fn seek(&mut self) -> Result<bool, ReadError> {
        let Some((_, iter)) = &mut self.walk else { return Ok(false) };
        match (self.forward, self.begun) {
            (true, true) if self.undecided => iter.seek(&self.last),
            (false, true) if self.undecided => iter.seek_for_prev(&self.last),
            (true, true) => iter.seek(&crate::ranges::behind(&self.last)),
            (false, true) => iter.seek_below(&self.last),
            (true, false) => match &self.from {
                Bound::Included(from) => iter.seek(from),
                Bound::Excluded(from) => iter.seek(&crate::ranges::behind(from)),
                Bound::Unbounded => iter.seek_first(),
            },
            (false, false) => match &self.to {
                Bound::Included(to) => iter.seek_for_prev(to),
                Bound::Excluded(to) => iter.seek_below(to),
                Bound::Unbounded => iter.seek_last(),
            },
        }
    }

    /// Where every run begins is asked for at once.
    async fn begin(&mut self) -> Result<(), FollowError> {
        let Some((view, _)) = &self.walk else { return Ok(()) };
        let fetcher = &self.snapshot.fetcher;
        let (forward, from, to) = (self.forward, &self.from, &self.to);
        let first = |run: &crate::sstable::cursor::Run| {
            let table = if forward { run.first() } else { run.last() }.map(Arc::clone);
            async move {
                let Some(table) = table else { return Ok(()) };
                fetcher.meta(&table).await?;
                let key = match if forward { from } else { to } {
                    Bound::Included(key) | Bound::Excluded(key) => Some(key),
                    Bound::Unbounded => None,
                };
                let found = key.map(|key| table.find(key)).transpose();
                // What is damaged is reported by the walk.
                let (Ok(found), Ok(blocks)) = (found, table.blocks()) else { return Ok(()) };
                let edge = if forward { 0 } else { blocks - 1 };
                let block = found.unwrap_or(edge).min(blocks - 1);
                fetcher.blocks(&table, block..block + 1).await
            }
        };
        let fetched = try_join_all(runs(view).map(first)).await;
        self.snapshot.explained(fetched.map(drop)).await
    }

    /// Waits for what the walk did not find.
    async fn wait_for(&mut self, absent: Absent) -> Result<(), FollowError> {
        self.look_ahead();
        if !self.waiting {
            // It may be in the newest view.
            self.renew()?;
            self.waiting = true;
        }
        let (contents, base) = (&self.snapshot.contents, Arc::clone(&self.base));
        let wanted = contents.table(&base, absent.table).zip(contents.place(absent.table));
        let (Some((view, _)), Some(block), Some((table, (number, _)))) = (&self.walk, absent.block, wanted) else {
            return self.snapshot.bring(&base, absent).await;
        };
        let mut blocks = block..block + 1;
        if let Some(run) = runs(view).nth(number) {
            let at = run.partition_point(|other| other.info.max_key < table.info.max_key);
            blocks = self.ahead.missed(number, (at, block));
        }
        // On a runtime of one thread what was asked for ahead begins here.
        yield_once().await;
        let fetched = self.snapshot.fetcher.blocks(table, blocks).await;
        if table.lazy().is_some_and(|lazy| lazy.has(block)) {
            // What failed is further on.
            return Ok(());
        }
        self.snapshot.explained(fetched).await
    }

    /// Asks for what comes next.
    fn look_ahead(&mut self) {
        self.ahead.walked(std::mem::take(&mut self.walked));
        let Some((view, iter)) = &self.walk else { return };
        self.ahead.look(&self.snapshot.fetcher, runs(view), places(view, iter), self.forward);
    }

    /// Leaves a view that another one has taken the place of.
    fn leave_old(&mut self) {
        let Some((view, iter)) = &self.walk else { return };
        if Arc::ptr_eq(&self.base, &self.snapshot.contents.view()) {
            return;
        }
        // What it stands on goes along.
        let newest = self.snapshot.contents.view();
        for (run, place) in runs(view).zip(places(view, iter)) {
            let Some((table, block)) = place.and_then(|(table, block)| Some((run.get(table)?, block))) else {
                continue;
            };
            let here = table.lazy().and_then(|lazy| lazy.get(block));
            let there = self.snapshot.contents.table(&newest, table.info.id).and_then(|table| table.lazy());
            if let (Some(block_here), Some(there)) = (here, there) {
                there.put(block, block_here);
            }
        }
        self.walk = None;
    }
}

/// Lets others go first.
async fn yield_once() {
    let mut yielded = false;
    std::future::poll_fn(|context| {
        if yielded {
            return std::task::Poll::Ready(());
        }
        yielded = true;
        context.waker().wake_by_ref();
        std::task::Poll::Pending
    })
    .await;
}

/// Where the walk stands in each run of a view.
fn places<'a>(view: &'a View, iter: &'a Iter) -> impl Iterator<Item = Option<(usize, usize)>> + 'a {
    let mut places = iter.places();
    // There is no cursor for an empty run.
    runs(view).map(move |run| if run.is_empty() { None } else { places.next().flatten() })
}

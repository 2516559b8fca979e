//! What a scan asks for before it gets there.
//!
//! It asks for at most eight times the bytes that it has walked, up to a limit: so a scan of a few rows asks for few blocks,
//! and a long one soon keeps the link busy. Each run gets as much of that as its size is of all: mixed, they are walked at
//! that pace, and a wait for one of them is used to ask for the others as well.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use crate::follow::fetch::Fetcher;
use crate::sstable::cursor::Run;

/// How much is asked for ahead of what was walked.
const FACTOR: u64 = 8;
/// Bytes of one request.
const REQUEST: u64 = 1 << 20;
/// Tables of a run whose meta blocks may be asked for ahead.
const TABLES: usize = 16;

/// A block of a run: which table, and which of its blocks.
pub(super) type Place = (usize, usize);

pub(super) struct Ahead {
    limit: u64,
    /// Bytes of rows that were walked.
    walked: u64,
    hurry: bool,
    runs: Vec<RunAhead>,
}

#[derive(Default)]
struct RunAhead {
    /// Bytes of its objects.
    size: u64,
    /// What was asked for and not walked yet.
    asked: VecDeque<Asked>,
    /// The table whose meta blocks were asked for last.
    opened: Option<usize>,
}

/// A request for blocks of one table.
struct Asked {
    table: usize,
    blocks: Range<usize>,
    bytes: u64,
}

impl Asked {
    /// The block that the scan comes by last.
    fn last(&self, forward: bool) -> Place {
        (self.table, if forward { self.blocks.end - 1 } else { self.blocks.start })
    }
}

/// What comes behind a block.
enum Next {
    Block(Place),
    /// The meta blocks of this table have to come first.
    Table(usize),
    End,
}

/// Whether a scan comes by `one` before `other`.
fn before(one: Place, other: Place, forward: bool) -> bool {
    if forward { one < other } else { one > other }
}

fn behind(run: &Run, (table, block): Place, forward: bool) -> Next {
    let inside = if forward {
        let blocks = run.get(table).and_then(|table| table.blocks().ok());
        blocks.is_some_and(|blocks| block + 1 < blocks).then_some(block + 1)
    } else {
        block.checked_sub(1)
    };
    if let Some(block) = inside {
        return Next::Block((table, block));
    }
    let next = if forward { table.checked_add(1) } else { table.checked_sub(1) };
    match next.and_then(|next| Some((next, run.get(next)?))) {
        None => Next::End,
        Some((next, table)) => match table.blocks() {
            Ok(blocks) => Next::Block((next, if forward { 0 } else { blocks - 1 })),
            Err(_) => Next::Table(next),
        },
    }
}

impl Ahead {
    /// At most `limit` bytes of objects.
    pub(super) fn new(limit: u64) -> Ahead {
        Ahead { limit, walked: 0, hurry: false, runs: Vec::new() }
    }

    /// As much as may be is asked for from the begin on.
    pub(super) fn hurry(&mut self) {
        self.hurry = true;
    }

    /// So many bytes of rows were walked since the last time.
    pub(super) fn walked(&mut self, bytes: usize) {
        self.walked += bytes as u64;
    }

    /// Asks for what comes behind the places where the scan stands in each run.
    pub(super) fn look<'a>(
        &mut self,
        fetcher: &Arc<Fetcher>,
        runs: impl Iterator<Item = &'a Run>,
        places: impl Iterator<Item = Option<Place>>,
        forward: bool,
    ) {
        let stands: Vec<(&Run, Option<Place>)> = runs.zip(places).collect();
        if self.runs.len() < stands.len() {
            let lengths = |run: &Run| run.iter().map(|table| table.info.object_len).fold(0, u64::saturating_add);
            let sized = |(run, _): &(&Run, _)| RunAhead { size: lengths(run), ..RunAhead::default() };
            self.runs = stands.iter().map(sized).collect();
        }
        let all = self.runs.iter().map(|run| u128::from(run.size)).sum::<u128>().max(1);
        let most = if self.hurry { self.limit } else { self.walked.saturating_mul(FACTOR).min(self.limit) };
        if most == 0 {
            return;
        }
        for (ahead, (run, place)) in self.runs.iter_mut().zip(stands) {
            if let Some(place) = place {
                let share = u128::from(most) * u128::from(ahead.size) / all;
                // What is walked slowly is one block ahead all the same.
                ahead.ask(fetcher, run, place, (share as u64).max(1), forward);
            }
        }
    }

    /// The blocks of a table to wait for, one of which the scan has missed.
    pub(super) fn missed(&self, number: usize, (table, block): Place) -> Range<usize> {
        let asked = self
            .runs
            .get(number)
            .and_then(|run| run.asked.iter().find(|asked| asked.table == table && asked.blocks.contains(&block)));
        asked.map_or(block..block + 1, |asked| asked.blocks.clone())
    }
}

impl RunAhead {
    /// Asks for blocks until there are `window` bytes ahead.
    fn ask(&mut self, fetcher: &Arc<Fetcher>, run: &Run, place: Place, window: u64, forward: bool) {
        while self.asked.front().is_some_and(|asked| before(asked.last(forward), place, forward)) {
            self.asked.pop_front();
        }
        let mut left: u64 = self.asked.iter().map(|asked| asked.bytes).sum();
        if left.saturating_mul(4) > window.saturating_mul(3) {
            return;
        }
        while left < window {
            let last = self.asked.back().map_or(place, |asked| asked.last(forward));
            match behind(run, last, forward) {
                Next::End => return,
                Next::Table(table) => return self.open(fetcher, run, table, window, forward),
                Next::Block(first) => {
                    let Some(asked) = request(fetcher, run, first, window - left, forward) else { return };
                    left += asked.bytes;
                    self.asked.push_back(asked);
                }
            }
        }
    }

    /// Asks for the meta blocks of the tables that the window reaches to.
    fn open(&mut self, fetcher: &Arc<Fetcher>, run: &Run, table: usize, window: u64, forward: bool) {
        let mut bytes = 0;
        let mut next = Some(table);
        for _ in 0..TABLES {
            let Some((at, table)) = next.and_then(|at| Some((at, run.get(at)?))) else { return };
            let asked = self.opened.is_some_and(|opened| !before((opened, 0), (at, 0), forward));
            if !asked {
                let (there, id) = (Arc::clone(fetcher), table.info.id);
                let opening = async move {
                    if let Some(newest) = there.shelf.current(id) {
                        // The walk meets what fails.
                        drop(there.meta(&newest).await);
                    }
                };
                fetcher.env.reactor().spawn(Box::pin(opening));
                self.opened = Some(at);
            }
            bytes = u64::saturating_add(bytes, table.info.object_len);
            if bytes >= window {
                return;
            }
            next = if forward { at.checked_add(1) } else { at.checked_sub(1) };
        }
    }
}

/// Asks for blocks of one table from `first` on.
fn request(fetcher: &Arc<Fetcher>, run: &Run, first: Place, most: u64, forward: bool) -> Option<Asked> {
    let table = run.get(first.0)?;
    let lazy = table.lazy()?;
    let blocks = table.blocks().ok()?;
    let (mut bytes, mut last, mut missing) = (0, first.1, false);
    let mut next = Some(first.1);
    while let Some(n) = next.filter(|n| *n < blocks) {
        bytes += u64::from(lazy.handle(table.name(), n)?.ok()?.len);
        missing |= !lazy.has(n);
        last = n;
        if bytes >= REQUEST.min(most) {
            break;
        }
        next = if forward { n.checked_add(1) } else { n.checked_sub(1) };
    }
    let blocks = first.1.min(last)..first.1.max(last) + 1;
    if missing {
        let (there, id, wanted) = (Arc::clone(fetcher), table.info.id, blocks.clone());
        let ahead = async move {
            // For whoever reads the newest view; nothing older is held meanwhile.
            if let Some(newest) = there.shelf.current(id) {
                // The walk meets what fails.
                drop(there.blocks(&newest, wanted).await);
            }
        };
        fetcher.env.reactor().spawn(Box::pin(ahead));
    }
    Some(Asked { table: first.0, blocks, bytes })
}

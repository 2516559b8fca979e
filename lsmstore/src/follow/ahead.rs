//! What a scan asks for before it gets there.
//!
//! For each run it has asked for some bytes ahead of the place where it stands: none while it stays within the block where it
//! began, then a window that grows fourfold each time that a part of it has been walked, as long as all of them together
//! keep below a limit. So a run that is walked quickly gets nearly all of it, and a scan of a few rows asks for few blocks.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use crate::follow::fetch::Fetcher;
use crate::sstable::cursor::Run;

/// The first window of a run.
const FIRST: u64 = 64 << 10;
/// Bytes of one request.
const REQUEST: u64 = 1 << 20;
/// Tables of a run whose meta blocks may be asked for ahead.
const TABLES: usize = 16;

/// A block of a run: which table, and which of its blocks.
type Place = (usize, usize);

pub(super) struct Ahead {
    limit: u64,
    runs: Vec<RunAhead>,
    hurry: bool,
}

#[derive(Default)]
struct RunAhead {
    window: u64,
    /// What was asked for and not walked yet.
    asked: VecDeque<Asked>,
    /// The next block to ask for, if that is not the one behind where the scan stands.
    edge: Option<Place>,
    /// Where it stood when it was looked at first.
    began: Option<Place>,
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
        Ahead { limit, runs: Vec::new(), hurry: false }
    }

    /// Windows are as large as may be from the begin on.
    pub(super) fn hurry(&mut self) {
        self.hurry = true;
    }

    fn run(&mut self, number: usize) -> &mut RunAhead {
        if self.runs.len() <= number {
            self.runs.resize_with(number + 1, RunAhead::default);
        }
        &mut self.runs[number]
    }

    /// The scan stands at `place` of a run.
    pub(super) fn walk(&mut self, fetcher: &Arc<Fetcher>, run: &Run, number: usize, place: Place, forward: bool) {
        let hurry = self.hurry;
        let ahead = self.run(number);
        if *ahead.began.get_or_insert(place) == place && !hurry {
            return;
        }
        let walked = ahead.pass(place, forward);
        if walked || ahead.window == 0 {
            self.widen(number);
        }
        self.ask(fetcher, run, number, place, forward);
    }

    /// The scan has to wait for a block of a run; returns the blocks of that table to wait for.
    pub(super) fn miss(
        &mut self,
        fetcher: &Arc<Fetcher>,
        run: &Run,
        number: usize,
        place: Place,
        forward: bool,
    ) -> Range<usize> {
        let hurry = self.hurry;
        let ahead = self.run(number);
        let first = ahead.began.is_none();
        ahead.began.get_or_insert(place);
        ahead.pass(place, forward);
        if ahead.asked.is_empty() && (!first || hurry) {
            ahead.edge = Some(place);
            self.widen(number);
            self.ask(fetcher, run, number, place, forward);
        }
        // Asked for already and not there yet; or it began here.
        let asked = self.run(number).asked.front();
        let asked = asked.filter(|asked| asked.table == place.0 && asked.blocks.contains(&place.1));
        asked.map_or(place.1..place.1 + 1, |asked| asked.blocks.clone())
    }

    /// A larger window for a run, if the others leave any.
    fn widen(&mut self, number: usize) {
        let others: u64 = self.runs.iter().enumerate().filter(|(n, _)| *n != number).map(|(_, run)| run.window).sum();
        let most = self.limit.saturating_sub(others).max(FIRST.min(self.limit));
        let (limit, hurry) = (self.limit, self.hurry);
        let window = &mut self.run(number).window;
        let wider = if hurry { limit } else { (*window * 4).max(FIRST) };
        *window = (*window).max(wider.min(most));
    }

    /// Asks for blocks until the window is full.
    fn ask(&mut self, fetcher: &Arc<Fetcher>, run: &Run, number: usize, place: Place, forward: bool) {
        let ahead = self.run(number);
        let mut left: u64 = ahead.asked.iter().map(|asked| asked.bytes).sum();
        if left * 4 > ahead.window * 3 {
            return;
        }
        while left < ahead.window {
            let next = match ahead.edge {
                Some(edge) => Next::Block(edge),
                None => behind(run, ahead.asked.back().map_or(place, |asked| asked.last(forward)), forward),
            };
            match next {
                Next::End => return,
                Next::Table(table) => return ahead.open(fetcher, run, table, forward),
                Next::Block(first) => {
                    let Some(asked) = request(fetcher, run, first, ahead.window - left, forward) else { return };
                    left += asked.bytes;
                    ahead.asked.push_back(asked);
                    ahead.edge = None;
                }
            }
        }
    }
}

impl RunAhead {
    /// Forgets what lies before the place. Whether there was anything.
    fn pass(&mut self, place: Place, forward: bool) -> bool {
        let before_all = self.asked.len();
        while self.asked.front().is_some_and(|asked| before(asked.last(forward), place, forward)) {
            self.asked.pop_front();
        }
        if self.edge.is_some_and(|edge| before(edge, place, forward)) {
            self.edge = None;
        }
        self.asked.len() < before_all
    }

    /// Asks for the meta blocks of the tables that the window reaches to.
    fn open(&mut self, fetcher: &Arc<Fetcher>, run: &Run, table: usize, forward: bool) {
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
                fetcher.env.spawn(Box::pin(opening));
                self.opened = Some(at);
            }
            bytes += table_bytes(run, at);
            if bytes >= self.window {
                return;
            }
            next = if forward { at.checked_add(1) } else { at.checked_sub(1) };
        }
    }
}

fn table_bytes(run: &Run, at: usize) -> u64 {
    run.get(at).map_or(0, |table| table.info.object_len)
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
        fetcher.env.spawn(Box::pin(ahead));
    }
    Some(Asked { table: first.0, blocks, bytes })
}

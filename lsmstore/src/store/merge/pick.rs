//! What is merged next: how full each level is, and which of its tables are cheapest to push down.
//!
//! L0 is due by the number of its tables, for each is one more place to look; a level below it by its bytes, which grow
//! from level to level by a constant factor. Of a level that is too large, the table goes down that takes the fewest bytes
//! of the next level with it. A table that is mostly deletions goes down although its level has room: what it deletes
//! takes space until the two meet.
//!
//! # Invariants
//! * All tables of L0 go at once, for they overlap and the order of their versions is that of the tables.
//! * A group of the policy's is never split between tables that go and tables of the same level that stay.

use std::ops::Range;
use std::sync::Arc;

use crate::config::Config;
use crate::sstable::cursor::Run;
use crate::sstable::read::Table;
use crate::store::merge::MergePolicy;
use crate::view::View;

/// The last level: it has no limit.
pub(super) const LAST: usize = 6;

/// Tables to be merged into the level below theirs.
pub(super) struct Choice {
    /// The level they go to.
    pub(super) to: usize,
    /// Newest first: what goes down, then what is overlapped there.
    pub(super) runs: Vec<Run>,
    /// The levels below.
    pub(super) below: Vec<Run>,
    /// Tables above, not part of the merge, that may hold older versions than it: a replayed log puts such there.
    pub(super) older: Vec<Arc<Table>>,
    /// Nothing is overlapped and nothing could be dropped: the tables change their level as they are.
    pub(super) moves: bool,
}

impl Choice {
    pub(super) fn tables(&self) -> impl Iterator<Item = &Arc<Table>> {
        self.runs.iter().flat_map(|run| run.iter())
    }
}

/// The level that needs a merge most, if any does.
pub(super) fn due(view: &View, config: &Config) -> Option<usize> {
    let l0 = view.l0.len() as f64 / config.l0_merge_trigger as f64;
    let mut most = (0, l0);
    for (run, level) in view.levels.iter().zip(1..LAST) {
        let full = bytes(run) as f64 / limit(config, level) as f64;
        if full > most.1 {
            most = (level, full);
        }
    }
    if most.1 >= 1.0 { Some(most.0) } else { worn(view).map(|(level, _)| level) }
}

/// A table half of which are deletions: a merge drops them where there is nothing left for them to delete.
fn worn(view: &View) -> Option<(usize, usize)> {
    let worn = |table: &Arc<Table>| {
        let info = &table.info;
        info.deletions > 0 && 2 * info.deletions >= info.entries
    };
    view.levels.iter().zip(1..LAST).find_map(|(run, level)| Some((level, run.iter().position(worn)?)))
}

/// The tables of a level that is due; those of L0, if there are any, if none is.
pub(super) fn choose(view: &View, config: &Config, policy: &dyn MergePolicy) -> Option<Choice> {
    let from = due(view, config).unwrap_or(0);
    let level = |number: usize| view.levels.get(number - 1).map_or(&[][..], |run| run);
    let to = from + 1;
    let below: Vec<Run> = view.levels.iter().skip(to).map(Arc::clone).collect();
    let group = |key: &[u8]| policy.group_len(key).min(key.len());
    // Flushes that were not full are put together as long as they are in L0.
    let small = config.table_bytes as u64 / 4;
    let mut runs = if from == 0 {
        view.l0.clone()
    } else {
        let tables = level(from);
        let over = bytes(tables) > limit(config, from);
        let first = match worn(view) {
            Some((worn, table)) if worn == from && !over => table,
            _ => cheapest(tables, level(to))?,
        };
        let (low, high) = (&tables[first].info.min_key, &tables[first].info.max_key);
        vec![tables[reach(tables, low, high, group)].into()]
    };
    let tables = || runs.iter().flat_map(|run| run.iter());
    let low = tables().map(|table| &table.info.min_key).min()?;
    let high = tables().map(|table| &table.info.max_key).max()?;
    let met = &level(to)[reach(level(to), low, high, group)];
    let moves = met.is_empty()
        && tables().all(|table| table.info.deletions == 0 && (from > 0 || table.info.mirror_len >= small))
        && apart(&runs, group);
    if !met.is_empty() {
        runs.push(met.into());
    }
    let newest = runs.iter().flat_map(|run| run.iter()).map(|table| table.info.max_sequence).max()?;
    let above = view.l0.iter().chain(&view.levels).take(if from == 0 { 0 } else { view.l0.len() + from - 1 });
    let older =
        above.flat_map(|run| run.iter()).filter(|table| table.info.min_sequence < newest).map(Arc::clone).collect();
    Some(Choice { to, runs, below, older, moves })
}

fn limit(config: &Config, level: usize) -> u64 {
    let factor = config.level_factor.saturating_pow(level as u32 - 1);
    config.level_bytes.saturating_mul(factor)
}

fn bytes(tables: &[Arc<Table>]) -> u64 {
    tables.iter().map(|table| table.info.mirror_len).sum()
}

/// The table that overlaps the fewest bytes of the next level for each of its own.
fn cheapest(tables: &[Arc<Table>], next: &[Arc<Table>]) -> Option<usize> {
    let cost = |table: &Arc<Table>| {
        let info = &table.info;
        bytes(&next[overlap(next, &info.min_key, &info.max_key)]) as f64 / info.mirror_len.max(1) as f64
    };
    let costs = tables.iter().map(cost).enumerate();
    costs.min_by(|(_, a), (_, b)| a.total_cmp(b)).map(|(at, _)| at)
}

/// The tables of a level that hold keys from `low` to `high`.
fn overlap(tables: &[Arc<Table>], low: &[u8], high: &[u8]) -> Range<usize> {
    let start = tables.partition_point(|table| table.info.max_key[..] < *low);
    let end = tables.partition_point(|table| table.info.min_key[..] <= *high);
    start..end.max(start)
}

/// The tables of a level that hold a group of which there are keys from `low` to `high`, and those that share a group with
/// one of them.
fn reach(tables: &[Arc<Table>], low: &[u8], high: &[u8], group: impl Fn(&[u8]) -> usize) -> Range<usize> {
    let (mut low, mut high) = (low, high);
    let mut reached = 0..0;
    loop {
        let first = &low[..group(low)];
        let last = &high[..group(high)];
        let start = tables.partition_point(|table| table.info.max_key[..] < *first);
        let end =
            tables.partition_point(|table| table.info.min_key[..] <= *high || table.info.min_key.starts_with(last));
        let range = start..end.max(start);
        // Groups at the edges may reach into further tables, whose other edge has groups too.
        if range == reached || range.is_empty() {
            return range;
        }
        low = low.min(&tables[range.start].info.min_key);
        high = high.max(&tables[range.end - 1].info.max_key);
        reached = range;
    }
}

/// Whether no two tables overlap or share a group.
fn apart(runs: &[Run], group: impl Fn(&[u8]) -> usize) -> bool {
    let mut tables: Vec<&Arc<Table>> = runs.iter().flat_map(|run| run.iter()).collect();
    tables.sort_by(|a, b| a.info.min_key.cmp(&b.info.min_key));
    tables.windows(2).all(|pair| {
        let (last, first) = (&pair[0].info.max_key, &pair[1].info.min_key);
        last < first && !first.starts_with(&last[..group(last)])
    })
}

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

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use crate::config::Config;
use crate::sstable::TableId;
use crate::sstable::cursor::Run;
use crate::sstable::read::Table;
use crate::store::merge::MergePolicy;
use crate::store::merge::claims::{Claim, Current};
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

/// What could be done.
pub(super) enum Pick {
    Merge(Choice, Claim),
    /// Tables all keys of which are deleted by ranges of other tables: they go unread.
    Drop(HashSet<TableId>),
    /// Something is due that has to wait for a merge that is going on.
    Wait,
    Nothing,
}

/// The levels that need a merge, those that need it most first.
fn due(view: &View, config: &Config) -> Vec<usize> {
    let l0 = view.l0.len() as f64 / config.l0_merge_trigger as f64;
    let levels = view.levels.iter().zip(1..LAST);
    let full = levels.map(|(run, level)| (level, bytes(run) as f64 / limit(config, level) as f64));
    let mut full: Vec<_> = std::iter::once((0, l0)).chain(full).filter(|(_, full)| *full >= 1.0).collect();
    full.sort_by(|a, b| b.1.total_cmp(&a.1));
    let mut levels: Vec<usize> = full.into_iter().map(|(level, _)| level).collect();
    let worn = |level: &usize| !levels.contains(level) && worn(level_of(view, *level)).is_some();
    let worn: Vec<usize> = (1..LAST).filter(worn).collect();
    levels.extend(worn);
    levels
}

/// Whether any level is due, or tables can be dropped by a merge with this floor.
pub(super) fn is_due(view: &View, config: &Config, floor: u64) -> bool {
    !due(view, config).is_empty() || !covered(view, floor).is_empty()
}

/// Tables all keys of which are deleted, at or below the floor, by one range of another table that is newer than all that
/// they hold. What such a table deletes itself, the other one deletes as well.
fn covered(view: &View, floor: u64) -> HashSet<TableId> {
    let tables = || view.l0.iter().chain(&view.levels).flat_map(|run| run.iter());
    let ranged: Vec<_> = tables().filter(|table| !table.ranges().is_empty()).collect();
    let covered = |table: &&Arc<Table>| ranged.iter().any(|other| covers(other, table, floor));
    tables().filter(covered).map(|table| table.info.id).collect()
}

/// Whether one range deletion of a table, at or below the floor, deletes all of another.
pub(super) fn covers(ranged: &Table, table: &Table, floor: u64) -> bool {
    let (ranges, info) = (ranged.ranges(), &table.info);
    !ranges.is_empty()
        && ranged.info.max_sequence > info.max_sequence
        && ranges.newest_over(&info.min_key, &info.max_key, floor) > info.max_sequence
}

/// Bytes that levels have over their limits: what merges have to work off.
pub(in crate::store) fn overfull(view: &View, config: &Config) -> u64 {
    let over = |(run, level): (&Run, usize)| bytes(run).saturating_sub(limit(config, level));
    view.levels.iter().zip(1..LAST).map(over).sum()
}

fn level_of(view: &View, number: usize) -> &[Arc<Table>] {
    view.levels.get(number - 1).map_or(&[], |run| run)
}

/// A table half of which are deletions: a merge drops them where there is nothing left for them to delete.
fn worn(tables: &[Arc<Table>]) -> Option<usize> {
    tables.iter().position(|table| table.info.deletions > 0 && 2 * table.info.deletions >= table.info.entries)
}

/// What can be dropped, else what is most due of what no merge that is going on stands in the way of. If nothing is due, the tables of L0 if
/// `anyway`.
pub(super) fn choose(
    view: &View,
    config: &Config,
    policy: &dyn MergePolicy,
    claims: &Current<'_>,
    floor: u64,
    anyway: bool,
) -> Pick {
    let covered = covered(view, floor);
    let mut waits = !covered.is_empty();
    if waits && claims.iter().next().is_none() {
        return Pick::Drop(covered);
    }
    let group = |key: &[u8]| policy.group_len(key).min(key.len());
    let due = due(view, config);
    let levels = if due.is_empty() && anyway && !waits { vec![0] } else { due };
    for from in levels {
        if claims.taken(from) {
            waits = true;
            continue;
        }
        let Some((choice, claim)) = choice(view, config, from, group) else { continue };
        if claims.iter().any(|other| claim.meets(other, &group)) {
            waits = true;
            continue;
        }
        return Pick::Merge(choice, claim);
    }
    if waits { Pick::Wait } else { Pick::Nothing }
}

/// What of a level goes down, with what it meets.
fn choice(view: &View, config: &Config, from: usize, group: impl Fn(&[u8]) -> usize + Copy) -> Option<(Choice, Claim)> {
    let to = from + 1;
    let below: Vec<Run> = view.levels.iter().skip(to).map(Arc::clone).collect();
    // Flushes that were not full are put together as long as they are in L0.
    let small = config.table_bytes as u64 / 4;
    let mut runs = if from == 0 {
        view.l0.clone()
    } else {
        let tables = level_of(view, from);
        let over = bytes(tables) > limit(config, from);
        let first = match worn(tables) {
            Some(table) if !over => table,
            _ => cheapest(tables, level_of(view, to))?,
        };
        let (low, high) = (&tables[first].info.min_key, &tables[first].info.max_key);
        vec![tables[reach(tables, low, high, group)].into()]
    };
    let met = {
        let (low, high) = bounds(&runs)?;
        let next = level_of(view, to);
        &next[reach(next, low, high, group)]
    };
    let tables = || runs.iter().flat_map(|run| run.iter());
    let moves = met.is_empty()
        && tables().all(|table| table.info.deletions == 0 && (from > 0 || table.info.mirror_len >= small))
        && apart(&runs, group);
    if !met.is_empty() {
        runs.push(met.into());
    }
    let (low, high) = bounds(&runs)?;
    let claim = Claim::Merge { from, to, low: low.to_vec(), high: high.to_vec() };
    let newest = runs.iter().flat_map(|run| run.iter()).map(|table| table.info.max_sequence).max()?;
    let above = view.l0.iter().chain(&view.levels).take(if from == 0 { 0 } else { view.l0.len() + from - 1 });
    let older =
        above.flat_map(|run| run.iter()).filter(|table| table.info.min_sequence < newest).map(Arc::clone).collect();
    Some((Choice { to, runs, below, older, moves }, claim))
}

/// The smallest and the largest key of some tables.
fn bounds(runs: &[Run]) -> Option<(&[u8], &[u8])> {
    let tables = || runs.iter().flat_map(|run| run.iter());
    let low = tables().map(|table| &table.info.min_key[..]).min()?;
    Some((low, tables().map(|table| &table.info.max_key[..]).max()?))
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
        let start = tables.partition_point(|table| table.info.max_key[..] < *first);
        let end = tables
            .partition_point(|table| table.info.min_key[..] <= *high || one_group(high, &table.info.min_key, &group));
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

/// Whether two keys are of one group.
pub(super) fn one_group(a: &[u8], b: &[u8], group: impl Fn(&[u8]) -> usize) -> bool {
    a[..group(a)] == b[..group(b)]
}

/// Whether no two tables overlap or share a group.
fn apart(runs: &[Run], group: impl Fn(&[u8]) -> usize) -> bool {
    let mut tables: Vec<&Arc<Table>> = runs.iter().flat_map(|run| run.iter()).collect();
    tables.sort_by(|a, b| a.info.min_key.cmp(&b.info.min_key));
    tables.windows(2).all(|pair| {
        let (last, first) = (&pair[0].info.max_key, &pair[1].info.min_key);
        last < first && !one_group(last, first, &group)
    })
}

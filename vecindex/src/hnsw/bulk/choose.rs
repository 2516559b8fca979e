//! Which links a node has: the rule of `prune`, asked for as few distances as can be.
//!
//! A candidate is hidden by one that was kept if it is nearer to that one than to the node. Where the two are linked, their
//! distance stands beside the link; and two that survived a choice before do not hide one another.

use rayon::prelude::*;

use super::{Build, Item};
use crate::hnsw::graph::EMPTY;
use crate::hnsw::queue::Key;
use crate::storage::VectorStorage;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Candidate {
    pub(super) key: Key,
    /// Of the node's last choice.
    pub(super) survivor: bool,
    /// Kept in any case: an edge of the tree.
    pub(super) certain: bool,
}

/// Memory of a choice.
#[derive(Debug, Default)]
pub(super) struct Choice {
    /// Nearest first.
    pub(super) candidates: Vec<Candidate>,
    pub(super) kept: Vec<Key>,
    survived: Vec<bool>,
    hidden: Vec<bool>,
    places: Places,
    ids: Vec<u32>,
    distances: Vec<f32>,
}

/// Where in a list an id stands: a hash table.
#[derive(Debug, Default)]
struct Places {
    /// Id and place, or nothing.
    slots: Vec<(u32, u32)>,
}

impl Places {
    fn at(&self, id: u32) -> usize {
        (id.wrapping_mul(0x9e37_79b1) >> 16) as usize & (self.slots.len() - 1)
    }

    fn fill(&mut self, ids: impl ExactSizeIterator<Item = u32>) {
        self.slots.clear();
        self.slots.resize((2 * ids.len()).next_power_of_two().max(2), (EMPTY, 0));
        for (place, id) in ids.enumerate() {
            let mut at = self.at(id);
            while self.slots[at].0 != EMPTY {
                at = (at + 1) & (self.slots.len() - 1);
            }
            self.slots[at] = (id, place as u32);
        }
    }

    fn get(&self, id: u32) -> Option<usize> {
        let mut at = self.at(id);
        loop {
            match self.slots[at] {
                (EMPTY, _) => return None,
                (there, place) if there == id => return Some(place as usize),
                _ => at = (at + 1) & (self.slots.len() - 1),
            }
        }
    }
}

impl<S: VectorStorage, D: VectorStorage> Build<'_, S, D> {
    /// Chooses up to `max`. False if there were no more than that, so that nothing was compared.
    pub(super) fn choose(&self, level: u32, max: usize, choice: &mut Choice) -> bool {
        let Choice { candidates, kept, survived, hidden, places, .. } = choice;
        kept.clear();
        survived.clear();
        if candidates.len() <= max {
            kept.extend(candidates.iter().map(|candidate| candidate.key));
            return false;
        }
        hidden.clear();
        hidden.resize(candidates.len(), false);
        if level == 0 {
            places.fill(candidates.iter().map(|candidate| candidate.key.id()));
        }
        let mut reserved = candidates.iter().filter(|candidate| candidate.certain).count();
        for (at, candidate) in candidates.iter().enumerate() {
            if candidate.certain {
                reserved -= 1;
            } else if hidden[at] || kept.len() + reserved >= max {
                continue;
            }
            let (id, distance) = (candidate.key.id(), candidate.key.distance());
            let hides = |(key, survivor): (&Key, &bool)| {
                !(*survivor && candidate.survivor) && self.storage.distance_between(id, key.id()) < distance
            };
            if !candidate.certain && kept.iter().zip(survived.iter()).any(hides) {
                continue;
            }
            kept.push(candidate.key);
            survived.push(candidate.survivor);
            if kept.len() == max {
                break;
            }
            if level == 0 {
                for (there, between) in self.rows.read(id, 0) {
                    if let Some(place) = places.get(there)
                        && between < candidates[place].key.distance()
                    {
                        hidden[place] = true;
                    }
                }
            }
        }
        true
    }

    /// Adds the items to the rows of what they have chosen on a level, which are full sometimes and choose anew then.
    pub(super) fn link_back(&self, items: &[Item], level: u32) {
        let back = |item: &Item| -> Vec<(u32, Key)> {
            let chosen = item.chosen.get(level as usize).filter(|_| level <= item.low);
            let keys = chosen.into_iter().flat_map(|chosen| &chosen.keys);
            keys.map(|key| (key.id(), Key::new(key.distance(), item.id))).collect()
        };
        let mut links: Vec<(u32, Key)> = items.par_iter().flat_map_iter(back).collect();
        links.par_sort_unstable();
        // First all choose, then all rows are written: a choice looks at other rows.
        let mut groups: Vec<Group<'_>> = links.chunk_by(|a, b| a.0 == b.0).map(Group::new).collect();
        self.each(&mut groups, |group, cx| self.choose_again(group, level, &mut cx.choice));
        groups.par_iter().for_each(|group| {
            self.rows.write(group.node, level, group.links.iter().copied(), group.survivors);
        });
    }

    fn choose_again(&self, group: &mut Group<'_>, level: u32, choice: &mut Choice) {
        let node = group.node;
        let room = self.rows.room(node, level);
        group.links.extend(self.rows.read(node, level));
        group.survivors = self.rows.survivors(node, level);
        let old = group.links.len();
        for (_, key) in group.added {
            if !group.links[..old].iter().any(|(there, _)| *there == key.id()) {
                group.links.push((key.id(), key.distance()));
            }
        }
        if group.links.len() <= room {
            return;
        }
        let Choice { ids, distances, .. } = choice;
        ids.clear();
        ids.extend(group.links.iter().filter(|(_, distance)| distance.is_nan()).map(|(there, _)| *there));
        distances.clear();
        distances.extend(ids.iter().map(|there| self.storage.distance_between(*there, node)));
        let unknown = group.links.iter_mut().filter(|(_, distance)| distance.is_nan());
        unknown.zip(distances).for_each(|((_, to), distance)| *to = *distance);
        choice.candidates.clear();
        let edge = self.tree.edges_of(node);
        choice.candidates.extend(group.links.iter().enumerate().map(|(at, (there, distance))| Candidate {
            key: Key::new(*distance, *there),
            survivor: at < group.survivors,
            certain: level == 0 && edge(*there),
        }));
        choice.candidates.sort_unstable();
        self.choose(level, room, choice);
        group.survivors = choice.kept.len();
        group.links.clear();
        group.links.extend(choice.kept.iter().map(|key| (key.id(), key.distance())));
    }
}

/// New links of one node.
struct Group<'a> {
    node: u32,
    added: &'a [(u32, Key)],
    links: Vec<(u32, f32)>,
    survivors: usize,
}

impl<'a> Group<'a> {
    fn new(added: &'a [(u32, Key)]) -> Self {
        Group { node: added[0].0, added, links: Vec::new(), survivors: 0 }
    }
}

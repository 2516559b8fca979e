//! Links with their distances, while a graph is built.
//!
//! The links stand in the graph, where readers see them; the distances of those of level 0 stand beside them here. A row that
//! was not written here has none, and they are computed when they are asked for.
//!
//! # Invariants
//! * A row is written by one thread at a time, and never while another one reads it.
//! * The first `survivors` links of a row are each nearer to its node than to each other, edges of the tree aside, which nobody
//!   asks that of.

use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use crate::hnsw::graph::{EMPTY, Graph, TWIN};

pub(super) struct Rows<'a> {
    graph: &'a Graph,
    degree: usize,
    /// As bits, beside each slot of level 0; NaN where it is not known.
    distances: Vec<AtomicU32>,
    survivors: Vec<AtomicU8>,
}

impl<'a> Rows<'a> {
    pub(super) fn new(graph: &'a Graph, end: u32) -> Rows<'a> {
        let degree = graph.degree(0);
        let unknown = f32::NAN.to_bits();
        let distances = (0..end as usize * degree).map(|_| AtomicU32::new(unknown)).collect();
        Rows { graph, degree, distances, survivors: (0..end).map(|_| AtomicU8::new(0)).collect() }
    }

    /// The links of a row with their distances, NaN where they are not known.
    #[inline]
    pub(super) fn read(&self, id: u32, level: u32) -> impl Iterator<Item = (u32, f32)> {
        let first = id as usize * self.degree;
        let known = if level == 0 { &self.distances[first..first + self.degree] } else { &[] };
        let known = known.iter().map(|bits| f32::from_bits(bits.load(Ordering::Relaxed)));
        let links = self.graph.links(id, level).iter().map(|slot| slot.load(Ordering::Relaxed));
        links.zip(known.chain(std::iter::repeat(f32::NAN))).filter(|(there, _)| *there < TWIN)
    }

    pub(super) fn survivors(&self, id: u32, level: u32) -> usize {
        if level == 0 { self.survivors[id as usize].load(Ordering::Relaxed).into() } else { 0 }
    }

    /// Slots that links may take: all but those of twins.
    pub(super) fn room(&self, id: u32, level: u32) -> usize {
        let slots = self.graph.links(id, level).iter().map(|slot| slot.load(Ordering::Relaxed));
        slots.filter(|there| *there < TWIN || *there == EMPTY).count()
    }

    /// Replaces the links of a row, of which the first `survivors` are certain not to hide one another. What there is no
    /// room for is left out.
    pub(super) fn write(&self, id: u32, level: u32, mut links: impl Iterator<Item = (u32, f32)>, survivors: usize) {
        let first = id as usize * self.degree;
        for (at, slot) in self.graph.links(id, level).iter().enumerate() {
            let old = slot.load(Ordering::Relaxed);
            if old >= TWIN && old != EMPTY {
                continue;
            }
            let (there, distance) = links.next().unwrap_or((EMPTY, f32::NAN));
            slot.store(there, Ordering::Relaxed);
            if level == 0 {
                self.distances[first + at].store(distance.to_bits(), Ordering::Relaxed);
            }
        }
        if level == 0 {
            self.survivors[id as usize].store(survivors as u8, Ordering::Relaxed);
        }
    }
}

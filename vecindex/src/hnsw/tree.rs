//! The spanning tree of level 0: why every node can be found.
//!
//! Choosing neighbours by distance alone leaves nodes to which nothing links any more: those that everybody has nearer
//! neighbours than, those of small norm under the inner product, islands of near-equal rows. So each node but the first is
//! attached once, when it is linked, to a parent that is attached already, and the links between the two, in both
//! directions, are never given up. The attached nodes are one tree at any time, so each is reached from each,
//! whatever else is chosen, in whatever order and by however many threads nodes are linked.
//!
//! The parent is the nearest node that has room, as a rule the nearest of all, whose link would mostly be chosen
//! anyhow. A node takes few children, so that most of its links stay free to be chosen; where all near ones have theirs,
//! one goes down from there to somebody who has not: a finite tree has leaves.
//!
//! Nothing of this is in the graph's bytes: only who changes links needs to know.
//!
//! # Invariants
//! * A node is attached while its parent's lock is held, after the parent's link to it was written.
//! * Parent, children and a twin fit into the slots of level 0, whatever `m` is.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

/// Nodes for which memory is taken at a time: capacities are estimates, and sometimes far too large.
const CHUNK: usize = 1 << 14;

#[derive(Debug, Default)]
struct Node {
    /// Parent + 1, 0 while it is not attached. The root is its own parent.
    parent: AtomicU32,
    children: AtomicU8,
}

#[derive(Debug)]
pub(crate) struct Tree {
    chunks: Box<[OnceLock<Box<[Node]>>]>,
    most: u8,
    /// The root + 1.
    root: AtomicU32,
}

impl Tree {
    pub(crate) fn new(capacity: u32, m: usize) -> Tree {
        // 1 parent + children + 1 twin <= 2m slots, for m is at least 2.
        let most = (m / 2).clamp(2, usize::from(u8::MAX)) as u8;
        let chunks = (capacity as usize).div_ceil(CHUNK);
        Tree { chunks: (0..chunks).map(|_| OnceLock::new()).collect(), most, root: AtomicU32::new(0) }
    }

    fn node(&self, id: u32) -> &Node {
        let chunk = self.chunks[id as usize / CHUNK].get_or_init(|| (0..CHUNK).map(|_| Node::default()).collect());
        &chunk[id as usize % CHUNK]
    }

    /// Makes the very first node the root.
    pub(crate) fn plant(&self, id: u32) {
        self.node(id).parent.store(id + 1, Ordering::Release);
        self.root.store(id + 1, Ordering::Release);
    }

    pub(crate) fn root(&self) -> Option<u32> {
        self.root.load(Ordering::Acquire).checked_sub(1)
    }

    pub(crate) fn parent(&self, id: u32) -> Option<u32> {
        self.node(id).parent.load(Ordering::Acquire).checked_sub(1)
    }

    pub(crate) fn is_child(&self, id: u32, of: u32) -> bool {
        self.parent(id) == Some(of) && id != of
    }

    /// Whether the node is attached and has room for a child.
    pub(crate) fn takes(&self, id: u32) -> bool {
        let node = self.node(id);
        node.parent.load(Ordering::Acquire) != 0 && node.children.load(Ordering::Relaxed) < self.most
    }

    /// Attaches a node. The caller holds the parent's lock and has written the parent's link.
    pub(crate) fn attach(&self, id: u32, parent: u32) {
        self.node(parent).children.fetch_add(1, Ordering::Relaxed);
        self.node(id).parent.store(parent + 1, Ordering::Release);
    }

    /// A test of whether the edge from `node` to another is one of the tree.
    pub(crate) fn edges_of(&self, node: u32) -> impl Fn(u32) -> bool + '_ {
        let parent = self.parent(node);
        let childless = self.node(node).children.load(Ordering::Relaxed) == 0;
        move |other| parent == Some(other) || (!childless && self.is_child(other, node))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::Ordering;

    use kriya_region::Region;

    use crate::hnsw::{EMPTY, TWIN};
    use crate::{F32Rows, Graph, Hnsw, HnswParams, Metric};

    /// Walks against the links: who is not met cannot get to the entry.
    fn without_a_way_to_the_entry(hnsw: &Hnsw) -> Vec<u32> {
        let links = |id: u32| hnsw.graph.links(id, 0).iter().map(|slot| slot.load(Ordering::Relaxed));
        let mut back = vec![Vec::new(); hnsw.len() as usize];
        let mut nodes = vec![true; hnsw.len() as usize];
        for id in 0..hnsw.len() {
            links(id).filter(|there| *there < TWIN).for_each(|there| back[there as usize].push(id));
            links(id).filter(|there| *there >= TWIN && *there != EMPTY).for_each(|there| {
                nodes[(there & !TWIN) as usize] = false;
            });
        }
        let mut met = vec![false; hnsw.len() as usize];
        let mut found = vec![hnsw.graph.entry().unwrap().1];
        while let Some(id) = found.pop() {
            if !std::mem::replace(&mut met[id as usize], true) {
                found.extend(&back[id as usize]);
            }
        }
        (0..hnsw.len()).filter(|id| nodes[*id as usize] && !met[*id as usize]).collect()
    }

    #[test]
    fn a_search_that_starts_anywhere_gets_everywhere() {
        const N: u32 = 1200;
        let x = |i: u32, step: f64| (f64::from(i) * step).fract() as f32;
        for (m, metric) in [(2, Metric::L2), (2, Metric::InnerProduct), (8, Metric::L2), (8, Metric::InnerProduct)] {
            let params = HnswParams { m, ef_construction: 16, ..HnswParams::default() };
            let rows = Arc::new(Region::heap(F32Rows::bytes_needed(3, N).unwrap()).unwrap());
            let graph = Arc::new(Region::heap(Graph::bytes_needed(N, m).unwrap()).unwrap());
            let rows = F32Rows::create(rows, metric, 3, N).unwrap();
            let hnsw = Hnsw::new(rows, Graph::create(graph, params, N).unwrap()).unwrap();
            for i in 0..N {
                // Lengths from 1e-3 to 1e3, in three clusters, some rows twice.
                let length = 10f32.powi((i % 7) as i32 - 3);
                let row = [x(i / 2, 2f64.sqrt()), x(i / 2, 3f64.sqrt()), (i % 3) as f32 * 100.0];
                hnsw.append(&row.map(|x| x * length), [0, 0]).unwrap();
            }
            hnsw.link_pending().unwrap();
            assert_eq!((hnsw.unreached(), without_a_way_to_the_entry(&hnsw)), (vec![], vec![]), "{m} {metric:?}");
        }
    }
}

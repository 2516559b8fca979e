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
//! Nothing of this is in the graph's bytes: only who changes links needs to know. Where that was lost, or where links came
//! about without it, a tree is found among them again ([`Tree::span`]).
//!
//! # Invariants
//! * A node is attached while its parent's lock is held, after the parent's link to it was written.
//! * Parent, children and a twin fit into the slots of level 0, whatever `m` is.

use std::collections::VecDeque;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use super::graph::{EMPTY, Graph, TWIN, twin_in};

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

    /// Bytes on the heap.
    pub(crate) fn bytes(&self) -> usize {
        let taken = self.chunks.iter().filter(|chunk| chunk.get().is_some()).count();
        size_of_val(&self.chunks[..]) + taken * CHUNK * size_of::<Node>()
    }

    fn node(&self, id: u32) -> &Node {
        let chunk = self.chunks[id as usize / CHUNK].get_or_init(|| (0..CHUNK).map(|_| Node::default()).collect());
        &chunk[id as usize % CHUNK]
    }

    /// A tree over the first `len` nodes of a graph, all of which are linked, from their own links of level 0: breadth first
    /// from the entry along links that both sides have. What that does not meet is attached by links that are added, in place
    /// of such as no edge of the tree needs: the last ones of a row, so rows are best sorted, nearest first.
    ///
    /// The same graph gives the same tree and the same links. Nodes that are another one's twin stay out of it. A damaged
    /// graph may keep nodes out too, if its rows have no room for links; nothing else can go wrong.
    pub(crate) fn span(graph: &Graph, len: u32) -> Tree {
        let tree = Tree::new(graph.capacity(), graph.params().m);
        Spanning::new(graph, &tree, len).run();
        tree
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

/// [`Tree::span`] at work.
struct Spanning<'a> {
    graph: &'a Graph,
    tree: &'a Tree,
    len: u32,
    /// Those that the tree is to have. Who hangs off another one is not among them.
    nodes: Vec<bool>,
    /// Attached, neighbours not looked at.
    queue: VecDeque<u32>,
    /// Attached, in this order.
    attached: Vec<u32>,
    /// Of `attached`, those before this have their children.
    full: usize,
    /// Nodes that could not become a child where the walk met them, and that node.
    left: Vec<(u32, u32)>,
    /// An attached node with a link to this one, plus one.
    seen_from: Vec<u32>,
}

impl<'a> Spanning<'a> {
    fn new(graph: &'a Graph, tree: &'a Tree, len: u32) -> Self {
        let len = len.min(graph.capacity());
        let mut nodes = vec![true; len as usize];
        for id in 0..len {
            let named = graph.links(id, 0).iter().filter_map(|slot| twin_in(slot.load(Ordering::Relaxed)));
            named.filter(|twin| *twin < len).for_each(|twin| nodes[twin as usize] = false);
        }
        let (queue, attached, left) = (VecDeque::new(), Vec::with_capacity(len as usize), Vec::new());
        let seen_from = vec![0; len as usize];
        Spanning { graph, tree, len, nodes, queue, attached, full: 0, left, seen_from }
    }

    fn run(mut self) {
        let first = (0..self.len).find(|id| self.nodes[*id as usize]);
        let Some(root) = self.graph.entry().map(|(_, id)| id).filter(|id| *id < self.len).or(first) else { return };
        self.tree.plant(root);
        self.attached.push(root);
        self.queue.push_back(root);
        self.walk();
        // Links that are there already, before new ones.
        while let Some((id, parent)) = self.left.pop() {
            if !self.is_attached(id) && self.takes_by_force(parent) {
                self.attach(id, parent);
                self.walk();
            }
        }
        for id in 0..self.len {
            if self.nodes[id as usize] && !self.is_attached(id) && self.add(id) {
                self.walk();
            }
        }
    }

    /// The links of a node to others.
    fn links(&self, id: u32) -> impl Iterator<Item = u32> + use<'a> {
        let len = self.len;
        let links = self.graph.links(id, 0).iter().map(|slot| slot.load(Ordering::Relaxed));
        links.filter(move |there| *there < len && *there != id)
    }

    fn is_attached(&self, id: u32) -> bool {
        self.tree.parent(id).is_some()
    }

    /// Whether a node has room for a child beside its parent and a twin, if need be with no link left to be chosen.
    fn takes_by_force(&self, id: u32) -> bool {
        let most = (self.graph.degree(0) - 2).min(usize::from(u8::MAX));
        self.is_attached(id) && usize::from(self.tree.node(id).children.load(Ordering::Relaxed)) < most
    }

    fn attach(&mut self, id: u32, parent: u32) {
        self.tree.attach(id, parent);
        self.attached.push(id);
        self.queue.push_back(id);
    }

    fn walk(&mut self) {
        while let Some(node) = self.queue.pop_front() {
            for there in self.links(node) {
                if self.is_attached(there) || !self.nodes[there as usize] {
                } else if !self.links(there).any(|back| back == node) {
                    self.seen_from[there as usize] = node + 1;
                } else if self.tree.takes(node) {
                    self.attach(there, node);
                } else {
                    self.left.push((there, node));
                }
            }
        }
    }

    /// Attaches a node that no link in both directions leads to. False if nobody has room for it.
    fn add(&mut self, id: u32) -> bool {
        let seen_from = self.seen_from[id as usize].checked_sub(1);
        let near = self.links(id).chain(seen_from).find(|node| self.tree.takes(*node) && self.link(*node, id));
        let parent = near.or_else(|| {
            // A finite tree has leaves.
            while let Some(node) = self.attached.get(self.full).copied() {
                if self.tree.takes(node) && self.link(node, id) {
                    return Some(node);
                }
                self.full += 1;
            }
            None
        });
        let Some(parent) = parent else { return false };
        // Nothing of the tree is in this row yet, but it may be damaged.
        let both = self.link(id, parent);
        if both {
            self.attach(id, parent);
        }
        both
    }

    /// Sees to it that a row has a link: in a free slot, or in the last one that is no edge of the tree.
    fn link(&self, node: u32, to: u32) -> bool {
        let slots = self.graph.links(node, 0);
        let edge = self.tree.edges_of(node);
        let (mut free, mut last) = (None, None);
        for slot in slots {
            match slot.load(Ordering::Relaxed) {
                there if there == to => return true,
                EMPTY => free = free.or(Some(slot)),
                there if there < TWIN && (there >= self.len || !edge(there)) => last = Some(slot),
                _ => {}
            }
        }
        let Some(slot) = free.or(last) else { return false };
        slot.store(to, Ordering::Relaxed);
        true
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::Ordering;

    use kriya_region::Region;
    use proptest::prelude::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::Tree;
    use crate::hnsw::writer::Writer;
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

    /// Rows on a line, and a graph over them without a link.
    fn unlinked(n: u32, m: usize) -> Hnsw {
        let rows = Arc::new(Region::heap(F32Rows::bytes_needed(1, n).unwrap()).unwrap());
        let graph = Arc::new(Region::heap(Graph::bytes_needed(n, m).unwrap()).unwrap());
        let params = HnswParams { m, ef_construction: 16, ..HnswParams::default() };
        let rows = F32Rows::create(rows, Metric::L2, 1, n).unwrap();
        let hnsw = Hnsw::new(rows, Graph::create(graph, params, n).unwrap()).unwrap();
        (0..n).for_each(|i| assert_eq!(hnsw.append(&[i as f32], [0, 0]).unwrap(), i));
        hnsw
    }

    fn has(hnsw: &Hnsw, from: u32, to: u32) -> bool {
        hnsw.graph.links(from, 0).iter().any(|slot| slot.load(Ordering::Relaxed) == to)
    }

    /// Every node leads up to the root, along links that both sides have.
    fn check_tree(hnsw: &Hnsw, tree: &Tree, nodes: &[u32]) {
        for id in nodes {
            let mut steps = 0;
            let mut at = *id;
            while at != tree.root().unwrap() {
                let parent = tree.parent(at).unwrap();
                assert!(has(hnsw, at, parent) && has(hnsw, parent, at), "{at} and its parent {parent}");
                (at, steps) = (parent, steps + 1);
                assert!(steps < hnsw.len(), "a circle at {id}");
            }
        }
    }

    #[test]
    fn a_tree_that_was_lost_is_found_again_and_rows_are_linked_to_it() {
        for m in [2, 8] {
            let (mut hnsw, more) = (unlinked(1500, m), 500);
            let mut context = crate::BuildContext::default();
            (0..1000).for_each(|id| hnsw.link(id, &mut context).unwrap());
            let before: Vec<u32> = (0..1000).flat_map(|id| links_of(&hnsw, id)).collect();
            let writer = Writer::resume(&hnsw.graph, &hnsw.storage, 1000);
            check_tree(&hnsw, &writer.tree, &(0..1000).collect::<Vec<_>>());
            if m == 8 {
                let after: Vec<u32> = (0..1000).flat_map(|id| links_of(&hnsw, id)).collect();
                assert_eq!(before, after, "the tree is made of links that are there");
            }
            hnsw.graph.set_writer(writer);
            (0..1000 + more).for_each(|id| hnsw.link(id, &mut context).unwrap());
            assert_eq!(hnsw.linked(), 1000 + more);
            assert_eq!((hnsw.unreached(), without_a_way_to_the_entry(&hnsw)), (vec![], vec![]));
        }
    }

    fn links_of(hnsw: &Hnsw, id: u32) -> Vec<u32> {
        hnsw.graph.links(id, 0).iter().map(|slot| slot.load(Ordering::Relaxed)).collect()
    }

    #[test]
    fn islands_and_nodes_without_links_are_joined() {
        const N: u32 = 900;
        for m in [2, 5] {
            let hnsw = unlinked(N, m);
            // Chains of nine, each node with links to the next ones of its chain only; every fourth chain has none at all.
            for id in (0..N).filter(|id| id / 9 % 4 != 3) {
                let next = (id + 1..N).take_while(|next| next / 9 == id / 9);
                hnsw.graph.links(id, 0).iter().zip(next).for_each(|(slot, next)| slot.store(next, Ordering::Relaxed));
            }
            hnsw.graph.set_entry(hnsw.graph.level(5), 5);
            let tree = Tree::span(&hnsw.graph, N);
            check_tree(&hnsw, &tree, &(0..N).collect::<Vec<_>>());
            hnsw.graph.set_linked(N);
            assert_eq!((hnsw.unreached(), without_a_way_to_the_entry(&hnsw)), (vec![], vec![]));
        }
    }

    #[test]
    fn a_node_whose_row_is_damaged_stays_out_of_the_tree() {
        const N: u32 = 50;
        let hnsw = unlinked(N, 4);
        // No room for a link to a parent.
        hnsw.graph.links(7, 0).iter().for_each(|slot| slot.store(TWIN | (N + 1), Ordering::Relaxed));
        hnsw.graph.set_entry(hnsw.graph.level(5), 5);
        let tree = Tree::span(&hnsw.graph, N);
        assert_eq!(tree.parent(7), None);
        check_tree(&hnsw, &tree, &(0..N).filter(|id| *id != 7).collect::<Vec<_>>());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn whatever_the_links_are_a_tree_is_found(seed: u64, m in 2usize..6, wild in 0u32..3) {
            const N: u32 = 300;
            let hnsw = unlinked(N, m);
            let mut rng = StdRng::seed_from_u64(seed);
            for slot in (0..N).flat_map(|id| hnsw.graph.links(id, 0)) {
                let there = match wild {
                    // Any node, itself too, or nothing.
                    0 => [rng.random_range(0..N), EMPTY][rng.random_range(0..2)],
                    // And nodes that are not.
                    1 => rng.random_range(0..2 * N),
                    _ => rng.random(),
                };
                slot.store(there, Ordering::Relaxed);
            }
            hnsw.graph.set_entry(rng.random_range(0..20), rng.random_range(0..2 * N));
            let tree = Tree::span(&hnsw.graph, N);
            if wild < 2 {
                check_tree(&hnsw, &tree, &(0..N).collect::<Vec<_>>());
            }
            prop_assert!(tree.root().is_some());
        }
    }
}

//! Copying an index with its rows in another order, or with some of them left out.
//!
//! A search steps from a node to its neighbours: where those lie near each other in memory, it meets fewer pages and lines
//! (Coleman et al., "Graph Reordering for Cache-Efficient Near Neighbor Search", 2022). [`Hnsw::locality_order`] is such an
//! order; dropping rows and merging are others.
//!
//! # Invariants
//! * Of rows that are equal, the first that is kept stands in the graph: it takes over the links of the one that stood there.
//! * Towers take upper rows in the order of ids, as in an index that was built by appending.

use std::cmp::Reverse;
use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use kriya_region::Region;

use super::graph::{EMPTY, TWIN, twin_in};
use super::visited::Visited;
use super::writer::Writer;
use super::{Graph, Hnsw};
use crate::error::{CreateError, PushError};
use crate::storage::{Encoding, Rows, VectorStorage};

/// No row: not kept, or nobody's twin.
pub(super) const NONE: u32 = u32::MAX;

/// Why an index was not copied.
#[derive(Debug)]
#[non_exhaustive]
pub enum OrderError {
    /// Rows are not linked yet; only a graph that covers all its rows can be copied.
    Pending {
        /// Rows that are linked.
        linked: u32,
        /// Rows there are.
        len: u32,
    },
    /// The order names a row that there is not.
    Unknown {
        /// Its id.
        id: u32,
        /// Number of rows.
        len: u32,
    },
    /// The order names a row twice.
    Twice {
        /// Its id.
        id: u32,
    },
    /// The order names more rows than the copy is to have room for.
    Full {
        /// Rows named.
        rows: usize,
        /// Rows there is to be room for.
        capacity: u32,
    },
    /// The copy could not be laid out.
    Create(CreateError),
    /// A row could not be added to it.
    Push(PushError),
}

impl fmt::Display for OrderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OrderError::Pending { linked, len } => {
                write!(f, "{linked} of {len} rows are linked; all must be before the index is copied")
            }
            OrderError::Unknown { id, len } => write!(f, "the order names row {id}, but there are {len} rows"),
            OrderError::Twice { id } => write!(f, "the order names row {id} twice"),
            OrderError::Full { rows, capacity } => {
                write!(f, "the order names {rows} rows, expected at most {capacity}")
            }
            OrderError::Create(e) => e.fmt(f),
            OrderError::Push(e) => e.fmt(f),
        }
    }
}

impl Error for OrderError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            OrderError::Create(e) => Some(e),
            OrderError::Push(e) => Some(e),
            _ => None,
        }
    }
}

impl From<CreateError> for OrderError {
    fn from(e: CreateError) -> Self {
        OrderError::Create(e)
    }
}

impl From<PushError> for OrderError {
    fn from(e: PushError) -> Self {
        OrderError::Push(e)
    }
}

/// Which row comes from where.
pub(super) struct Plan {
    /// Of each old node: the new node that links to it are to lead to.
    node: Vec<u32>,
    /// Of each new row: the old node whose links it takes, if it stands in the graph itself.
    pub(super) source: Vec<u32>,
    /// Of each new row: the next of the new rows that are equal to it.
    twin: Vec<u32>,
}

impl Plan {
    fn of(graph: &Graph, len: u32, order: &[u32]) -> Result<Plan, OrderError> {
        let mut new = vec![NONE; len as usize];
        for (at, id) in order.iter().enumerate() {
            match new.get_mut(*id as usize) {
                None => return Err(OrderError::Unknown { id: *id, len }),
                Some(slot) if *slot != NONE => return Err(OrderError::Twice { id: *id }),
                Some(slot) => *slot = at as u32,
            }
        }
        let twin = |id| graph.twin(id).filter(|twin| *twin < len).unwrap_or(NONE);
        let mut next: Vec<u32> = (0..len).map(twin).collect();
        let mut hangs = vec![false; len as usize];
        next.iter().filter(|twin| **twin != NONE).for_each(|twin| hangs[*twin as usize] = true);
        let (source, twin) = (vec![NONE; order.len()], vec![NONE; order.len()]);
        let mut plan = Plan { node: vec![NONE; len as usize], source, twin };
        for head in (0..len).filter(|id| !hangs[*id as usize]) {
            let (mut member, mut last) = (head, NONE);
            while member != NONE {
                // Each row is in one list, once; what a damaged file says beyond that is taken away with this.
                let at = std::mem::replace(&mut new[member as usize], NONE);
                member = std::mem::replace(&mut next[member as usize], NONE);
                if at == NONE {
                    continue;
                }
                match last {
                    NONE => (plan.node[head as usize], plan.source[at as usize]) = (at, head),
                    last => plan.twin[last as usize] = at,
                }
                last = at;
            }
        }
        Ok(plan)
    }

    /// A slot of an old node's links, as it is to be in the copy.
    pub(super) fn link(&self, slot: u32) -> u32 {
        self.node.get(slot as usize).copied().unwrap_or(EMPTY)
    }
}

impl<S: VectorStorage> Hnsw<S> {
    /// All rows in an order in which those that a search meets one after the other lie near each other: breadth first from
    /// where searches start, equal rows beside each other.
    pub fn locality_order(&self) -> Vec<u32> {
        let len = self.len();
        let mut met = Visited::default();
        met.reset(len);
        let mut order: Vec<u32> = Vec::with_capacity(len as usize);
        let meet = |id: u32, order: &mut Vec<u32>, met: &mut Visited| {
            let mut id = Some(id);
            while let Some(row) = id.filter(|id| *id < len && met.insert(*id)) {
                order.push(row);
                id = self.graph.twin(row);
            }
        };
        let entry = self.graph.entry().map(|(_, id)| id);
        let mut at = 0;
        for start in entry.into_iter().chain(0..len) {
            meet(start, &mut order, &mut met);
            while let Some(row) = order.get(at).copied() {
                at += 1;
                for slot in self.graph.links(row, 0) {
                    let slot = slot.load(Ordering::Relaxed);
                    meet(slot, &mut order, &mut met);
                }
            }
        }
        order
    }
}

impl<E: Encoding> Hnsw<Rows<E>> {
    /// A copy on the heap with room for `capacity` rows, whose row `i` is the row `order[i]` of this index, with its label.
    /// Rows that the order does not name are not in it, nor links to them; a node that linked to such ones gets other links in their
    /// place. The copy can be written to.
    ///
    /// Rows that are appended meanwhile are not in the copy.
    ///
    /// # Errors
    /// Rows that are not linked, an order that names a row twice or one that there is not, no room, no memory.
    pub fn in_order(&self, order: &[u32], capacity: u32) -> Result<Hnsw<Rows<E>>, OrderError> {
        let (mut copy, plan) = self.copy(order, capacity)?;
        if order.len() < self.len() as usize {
            self.repair(&copy, &plan);
        }
        let writer = Writer::resume(&copy.graph, &copy.storage, copy.linked());
        copy.graph.set_writer(writer);
        Ok(copy)
    }

    /// The copy as far as rows are in it, not to be written to yet, and where each came from.
    fn copy(&self, order: &[u32], capacity: u32) -> Result<(Hnsw<Rows<E>>, Plan), OrderError> {
        let (linked, len) = (self.linked(), self.len());
        if linked < len {
            return Err(OrderError::Pending { linked, len });
        }
        if order.len() > capacity as usize {
            return Err(OrderError::Full { rows: order.len(), capacity });
        }
        let plan = Plan::of(&self.graph, len, order)?;
        let rows = self.storage.in_order(order, capacity)?;
        let bytes = Graph::bytes_needed(capacity, self.params().m)?;
        let region = Arc::new(Region::heap(bytes).map_err(CreateError::Memory)?);
        let graph = Graph::create(region, self.params(), capacity)?;
        self.copy_links(&graph, order, &plan)?;
        Ok((Hnsw::new(rows, graph)?, plan))
    }

    fn copy_links(&self, graph: &Graph, order: &[u32], plan: &Plan) -> Result<(), OrderError> {
        for (id, (old, source)) in (0..).zip(order.iter().zip(&plan.source)) {
            let level = if *source == NONE { 0 } else { self.graph.level(*source) };
            graph.add(id, self.graph.label(*old), level)?;
        }
        for (id, (source, twin)) in (0..).zip(plan.source.iter().zip(&plan.twin)) {
            let mut twin = if *twin == NONE { EMPTY } else { TWIN | *twin };
            if *source == NONE {
                graph.links(id, 0)[0].store(twin, Ordering::Relaxed);
                continue;
            }
            for level in 0..=graph.level(id) {
                for (slot, old) in graph.links(id, level).iter().zip(self.graph.links(*source, level)) {
                    let old = old.load(Ordering::Relaxed);
                    let link = match twin_in(old) {
                        // A damaged file may have more marks, and marks above level 0.
                        Some(_) if level == 0 => std::mem::replace(&mut twin, EMPTY),
                        Some(_) => EMPTY,
                        None => plan.link(old),
                    };
                    // A tower for which there was no room is lower than it was.
                    let stands = link >= TWIN || graph.level(link) >= level;
                    slot.store(if stands { link } else { EMPTY }, Ordering::Relaxed);
                }
            }
        }
        let entry = self.graph.entry().map(|(level, id)| (level, plan.link(id)));
        let kept = entry.filter(|(level, id)| *id != EMPTY && graph.level(*id) == *level);
        let nodes = (0..).zip(&plan.source).filter(|(_, source)| **source != NONE).map(|(id, _)| id);
        let highest = || nodes.map(|id| (graph.level(id), id)).max_by_key(|(level, id)| (*level, Reverse(*id)));
        if let Some((level, id)) = kept.or_else(highest) {
            graph.set_entry(level, id);
        }
        graph.set_linked(order.len() as u32);
        Ok(())
    }
}

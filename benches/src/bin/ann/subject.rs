//! An index in one encoding, with or without rows of f32 beside it, searched through its graph or row by row.

use kriya_benches::{index, rows};
use vecindex::{Encoding, F32Rows, FilteredSearch, Hnsw, Neighbour, Rerank, Rows, SearchCursor, VectorStorage};

use super::Outcome;
use super::task::Task;

/// Rows compared in one call of the storage.
const BATCH: usize = 256;

/// What is searched.
pub struct Subject<'a, E: Encoding> {
    /// What it was built for.
    pub task: &'a Task,
    searched: Searched<E>,
    /// For comparing what was found once more.
    exact: Option<F32Rows>,
}

enum Searched<E: Encoding> {
    Graph(Box<Hnsw<Rows<E>>>),
    /// The rows, and which of them are compared.
    Scan(Rows<E>, Vec<u32>),
}

/// Memory of one searching thread.
pub struct Context<E: Encoding> {
    cursor: SearchCursor<Rows<E>>,
    filtered: FilteredSearch<Rows<E>>,
    query: E::Query,
    distances: Vec<f32>,
    found: Vec<Neighbour>,
}

impl<E: Encoding> Default for Context<E> {
    fn default() -> Self {
        let (cursor, filtered) = (SearchCursor::default(), FilteredSearch::default());
        Context { cursor, filtered, query: E::Query::default(), distances: Vec::new(), found: Vec::new() }
    }
}

impl<'a, E: Encoding> Subject<'a, E> {
    /// On the threads of the current rayon pool.
    ///
    /// # Errors
    /// What the index says of the rows.
    pub fn build(task: &'a Task) -> Outcome<Subject<'a, E>> {
        let searched = if task.scan {
            let allowed = task.allowed.as_ref().map(|allowed| allowed.ids.clone());
            let all = || (0..).take(task.base.len()).collect();
            Searched::Scan(rows(&task.base, task.metric)?, allowed.unwrap_or_else(all))
        } else {
            Searched::Graph(Box::new(index(&task.base, task.metric, task.params)?))
        };
        let exact = if task.rerank { Some(rows(&task.base, task.metric)?) } else { None };
        Ok(Subject { task, searched, exact })
    }

    /// Of everything that a search needs, as it is saved; and of these, for the rows of f32 that others are reranked by.
    ///
    /// # Errors
    /// If the index cannot be saved.
    pub fn bytes_per_vector(&self) -> Outcome<(f64, f64)> {
        let count = self.task.base.len().max(1) as f64;
        let capacity = u32::try_from(self.task.base.len())?;
        let dim = self.task.base.dim();
        let rerank = if self.exact.is_some() { F32Rows::bytes_needed(dim, capacity)? as f64 / count } else { 0.0 };
        let searched = match &self.searched {
            Searched::Graph(index) => {
                let sealed = vecindex::seal(index, &mut std::io::sink(), &mut std::io::sink())?;
                sealed.rows_bytes + sealed.graph_bytes
            }
            Searched::Scan(..) => Rows::<E>::bytes_needed(dim, capacity)? as u64,
        };
        Ok((searched as f64 / count + rerank, rerank))
    }

    /// The answers to one query, into a row of `k`.
    ///
    /// # Errors
    /// A query that the index refuses.
    pub fn search(&self, query: &[f32], ef: usize, context: &mut Context<E>, row: &mut [i32]) -> Outcome<()> {
        let (k, ef) = (row.len(), ef.max(row.len()));
        let wanted = if self.exact.is_some() { (2 * k).max(k + 10).min(ef) } else { k };
        context.found.clear();
        match &self.searched {
            Searched::Graph(index) => self.walk(index, query, wanted, ef, context)?,
            Searched::Scan(rows, ids) => scan(rows, ids, query, wanted, context)?,
        }
        if let Some(exact) = &self.exact {
            exact.rerank(query, &mut context.found)?;
        }
        row.fill(-1);
        for (slot, found) in row.iter_mut().zip(&context.found) {
            // Rows were appended in their order, so an id is a row number, below 2^31 as ids of files are.
            *slot = found.id as i32;
        }
        Ok(())
    }

    fn walk(
        &self,
        index: &Hnsw<Rows<E>>,
        query: &[f32],
        wanted: usize,
        ef: usize,
        context: &mut Context<E>,
    ) -> Outcome<()> {
        let Context { cursor, filtered, found, .. } = context;
        *found = match &self.task.allowed {
            Some(allowed) => index.search_filtered(query, wanted, ef, &allowed.set, filtered)?,
            None => index.search(query, wanted, ef, cursor)?,
        };
        Ok(())
    }
}

fn scan<E: Encoding>(
    rows: &Rows<E>,
    ids: &[u32],
    query: &[f32],
    wanted: usize,
    context: &mut Context<E>,
) -> Outcome<()> {
    let Context { query: prepared, distances, found, .. } = context;
    rows.prepare(query, prepared)?;
    distances.resize(BATCH, 0.0);
    for ids in ids.chunks(BATCH) {
        let distances = &mut distances[..ids.len()];
        rows.distances(prepared, ids, distances);
        found.extend(ids.iter().zip(distances).map(|(id, distance)| Neighbour { id: *id, distance: *distance }));
    }
    if wanted < found.len() {
        found.select_nth_unstable(wanted);
        found.truncate(wanted);
    }
    found.sort_unstable();
    Ok(())
}

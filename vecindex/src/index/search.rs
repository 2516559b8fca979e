//! Searching: one query or many, among all rows or some, with codes compared exactly before they are returned.

use std::fmt;
use std::sync::PoisonError;

use rayon::prelude::*;

use super::Index;
use crate::error::SearchError;
use crate::flat::exact_among;
use crate::hnsw::{FilteredSearch, SearchCursor};
use crate::ids::{Filter, IdSet, Passing, Without};
use crate::metric::Neighbour;
use crate::storage::{Encoding, F32, Rows, VectorStorage};

/// Rows kept in view if it is not said.
const EF: usize = 64;

/// A row that was found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hit {
    /// Its key.
    pub key: u64,
    /// Its distance: Euclidean, 1 - cosine, or negative inner product.
    pub distance: f32,
}

/// Some rows of an index, to be searched among again and again: see [`Index::select`].
#[derive(Debug, Clone)]
pub struct Selection {
    version: u64,
    ids: IdSet,
}

impl Selection {
    /// How many rows were selected.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether none was.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}

/// How to search.
#[derive(Clone, Copy)]
pub struct Search<'a> {
    ef: usize,
    exactly: bool,
    among: Among<'a>,
}

#[derive(Clone, Copy)]
enum Among<'a> {
    All,
    Keys(&'a (dyn Fn(u64) -> bool + Sync)),
    Selected(&'a Selection),
}

impl Default for Search<'_> {
    fn default() -> Self {
        Search { ef: EF, exactly: true, among: Among::All }
    }
}

impl fmt::Debug for Search<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let among = match self.among {
            Among::All => "all",
            Among::Keys(_) => "keys",
            Among::Selected(_) => "selected",
        };
        f.debug_struct("Search").field("ef", &self.ef).field("rerank", &self.exactly).field("among", &among).finish()
    }
}

impl<'a> Search<'a> {
    /// As [`Index::search`] does: `ef` of 64, codes compared exactly at the end if exact rows are kept, all rows.
    pub fn new() -> Search<'a> {
        Search::default()
    }

    /// Rows kept in view, at least as many as are to be found: more find more, slower.
    #[must_use]
    pub fn ef(self, ef: usize) -> Search<'a> {
        Search { ef, ..self }
    }

    /// Whether to compare exactly what was found by codes, if exact rows are kept.
    #[must_use]
    pub fn rerank(self, exactly: bool) -> Search<'a> {
        Search { exactly, ..self }
    }

    /// Only rows whose key a function says yes to. It is asked many times in each search; [`Search::among`] is faster for several
    /// searches. The function is borrowed: give a closure a name before (`let even = |key| key % 2 == 0;`), so that it lives
    /// as long as this does.
    #[must_use]
    pub fn filter(self, keys: &'a (dyn Fn(u64) -> bool + Sync)) -> Search<'a> {
        Search { among: Among::Keys(keys), ..self }
    }

    /// Only rows that were selected.
    #[must_use]
    pub fn among(self, selection: &'a Selection) -> Search<'a> {
        Search { among: Among::Selected(selection), ..self }
    }
}

/// Memory of searches, reused from one to the next; one for each thread.
pub struct SearchContext<E: Encoding = F32> {
    cursor: SearchCursor<Rows<E>>,
    filtered: FilteredSearch<Rows<E>>,
}

impl<E: Encoding> Default for SearchContext<E> {
    fn default() -> Self {
        SearchContext { cursor: SearchCursor::default(), filtered: FilteredSearch::default() }
    }
}

impl<E: Encoding> fmt::Debug for SearchContext<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SearchContext").finish_non_exhaustive()
    }
}

/// A set without another one.
struct Left<'a> {
    ids: &'a IdSet,
    gone: &'a IdSet,
}

impl Filter for Left<'_> {
    fn allows(&self, id: u32) -> bool {
        self.ids.contains(id) && !self.gone.contains(id)
    }

    fn count(&self, len: u32) -> usize {
        self.ids.count(len)
    }

    fn ids(&self, len: u32, ids: &mut Vec<u32>) {
        ids.extend(self.ids.iter().take_while(|id| *id < len).filter(|id| !self.gone.contains(*id)));
    }
}

impl<E: Encoding> Index<E> {
    /// The `k` nearest rows, nearest first; fewer only if there are fewer.
    ///
    /// # Errors
    /// A query of another dimension, with a component that is not finite, or so long that distances would overflow.
    pub fn search(&self, query: &[f32], k: usize) -> Result<Vec<Hit>, SearchError> {
        self.with_context(|context| self.search_with(query, k, &Search::default(), context))
    }

    /// As [`Index::search`], the way `how` says, with memory to be used again by the next search.
    ///
    /// ```
    /// use vecindex::{Index, Metric, Search, SearchContext};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let mut index: Index = Index::builder(1, Metric::L2).build()?;
    /// index.extend((0..100).map(|key| (key, [key as f32])))?;
    /// let mut context = SearchContext::default();
    /// let even = |key| key % 2 == 0;
    /// let hits = index.search_with(&[7.1], 1, &Search::new().ef(100).filter(&even), &mut context)?;
    /// assert_eq!(hits[0].key, 8);
    /// let some = index.select([3, 50]);
    /// let hits = index.search_with(&[7.1], 9, &Search::new().among(&some), &mut context)?;
    /// assert_eq!(hits.iter().map(|hit| hit.key).collect::<Vec<_>>(), [3, 50]);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`Index::search`], and a selection that is stale.
    pub fn search_with(
        &self,
        query: &[f32],
        k: usize,
        how: &Search<'_>,
        context: &mut SearchContext<E>,
    ) -> Result<Vec<Hit>, SearchError> {
        let exact = self.exact.as_ref().filter(|_| how.exactly);
        let len = self.hnsw.len() as usize;
        // What the codes have a little out of order is found among some more.
        let wanted = if exact.is_some() { (2 * k.min(len)).max(k.saturating_add(10)) } else { k }.min(len);
        let ef = how.ef.clamp(wanted.max(1), len.max(1));
        let SearchContext { cursor, filtered } = context;
        let mut found = match how.among {
            Among::All if self.gone.is_empty() => self.hnsw.search(query, wanted, ef, cursor),
            Among::All => self.hnsw.search_filtered(query, wanted, ef, &Without(&self.gone), filtered),
            Among::Keys(test) => self.hnsw.search_filtered(query, wanted, ef, &self.passing(test), filtered),
            Among::Selected(selection) => {
                self.hnsw.search_filtered(query, wanted, ef, &self.left(selection)?, filtered)
            }
        }?;
        if let Some(exact) = exact {
            self.compare_exactly(exact, query, &mut found)?;
        }
        Ok(self.hits(found, k))
    }

    /// Many searches, on all threads of the current rayon pool; the answers are in the order of the queries.
    ///
    /// ```
    /// # use vecindex::{Index, Metric, Search};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let mut index: Index = Index::builder(1, Metric::L2).build()?;
    /// # index.extend((0..100).map(|key| (key, [key as f32])))?;
    /// let answers = index.search_many(&[[7.1], [33.9]], 1, &Search::new())?;
    /// assert_eq!((answers[0][0].key, answers[1][0].key), (7, 34));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`Index::search_with`], of any of the queries.
    pub fn search_many(
        &self,
        queries: &[impl AsRef<[f32]> + Sync],
        k: usize,
        how: &Search<'_>,
    ) -> Result<Vec<Vec<Hit>>, SearchError> {
        let search = |query: &[f32]| self.with_context(|context| self.search_with(query, k, how, context));
        queries.par_iter().map(|query| search(query.as_ref())).collect()
    }

    /// The `k` nearest rows for certain, by comparing all that `how` says: the truth that [`recall`](crate::recall) is measured by.
    /// By the rows as they were given if they are kept, else by those that are stored.
    ///
    /// # Errors
    /// As [`Index::search_with`].
    pub fn search_exactly(&self, query: &[f32], k: usize, how: &Search<'_>) -> Result<Vec<Hit>, SearchError> {
        let found = match how.among {
            Among::All => self.compare_all(query, k, how, &Without(&self.gone)),
            Among::Keys(test) => self.compare_all(query, k, how, &self.passing(test)),
            Among::Selected(selection) => self.compare_all(query, k, how, &self.left(selection)?),
        }?;
        Ok(self.hits(found, k))
    }

    /// Selects the rows of some keys, for [`Search::among`]; keys of which there is no row are passed over. Rows added later
    /// are not in it, rows removed later are not found by it; once rows have moved it is stale. They always do in
    /// [`Index::optimize`], and may in [`Index::consolidate`] and [`Index::merge`], and when a row is added where some are
    /// removed.
    pub fn select(&self, keys: impl IntoIterator<Item = u64>) -> Selection {
        let ids = keys.into_iter().filter_map(|key| self.keys().get(&key).copied());
        Selection { version: self.version, ids: ids.collect() }
    }

    fn compare_all(
        &self,
        query: &[f32],
        k: usize,
        how: &Search<'_>,
        filter: &impl Filter,
    ) -> Result<Vec<Neighbour>, SearchError> {
        match &self.exact {
            Some(exact) if how.exactly => exact_among(exact, query, k, filter),
            _ => exact_among(self.hnsw.storage(), query, k, filter),
        }
    }

    fn passing<'a>(&'a self, test: &'a (dyn Fn(u64) -> bool + Sync)) -> Passing<impl Fn(u32) -> bool + Sync + 'a> {
        Passing::new(move |id| !self.gone.contains(id) && test(self.key(id)))
    }

    fn left<'a>(&'a self, selection: &'a Selection) -> Result<Left<'a>, SearchError> {
        let Selection { version, ids } = selection;
        if *version == self.version { Ok(Left { ids, gone: &self.gone }) } else { Err(SearchError::Stale) }
    }

    fn compare_exactly(&self, exact: &Rows<F32>, query: &[f32], found: &mut [Neighbour]) -> Result<(), SearchError> {
        let mut prepared = Default::default();
        exact.prepare(query, &mut prepared)?;
        let ids: Vec<u32> = found.iter().map(|n| n.id).collect();
        let mut distances = vec![0.0; ids.len()];
        exact.distances(&prepared, &ids, &mut distances);
        for (n, distance) in found.iter_mut().zip(distances) {
            n.distance = self.metric().to_user(distance);
        }
        found.sort_unstable();
        Ok(())
    }

    fn hits(&self, found: Vec<Neighbour>, k: usize) -> Vec<Hit> {
        found.into_iter().take(k).map(|n| Hit { key: self.key(n.id), distance: n.distance }).collect()
    }

    fn with_context<T>(&self, search: impl FnOnce(&mut SearchContext<E>) -> T) -> T {
        let contexts = || self.contexts.lock().unwrap_or_else(PoisonError::into_inner);
        let mut context = contexts().pop().unwrap_or_default();
        let found = search(&mut context);
        contexts().push(context);
        found
    }
}

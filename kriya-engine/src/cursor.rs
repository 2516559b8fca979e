//! A search over all segments of an index, nearest first, that can be continued as long as the caller likes.
//!
//! Each segment has its own resumable search (one pool over all of them would starve those whose entry point is far);
//! their results are merged by distance. Distances are exact. What a segment finds late, nearer than something already
//! returned, comes at once, so that a search which is run to its end returns every entry; who would rather lose a
//! row than the order asks for [`IndexCursor::in_strict_order`].

use std::fmt;
use std::sync::{Arc, Weak};

use lsmstore::{ReadError, View};
use vecindex::{F32Rows, Hnsw, Neighbour, SearchCursor, SearchError};

use crate::index::IndexReader;
use crate::keys;

/// A row that was found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Found {
    /// The row that the entry leads to.
    pub tid: u64,
    /// The entry's number.
    pub entry: u64,
    /// Distance in the user's terms: Euclidean, 1 - cosine, or the negative inner product.
    pub distance: f32,
}

/// How a search went on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Step {
    /// The next nearest row.
    Row(Found),
    /// Many entries were passed over and no row was found yet; the search goes on when it is asked again.
    Skipped,
    /// There is no other row.
    End,
}

/// Entries that are passed over at a stretch, at most: the caller may want to end the search.
const SKIPPED_AT_ONCE: usize = 1000;

/// Why a search failed.
#[derive(Debug)]
#[non_exhaustive]
pub enum CursorError {
    /// The query cannot be searched for.
    Query(SearchError),
    /// Whether an entry is deleted cannot be read.
    Read(ReadError),
}

impl fmt::Display for CursorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CursorError::Query(error) => error.fmt(f),
            CursorError::Read(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for CursorError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            CursorError::Query(error) => Some(error),
            CursorError::Read(error) => Some(error),
        }
    }
}

/// What a search leaves behind for the next one, of whatever index: memory, and no view or map.
#[derive(Debug, Default)]
pub struct SearchMemory {
    sources: Vec<Source>,
    /// Whether an index had deleted entries, of the view and at the sequence number that were asked last.
    known: Option<(u64, Weak<View>, u64, bool)>,
}

impl SearchMemory {
    /// Whether any entry of the index was ever deleted. Asked of the view only if something may have changed.
    fn deletions(&mut self, index: u64, view: &Arc<View>, sequence: u64) -> Result<bool, ReadError> {
        if let Some((of, known, at, deletions)) = &self.known
            && (*of, *at) == (index, sequence)
            // The allocation of a view is not given to another one as long as somebody remembers it.
            && std::ptr::eq(known.as_ptr(), Arc::as_ptr(view))
        {
            return Ok(*deletions);
        }
        let deletions = view.scan_prefix(&keys::object_prefix(keys::DELETED, index), sequence)?.next()?.is_some();
        self.known = Some((index, Arc::downgrade(view), sequence, deletions));
        Ok(deletions)
    }
}

/// A running search; its memory is reused by [`IndexCursor::restart`], or by another one made of it.
#[derive(Debug)]
pub struct IndexCursor {
    reader: Arc<IndexReader>,
    view: Arc<View>,
    sequence: u64,
    /// Whether any entry of the index was ever deleted.
    deletions: bool,
    memory: SearchMemory,
    strict: bool,
    last: f32,
    before_last: f32,
    late: u64,
}

#[derive(Debug, Default)]
struct Source {
    cursor: SearchCursor,
    head: Option<Neighbour>,
}

impl Source {
    /// The nearest row that was not taken. Only looked for when it is asked for: the next row may cost another round.
    fn head(&mut self, segment: &Hnsw<F32Rows>) -> Option<Neighbour> {
        if self.head.is_none() {
            self.head = self.cursor.next(segment);
        }
        self.head
    }
}

impl IndexCursor {
    /// Starts a search for the rows nearest to `query`; `ef` (at least 1) is the number of rows that each segment keeps
    /// in view. `view` is one taken after `reader` or together with it.
    ///
    /// # Errors
    /// A query of another dimension or that is not finite; a view that cannot be read.
    pub fn start(
        reader: Arc<IndexReader>,
        view: Arc<View>,
        query: &[f32],
        ef: usize,
    ) -> Result<IndexCursor, CursorError> {
        IndexCursor::start_in(SearchMemory::default(), reader, view, query, ef)
    }

    /// As [`IndexCursor::start`], in memory that an earlier search has left.
    ///
    /// # Errors
    /// As [`IndexCursor::start`]; the memory is then lost.
    pub fn start_in(
        memory: SearchMemory,
        reader: Arc<IndexReader>,
        view: Arc<View>,
        query: &[f32],
        ef: usize,
    ) -> Result<IndexCursor, CursorError> {
        let mut cursor = IndexCursor {
            reader: Arc::clone(&reader),
            view: Arc::clone(&view),
            sequence: 0,
            deletions: false,
            memory,
            strict: false,
            last: f32::NEG_INFINITY,
            before_last: f32::NEG_INFINITY,
            late: 0,
        };
        cursor.restart(reader, view, query, ef)?;
        Ok(cursor)
    }

    /// Starts another search in the same memory.
    ///
    /// # Errors
    /// As [`IndexCursor::start`]; the cursor then finds nothing.
    pub fn restart(
        &mut self,
        reader: Arc<IndexReader>,
        view: Arc<View>,
        query: &[f32],
        ef: usize,
    ) -> Result<(), CursorError> {
        let mut memory = std::mem::take(&mut self.memory);
        self.sequence = view.read_sequence();
        (self.last, self.before_last) = (f32::NEG_INFINITY, f32::NEG_INFINITY);
        self.late = 0;
        self.deletions = memory.deletions(reader.id(), &view, self.sequence).map_err(CursorError::Read)?;
        memory.sources.resize_with(reader.segments.len(), Source::default);
        for (source, segment) in memory.sources.iter_mut().zip(&reader.segments) {
            source.cursor.start(segment, query, ef).map_err(CursorError::Query)?;
            source.head = None;
        }
        self.reader = reader;
        self.view = view;
        self.memory = memory;
        Ok(())
    }

    /// Leaves out what is found nearer than something already returned. To be asked for before the first row.
    #[must_use]
    pub fn in_strict_order(mut self) -> IndexCursor {
        self.strict = true;
        self
    }

    /// Ends the search and lets go of its view and maps.
    pub fn into_memory(self) -> SearchMemory {
        self.memory
    }

    /// The next nearest row, or `None` when there is no other.
    ///
    /// # Errors
    /// A view that cannot be read.
    #[allow(clippy::should_implement_trait, reason = "a search is continued as long as the caller likes, and can fail")]
    pub fn next(&mut self) -> Result<Option<Found>, CursorError> {
        loop {
            match self.step()? {
                Step::Row(found) => return Ok(Some(found)),
                Step::Skipped => {}
                Step::End => return Ok(None),
            }
        }
    }

    /// As [`IndexCursor::next`], in steps that do not take long even where nearly all entries are deleted.
    ///
    /// # Errors
    /// A view that cannot be read.
    pub fn step(&mut self) -> Result<Step, CursorError> {
        for _ in 0..SKIPPED_AT_ONCE {
            let nearest = self
                .memory
                .sources
                .iter_mut()
                .zip(&self.reader.segments)
                .filter_map(|(source, segment)| source.head(segment).map(|head| (head, source, segment)))
                .min_by(|(a, ..), (b, ..)| a.distance.total_cmp(&b.distance));
            let Some((head, source, segment)) = nearest else { return Ok(Step::End) };
            let [entry, tid] = segment.label(head.id);
            source.head = None;
            if self.deletions && self.deleted(entry)? {
                continue;
            }
            let late = head.distance < self.last;
            self.late += u64::from(late);
            if late && self.strict {
                continue;
            }
            (self.before_last, self.last) = (self.last, self.last.max(head.distance));
            return Ok(Step::Row(Found { tid, entry, distance: head.distance }));
        }
        Ok(Step::Skipped)
    }

    /// The row that was returned last is of no use to the caller (its version is dead, say): what comes later need not be
    /// farther than it. To be called at most once after each [`IndexCursor::next`].
    pub fn take_back(&mut self) {
        self.last = self.before_last;
    }

    fn deleted(&self, entry: u64) -> Result<bool, CursorError> {
        let key = keys::deleted(self.reader.id(), entry);
        Ok(self.view.get(&key, self.sequence).map_err(CursorError::Read)?.is_some())
    }

    /// Rows that were found too late to be returned in order, so far: returned out of it, or left out.
    pub fn late(&self) -> u64 {
        self.late
    }
}

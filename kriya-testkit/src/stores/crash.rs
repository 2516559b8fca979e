//! An object store that remembers what was asked and answered, so that a test can look at every state that a crash of
//! its client could have left behind.
//!
//! A request that was answered took effect. One that was not may have taken effect or not: each combination is a state.

use std::fmt::{self, Debug, Display, Formatter};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

#[derive(Clone)]
enum Change {
    Put(Path, PutPayload, PutMode),
    Delete(Path),
}

#[derive(Clone)]
enum Event {
    Asked(usize, Change),
    /// Whether it took effect.
    Answered(usize, bool),
}

/// Requests that are waited for at once, at most: their combinations are all tried.
const MOST_OPEN: usize = 4;

/// Objects in memory, and everything that happened to them.
pub struct CrashStore {
    inner: InMemory,
    events: Mutex<Vec<Event>>,
}

/// A state that a crash could have left.
pub struct Left {
    /// Events (requests and answers) before the crash; comparable with [`CrashStore::events`].
    pub events: usize,
    /// The objects.
    pub objects: Arc<dyn ObjectStore>,
}

impl Default for CrashStore {
    fn default() -> CrashStore {
        CrashStore::new()
    }
}

impl CrashStore {
    /// An empty one.
    pub fn new() -> CrashStore {
        CrashStore { inner: InMemory::new(), events: Mutex::default() }
    }

    fn log(&self) -> MutexGuard<'_, Vec<Event>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many events there were so far.
    pub fn events(&self) -> usize {
        self.log().len()
    }

    fn asked(&self, change: Change) -> usize {
        let mut log = self.log();
        let id = log.len();
        log.push(Event::Asked(id, change));
        id
    }

    /// Every state that a crash after any event could have left.
    ///
    /// # Errors
    /// Only what memory itself says, which is nothing.
    pub async fn left_behind(&self) -> Result<Vec<Left>> {
        let log = self.log().clone();
        let mut states = Vec::new();
        for events in 0..=log.len() {
            let (mut done, mut open) = (Vec::new(), Vec::new());
            for event in &log[..events] {
                match event {
                    Event::Asked(id, change) => open.push((*id, change.clone())),
                    Event::Answered(id, applied) => {
                        let at = open.iter().position(|(asked, _)| asked == id);
                        let change = at.map(|at| open.remove(at).1);
                        done.extend(change.filter(|_| *applied));
                    }
                }
            }
            open.truncate(MOST_OPEN);
            for chosen in 0..1_usize << open.len() {
                let late =
                    open.iter().enumerate().filter(|(at, _)| chosen >> at & 1 == 1).map(|(_, (_, change))| change);
                let objects = InMemory::new();
                for change in done.iter().chain(late) {
                    apply(&objects, change).await?;
                }
                states.push(Left { events, objects: Arc::new(objects) });
            }
        }
        Ok(states)
    }
}

async fn apply(objects: &InMemory, change: &Change) -> Result<()> {
    let result = match change {
        Change::Put(path, payload, mode) => {
            objects.put_opts(path, payload.clone(), PutOptions::from(mode.clone())).await.map(drop)
        }
        Change::Delete(path) => objects.delete(path).await,
    };
    match result {
        // A request that was never answered may also have failed.
        Err(Error::AlreadyExists { .. } | Error::Precondition { .. } | Error::NotFound { .. }) => Ok(()),
        other => other,
    }
}

impl Debug for CrashStore {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        Display::fmt(self, f)
    }
}

impl Display for CrashStore {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("CrashStore")
    }
}

#[async_trait]
impl ObjectStore for CrashStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let id = self.asked(Change::Put(location.clone(), payload.clone(), options.mode.clone()));
        let result = self.inner.put_opts(location, payload, options).await;
        self.log().push(Event::Answered(id, result.is_ok()));
        result
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        // Its parts would have to be remembered one by one.
        Err(Error::NotImplemented { operation: "multipart uploads".into(), implementer: self.to_string() })
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        // Memory deletes at once: that it was asked and that it was done are one event.
        let changes: Vec<_> = futures::executor::block_on(locations.collect());
        for path in changes.iter().flatten() {
            let id = self.asked(Change::Delete(path.clone()));
            self.log().push(Event::Answered(id, true));
        }
        self.inner.delete_stream(futures::stream::iter(changes).boxed()).into_stream().boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(Error::NotImplemented { operation: "copies".into(), implementer: self.to_string() })
    }
}

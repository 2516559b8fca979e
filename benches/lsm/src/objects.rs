//! A folder as an object store that counts requests, and may take its time to answer each.

use std::fmt::{self, Debug, Display, Formatter};
use std::ops::Range;
use std::path::Path as Folder;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result,
};

/// Requests by what they cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    /// Puts.
    pub puts: u64,
    /// Bytes of them.
    pub put_bytes: u64,
    /// Gets, of ranges too.
    pub gets: u64,
    /// Lists.
    pub lists: u64,
    /// Deletions.
    pub deletes: u64,
}

/// Objects in a folder.
pub struct Counted {
    inner: LocalFileSystem,
    latency: Duration,
    /// Bytes a second that all gets together may bring, and until when what was asked for keeps it busy.
    link: Option<(f64, Mutex<Option<Instant>>)>,
    puts: AtomicU64,
    put_bytes: AtomicU64,
    gets: AtomicU64,
    lists: AtomicU64,
    deletes: AtomicU64,
}

impl Counted {
    /// Objects in `folder`, which is made; each request takes `latency` at least.
    ///
    /// # Errors
    /// If the folder cannot be made.
    pub fn open(folder: &Folder, durable: bool, latency: Duration) -> Result<Counted> {
        let failed = |e| object_store::Error::Generic { store: "folder", source: Box::new(e) };
        std::fs::create_dir_all(folder).map_err(failed)?;
        let inner = LocalFileSystem::new_with_prefix(folder)?.with_fsync(durable);
        let zero = || AtomicU64::new(0);
        Ok(Counted {
            inner,
            latency,
            link: None,
            puts: zero(),
            put_bytes: zero(),
            gets: zero(),
            lists: zero(),
            deletes: zero(),
        })
    }

    /// Behind a link of so many bytes a second, which all gets share.
    pub fn with_link(mut self, bytes_per_second: f64) -> Counted {
        self.link = Some((bytes_per_second, Mutex::default()));
        self
    }

    /// Waits until the link has brought so many bytes.
    async fn bring(&self, bytes: u64) {
        let Some((speed, busy)) = &self.link else { return };
        let until = {
            let mut busy = busy.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            let until = busy.unwrap_or(now).max(now) + Duration::from_secs_f64(bytes as f64 / speed);
            *busy = Some(until);
            until
        };
        tokio::time::sleep_until(until.into()).await;
    }

    /// What was asked so far.
    pub fn requests(&self) -> Requests {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Requests {
            puts: of(&self.puts),
            put_bytes: of(&self.put_bytes),
            gets: of(&self.gets),
            lists: of(&self.lists),
            deletes: of(&self.deletes),
        }
    }

    async fn count(&self, counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
        if !self.latency.is_zero() {
            tokio::time::sleep(self.latency).await;
        }
    }
}

impl Debug for Counted {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        Display::fmt(self, f)
    }
}

impl Display for Counted {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "Counted({})", self.inner)
    }
}

#[async_trait]
impl ObjectStore for Counted {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.count(&self.puts).await;
        self.put_bytes.fetch_add(payload.content_length() as u64, Ordering::Relaxed);
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.count(&self.puts).await;
        let inner = self.inner.put_multipart_opts(location, options).await?;
        Ok(Box::new(inner))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.count(&self.gets).await;
        let found = self.inner.get_opts(location, options).await?;
        self.bring(found.range.end - found.range.start).await;
        Ok(found)
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<bytes::Bytes>> {
        self.count(&self.gets).await;
        self.bring(ranges.iter().map(|range| range.end - range.start).sum()).await;
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.deletes.fetch_add(1, Ordering::Relaxed);
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.lists.fetch_add(1, Ordering::Relaxed);
        let (latency, listed) = (self.latency, self.inner.list(prefix));
        let wait = async move {
            tokio::time::sleep(latency).await;
            listed
        };
        if latency.is_zero() { self.inner.list(prefix) } else { futures::stream::once(wait).flatten().boxed() }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.count(&self.lists).await;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.count(&self.puts).await;
        self.inner.copy_opts(from, to, options).await
    }
}

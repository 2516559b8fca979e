//! Counts what is asked of an object store, and what comes of it: a wrapper around the one that the owner gave.
//!
//! What is counted is what the store asked for. A client that tries again on its own account asks more often than that, and
//! a list of over 1,000 names is counted as as many requests as S3 needs for it.

use std::collections::HashSet;
use std::fmt::{self, Debug, Display, Formatter};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use async_trait::async_trait;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};

use crate::metrics::{Counter, Histogram};

/// Names that a list request returns at most.
const PAGE: u64 = 1000;
/// Names of failed requests that are remembered.
const REMEMBERED: usize = 1024;

/// One class of requests.
#[derive(Debug, Default)]
pub(crate) struct Class {
    pub(crate) requests: Arc<Counter>,
    pub(crate) failures: Arc<Counter>,
    pub(crate) retries: Arc<Counter>,
    pub(crate) bytes: Arc<Counter>,
    pub(crate) time: Arc<Histogram>,
    /// Names whose last request of this class failed.
    failed: Mutex<HashSet<Path>>,
}

impl Class {
    fn ask(&self, name: &Path) -> Instant {
        self.requests.add(1);
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        if failed.remove(name) {
            self.retries.add(1);
        }
        Instant::now()
    }

    fn answered<T>(&self, name: &Path, asked: Instant, answer: &Result<T>) {
        self.time.add(asked.elapsed());
        if answer.as_ref().is_err_and(is_failure) {
            self.failed(name);
        }
    }

    fn failed(&self, name: &Path) {
        self.failures.add(1);
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        if failed.len() < REMEMBERED {
            failed.insert(name.clone());
        }
    }
}

/// Whether an error says that the store failed; that something is there already, or is not, is an answer.
fn is_failure(error: &Error) -> bool {
    !matches!(
        error,
        Error::NotFound { .. } | Error::AlreadyExists { .. } | Error::Precondition { .. } | Error::NotModified { .. }
    )
}

/// Requests by class.
#[derive(Debug, Default)]
pub(crate) struct RequestCounters {
    pub(crate) put: Class,
    pub(crate) get: Class,
    pub(crate) head: Class,
    pub(crate) list: Class,
    pub(crate) delete: Class,
    pub(crate) copy: Class,
}

impl RequestCounters {
    /// Each class and its name.
    pub(crate) fn classes(&self) -> [(&'static str, &Class); 6] {
        [
            ("put", &self.put),
            ("get", &self.get),
            ("head", &self.head),
            ("list", &self.list),
            ("delete", &self.delete),
            ("copy", &self.copy),
        ]
    }
}

/// An object store whose requests are counted.
pub(crate) struct CountedObjects {
    inner: Arc<dyn ObjectStore>,
    requests: Arc<RequestCounters>,
}

impl CountedObjects {
    pub(crate) fn new(inner: Arc<dyn ObjectStore>, requests: Arc<RequestCounters>) -> CountedObjects {
        CountedObjects { inner, requests }
    }

    fn listed(
        &self,
        at: Path,
        names: BoxStream<'static, Result<ObjectMeta>>,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let (requests, asked, mut count) = (Arc::clone(&self.requests), self.requests.list.ask(&at), 0_u64);
        let end = futures::stream::iter([None]);
        let counted = names.map(Some).chain(end).filter_map(move |name| {
            let class = &requests.list;
            match &name {
                Some(Ok(_)) => {
                    count += 1;
                    class.requests.add(u64::from(count > 1 && count % PAGE == 1));
                }
                Some(Err(error)) if is_failure(error) => class.failed(&at),
                Some(Err(_)) => {}
                None => class.time.add(asked.elapsed()),
            }
            std::future::ready(name)
        });
        counted.boxed()
    }
}

impl Debug for CountedObjects {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        Debug::fmt(&self.inner, f)
    }
}

impl Display for CountedObjects {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        Display::fmt(&self.inner, f)
    }
}

#[async_trait]
impl ObjectStore for CountedObjects {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let (class, bytes) = (&self.requests.put, payload.content_length() as u64);
        let asked = class.ask(location);
        class.bytes.add(bytes);
        let answer = self.inner.put_opts(location, payload, options).await;
        class.answered(location, asked, &answer);
        answer
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let asked = self.requests.put.ask(location);
        let answer = self.inner.put_multipart_opts(location, options).await;
        self.requests.put.answered(location, asked, &answer);
        let upload = Upload { inner: answer?, requests: Arc::clone(&self.requests), name: location.clone() };
        Ok(Box::new(upload))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let class = if options.head { &self.requests.head } else { &self.requests.get };
        let (head, asked) = (options.head, class.ask(location));
        let mut answer = self.inner.get_opts(location, options).await;
        class.answered(location, asked, &answer);
        if let (Ok(found), false) = (&mut answer, head) {
            match std::mem::replace(&mut found.payload, GetResultPayload::Stream(futures::stream::empty().boxed())) {
                GetResultPayload::Stream(body) => {
                    let (requests, name) = (Arc::clone(&self.requests), location.clone());
                    let body = body.inspect(move |part| match part {
                        Ok(bytes) => requests.get.bytes.add(bytes.len() as u64),
                        Err(_) => requests.get.failed(&name),
                    });
                    found.payload = GetResultPayload::Stream(body.boxed());
                }
                file => {
                    self.requests.get.bytes.add(found.range.end - found.range.start);
                    found.payload = file;
                }
            }
        }
        answer
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let requests = Arc::clone(&self.requests);
        let asking = Arc::clone(&self.requests);
        let locations = locations.inspect(move |name| {
            if let Ok(name) = name {
                asking.delete.ask(name);
            }
        });
        let deleted = self.inner.delete_stream(locations.boxed());
        let failed = move |deleted: &Result<Path>| {
            if deleted.as_ref().is_err_and(is_failure) {
                requests.delete.failures.add(1);
            }
        };
        deleted.inspect(failed).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listed(prefix.cloned().unwrap_or_default(), self.inner.list(prefix))
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listed(prefix.cloned().unwrap_or_default(), self.inner.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let name = prefix.cloned().unwrap_or_default();
        let asked = self.requests.list.ask(&name);
        let answer = self.inner.list_with_delimiter(prefix).await;
        self.requests.list.answered(&name, asked, &answer);
        answer
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let asked = self.requests.copy.ask(to);
        let answer = self.inner.copy_opts(from, to, options).await;
        self.requests.copy.answered(to, asked, &answer);
        answer
    }
}

/// An upload in parts, each of them a request.
#[derive(Debug)]
struct Upload {
    inner: Box<dyn MultipartUpload>,
    requests: Arc<RequestCounters>,
    name: Path,
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (requests, name) = (Arc::clone(&self.requests), self.name.clone());
        let bytes = data.content_length() as u64;
        let part = self.inner.put_part(data);
        async move {
            let asked = requests.put.ask(&name);
            requests.put.bytes.add(bytes);
            let answer = part.await;
            requests.put.answered(&name, asked, &answer);
            answer
        }
        .boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let asked = self.requests.put.ask(&self.name);
        let answer = self.inner.complete().await;
        self.requests.put.answered(&self.name, asked, &answer);
        answer
    }

    async fn abort(&mut self) -> Result<()> {
        let asked = self.requests.delete.ask(&self.name);
        let answer = self.inner.abort().await;
        self.requests.delete.answered(&self.name, asked, &answer);
        answer
    }
}

//! Objects behind a gate that can be shut: a worker that is to stop does not wait for a store that does not answer.

use std::fmt::{self, Debug, Display, Formatter};
use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use lsmstore::objects::ObjectStore;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use tokio::sync::watch;

/// Objects that can be reached until the gate is shut.
pub(crate) struct Gate {
    inner: Arc<dyn ObjectStore>,
    shut: watch::Receiver<bool>,
}

impl Gate {
    pub(crate) fn new(inner: Arc<dyn ObjectStore>, shut: watch::Receiver<bool>) -> Gate {
        Gate { inner, shut }
    }

    async fn pass<T>(&self, request: impl Future<Output = Result<T>> + Send) -> Result<T> {
        let mut shut = self.shut.clone();
        tokio::select! {
            result = request => result,
            Ok(_) = shut.wait_for(|shut| *shut) => Err(stopping()),
        }
    }

    fn pass_stream<T: Send + 'static>(&self, items: BoxStream<'static, Result<T>>) -> BoxStream<'static, Result<T>> {
        let state = (items, self.shut.clone());
        let next = |(mut items, mut shut): (BoxStream<'static, Result<T>>, watch::Receiver<bool>)| async move {
            tokio::select! {
                biased;
                item = items.next() => item.map(|item| (item, (items, shut))),
                Ok(_) = async { shut.wait_for(|shut| *shut).await.map(drop) } => {
                    Some((Err(stopping()), (stream::empty().boxed(), shut)))
                }
            }
        };
        stream::unfold(state, next).boxed()
    }
}

fn stopping() -> Error {
    Error::Generic { store: "gate", source: "the storage worker is stopping".into() }
}

impl Debug for Gate {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        Debug::fmt(&self.inner, f)
    }
}

impl Display for Gate {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        Display::fmt(&self.inner, f)
    }
}

#[async_trait]
impl ObjectStore for Gate {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.pass(self.inner.put_opts(location, payload, options)).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.pass(self.inner.put_multipart_opts(location, options)).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let mut result = self.pass(self.inner.get_opts(location, options)).await?;
        if let GetResultPayload::Stream(body) = result.payload {
            result.payload = GetResultPayload::Stream(self.pass_stream(body));
        }
        Ok(result)
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.pass_stream(self.inner.delete_stream(locations))
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.pass_stream(self.inner.list(prefix))
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.pass_stream(self.inner.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.pass(self.inner.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.pass(self.inner.copy_opts(from, to, options)).await
    }
}

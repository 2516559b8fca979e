//! The client: two of object_store's, one that is impatient and one for large bodies, errors in our words.
//!
//! The client's time limit counts from the request on, its body included, so no single limit fits a short question and
//! an upload of many megabytes: uploads have a limit of their own that grows with their size.

use std::fmt::{self, Debug, Display, Formatter};
use std::ops::Range;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryStreamExt};
use object_store::aws::AmazonS3;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};

use super::S3Config;
use super::failure::{tidy, too_slow};

/// Bodies up to this size go through the impatient client.
const SMALL: usize = 256 << 10;
/// Slowest upload that is waited for, in bytes per second.
const SLOWEST: u64 = 256 << 10;

pub(super) struct S3Objects {
    name: String,
    bucket: String,
    patience: Duration,
    quick: AmazonS3,
    bulk: AmazonS3,
}

impl S3Objects {
    pub(super) fn new(config: &S3Config, quick: AmazonS3, bulk: AmazonS3) -> S3Objects {
        let name = format!("{}/{}", config.endpoint, config.bucket);
        S3Objects { name, bucket: config.bucket.clone(), patience: config.request_timeout, quick, bulk }
    }

    fn tidy<T>(&self, result: Result<T>) -> Result<T> {
        result.map_err(|error| tidy(error, &self.bucket))
    }

    fn tidy_stream<T: Send + 'static>(&self, stream: BoxStream<'static, Result<T>>) -> BoxStream<'static, Result<T>> {
        let bucket = self.bucket.clone();
        stream.map_err(move |error| tidy(error, &bucket)).boxed()
    }
}

fn limit(patience: Duration, bytes: usize) -> Duration {
    patience * 2 + Duration::from_secs(bytes as u64 / SLOWEST)
}

/// Waits for an upload as long as its size allows.
async fn within<T>(patience: Duration, bytes: usize, upload: impl Future<Output = Result<T>> + Send) -> Result<T> {
    match tokio::time::timeout(limit(patience, bytes), upload).await {
        Ok(result) => result,
        Err(_) => Err(too_slow(bytes)),
    }
}

impl Debug for S3Objects {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        Display::fmt(self, f)
    }
}

impl Display for S3Objects {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

#[async_trait]
impl ObjectStore for S3Objects {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let bytes = payload.content_length();
        let client = if bytes <= SMALL { &self.quick } else { &self.bulk };
        self.tidy(within(self.patience, bytes, client.put_opts(location, payload, options)).await)
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let upload = within(self.patience, 0, self.bulk.put_multipart_opts(location, options)).await;
        let upload = self.tidy(upload)?;
        Ok(Box::new(Upload { inner: upload, bucket: self.bucket.clone(), patience: self.patience }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let mut result = self.tidy(self.quick.get_opts(location, options).await)?;
        if let GetResultPayload::Stream(stream) = result.payload {
            result.payload = GetResultPayload::Stream(self.tidy_stream(stream));
        }
        Ok(result)
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.tidy(self.quick.get_ranges(location, ranges).await)
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.tidy_stream(self.quick.delete_stream(locations))
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.tidy_stream(self.quick.list(prefix))
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.tidy_stream(self.quick.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.tidy(self.quick.list_with_delimiter(prefix).await)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.tidy(self.quick.copy_opts(from, to, options).await)
    }
}

#[derive(Debug)]
struct Upload {
    inner: Box<dyn MultipartUpload>,
    bucket: String,
    patience: Duration,
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (bytes, bucket, patience) = (data.content_length(), self.bucket.clone(), self.patience);
        let part = self.inner.put_part(data);
        async move { within(patience, bytes, part).await.map_err(|error| tidy(error, &bucket)) }.boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        // Putting the parts together takes a store a while.
        within(self.patience * 4, 0, self.inner.complete()).await.map_err(|error| tidy(error, &self.bucket))
    }

    async fn abort(&mut self) -> Result<()> {
        within(self.patience, 0, self.inner.abort()).await.map_err(|error| tidy(error, &self.bucket))
    }
}

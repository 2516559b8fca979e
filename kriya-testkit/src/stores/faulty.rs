//! An object store that fails as told: before or after an operation took effect, slowly, in the middle of a body.

use std::fmt::{self, Debug, Display, Formatter};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use crate::fault::{Fault, Kind, Operation, Plan};

/// Fails as its faults say, which can be changed at any time.
pub struct FaultStore {
    inner: Arc<dyn ObjectStore>,
    plan: Mutex<Plan>,
    struck: AtomicU64,
}

impl FaultStore {
    /// Around `inner`, without faults at first.
    pub fn new(inner: Arc<dyn ObjectStore>) -> FaultStore {
        FaultStore { inner, plan: Mutex::default(), struck: AtomicU64::new(0) }
    }

    /// From now on, fails like this. Counters begin anew.
    pub fn set(&self, faults: Vec<Fault>) {
        *self.plan.lock().unwrap_or_else(PoisonError::into_inner) = Plan::new(faults);
    }

    /// How often a fault struck.
    pub fn struck(&self) -> u64 {
        self.struck.load(Ordering::Relaxed)
    }

    /// What happens before an operation; tells what is to happen after it.
    async fn before(&self, operation: Operation, path: &str, conditional: bool) -> Result<Vec<Kind>> {
        let kinds = self.plan.lock().unwrap_or_else(PoisonError::into_inner).strike(operation, path);
        self.struck.fetch_add(kinds.len() as u64, Ordering::Relaxed);
        for kind in &kinds {
            match kind {
                Kind::Slow(time) => tokio::time::sleep(*time).await,
                Kind::Silent => std::future::pending().await,
                Kind::Down | Kind::Before | Kind::Break => return Err(failed("nothing was done")),
                Kind::Deny => {
                    let source = "not permitted".into();
                    return Err(Error::PermissionDenied { path: path.to_owned(), source });
                }
                Kind::Conflict if conditional => {
                    // As a client of S3 has it, although nothing exists.
                    return Err(Error::AlreadyExists { path: path.to_owned(), source: "409 conflict".into() });
                }
                Kind::Conflict | Kind::After | Kind::Cut => {}
            }
        }
        Ok(kinds)
    }
}

fn failed(what: &str) -> Error {
    Error::Generic { store: "FaultStore", source: what.into() }
}

fn after<T>(kinds: &[Kind], result: T) -> Result<T> {
    if kinds.contains(&Kind::After) { Err(failed("it was done all the same")) } else { Ok(result) }
}

impl Debug for FaultStore {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        Display::fmt(self, f)
    }
}

impl Display for FaultStore {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "FaultStore({})", self.inner)
    }
}

#[async_trait]
impl ObjectStore for FaultStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let conditional = options.mode != PutMode::Overwrite;
        let kinds = self.before(Operation::Put, location.as_ref(), conditional).await?;
        after(&kinds, self.inner.put_opts(location, payload, options).await?)
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let kinds = self.before(Operation::Put, location.as_ref(), false).await?;
        after(&kinds, self.inner.put_multipart_opts(location, options).await?)
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let kinds = self.before(Operation::Get, location.as_ref(), false).await?;
        let mut result = after(&kinds, self.inner.get_opts(location, options).await?)?;
        if kinds.contains(&Kind::Cut) {
            let (meta, range) = (result.meta.clone(), result.range.clone());
            let (attributes, extensions) = (result.attributes.clone(), result.extensions.clone());
            let whole = result.bytes().await?;
            let half: Bytes = whole.slice(..whole.len() / 2);
            let parts = stream::iter([Ok(half), Err(failed("the body was cut off"))]).boxed();
            result = GetResult { payload: GetResultPayload::Stream(parts), meta, range, attributes, extensions };
        }
        Ok(result)
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let kinds = self.plan.lock().unwrap_or_else(PoisonError::into_inner).strike(Operation::Delete, "");
        if kinds.iter().any(|kind| matches!(kind, Kind::Down | Kind::Before | Kind::Deny)) {
            return stream::iter([Err(failed("nothing was deleted"))]).boxed();
        }
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let path = prefix.map(ToString::to_string).unwrap_or_default();
        let kinds = self.plan.lock().unwrap_or_else(PoisonError::into_inner).strike(Operation::List, &path);
        self.struck.fetch_add(kinds.len() as u64, Ordering::Relaxed);
        if kinds.iter().any(|kind| matches!(kind, Kind::Down | Kind::Before | Kind::After | Kind::Deny)) {
            return stream::iter([Err(failed("nothing was listed"))]).boxed();
        }
        let listed = self.inner.list(prefix);
        if kinds.contains(&Kind::Cut) {
            return listed.take(1).chain(stream::iter([Err(failed("the list was cut off"))])).into_stream().boxed();
        }
        listed
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let path = prefix.map(ToString::to_string).unwrap_or_default();
        let kinds = self.before(Operation::List, &path, false).await?;
        after(&kinds, self.inner.list_with_delimiter(prefix).await?)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let kinds = self.before(Operation::Put, to.as_ref(), false).await?;
        self.inner.copy_opts(from, to, options).await?;
        after(&kinds, ())
    }
}

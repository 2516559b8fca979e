//! Object stores that create what is there already are refused, once, when a store is made.

use std::fmt::{self, Debug, Display};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use futures::stream::BoxStream;
use kriya_testkit::fault::{Fault, Kind};
use kriya_testkit::stores::FaultStore;
use lsmstore::{LogChoice, OpenError, Store, SystemEnv, objects};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use crate::fixture::{Fixture, names};

/// How a store treats a PUT with a condition.
#[derive(Clone, Copy, PartialEq)]
enum Manners {
    /// As any other PUT.
    Ignores,
    /// Looks first, and writes then.
    LooksFirst,
    /// Says that it has no such thing.
    HasNone,
}

struct Careless {
    inner: Arc<dyn ObjectStore>,
    manners: Manners,
    requests: AtomicUsize,
}

impl Careless {
    fn new(manners: Manners) -> Arc<Careless> {
        Arc::new(Careless { inner: objects::memory(), manners, requests: AtomicUsize::new(0) })
    }
}

impl Debug for Careless {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Careless")
    }
}

impl Display for Careless {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a careless store")
    }
}

#[async_trait]
impl ObjectStore for Careless {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        if options.mode == PutMode::Create {
            match self.manners {
                Manners::Ignores => {}
                Manners::LooksFirst => {
                    if self.inner.head(location).await.is_ok() {
                        return Err(Error::AlreadyExists { path: location.to_string(), source: "it is there".into() });
                    }
                    tokio::task::yield_now().await;
                }
                Manners::HasNone => {
                    return Err(Error::NotImplemented {
                        operation: "conditions".into(),
                        implementer: self.to_string(),
                    });
                }
            }
        }
        self.inner.put(location, payload).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

#[tokio::test]
async fn a_store_that_creates_twice_is_refused_unless_somebody_insists() {
    for manners in [Manners::Ignores, Manners::LooksFirst] {
        let (fixture, careless) = (Fixture::new(), Careless::new(manners));
        let open =
            |config| Store::open(config, Arc::clone(&careless) as _, Arc::new(SystemEnv::new()), LogChoice::Nobody);
        let error = open(fixture.config()).await.unwrap_err();
        assert!(matches!(&error, OpenError::Unconditional { .. }), "{error}");
        assert!(
            error.to_string().contains("careless") && error.to_string().contains("unsafe_single_writer"),
            "{error}"
        );
        let listed: Vec<_> = futures::TryStreamExt::try_collect(careless.list(None)).await.unwrap();
        assert_eq!(listed, [], "nothing is left behind");
        open(fixture.config().unsafe_single_writer(true)).await.unwrap();
    }
    let (fixture, careless) = (Fixture::new(), Careless::new(Manners::HasNone));
    let opened =
        Store::open(fixture.config(), careless, Arc::new(SystemEnv::new()), LogChoice::Nobody).await.unwrap_err();
    assert!(matches!(opened, OpenError::Unconditional { .. }), "{opened}");
}

#[tokio::test]
async fn a_conflict_without_reason_proves_nothing_against_a_store() {
    for seed in 0..20 {
        let (fixture, objects) = (Fixture::new(), Arc::new(FaultStore::new(objects::memory())));
        objects.set(vec![Fault::always(Kind::Conflict).within("probe/").chance(0.3, seed)]);
        let opened =
            Store::open(fixture.config(), Arc::clone(&objects) as _, Arc::new(SystemEnv::new()), LogChoice::Nobody);
        opened.await.unwrap();
    }
}

#[tokio::test]
async fn it_is_asked_once_and_leaves_no_scratch() {
    let fixture = Fixture::new();
    drop(fixture.open().await);
    let scratch =
        |fixture: &Fixture| fixture.objects.puts.lock().unwrap().iter().filter(|name| name.contains("/probe/")).count();
    assert_eq!(scratch(&fixture), 4);
    assert_eq!(names(&fixture, "/probe/").await, []);
    drop(fixture.open().await);
    drop(fixture.elsewhere().open().await);
    assert_eq!(scratch(&fixture), 4);
}

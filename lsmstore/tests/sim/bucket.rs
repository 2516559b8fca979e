//! A bucket behind a network: requests take virtual time, fail before or after they took effect, conflict without reason,
//! lose their answers, and take effect although whoever asked is gone by then.

use std::collections::BTreeMap;
use std::fmt::{self, Debug, Display, Formatter};
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures::channel::oneshot;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use lsmstore::objects::ObjectStore;
use lsmstore::{DeterministicReactor, Reactor};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use crate::tally::{self, Event};

/// How requests fare.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weather {
    /// Of a thousand requests so many fail before they take effect, after it, or conflict without reason.
    pub before: u64,
    pub after: u64,
    pub conflict: u64,
    /// Of a thousand puts and deletes so many fail at once, and take effect later.
    pub late: u64,
    /// Of a thousand bodies and lists so many are cut off.
    pub cut: u64,
    /// Milliseconds that a way takes, to or from the bucket, at most; one in sixteen takes twenty times as long.
    pub latency: u64,
    /// Nothing gets through.
    pub down: bool,
}

/// What is in the bucket, and the way to it.
pub struct Bucket {
    pub truth: Arc<InMemory>,
    reactor: DeterministicReactor,
    modified: Mutex<BTreeMap<Path, Duration>>,
    weather: Mutex<Weather>,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Good,
    Before,
    After,
    Conflict,
    Late,
}

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Read,
    Put,
    Create,
    Delete,
}

/// How long a request that was given up may take to take effect.
pub const LATEST: Duration = Duration::from_secs(5);

impl Bucket {
    pub fn new(reactor: DeterministicReactor) -> Bucket {
        Bucket { truth: Arc::new(InMemory::new()), reactor, modified: Mutex::default(), weather: Mutex::default() }
    }

    pub fn set(&self, weather: Weather) {
        *self.weather.lock().unwrap() = weather;
    }

    pub fn weather(&self) -> Weather {
        *self.weather.lock().unwrap()
    }

    fn chance(&self, of_thousand: u64) -> bool {
        of_thousand > 0 && self.reactor.random(1000) < of_thousand
    }

    async fn way(&self) {
        let latency = self.weather().latency;
        let slow = if self.reactor.random(16) == 0 { 20 } else { 1 };
        self.reactor.sleep(Duration::from_micros(self.reactor.random(latency * 1000 * slow + 1))).await;
    }

    fn dated(&self, mut meta: ObjectMeta) -> ObjectMeta {
        let at = self.modified.lock().unwrap().get(&meta.location).copied().unwrap_or_default();
        meta.last_modified = (SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000) + at).into();
        meta
    }
}

/// The bucket as one machine sees it.
#[derive(Clone)]
pub struct Link {
    bucket: Arc<Bucket>,
    /// How many things cut this machine off.
    cuts: Arc<Mutex<u32>>,
}

fn failed(what: &'static str) -> Error {
    Error::Generic { store: "simulated", source: what.into() }
}

impl Link {
    pub fn new(bucket: &Arc<Bucket>) -> Link {
        Link { bucket: Arc::clone(bucket), cuts: Arc::default() }
    }

    /// Cuts the machine off.
    pub fn cut(&self) {
        *self.cuts.lock().unwrap() += 1;
    }

    /// Takes one cut back.
    pub fn mend(&self) {
        let mut cuts = self.cuts.lock().unwrap();
        *cuts = cuts.saturating_sub(1);
    }

    /// Takes all cuts back.
    pub fn heal(&self) {
        *self.cuts.lock().unwrap() = 0;
    }

    fn down(&self) -> bool {
        *self.cuts.lock().unwrap() > 0 || self.bucket.weather().down
    }

    /// Sends a request on its way, which it goes to its end whatever becomes of the asker.
    async fn ask<T, F>(&self, what: String, kind: Kind, request: impl FnOnce() -> F + Send + 'static) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let (send, answer) = oneshot::channel();
        let link = self.clone();
        let way = async move {
            let bucket = &link.bucket;
            let weather = bucket.weather();
            let fate = match () {
                () if bucket.chance(weather.before) => Fate::Before,
                () if bucket.chance(weather.after) => Fate::After,
                () if kind == Kind::Create && bucket.chance(weather.conflict) => Fate::Conflict,
                () if kind != Kind::Read && bucket.chance(weather.late) => Fate::Late,
                () => Fate::Good,
            };
            let mut asker = Some(send);
            if fate == Fate::Late {
                let gone = asker.take().map(|asker| asker.send(Err(failed("it took too long"))));
                drop(gone);
                let time = Duration::from_micros(bucket.reactor.random(LATEST.as_micros() as u64));
                bucket.reactor.sleep(time).await;
            } else {
                bucket.way().await;
            }
            // What is late has left before the weather turned.
            let answer = if fate == Fate::Before || fate != Fate::Late && link.down() {
                Err(failed("nothing was done"))
            } else if fate == Fate::Conflict {
                Err(Error::AlreadyExists { path: what.clone(), source: "409".into() })
            } else {
                request().await
            };
            let word: &[u8] = if answer.is_ok() { b"+" } else { b"-" };
            bucket.reactor.note(what.as_bytes());
            bucket.reactor.note(word);
            crate::tell(&bucket.reactor, || format!("{what}: {}", if answer.is_ok() { "done" } else { "not done" }));
            if fate == Fate::Late && answer.is_ok() {
                tally::count(Event::Late);
            }
            let Some(asker) = asker else { return };
            bucket.way().await;
            let lost = fate == Fate::After || link.down();
            if lost && answer.is_ok() && kind != Kind::Read {
                tally::count(Event::LostAnswer);
            }
            let answer = if lost { Err(failed("the answer was lost")) } else { answer };
            // Whoever asked may be gone.
            let _ = asker.send(answer);
        };
        self.bucket.reactor.spawn(Box::pin(way));
        answer.await.unwrap_or_else(|_| Err(failed("no answer will come")))
    }

    async fn listed(self, prefix: Option<Path>, offset: Option<Path>) -> Vec<Result<ObjectMeta>> {
        let bucket = Arc::clone(&self.bucket);
        let what = format!("list {prefix:?} {offset:?}");
        let request = move || async move {
            let listed: Vec<ObjectMeta> = bucket.truth.list(prefix.as_ref()).try_collect().await?;
            let listed = listed.into_iter().filter(|meta| offset.as_ref().is_none_or(|from| meta.location > *from));
            Ok(listed.map(|meta| bucket.dated(meta)).collect::<Vec<_>>())
        };
        let mut listed = match self.ask(what, Kind::Read, request).await {
            Ok(listed) => listed.into_iter().map(Ok).collect(),
            Err(error) => vec![Err(error)],
        };
        if self.bucket.chance(self.bucket.weather().cut) {
            listed.truncate(listed.len() / 2);
            listed.push(Err(failed("the list was cut off")));
        }
        listed
    }

    async fn delete(self, path: Path) -> Result<Path> {
        let bucket = Arc::clone(&self.bucket);
        let what = format!("delete {path}");
        self.ask(what, Kind::Delete, move || async move { bucket.truth.delete(&path).await.map(|()| path) }).await
    }
}

impl Debug for Link {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        Display::fmt(self, f)
    }
}

impl Display for Link {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("a simulated bucket")
    }
}

#[async_trait]
impl ObjectStore for Link {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let (bucket, path) = (Arc::clone(&self.bucket), location.clone());
        let what = format!("put {path} {}", payload.content_length());
        let kind = if options.mode == PutMode::Create { Kind::Create } else { Kind::Put };
        let request = move || async move {
            let put = bucket.truth.put_opts(&path, payload, options).await?;
            bucket.modified.lock().unwrap().insert(path, bucket.reactor.monotonic());
            Ok(put)
        };
        self.ask(what, kind, request).await
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(Error::NotImplemented { operation: "multipart uploads".into(), implementer: self.to_string() })
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let (bucket, path) = (Arc::clone(&self.bucket), location.clone());
        let what = format!("get {path}");
        let request = move || async move {
            let found = bucket.truth.get_opts(&path, options).await?;
            let (meta, range, attributes) =
                (bucket.dated(found.meta.clone()), found.range.clone(), found.attributes.clone());
            let extensions = found.extensions.clone();
            let body: Bytes = found.bytes().await?;
            Ok((meta, range, attributes, extensions, body))
        };
        let (meta, range, attributes, extensions, body): (_, Range<u64>, _, _, Bytes) =
            self.ask(what, Kind::Read, request).await?;
        let parts = match self.bucket.chance(self.bucket.weather().cut) {
            true => vec![Ok(body.slice(..body.len() / 2)), Err(failed("the body was cut off"))],
            false => vec![Ok(body)],
        };
        let payload = GetResultPayload::Stream(stream::iter(parts).boxed());
        Ok(GetResult { payload, meta, range, attributes, extensions })
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let link = self.clone();
        let each = move |path: Result<Path>| {
            let link = link.clone();
            async move { link.delete(path?).await }
        };
        locations.map(each).buffered(3).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        stream::once(self.clone().listed(prefix.cloned(), None)).map(stream::iter).flatten().boxed()
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        stream::once(self.clone().listed(prefix.cloned(), Some(offset.clone()))).map(stream::iter).flatten().boxed()
    }

    async fn list_with_delimiter(&self, _: Option<&Path>) -> Result<ListResult> {
        Err(Error::NotImplemented { operation: "lists of folders".into(), implementer: self.to_string() })
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(Error::NotImplemented { operation: "copies".into(), implementer: self.to_string() })
    }
}

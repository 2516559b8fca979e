//! What the tests stand on: a folder and objects of their own, a log that remembers what it was asked, an object store
//! that fails on demand.

use std::fmt::{self, Debug, Display};
use std::ops::Deref;
use std::path::Path;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures::TryStreamExt;
use futures::stream::BoxStream;
use lsmstore::objects::{self, ObjectStore};
use lsmstore::{
    Batch, Birth, Config, ExternalLog, LogChoice, LogError, ManifestInfo, OpenError, Replayed, Store, SystemEnv,
    WriteError,
};
use object_store::path::Path as ObjectPath;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStoreExt, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result,
};

pub struct Fixture {
    folder: tempfile::TempDir,
    pub objects: Arc<FaultyObjects>,
}

impl Fixture {
    pub fn new() -> Fixture {
        Fixture { folder: tempfile::tempdir().unwrap(), objects: Arc::new(FaultyObjects::new(objects::memory())) }
    }

    /// The same bucket, seen from another folder.
    pub fn elsewhere(&self) -> Fixture {
        Fixture { folder: tempfile::tempdir().unwrap(), objects: Arc::clone(&self.objects) }
    }

    /// Another bucket and folder with the same content.
    pub async fn copy(&self) -> Fixture {
        let other = Fixture::new();
        let listed: Vec<_> = ObjectStore::list(&*self.objects, None).try_collect().await.unwrap();
        for meta in listed {
            let bytes = self.objects.get(&meta.location).await.unwrap().bytes().await.unwrap();
            other.objects.put(&meta.location, bytes.into()).await.unwrap();
        }
        for dir in ["", "wal", "mirror"] {
            std::fs::create_dir_all(other.folder().join(dir)).unwrap();
            for entry in std::fs::read_dir(self.folder().join(dir)).into_iter().flatten() {
                let path = entry.unwrap().path();
                if path.is_file() {
                    std::fs::copy(&path, other.folder().join(dir).join(path.file_name().unwrap())).unwrap();
                }
            }
        }
        other
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn config(&self) -> Config {
        Config::new(self.folder(), "test").memtable_bytes(64 << 10).block_bytes(256)
    }

    pub async fn try_open(&self, config: Config, log: LogChoice) -> Result<Store, OpenError> {
        Store::open(config, Arc::clone(&self.objects) as _, Arc::new(SystemEnv::new()), log).await
    }

    /// Opens with the store's own log.
    pub async fn open_own(&self, config: Config) -> Result<Store, OpenError> {
        self.try_open(config, LogChoice::Own).await
    }

    pub async fn open_with(&self, config: Config, log: LogChoice) -> Store {
        self.try_open(config, log).await.unwrap()
    }

    pub async fn open(&self) -> Store {
        self.open_with(self.config(), LogChoice::Nobody).await
    }
}

/// The names of the objects that contain a text, in order.
pub async fn names(fixture: &Fixture, part: &str) -> Vec<ObjectPath> {
    let listed: Vec<_> = ObjectStore::list(&*fixture.objects, None).try_collect().await.unwrap();
    let names = listed.into_iter().map(|meta| meta.location);
    let mut names: Vec<_> = names.filter(|name| name.as_ref().contains(part)).collect();
    names.sort();
    names
}

/// A batch of puts.
pub fn puts(writes: &[(&str, &str)]) -> Batch {
    let mut batch = Batch::new();
    for (key, value) in writes {
        batch.put(key.as_bytes(), value.as_bytes());
    }
    batch
}

/// The newest value of a key.
pub fn get(store: &Store, key: &str) -> Option<String> {
    let view = store.view().unwrap();
    let value = view.get(key.as_bytes(), view.read_sequence()).unwrap();
    value.map(|value| String::from_utf8(value.to_vec()).unwrap())
}

#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    Position(u64),
    Birth(Birth),
    Published(ManifestInfo),
}

/// A log in memory: its records are the batches, a position is a number of records.
#[derive(Default)]
pub struct RecordingLog {
    records: Mutex<Vec<(u64, Vec<u8>)>>,
    pub events: Mutex<Vec<Event>>,
    pub fail_birth: Mutex<bool>,
    pub fail_published: Mutex<bool>,
    /// Called when a birth is logged.
    #[allow(clippy::type_complexity)]
    pub at_birth: Mutex<Option<Box<dyn Fn(&Birth) + Send>>>,
}

impl RecordingLog {
    pub fn append(&self, first: u64, batch: &Batch) {
        self.records.lock().unwrap().push((first, batch.encode().to_vec()));
    }

    /// Replays from the newest published position.
    pub async fn replay(&self, store: &Store) -> (usize, usize) {
        let from = store.manifest().position as usize;
        let records = self.records.lock().unwrap()[from..].to_vec();
        let (mut applied, mut skipped) = (0, 0);
        for (first, bytes) in records {
            let batch = Batch::decode(&bytes).unwrap();
            loop {
                match store.apply_at(first, &batch) {
                    Ok(Replayed::Applied) => applied += 1,
                    Ok(_) => skipped += 1,
                    Err(WriteError::Full { .. }) => {
                        store.flush().await.unwrap();
                        continue;
                    }
                    Err(error) => panic!("{error}"),
                }
                break;
            }
        }
        (applied, skipped)
    }

    pub fn take_events(&self) -> Vec<Event> {
        std::mem::take(&mut self.events.lock().unwrap())
    }
}

#[async_trait]
impl ExternalLog for RecordingLog {
    async fn position(&self) -> Result<u64, LogError> {
        let position = self.records.lock().unwrap().len() as u64;
        self.events.lock().unwrap().push(Event::Position(position));
        Ok(position)
    }

    async fn birth(&self, birth: &Birth) -> Result<Vec<u8>, LogError> {
        if *self.fail_birth.lock().unwrap() {
            return Err(LogError::new("the log is full"));
        }
        if let Some(call) = &*self.at_birth.lock().unwrap() {
            call(birth);
        }
        self.events.lock().unwrap().push(Event::Birth(birth.clone()));
        Ok(format!("born {}", birth.manifest_number).into_bytes())
    }

    async fn published(&self, manifest: &ManifestInfo) -> Result<(), LogError> {
        if *self.fail_published.lock().unwrap() {
            return Err(LogError::new("the slot is gone"));
        }
        self.events.lock().unwrap().push(Event::Published(manifest.clone()));
        Ok(())
    }
}

/// When a put fails.
#[derive(Clone, Copy, PartialEq)]
pub enum Fault {
    Before,
    After,
}

/// An object store whose puts can be made to fail, before or after they took effect.
pub struct FaultyObjects {
    inner: Arc<dyn ObjectStore>,
    /// Puts whose name contains the text fail that many times.
    faults: Mutex<Vec<(&'static str, Fault, usize)>>,
    pub puts: Mutex<Vec<String>>,
}

impl FaultyObjects {
    pub fn new(inner: Arc<dyn ObjectStore>) -> FaultyObjects {
        FaultyObjects { inner, faults: Mutex::default(), puts: Mutex::default() }
    }

    pub fn fail(&self, name: &'static str, fault: Fault, times: usize) {
        self.faults.lock().unwrap().push((name, fault, times));
    }

    /// No put fails any more.
    pub fn heal(&self) {
        self.faults.lock().unwrap().clear();
    }

    fn fault(&self, location: &ObjectPath) -> Option<Fault> {
        let mut faults = self.faults.lock().unwrap();
        let found = faults.iter_mut().find(|(name, _, times)| *times > 0 && location.as_ref().contains(name))?;
        found.2 -= 1;
        Some(found.1)
    }

    fn error() -> object_store::Error {
        object_store::Error::Generic { store: "faulty", source: "the object store is down".into() }
    }
}

impl Debug for FaultyObjects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FaultyObjects")
    }
}

impl Display for FaultyObjects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FaultyObjects")
    }
}

impl Deref for FaultyObjects {
    type Target = Arc<dyn ObjectStore>;

    fn deref(&self) -> &Arc<dyn ObjectStore> {
        &self.inner
    }
}

#[async_trait]
impl ObjectStore for FaultyObjects {
    async fn put_opts(&self, location: &ObjectPath, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let fault = self.fault(location);
        self.puts.lock().unwrap().push(location.to_string());
        if fault == Some(Fault::Before) {
            return Err(FaultyObjects::error());
        }
        let result = self.inner.put_opts(location, payload, opts).await?;
        if fault == Some(Fault::After) { Err(FaultyObjects::error()) } else { Ok(result) }
    }

    async fn put_multipart_opts(
        &self,
        location: &ObjectPath,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &ObjectPath, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<ObjectPath>>,
    ) -> BoxStream<'static, Result<ObjectPath>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&ObjectPath>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&ObjectPath>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &ObjectPath, to: &ObjectPath, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

//! What a store says of itself is what it did, by the count of somebody else.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use lsmstore::metrics::Prometheus;
use lsmstore::objects::{self, ObjectStore};
use lsmstore::{Batch, Config, Durability, FlushOptions, KeepAll, LogChoice, Stats, Store, SystemEnv, WriteError};
use object_store::path::Path as ObjectPath;
use object_store::{
    CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result,
};

use crate::fixture::{Fault, Fixture, get, puts};

/// An object store that counts: requests and bytes by class.
#[derive(Debug)]
struct Witness {
    inner: Arc<dyn ObjectStore>,
    seen: Arc<Mutex<BTreeMap<&'static str, (u64, u64)>>>,
}

impl Witness {
    fn new() -> Arc<Witness> {
        Arc::new(Witness { inner: objects::memory(), seen: Arc::default() })
    }

    fn saw(&self, class: &'static str, requests: u64, bytes: u64) {
        let mut seen = self.seen.lock().unwrap();
        let class = seen.entry(class).or_default();
        *class = (class.0 + requests, class.1 + bytes);
    }

    fn seen(&self, class: &str) -> (u64, u64) {
        self.seen.lock().unwrap().get(class).copied().unwrap_or_default()
    }

    fn total(&self) -> u64 {
        self.seen.lock().unwrap().values().map(|(requests, _)| requests).sum()
    }
}

impl std::fmt::Display for Witness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Witness")
    }
}

#[async_trait]
impl ObjectStore for Witness {
    async fn put_opts(&self, location: &ObjectPath, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.saw("put", 1, payload.content_length() as u64);
        self.inner.put_opts(location, payload, opts).await
    }

    async fn put_multipart_opts(&self, _: &ObjectPath, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        panic!("a store puts whole objects")
    }

    async fn get_opts(&self, location: &ObjectPath, options: GetOptions) -> Result<GetResult> {
        let head = options.head;
        let mut result = self.inner.get_opts(location, options).await;
        let length = result.as_ref().map_or(0, |found| found.range.end - found.range.start);
        self.saw(if head { "head" } else { "get" }, 1, if head { 0 } else { length });
        if let Ok(found) = &mut result {
            assert!(matches!(found.payload, GetResultPayload::Stream(_)));
        }
        result
    }

    fn delete_stream(&self, names: BoxStream<'static, Result<ObjectPath>>) -> BoxStream<'static, Result<ObjectPath>> {
        let seen = Arc::clone(&self.seen);
        // One that a store deletes in a request of its own.
        let names = names.inspect(move |_| seen.lock().unwrap().entry("delete").or_default().0 += 1);
        self.inner.delete_stream(names.boxed())
    }

    fn list(&self, prefix: Option<&ObjectPath>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.saw("list", 1, 0);
        self.inner.list(prefix).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&ObjectPath>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &ObjectPath, to: &ObjectPath, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

fn config(folder: &Path) -> Config {
    Config::new(folder, "figures").memtable_bytes(64 << 10).block_bytes(512).table_bytes(16 << 10).level_bytes(32 << 10)
}

async fn open(folder: &Path, witness: &Arc<Witness>, log: LogChoice) -> Store {
    Store::open(config(folder), Arc::clone(witness) as _, Arc::new(SystemEnv::new()), log).await.unwrap()
}

/// The sum of the lengths of the files of a folder.
fn bytes_in(folder: &Path) -> u64 {
    std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
}

fn agrees(stats: &Stats, witness: &Witness) {
    let requests = &stats.requests;
    let classes = [
        ("put", requests.put),
        ("get", requests.get),
        ("head", requests.head),
        ("list", requests.list),
        ("delete", requests.delete),
    ];
    for (name, class) in classes {
        assert_eq!((class.requests, class.bytes), witness.seen(name), "{name}");
    }
    assert_eq!(requests.total(), witness.total());
}

#[tokio::test]
async fn requests_and_bytes_are_those_that_the_object_store_saw() {
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let witness = Witness::new();
    let store = open(folder.path(), &witness, LogChoice::Nobody).await;
    agrees(&store.stats(), &witness);
    for round in 0..6 {
        let mut batch = Batch::new();
        for n in 0..200 {
            batch.put(format!("k{round}{n:04}").as_bytes(), &[7; 50]);
        }
        store.apply(&batch).unwrap();
        store.flush().await.unwrap();
    }
    while store.merge(Arc::new(KeepAll)).await.unwrap().inputs > 0 {}
    let stats = store.stats();
    agrees(&stats, &witness);
    assert!(stats.requests.put.bytes > 1000 && stats.requests.put.failures == 0, "{stats}");
    store.close().await.unwrap();
    // Another folder has to fetch everything.
    let before = witness.seen("get");
    let store = open(other.path(), &witness, LogChoice::Nobody).await;
    let stats = store.stats();
    let tables: u64 = stats.levels.iter().map(|level| level.tables).sum();
    assert_eq!((stats.mirror_fetches, stats.mirror_hits), (tables, 0));
    let got = (witness.seen("get").0 - before.0, witness.seen("get").1 - before.1);
    assert_eq!((stats.requests.get.requests, stats.requests.get.bytes), got);
}

#[tokio::test]
async fn what_is_applied_and_read_is_counted() {
    let fixture = Fixture::new();
    let store = fixture.open().await;
    let mut batch = puts(&[("a", "12345"), ("bb", "")]);
    batch.delete(b"ccc");
    store.apply(&batch).unwrap();
    store.apply(&Batch::decode(&batch.encode()).unwrap()).unwrap();
    let stats = store.stats();
    assert_eq!((stats.batches, stats.writes, stats.deletes, stats.logical_bytes), (2, 6, 2, 22));
    assert_eq!(stats.written_bytes, 2 * batch.encoded_len() as u64);
    store.flush().await.unwrap();
    assert_eq!(get(&store, "a").as_deref(), Some("12345"));
    assert_eq!(get(&store, "ccc"), None, "deleted is found");
    assert_eq!(get(&store, "zzz"), None);
    let view = store.view().unwrap();
    view.iter(view.read_sequence()).unwrap();
    let stats = store.stats();
    assert_eq!((stats.gets_found, stats.gets_absent, stats.get_tables, stats.scans), (2, 1, 2, 1));
    assert_eq!(stats.read_amplification(), Some(2.0 / 3.0));
}

#[tokio::test]
async fn bytes_on_the_local_disk_are_those_of_the_files() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path(), &Witness::new(), LogChoice::Own).await;
    for n in 0..20 {
        let batch = puts(&[(&format!("key {n}"), "value")]);
        store.write(batch, if n % 2 == 0 { Durability::Local } else { Durability::Memory }).await.unwrap();
    }
    let stats = store.stats();
    assert_eq!(stats.log.bytes, bytes_in(&folder.path().join("wal")));
    assert_eq!(stats.log.syncs, 1 + 10, "one for the header");
    store.flush().await.unwrap();
    let stats = store.stats();
    assert_eq!(stats.mirror.bytes, bytes_in(&folder.path().join("mirror")));
    assert_eq!(stats.mirror.bytes, stats.levels[0].mirror_bytes);
    let local = stats.log.bytes + stats.mirror.bytes + stats.other.bytes;
    assert_eq!(stats.local_write_amplification(), Some(local as f64 / stats.logical_bytes as f64));
    assert_eq!(stats.write_amplification(), Some(stats.requests.put.bytes as f64 / stats.logical_bytes as f64));
}

#[tokio::test]
async fn the_work_of_each_level_adds_up() {
    let fixture = Fixture::new();
    let store = fixture.open_with(config(fixture.folder()).l0_merge_trigger(2), LogChoice::Nobody).await;
    let mut flushed = 0;
    for round in 0..8_u8 {
        let mut batch = Batch::new();
        for n in 0..300 {
            batch.put(format!("k{n:04}").as_bytes(), &[round; 40]);
        }
        store.apply(&batch).unwrap();
        store.flush().await.unwrap();
        flushed += store.view().unwrap().tables().next().unwrap().mirror_len;
        while store.wants_merge() {
            store.merge(Arc::new(KeepAll)).await.unwrap();
        }
    }
    let stats = store.stats();
    let levels = &stats.levels;
    assert_eq!((levels[0].jobs, levels[0].written_bytes), (8, flushed));
    assert_eq!((stats.flushes, levels[0].write_amplification()), (8, Some(1.0)));
    assert_eq!(levels[1].above_bytes, flushed - levels[0].mirror_bytes, "what left L0 went to L1");
    assert!(levels[1].jobs > 0 && levels[1].same_bytes > 0 && levels[1].written_bytes > 0);
    // All that was ever written to mirrors is what the levels say.
    assert_eq!(levels.iter().map(|level| level.written_bytes).sum::<u64>(), stats.mirror.bytes);
    let shown = stats.to_string();
    assert!(shown.contains("\nL1 ") && shown.contains("\nsum ") && shown.contains("amplification: write "), "{shown}");
    assert!(stats.space_amplification().unwrap() >= 1.0);
}

#[tokio::test]
async fn an_idle_store_asks_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let witness = Witness::new();
    let store = open(folder.path(), &witness, LogChoice::Own).await;
    store.write(puts(&[("a", "1")]), Durability::Local).await.unwrap();
    store.flush().await.unwrap();
    let before = (witness.total(), store.stats());
    // Not to wait for something, but to see nothing happen.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!((witness.total(), store.stats()), before);
}

#[tokio::test]
async fn failures_and_what_is_tried_again_are_told_apart_from_answers() {
    let fixture = Fixture::new();
    let store = fixture.open().await;
    let at_first = store.stats().requests.put;
    fixture.objects.fail("/sst/", Fault::Before, 1);
    fixture.objects.fail("/manifest/", Fault::After, 1);
    store.apply(&puts(&[("a", "1")])).unwrap();
    assert!(store.flush().await.is_err(), "the table");
    assert!(store.flush().await.is_err(), "the manifest");
    store.flush().await.unwrap();
    let put = store.stats().requests.put;
    assert_eq!((put.requests - at_first.requests, put.failures, put.retries), (4, 2, 2));
    assert_eq!(store.stats().failed_flushes, 0, "the local disk had taken it");
}

#[tokio::test]
async fn a_stall_is_from_the_first_refusal_to_the_next_write_that_is_taken() {
    let fixture = Fixture::new();
    let config = fixture.config().memtable_bytes(4096).max_frozen(1);
    let store = fixture.open_with(config, LogChoice::Nobody).await;
    let batch = puts(&[("a", &"x".repeat(2000))]);
    let mut refused = 0;
    while refused < 3 {
        match store.apply(&batch) {
            Ok(_) => {}
            Err(WriteError::Full { .. }) => refused += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!((store.stats().refused_full, store.stats().stalls), (3, 0), "it lasts");
    store.flush_local(FlushOptions::default()).await.unwrap();
    store.apply(&batch).unwrap();
    store.apply(&batch).unwrap();
    let stats = store.stats();
    assert_eq!((stats.refused_full, stats.refused_behind, stats.stalls), (3, 0, 1));
    assert!(stats.stalled > Duration::ZERO);
}

#[tokio::test]
async fn a_recorder_reads_the_same_figures() {
    let fixture = Fixture::new();
    let prometheus = Arc::new(Prometheus::new());
    let config = fixture.config().recorder(Arc::clone(&prometheus) as _);
    let store = fixture.open_with(config, LogChoice::Nobody).await;
    store.apply(&puts(&[("a", "1"), ("b", "2")])).unwrap();
    store.flush().await.unwrap();
    get(&store, "a");
    let (stats, text) = (store.stats(), prometheus.render());
    let figure = |name: &str| -> f64 {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name} in\n{text}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    let expected = [
        ("lsmstore_writes_total{prefix=\"test\"}", stats.writes),
        ("lsmstore_logical_bytes_total", stats.logical_bytes),
        ("lsmstore_gets_total{prefix=\"test\",result=\"found\"}", 1),
        ("lsmstore_requests_total{prefix=\"test\",class=\"put\"}", stats.requests.put.requests),
        ("lsmstore_request_bytes_total{prefix=\"test\",class=\"put\"}", stats.requests.put.bytes),
        ("lsmstore_request_seconds_count{prefix=\"test\",class=\"put\"}", stats.requests.put.requests),
        ("lsmstore_local_bytes_total{prefix=\"test\",kind=\"mirror\"}", stats.mirror.bytes),
        ("lsmstore_level_tables{prefix=\"test\",level=\"0\"}", 1),
        ("lsmstore_level_mirror_bytes{prefix=\"test\",level=\"0\"}", stats.levels[0].mirror_bytes),
        ("lsmstore_level_seconds_count{prefix=\"test\",level=\"0\"}", 1),
        ("lsmstore_manifest{", stats.manifest_number),
        ("lsmstore_usable", 1),
    ];
    for (name, value) in expected {
        assert_eq!(figure(name), value as f64, "{name}");
    }
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        assert!(line.starts_with("lsmstore_") && line.contains("{prefix=\"test\""), "{line}");
    }
    store.close().await.unwrap();
    assert!(prometheus.render().contains("lsmstore_usable{prefix=\"test\"} 0"));
}

//! What `lsmstore` says of its requests is what arrived, and what `inspect` finds in a bucket is what a store put there.

use std::sync::Arc;

use kriya_testkit::s3::{KEY, S3Server};
use lsmstore::inspect::{Bucket, UrlOptions, open_url};
use lsmstore::{Config, KeepAll, LogChoice, Store, SystemEnv};

use crate::places::{BUCKET, client, key, server};

async fn open(server: &S3Server, dir: &tempfile::TempDir) -> Store {
    let config = Config::new(dir.path(), "a/b").memtable_bytes(64 << 10).block_bytes(512);
    Store::open(config, client(server), Arc::new(SystemEnv::new()), LogChoice::Nobody).await.unwrap()
}

fn arrived(server: &S3Server, method: &str) -> u64 {
    server.requests().iter().filter(|request| request.starts_with(method)).count() as u64
}

#[tokio::test]
async fn requests_that_are_counted_are_those_that_arrive() {
    let (server, dir, other) = (server(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = open(&server, &dir).await;
    for round in 0..3 {
        store.put(b"key", format!("{round}").as_bytes()).await.unwrap();
        store.flush().await.unwrap();
    }
    store.merge(Arc::new(KeepAll)).await.unwrap();
    let first = store.stats().requests;
    // Objects that are deleted are counted one by one, and go in one request.
    let (others, deletions) = (first.total() - first.delete.requests, arrived(&server, "POST "));
    assert_eq!((first.put.requests, others + deletions), (arrived(&server, "PUT "), server.requests().len() as u64));
    assert_eq!((first.delete.requests, deletions), (2, 1), "the scratch of the probe");
    store.close().await.unwrap();
    let before = server.requests().len() as u64;
    let store = open(&server, &other).await;
    let second = store.stats();
    assert_eq!(second.requests.total(), server.requests().len() as u64 - before);
    assert!(second.requests.get.bytes > 0 && second.mirror_fetches == 1, "{second}");
    assert_eq!(
        first.get.requests + second.requests.get.requests + first.list.requests + second.requests.list.requests,
        arrived(&server, "GET "),
        "lists are GETs as well"
    );
}

#[tokio::test]
async fn a_bucket_is_looked_at_by_its_address_and_nothing_is_written() {
    let (server, dir) = (server(), tempfile::tempdir().unwrap());
    let store = open(&server, &dir).await;
    store.put(b"key", b"value").await.unwrap();
    store.flush().await.unwrap();
    let (puts, objects) = (arrived(&server, "PUT "), server.objects(BUCKET));
    let mut options = UrlOptions::default();
    options.endpoint = Some(server.url());
    options.credentials = key(KEY.0, KEY.1);
    let (found, prefix) = open_url(&format!("s3://{BUCKET}/a/b/"), &options).unwrap();
    let bucket = Bucket::new(found, &prefix);
    let manifest = bucket.manifest(None).await.unwrap().unwrap();
    assert_eq!((manifest.info.number, manifest.info.store_id), (2, store.store_id()));
    let scrubbed = bucket.scrub(true, |_| ()).await.unwrap();
    assert_eq!((scrubbed.manifests, scrubbed.tables, scrubbed.entries, scrubbed.damage.len()), (2, 1, 1, 0));
    let usage = bucket.usage(&manifest).await.unwrap();
    assert_eq!(usage.manifests + usage.tables + usage.unnamed + usage.others, objects.len() as u64);
    let table = manifest.tables().next().unwrap().1.id;
    let table = bucket.table(table).await.unwrap();
    let entry = table.entries(None, None).next().unwrap().unwrap();
    assert_eq!((&entry.key[..], &entry.value[..]), (&b"key"[..], &b"value"[..]));
    assert_eq!((arrived(&server, "PUT "), server.objects(BUCKET)), (puts, objects));
    // The store that was looked at goes on.
    store.put(b"key", b"newer").await.unwrap();
    store.flush().await.unwrap();
}

//! What a client of S3 relies on.

use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use kriya_testkit::s3::{S3Options, S3Server};
use object_store::path::Path;
use object_store::{Error, GetRange, ObjectStoreExt, PutMode, PutOptions, PutPayload, UpdateVersion, WriteMultipart};

use crate::places::{BUCKET, client, config, key, server};

fn create() -> PutOptions {
    PutOptions::from(PutMode::Create)
}

#[tokio::test]
async fn an_object_is_put_read_in_parts_listed_and_deleted() {
    let server = server();
    let store = client(&server);
    let path = Path::from("a/odd name+%/object");
    store.put(&path, PutPayload::from_static(b"0123456789")).await.unwrap();
    assert_eq!(store.get(&path).await.unwrap().bytes().await.unwrap(), &b"0123456789"[..]);
    assert_eq!(store.get_range(&path, 3..6).await.unwrap(), &b"345"[..]);
    let last = object_store::GetOptions { range: Some(GetRange::Suffix(2)), ..Default::default() };
    assert_eq!(store.get_opts(&path, last).await.unwrap().bytes().await.unwrap(), &b"89"[..]);
    assert_eq!(store.head(&path).await.unwrap().size, 10);
    assert_eq!(server.objects(BUCKET), [path.as_ref()]);
    store.delete(&path).await.unwrap();
    assert!(matches!(store.get(&path).await, Err(Error::NotFound { .. })));
}

#[tokio::test]
async fn of_many_who_create_an_object_exactly_one_succeeds() {
    let server = server();
    let client = client(&server);
    for round in 0..10 {
        let path = Path::from(format!("race/{round}"));
        let writers = (0..32_u32).map(|writer| {
            let (store, path) = (Arc::clone(&client), path.clone());
            tokio::spawn(async move {
                let body = Bytes::from(writer.to_string());
                store.put_opts(&path, body.into(), create()).await.map(|_| writer)
            })
        });
        let mut winners = Vec::new();
        for writer in writers.collect::<Vec<_>>() {
            match writer.await.unwrap() {
                Ok(writer) => winners.push(writer.to_string()),
                Err(error) => assert!(matches!(error, Error::AlreadyExists { .. }), "{error}"),
            }
        }
        assert_eq!(winners.len(), 1, "{winners:?}");
        let there = client.get(&path).await.unwrap().bytes().await.unwrap();
        assert_eq!(there, winners[0].as_bytes());
    }
}

#[tokio::test]
async fn a_counter_that_is_updated_on_condition_loses_no_step() {
    let server = server();
    let path = Path::from("counter");
    client(&server).put(&path, PutPayload::from_static(b"0")).await.unwrap();
    let steps = (0..4).map(|_| {
        let (store, path) = (client(&server), path.clone());
        tokio::spawn(async move {
            for _ in 0..20 {
                loop {
                    let found = store.get(&path).await.unwrap();
                    let version = UpdateVersion { e_tag: found.meta.e_tag.clone(), version: None };
                    let count: u32 = String::from_utf8_lossy(&found.bytes().await.unwrap()).parse().unwrap();
                    let next = Bytes::from((count + 1).to_string());
                    match store.put_opts(&path, next.into(), PutMode::Update(version).into()).await {
                        Ok(_) => break,
                        Err(Error::Precondition { .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            }
        })
    });
    for step in steps.collect::<Vec<_>>() {
        step.await.unwrap();
    }
    let count = client(&server).get(&path).await.unwrap().bytes().await.unwrap();
    assert_eq!(count, &b"80"[..]);
}

#[tokio::test]
async fn a_list_is_whole_and_in_order_over_several_pages() {
    let server = server();
    let store = client(&server);
    let names: Vec<Path> = (0..1203).map(|n| Path::from(format!("many/{n:05}"))).collect();
    futures::stream::iter(&names)
        .map(|path| store.put(path, PutPayload::from_static(b"x")))
        .buffer_unordered(16)
        .try_collect::<Vec<_>>()
        .await
        .unwrap();
    store.put(&Path::from("other/one"), PutPayload::from_static(b"x")).await.unwrap();
    let many = Path::from("many");
    let listed: Vec<Path> = store.list(Some(&many)).map_ok(|meta| meta.location).try_collect().await.unwrap();
    assert_eq!(listed, names);
    let after: Vec<Path> =
        store.list_with_offset(Some(&many), &names[1200]).map_ok(|meta| meta.location).try_collect().await.unwrap();
    assert_eq!(after, names[1201..]);
    let top = store.list_with_delimiter(None).await.unwrap();
    assert_eq!(top.common_prefixes, [Path::from("many"), Path::from("other")]);
}

#[tokio::test]
async fn a_large_object_is_put_in_parts() {
    let server = server();
    let store = client(&server);
    let path = Path::from("large");
    let mut upload = WriteMultipart::new(store.put_multipart(&path).await.unwrap());
    let block: Vec<u8> = (0..1 << 20).map(|n: u32| (n % 251) as u8).collect();
    for _ in 0..13 {
        upload.wait_for_capacity(2).await.unwrap();
        upload.write(&block);
    }
    upload.finish().await.unwrap();
    let whole = store.get(&path).await.unwrap().bytes().await.unwrap();
    assert!(whole.len() == 13 << 20 && whole.chunks(1 << 20).all(|part| part == block));
    assert!(server.requests().iter().any(|request| request.contains("partNumber=2")));
}

#[tokio::test]
async fn content_of_a_folder_is_there_for_the_next_server() {
    let dir = tempfile::tempdir().unwrap();
    let options =
        S3Options { folder: Some(dir.path().join("content")), buckets: vec![BUCKET.into()], ..S3Options::default() };
    let path = Path::from("a/b%c");
    let first = S3Server::start(&options).unwrap();
    client(&first).put(&path, PutPayload::from_static(b"kept")).await.unwrap();
    tokio::task::spawn_blocking(move || drop(first)).await.unwrap();
    let second = S3Server::start(&options).unwrap();
    assert_eq!(client(&second).get(&path).await.unwrap().bytes().await.unwrap(), &b"kept"[..]);
    let again = client(&second).put_opts(&path, PutPayload::from_static(b"x"), create()).await;
    assert!(matches!(again, Err(Error::AlreadyExists { .. })));
}

#[tokio::test]
async fn keys_can_be_replaced_while_a_client_is_in_use() {
    let server = server();
    let config = config(&server);
    let store = lsmstore::objects::s3(&config).unwrap();
    let path = Path::from("object");
    store.put(&path, PutPayload::from_static(b"x")).await.unwrap();
    server.set_keys(&[("new", "newer-secret")]);
    assert!(store.get(&path).await.is_err());
    config.credentials.replace(key("new", "newer-secret"));
    assert!(store.get(&path).await.is_ok());
}

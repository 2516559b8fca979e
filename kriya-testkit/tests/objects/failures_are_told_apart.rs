//! A store that fails is noticed soon, and each failure is called what it is.

use std::time::{Duration, Instant};

use kriya_testkit::fault::{Fault, Kind, Operation};
use kriya_testkit::s3::KEY;
use lsmstore::objects::{ObjectStore, S3Failure, S3Problem, s3};
use object_store::path::Path;
use object_store::{Error, ObjectStoreExt, PutMode, PutOptions, PutPayload};

use crate::places::{client, config, key, server};

async fn problem_of_put(store: &dyn ObjectStore) -> (Option<S3Problem>, String) {
    let error = store.put(&Path::from("object"), PutPayload::from_static(b"x")).await.unwrap_err();
    (S3Failure::of(&error).map(|failure| failure.problem), error.to_string())
}

#[tokio::test]
async fn a_store_that_is_down_is_unreachable_and_is_found_again() {
    let server = server();
    let store = client(&server);
    store.put(&Path::from("object"), PutPayload::from_static(b"x")).await.unwrap();
    server.down();
    assert_eq!(problem_of_put(&*store).await.0, Some(S3Problem::Unreachable));
    server.up();
    store.put(&Path::from("object"), PutPayload::from_static(b"x")).await.unwrap();
}

#[tokio::test]
async fn a_silent_store_is_noticed_within_the_time_that_was_set() {
    let server = server();
    let store = client(&server);
    server.set_faults(vec![Fault::always(Kind::Silent)]);
    let begin = Instant::now();
    assert_eq!(problem_of_put(&*store).await.0, Some(S3Problem::Silent));
    let list = store.list_with_delimiter(None).await.unwrap_err();
    assert_eq!(S3Failure::of(&list).unwrap().problem, S3Problem::Silent);
    let large = PutPayload::from(vec![0; 1 << 20]);
    let put = store.put(&Path::from("large"), large).await.unwrap_err();
    assert_eq!(S3Failure::of(&put).unwrap().problem, S3Problem::Silent);
    // Not a timing: without a limit it would be for ever.
    assert!(begin.elapsed() < Duration::from_secs(60));
}

#[tokio::test]
async fn wrong_keys_missing_buckets_and_missing_rights_have_names_of_their_own_and_no_key_is_told() {
    let server = server();
    let mut config = config(&server);
    for (id, secret) in [("unknown-id", "x"), (KEY.0, "wrong-secret")] {
        config.credentials.replace(key(id, secret));
        let (problem, text) = problem_of_put(&*s3(&config).unwrap()).await;
        assert_eq!(problem, Some(S3Problem::Credentials), "{text}");
        assert!(!text.contains(id) && !text.contains(secret), "{text}");
    }
    config.credentials.replace(key(KEY.0, KEY.1));
    config.bucket = "elsewhere".into();
    let elsewhere = s3(&config).unwrap();
    let (problem, text) = problem_of_put(&*elsewhere).await;
    assert!(problem == Some(S3Problem::NoSuchBucket) && text.contains("elsewhere"), "{text}");
    let get = elsewhere.get(&Path::from("object")).await.unwrap_err();
    assert!(!matches!(get, Error::NotFound { .. }), "an object of no bucket is not merely absent");
    server.set_faults(vec![Fault::always(Kind::Deny).on(&[Operation::Put])]);
    let store = client(&server);
    assert_eq!(problem_of_put(&*store).await.0, Some(S3Problem::Denied));
    store.list_with_delimiter(None).await.unwrap();
}

#[tokio::test]
async fn a_store_that_fails_now_and_then_is_asked_again() {
    let server = server();
    let store = client(&server);
    server.set_faults(vec![Fault::always(Kind::Before).every(2)]);
    for n in 0..10 {
        store.put(&Path::from(format!("{n}")), PutPayload::from_static(b"x")).await.unwrap();
    }
    assert!(server.struck() > 0);
    server.set_faults(vec![Fault::always(Kind::Before)]);
    assert_eq!(problem_of_put(&*store).await.0, Some(S3Problem::Server));
}

#[tokio::test]
async fn a_create_that_took_effect_and_reported_failure_comes_back_as_already_there() {
    let server = server();
    let store = client(&server);
    server.set_faults(vec![Fault::always(Kind::After).on(&[Operation::Put]).every(2)]);
    let path = Path::from("object");
    // The first is answered, the second is applied and reported as failed.
    store.put(&Path::from("first"), PutPayload::from_static(b"x")).await.unwrap();
    let create = PutOptions::from(PutMode::Create);
    let created = store.put_opts(&path, PutPayload::from_static(b"mine"), create).await;
    assert!(matches!(created, Err(Error::AlreadyExists { .. })), "{created:?}");
    assert_eq!(store.get(&path).await.unwrap().bytes().await.unwrap(), &b"mine"[..]);
}

#[tokio::test]
async fn a_body_that_ends_in_the_middle_is_an_error_or_read_again() {
    let server = server();
    let store = client(&server);
    let body: Vec<u8> = (0..100_000).map(|n: u32| (n % 256) as u8).collect();
    let path = Path::from("object");
    store.put(&path, PutPayload::from(body.clone())).await.unwrap();
    server.set_faults(vec![Fault::always(Kind::Cut).on(&[Operation::Get])]);
    match store.get(&path).await {
        Err(_) => {}
        Ok(found) => assert!(found.bytes().await.is_err(), "half a body was taken for a whole one"),
    }
    server.up();
    assert_eq!(store.get(&path).await.unwrap().bytes().await.unwrap(), body);
}

//! The same promises, asked of whatever server `KRIYA_TEST_S3_URL` names, in its bucket `kriya-other-server`.
//! `cargo xtask test --only moto` does so with moto.

use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;
use lsmstore::objects::{self, EndpointUrl, ObjectStore, S3Config, S3Credentials};
use lsmstore::{Config, LogChoice, Store, SystemEnv};
use object_store::path::Path;
use object_store::{Error, PutMode, PutOptions};

use crate::places::key;
use crate::stores_over_http::{check, rounds};

fn client() -> Arc<dyn ObjectStore> {
    let url = std::env::var("KRIYA_TEST_S3_URL").expect("KRIYA_TEST_S3_URL names the server");
    let credentials = S3Credentials::new(key("id", "secret"));
    let url = EndpointUrl::parse(&url).unwrap();
    objects::s3(&S3Config::new(url, "kriya-other-server", "us-east-1", credentials)).unwrap()
}

#[tokio::test]
#[ignore = "needs KRIYA_TEST_S3_URL"]
async fn of_many_who_create_an_object_exactly_one_succeeds() {
    let client = client();
    for round in 0..5 {
        let path = Path::from(format!("race/{round}"));
        let writers = (0..16_u32).map(|writer| {
            let (store, path) = (Arc::clone(&client), path.clone());
            tokio::spawn(async move {
                let body = Bytes::from(writer.to_string());
                store.put_opts(&path, body.into(), PutOptions::from(PutMode::Create)).await
            })
        });
        let mut winners = 0;
        for writer in writers.collect::<Vec<_>>() {
            match writer.await.unwrap() {
                Ok(_) => winners += 1,
                Err(error) => assert!(matches!(error, Error::AlreadyExists { .. }), "{error}"),
            }
        }
        assert_eq!(winners, 1);
    }
    let listed: Vec<_> = client.list(Some(&Path::from("race"))).try_collect().await.unwrap();
    assert_eq!(listed.len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs KRIYA_TEST_S3_URL"]
async fn a_store_is_written_merged_taken_over_and_read_from_the_bucket_alone() {
    let open = async |dir: &tempfile::TempDir| {
        let config = Config::new(dir.path(), "store").memtable_bytes(64 << 10).l0_merge_trigger(4);
        Store::open(config, client(), Arc::new(SystemEnv::new()), LogChoice::Nobody).await.unwrap()
    };
    let (first_dir, second_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let first = open(&first_dir).await;
    rounds(&first, 0..12).await;
    check(&first, 12);
    let second = open(&second_dir).await;
    check(&second, 12);
    first.apply(lsmstore::Batch::new().put(b"other", b"late")).unwrap();
    let fenced = first.flush().await.unwrap_err().to_string();
    assert!(fenced.contains("fenced"), "{fenced}");
}

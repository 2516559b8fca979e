//! HTTPS: whom a client trusts, and what it says of those it does not.

use kriya_testkit::s3::{S3Options, S3Server};
use lsmstore::objects::{S3Config, S3Failure, S3Problem, s3};
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutPayload};

use crate::places::{BUCKET, config};

fn server() -> S3Server {
    S3Server::start(&S3Options { buckets: vec![BUCKET.into()], tls: true, ..S3Options::default() }).unwrap()
}

fn trusting(server: &S3Server, file: &tempfile::NamedTempFile, authorities: &str) -> S3Config {
    std::fs::write(file.path(), authorities).unwrap();
    let mut config = config(server);
    config.ca_file = Some(file.path().to_owned());
    config
}

async fn put(config: &S3Config) -> Result<(), (Option<S3Problem>, String)> {
    let told = |error: &(dyn std::error::Error + 'static)| {
        (S3Failure::of(error).map(|failure| failure.problem), error.to_string())
    };
    let store = s3(config).map_err(|error| told(&error))?;
    let put = store.put(&Path::from("object"), PutPayload::from_static(b"x")).await;
    put.map(drop).map_err(|error| told(&error))
}

#[tokio::test]
async fn an_authority_in_the_file_is_trusted_also_among_others() {
    let (server, stranger) = (server(), server());
    let file = tempfile::NamedTempFile::new().unwrap();
    put(&trusting(&server, &file, server.authority().unwrap())).await.unwrap();
    let both = format!("{}\n# and\n{}", stranger.authority().unwrap(), server.authority().unwrap());
    put(&trusting(&server, &file, &both)).await.unwrap();
}

#[tokio::test]
async fn without_a_file_or_with_a_wrong_one_the_certificate_is_named() {
    let (server, stranger) = (server(), server());
    let file = tempfile::NamedTempFile::new().unwrap();
    for wrong in [config(&server), trusting(&server, &file, stranger.authority().unwrap())] {
        let (problem, text) = put(&wrong).await.unwrap_err();
        assert_eq!(problem, Some(S3Problem::Certificate), "{text}");
        assert!(text.contains("certificate is not trusted"), "{text}");
    }
    let gone = "/nowhere/authorities.pem".to_owned();
    for (authorities, said) in [("", "no certificate"), ("no PEM at all", "no certificate")] {
        let (problem, text) = put(&trusting(&server, &file, authorities)).await.unwrap_err();
        assert!(problem == Some(S3Problem::Certificate) && text.contains(said), "{text}");
    }
    let mut missing = config(&server);
    missing.ca_file = Some(gone.clone().into());
    let (problem, text) = put(&missing).await.unwrap_err();
    assert!(problem == Some(S3Problem::Certificate) && text.contains(&gone), "{text}");
}

//! Servers and clients for the tests.

use std::sync::Arc;
use std::time::Duration;

use kriya_testkit::s3::{KEY, S3Server};
use lsmstore::objects::{self, CredentialSource, EndpointUrl, ObjectStore, S3Config, S3Credentials, Secret};

pub const BUCKET: &str = "bucket";

pub fn server() -> S3Server {
    S3Server::with_bucket(BUCKET).unwrap()
}

pub fn key(id: &str, secret: &str) -> CredentialSource {
    CredentialSource { given: Some((Secret::new(id), Secret::new(secret), None)), profile: None }
}

pub fn config(server: &S3Server) -> S3Config {
    let credentials = S3Credentials::new(key(KEY.0, KEY.1));
    let mut config = S3Config::new(EndpointUrl::parse(&server.url()).unwrap(), BUCKET, "us-east-1", credentials);
    config.request_timeout = Duration::from_millis(700);
    config
}

pub fn client(server: &S3Server) -> Arc<dyn ObjectStore> {
    objects::s3(&config(server)).unwrap()
}

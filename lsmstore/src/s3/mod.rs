//! Object stores that speak S3, over HTTP or HTTPS.
//!
//! A store that is dead or silent is noticed within about [`S3Config::request_timeout`] twice over, never minutes: whoever
//! asked tries again, and knows better whether it is worth it. Errors are ours ([`S3Failure`]), for those of the client
//! repeat what the store said, key ids included.

mod client;
mod credentials;
mod failure;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use object_store::ObjectStore;
use object_store::aws::AmazonS3Builder;
use object_store::{BackoffConfig, Certificate, ClientOptions, RetryConfig};

pub use credentials::{CredentialSource, S3Credentials, Secret};
pub use failure::{S3Failure, S3Problem};

use crate::place::EndpointUrl;

/// Time for a connection to be made.
const CONNECT: Duration = Duration::from_secs(3);
/// Requests that are tried again when the store says that it failed.
const RETRIES: usize = 3;

/// Which bucket, and how to reach it.
#[derive(Clone, Debug)]
pub struct S3Config {
    /// Address of the endpoint.
    pub endpoint: EndpointUrl,
    /// Name of the bucket, which must exist.
    pub bucket: String,
    /// Region that requests are signed for.
    pub region: String,
    /// Bucket in the path instead of the host's name. `None`: yes, unless the endpoint is Amazon's.
    pub path_style: Option<bool>,
    /// Certificates (PEM) of authorities to be trusted besides those of the system.
    pub ca_file: Option<PathBuf>,
    /// How long the store may be silent before a request has failed.
    pub request_timeout: Duration,
    /// With what requests are signed; may be replaced while the store is in use.
    pub credentials: Arc<S3Credentials>,
}

impl S3Config {
    /// With the defaults: path style by endpoint, no authorities, 5 seconds.
    pub fn new(endpoint: EndpointUrl, bucket: &str, region: &str, credentials: Arc<S3Credentials>) -> S3Config {
        S3Config {
            endpoint,
            bucket: bucket.to_owned(),
            region: region.to_owned(),
            path_style: None,
            ca_file: None,
            request_timeout: Duration::from_secs(5),
            credentials,
        }
    }

    fn uses_path(&self) -> bool {
        self.path_style.unwrap_or(!self.endpoint.is_amazon())
    }

    fn builder(&self) -> AmazonS3Builder {
        let retry = RetryConfig {
            backoff: BackoffConfig {
                init_backoff: Duration::from_millis(100),
                max_backoff: Duration::from_secs(1),
                base: 2.0,
            },
            max_retries: RETRIES,
            retry_timeout: self.request_timeout,
        };
        let endpoint = match self.uses_path() {
            true => self.endpoint.to_string(),
            false => self.endpoint.with_bucket(&self.bucket),
        };
        AmazonS3Builder::new()
            .with_endpoint(endpoint)
            .with_virtual_hosted_style_request(!self.uses_path())
            .with_bucket_name(&self.bucket)
            .with_region(&self.region)
            .with_retry(retry)
            .with_allow_http(!self.endpoint.is_secure())
    }

    fn client_options(&self) -> Result<ClientOptions, S3Failure> {
        let mut options = ClientOptions::new()
            .with_allow_http(!self.endpoint.is_secure())
            .with_connect_timeout(CONNECT.min(self.request_timeout))
            .with_timeout_disabled()
            .with_pool_idle_timeout(Duration::from_secs(15));
        if let Some(path) = &self.ca_file {
            let unreadable = |why: String| {
                S3Failure::new(S3Problem::Certificate, format!("the file of authorities {}: {why}", path.display()))
            };
            let pem = std::fs::read(path).map_err(|error| unreadable(error.to_string()))?;
            let found = Certificate::from_pem_bundle(&pem).map_err(|error| unreadable(error.to_string()))?;
            if found.is_empty() {
                return Err(unreadable("there is no certificate in it".into()));
            }
            options = found.into_iter().fold(options, ClientOptions::with_root_certificate);
        }
        Ok(options)
    }
}

/// The objects of a bucket. Nothing is asked of the store yet.
///
/// # Errors
/// [`S3Failure`] if the configuration makes no client: a file of authorities that cannot be read, say.
pub fn s3(config: &S3Config) -> Result<Arc<dyn ObjectStore>, S3Failure> {
    // TLS needs one provider of cryptography for the process. An error says that there is one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let options = config.client_options()?;
    let credentials = credentials::provider(config)?;
    let build = |options: ClientOptions| {
        let built =
            config.builder().with_client_options(options).with_credentials(Arc::clone(&credentials) as _).build();
        built.map_err(|error| S3Failure::new(S3Problem::Settings, failure::first_line(&error.to_string())))
    };
    let quick = build(options.clone().with_read_timeout(config.request_timeout))?;
    let bulk = build(options.with_read_timeout_disabled())?;
    Ok(Arc::new(client::S3Objects::new(config, quick, bulk)))
}

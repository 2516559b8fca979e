//! The objects of the configured place, and what to say when they cannot be used.

use std::error::Error;
use std::sync::Arc;

use lsmstore::objects::{self, ObjectStore};

use crate::worker::config::{Endpoint, WorkerConfig};
use crate::worker::live::Live;
use crate::worker::startup::StartError;

/// A client for the objects of a place. An object store far away is not asked anything yet.
pub(crate) fn objects_of(config: &WorkerConfig, live: &Live) -> Result<Arc<dyn ObjectStore>, StartError> {
    // Without object stores over HTTP there is nothing to be signed.
    let _ = live;
    match &config.endpoint {
        Endpoint::Local => Ok(objects::local(&config.objects_dir())?),
        Endpoint::Memory => Ok(objects::memory()),
        #[cfg(feature = "s3")]
        Endpoint::S3(endpoint) => {
            let (url, credentials) = (endpoint.url.clone(), live.credentials());
            let mut s3 = objects::S3Config::new(url, &config.bucket, &endpoint.region, credentials);
            s3.path_style = endpoint.path_style;
            s3.ca_file.clone_from(&endpoint.ca_file);
            objects::s3(&s3).map_err(|error| StartError::unavailable("making a client", &error))
        }
    }
}

/// An error of the object store in few words.
pub(crate) fn told(error: &(dyn Error + 'static)) -> String {
    #[cfg(feature = "s3")]
    if let Some(failure) = objects::S3Failure::of(error) {
        return failure.to_string();
    }
    error.to_string()
}

const AGAIN: &str = "The storage worker tries again by itself. Check the store, and lsm_s3.endpoint.";

/// What somebody can do about an error of the object store.
pub(crate) fn hint(error: &(dyn Error + 'static)) -> &'static str {
    #[cfg(feature = "s3")]
    if let Some(failure) = objects::S3Failure::of(error) {
        use lsmstore::objects::S3Problem;
        return match failure.problem {
            S3Problem::NoSuchBucket => {
                "Create the bucket, or set lsm_s3.bucket to one that exists and reload the configuration."
            }
            S3Problem::Credentials | S3Problem::NoCredentials => {
                "Set lsm_s3.access_key_id and lsm_s3.secret_access_key (or lsm_s3.profile, or AWS_ACCESS_KEY_ID and \
                 AWS_SECRET_ACCESS_KEY in the server's environment) and reload the configuration."
            }
            S3Problem::Denied => {
                "Permit the key to put, get, list and delete objects of the bucket; SELECT * FROM lsm_s3_check() names \
                 what is missing."
            }
            S3Problem::Certificate => {
                "Set lsm_s3.ca_file to a file with the certificate (PEM) of the authority that signed the store's, and \
                 reload the configuration."
            }
            S3Problem::Settings => "Correct the settings lsm_s3.* and reload the configuration.",
            _ => AGAIN,
        };
    }
    let _ = error;
    AGAIN
}

//! Addresses of stores: `file:///folder` and, with the feature `s3`, `s3://bucket/prefix`.

use std::error::Error;
use std::fmt::{self, Display, Formatter};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use object_store::ObjectStore;

use crate::object;
use crate::place::{PlaceError, check_prefix};

/// How to reach a store that speaks S3; of no use to others.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct UrlOptions {
    /// Address of the endpoint. Default: Amazon's of the region.
    pub endpoint: Option<String>,
    /// Region that requests are signed for. Default: `us-east-1`.
    pub region: Option<String>,
    /// Bucket in the path instead of the host's name. Default: unless the endpoint is Amazon's.
    pub path_style: Option<bool>,
    /// Certificates (PEM) of authorities to be trusted besides those of the system.
    pub ca_file: Option<PathBuf>,
    /// Where to look for credentials. Default: the environment, then the AWS files.
    #[cfg(feature = "s3")]
    pub credentials: crate::objects::CredentialSource,
}

/// An address that names no store.
#[derive(Debug)]
#[non_exhaustive]
pub enum UrlError {
    /// It makes no sense.
    Place(PlaceError),
    /// There is no such folder.
    NoFolder(PathBuf),
    /// The folder cannot be used.
    Storage(crate::StorageError),
    /// The settings make no client.
    #[cfg(feature = "s3")]
    S3(crate::objects::S3Failure),
}

impl Display for UrlError {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            UrlError::Place(error) => write!(f, "{error}. {}", error.hint),
            UrlError::NoFolder(path) => write!(f, "there is no folder {}", path.display()),
            UrlError::Storage(error) => error.fmt(f),
            #[cfg(feature = "s3")]
            UrlError::S3(error) => error.fmt(f),
        }
    }
}

impl Error for UrlError {}

impl From<PlaceError> for UrlError {
    fn from(error: PlaceError) -> UrlError {
        UrlError::Place(error)
    }
}

fn bad(url: &str, what: &str) -> UrlError {
    let hint = "Give file:///folder or s3://bucket/prefix.".to_owned();
    UrlError::Place(PlaceError { what: format!("\"{url}\" is no store's address: {what}"), hint })
}

/// The object store and the prefix that an address names. Nothing is made or asked for.
///
/// # Errors
/// [`UrlError`].
pub fn open_url(url: &str, options: &UrlOptions) -> Result<(Arc<dyn ObjectStore>, String), UrlError> {
    if let Some(folder) = url.strip_prefix("file://") {
        let folder = Path::new(folder);
        if !folder.is_absolute() {
            return Err(bad(url, "the folder does not begin with a slash"));
        }
        if !folder.is_dir() {
            return Err(UrlError::NoFolder(folder.to_owned()));
        }
        return Ok((object::local(folder).map_err(UrlError::Storage)?, String::new()));
    }
    let Some(rest) = url.strip_prefix("s3://") else {
        return Err(bad(url, "it begins with neither file:// nor s3://"));
    };
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let prefix = prefix.trim_end_matches('/');
    check_prefix(prefix)?;
    Ok((in_bucket(url, bucket, options)?, prefix.to_owned()))
}

#[cfg(feature = "s3")]
fn in_bucket(_: &str, bucket: &str, options: &UrlOptions) -> Result<Arc<dyn ObjectStore>, UrlError> {
    use crate::objects::{EndpointUrl, S3Config, S3Credentials, check_bucket, s3};
    check_bucket(bucket)?;
    let region = options.region.as_deref().unwrap_or("us-east-1");
    let endpoint = match &options.endpoint {
        Some(endpoint) => EndpointUrl::parse(endpoint)?,
        None => EndpointUrl::parse(&format!("https://s3.{region}.amazonaws.com"))?,
    };
    let credentials = S3Credentials::new(options.credentials.clone());
    let mut config = S3Config::new(endpoint, bucket, region, credentials);
    config.path_style = options.path_style;
    config.ca_file.clone_from(&options.ca_file);
    s3(&config).map_err(UrlError::S3)
}

#[cfg(not(feature = "s3"))]
fn in_bucket(url: &str, _: &str, _: &UrlOptions) -> Result<Arc<dyn ObjectStore>, UrlError> {
    Err(bad(url, "this build is without S3 (feature s3)"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_address_is_said_with_what_to_type() {
        let options = UrlOptions::default();
        for (url, what) in [
            ("", "neither file:// nor s3://"),
            ("/folder", "neither file:// nor s3://"),
            ("file://folder", "does not begin with a slash"),
            ("file:///no/such/folder/here", "there is no folder"),
            ("s3://bucket/a//b", "is no prefix"),
        ] {
            let error = open_url(url, &options).unwrap_err().to_string();
            assert!(error.contains(what), "{url}: {error}");
        }
    }

    #[test]
    fn a_folder_that_is_there_is_opened_and_nothing_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let (_, prefix) = open_url(&format!("file://{}", dir.path().display()), &UrlOptions::default()).unwrap();
        assert_eq!(prefix, "");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}

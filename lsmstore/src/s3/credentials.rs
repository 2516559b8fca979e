//! With what requests are signed, and where that is looked for.
//!
//! In this order: what was given; unless a profile was named, the environment (`AWS_ACCESS_KEY_ID`,
//! `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`); the AWS files (`~/.aws/credentials`, `~/.aws/config`), read again now
//! and then; what the machine or container is (web identity, container and instance credentials). What was given can be
//! replaced while a store is in use: the next request is signed with it.

use std::fmt::{self, Debug, Formatter};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, AwsCredential, AwsCredentialProvider};
use object_store::{CredentialProvider, Error, Result};

use super::failure::{S3Failure, S3Problem};
use super::{S3Config, failure};

/// How long what a file said is believed.
const FRESH: Duration = Duration::from_secs(30);

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps `text` from being shown.
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }
}

impl Debug for Secret {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("(not shown)")
    }
}

/// Where to look for credentials; all empty: wherever the AWS tools look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CredentialSource {
    /// Key id, secret key and, for temporary ones, session token.
    pub given: Option<(Secret, Secret, Option<Secret>)>,
    /// A profile of the AWS files, to be used instead of the environment.
    pub profile: Option<String>,
}

/// Credentials that can be replaced.
#[derive(Debug, Default)]
pub struct S3Credentials {
    source: Mutex<CredentialSource>,
    read: Mutex<Option<(Instant, Arc<AwsCredential>)>>,
}

impl S3Credentials {
    /// Credentials from `source`.
    pub fn new(source: CredentialSource) -> Arc<S3Credentials> {
        Arc::new(S3Credentials { source: Mutex::new(source), read: Mutex::new(None) })
    }

    /// From now on, credentials from `source`.
    pub fn replace(&self, source: CredentialSource) {
        *self.source.lock().unwrap_or_else(PoisonError::into_inner) = source;
        *self.read.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Where they come from now.
    pub fn source(&self) -> CredentialSource {
        self.source.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What is found without asking anybody; none if nothing is.
    fn find(&self) -> std::result::Result<Option<Arc<AwsCredential>>, S3Failure> {
        let CredentialSource { given, profile } = self.source();
        if let Some((Secret(key_id), Secret(secret_key), token)) = given {
            return Ok(Some(Arc::new(AwsCredential { key_id, secret_key, token: token.map(|Secret(token)| token) })));
        }
        if profile.is_none()
            && let (Some(key_id), Some(secret_key)) = (variable("AWS_ACCESS_KEY_ID"), variable("AWS_SECRET_ACCESS_KEY"))
        {
            let token = variable("AWS_SESSION_TOKEN");
            return Ok(Some(Arc::new(AwsCredential { key_id, secret_key, token })));
        }
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, found)) = &*read
            && at.elapsed() < FRESH
        {
            return Ok(Some(Arc::clone(found)));
        }
        let asked = profile.or_else(|| variable("AWS_PROFILE"));
        let found = from_files(asked.as_deref().unwrap_or("default")).map(Arc::new);
        if let (None, Some(name)) = (&found, &asked) {
            let what = format!("the AWS files have no keys of a profile \"{name}\"");
            return Err(S3Failure::new(S3Problem::NoCredentials, what));
        }
        *read = found.as_ref().map(|found| (Instant::now(), Arc::clone(found)));
        Ok(found)
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn file(variable_name: &str, beside_home: &str) -> Option<PathBuf> {
    variable(variable_name).map(PathBuf::from).or_else(|| Some(Path::new(&variable("HOME")?).join(beside_home)))
}

fn from_files(profile: &str) -> Option<AwsCredential> {
    let credentials = file("AWS_SHARED_CREDENTIALS_FILE", ".aws/credentials");
    let config = file("AWS_CONFIG_FILE", ".aws/config");
    let named = if profile == "default" { "default".to_owned() } else { format!("profile {profile}") };
    [(credentials, profile), (config, &named)].into_iter().find_map(|(path, section)| {
        let text = std::fs::read_to_string(path?).ok()?;
        section_keys(&text, section)
    })
}

/// Keys of a section of an AWS file.
fn section_keys(text: &str, section: &str) -> Option<AwsCredential> {
    let (mut inside, mut key_id, mut secret_key, mut token) = (false, None, None, None);
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[') {
            inside = name.split(']').next().is_some_and(|name| name.split_whitespace().eq(section.split_whitespace()));
        } else if let Some((name, value)) = line.split_once('=').filter(|_| inside && !line.starts_with(['#', ';'])) {
            let value = Some(value.trim().to_owned()).filter(|value| !value.is_empty());
            match name.trim().to_ascii_lowercase().as_str() {
                "aws_access_key_id" => key_id = value,
                "aws_secret_access_key" => secret_key = value,
                "aws_session_token" => token = value,
                _ => {}
            }
        }
    }
    Some(AwsCredential { key_id: key_id?, secret_key: secret_key?, token })
}

/// What the environment of a container or a pod names, as object_store understands it.
const AMBIENT: [(&str, AmazonS3ConfigKey); 6] = [
    ("AWS_WEB_IDENTITY_TOKEN_FILE", AmazonS3ConfigKey::WebIdentityTokenFile),
    ("AWS_ROLE_ARN", AmazonS3ConfigKey::RoleArn),
    ("AWS_ROLE_SESSION_NAME", AmazonS3ConfigKey::RoleSessionName),
    ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", AmazonS3ConfigKey::ContainerCredentialsRelativeUri),
    ("AWS_CONTAINER_CREDENTIALS_FULL_URI", AmazonS3ConfigKey::ContainerCredentialsFullUri),
    ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", AmazonS3ConfigKey::ContainerAuthorizationTokenFile),
];

/// Signs for one store.
#[derive(Debug)]
pub(super) struct Provider {
    credentials: Arc<S3Credentials>,
    /// How to ask the machine or container that this is; none where it has no say.
    ambient: Option<AmazonS3Builder>,
    machine: OnceLock<AwsCredentialProvider>,
}

pub(super) fn provider(config: &S3Config) -> std::result::Result<Arc<Provider>, S3Failure> {
    let named: Vec<_> = AMBIENT.iter().filter_map(|(name, key)| Some((*key, variable(name)?))).collect();
    // Elsewhere than at Amazon a machine has no credentials unless the environment says so: asking takes long in vain.
    let ambient = (config.endpoint.is_amazon() || !named.is_empty())
        .then(|| named.into_iter().fold(config.builder(), |builder, (key, value)| builder.with_config(key, value)));
    Ok(Arc::new(Provider { credentials: Arc::clone(&config.credentials), ambient, machine: OnceLock::new() }))
}

impl Provider {
    async fn ask_machine(&self, builder: &AmazonS3Builder) -> Result<Arc<AwsCredential>> {
        let machine = match self.machine.get() {
            Some(machine) => machine,
            None => {
                let built = Arc::clone(builder.clone().build()?.credentials());
                self.machine.get_or_init(|| built)
            }
        };
        machine.get_credential().await.map_err(|error| {
            let why = failure::first_line(&error.to_string());
            let what = format!("no credentials were given, and asking the machine for some failed: {why}");
            generic(S3Failure::new(S3Problem::NoCredentials, what))
        })
    }
}

fn generic(failure: S3Failure) -> Error {
    Error::Generic { store: "S3", source: Box::new(failure) }
}

#[async_trait]
impl CredentialProvider for Provider {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> Result<Arc<AwsCredential>> {
        if let Some(found) = self.credentials.find().map_err(generic)? {
            return Ok(found);
        }
        match &self.ambient {
            Some(builder) => self.ask_machine(builder).await,
            None => Err(generic(S3Failure::new(S3Problem::NoCredentials, "there are no credentials to sign with"))),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_section_of_an_aws_file_is_found_by_its_name() {
        let text = "[default]\naws_access_key_id = A\naws_secret_access_key=B\n\n# [other]\n[profile  work]\n\
                    aws_access_key_id=C\n;aws_secret_access_key=X\naws_secret_access_key = D=\naws_session_token=E\n";
        let found = section_keys(text, "default").unwrap();
        assert_eq!((found.key_id.as_str(), found.secret_key.as_str(), found.token), ("A", "B", None));
        let found = section_keys(text, "profile work").unwrap();
        assert_eq!((found.key_id.as_str(), found.secret_key.as_str(), found.token.as_deref()), ("C", "D=", Some("E")));
        assert!(section_keys(text, "other").is_none());
    }

    #[test]
    fn what_is_given_is_used_and_can_be_replaced_and_is_never_shown() {
        let given = |id: &str| CredentialSource {
            given: Some((Secret::new(id), Secret::new("top-secret"), None)),
            profile: None,
        };
        let credentials = S3Credentials::new(given("first"));
        assert_eq!(credentials.find().unwrap().unwrap().key_id, "first");
        credentials.replace(given("second"));
        assert_eq!(credentials.find().unwrap().unwrap().key_id, "second");
        let shown = format!("{credentials:?}");
        assert!(!shown.contains("second") && !shown.contains("top-secret"), "{shown}");
    }
}

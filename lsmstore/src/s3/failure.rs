//! What went wrong with an S3 store, in our words: the kind of problem, and a sentence without anything secret.
//!
//! The client's errors repeat the store's answer, in which stores put the key's id and what was signed. Of an answer only
//! its status and its code are taken over.

use std::error::Error as StdError;
use std::fmt::{self, Display, Formatter};

use object_store::Error;
use object_store::client::{HttpError, HttpErrorKind};

/// What kind of problem it is: what somebody can do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum S3Problem {
    /// Nobody answers at the endpoint, or the answer broke off.
    Unreachable,
    /// The endpoint is silent.
    Silent,
    /// The endpoint's certificate is not trusted, or the file of those to be trusted cannot be used.
    Certificate,
    /// The bucket does not exist.
    NoSuchBucket,
    /// The store does not know the key, or the signature is wrong.
    Credentials,
    /// There is nothing to sign with.
    NoCredentials,
    /// The key may not do this.
    Denied,
    /// The store failed.
    Server,
    /// The configuration makes no client.
    Settings,
    /// Anything else that the store refused.
    Refused,
}

/// A request to an S3 store that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3Failure {
    /// Its kind.
    pub problem: S3Problem,
    what: String,
}

impl S3Failure {
    pub(crate) fn new(problem: S3Problem, what: impl Into<String>) -> S3Failure {
        S3Failure { problem, what: what.into() }
    }

    /// The failure behind an error of an object store, if it is one of ours.
    pub fn of<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a S3Failure> {
        chain(error).find_map(|error| error.downcast_ref())
    }
}

impl Display for S3Failure {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl StdError for S3Failure {}

fn chain<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |error: &&'a (dyn StdError + 'static)| (*error).source())
}

/// What is wrong with the endpoint's certificate, if that is what is wrong.
fn certificate(error: &(dyn StdError + 'static)) -> Option<String> {
    if let Some(rustls::Error::InvalidCertificate(why)) = error.downcast_ref() {
        return Some(first_line(&why.to_string()));
    }
    // An I/O error passes over the error within it when it is asked for its source.
    let within = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    match within {
        Some(within) => certificate(within),
        None => certificate(error.source()?),
    }
}

pub(super) fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

/// The text between `<tag>` and `</tag>`.
fn element<'a>(text: &'a str, tag: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("<{tag}>"))?;
    rest.split_once(&format!("</{tag}>")).map(|(inner, _)| inner)
}

/// What the store answered: its status and its code.
fn answer(error: &Error) -> (Option<u16>, Option<String>) {
    let text = error.to_string();
    let status = text.split_once("status code: ").and_then(|(_, rest)| rest.get(..3)?.parse().ok());
    let code = element(&text, "Code").filter(|code| code.len() < 64 && code.bytes().all(|b| b.is_ascii_alphanumeric()));
    (status, code.map(str::to_owned))
}

fn problem(error: &Error, bucket: &str) -> S3Failure {
    if let Some(failure) = S3Failure::of(error) {
        return failure.clone();
    }
    let (status, code) = answer(error);
    let said = match (status, &code) {
        (Some(status), Some(code)) => format!("the store answered {status} {code}"),
        (Some(status), None) => format!("the store answered {status}"),
        (None, Some(code)) => format!("the store answered {code}"),
        (None, None) => String::new(),
    };
    match (status, code.as_deref()) {
        (_, Some("NoSuchBucket")) => {
            return S3Failure::new(S3Problem::NoSuchBucket, format!("the bucket \"{bucket}\" does not exist ({said})"));
        }
        (
            _,
            Some(
                "InvalidAccessKeyId"
                | "SignatureDoesNotMatch"
                | "InvalidToken"
                | "ExpiredToken"
                | "TokenRefreshRequired"
                | "AuthorizationHeaderMalformed"
                | "RequestTimeTooSkewed",
            ),
        )
        | (Some(401), _) => {
            return S3Failure::new(S3Problem::Credentials, format!("the credentials are not accepted ({said})"));
        }
        (Some(403), _) | (_, Some("AccessDenied")) => {
            return S3Failure::new(S3Problem::Denied, format!("the credentials do not permit it ({said})"));
        }
        (Some(500..), _) => return S3Failure::new(S3Problem::Server, said),
        (Some(_), _) | (None, Some(_)) => return S3Failure::new(S3Problem::Refused, said),
        (None, None) => {}
    }
    match chain(error).find_map(|error| error.downcast_ref::<HttpError>()).map(HttpError::kind) {
        Some(HttpErrorKind::Timeout) => S3Failure::new(S3Problem::Silent, "the store does not answer"),
        Some(_) if let Some(why) = certificate(error) => {
            S3Failure::new(S3Problem::Certificate, format!("the store's certificate is not trusted: {why}"))
        }
        Some(_) => {
            // The innermost error is the system's: "Connection refused", "invalid peer certificate".
            let why = chain(error).last().map(|error| first_line(&error.to_string())).unwrap_or_default();
            S3Failure::new(S3Problem::Unreachable, format!("the store cannot be reached: {why}"))
        }
        None => S3Failure::new(S3Problem::Refused, first_line(&error.to_string())),
    }
}

/// An error of the client in our words. What callers tell apart by kind keeps its kind.
pub(super) fn tidy(error: Error, bucket: &str) -> Error {
    let failure = problem(&error, bucket);
    let known = failure.problem;
    let source = Box::new(failure);
    match error {
        // Without a bucket nothing can be said about an object.
        Error::NotFound { path, .. } if known != S3Problem::NoSuchBucket => Error::NotFound { path, source },
        Error::AlreadyExists { path, .. } => Error::AlreadyExists { path, source },
        Error::Precondition { path, .. } => Error::Precondition { path, source },
        Error::NotModified { path, .. } => Error::NotModified { path, source },
        error @ (Error::NotImplemented { .. } | Error::InvalidPath { .. }) => error,
        _ => Error::Generic { store: "S3", source },
    }
}

/// The error of a request that took longer than its size allows.
pub(super) fn too_slow(bytes: usize) -> Error {
    let what = format!("the store took too long to take {bytes} bytes");
    Error::Generic { store: "S3", source: Box::new(S3Failure::new(S3Problem::Silent, what)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> S3Failure {
        problem(&Error::Generic { store: "S3", source: text.into() }, "bucket")
    }

    #[test]
    fn an_answer_is_known_by_its_code_and_nothing_else_of_it_is_repeated() {
        let body = "Error performing PUT http://h/b/k in 1ms - Server returned non-2xx status code: 403 Forbidden: \
                    <Error><Code>SignatureDoesNotMatch</Code><AWSAccessKeyId>AKIAX</AWSAccessKeyId></Error>";
        let failure = told(body);
        assert_eq!(failure.problem, S3Problem::Credentials);
        assert!(!failure.to_string().contains("AKIAX"), "{failure}");
        assert!(failure.to_string().contains("403 SignatureDoesNotMatch"), "{failure}");
        let status = |status: &str| told(&format!("status code: {status}: ")).problem;
        assert_eq!(status("403 Forbidden"), S3Problem::Denied);
        assert_eq!(status("503 Slow Down"), S3Problem::Server);
        assert_eq!(status("400 Bad Request"), S3Problem::Refused);
    }
}

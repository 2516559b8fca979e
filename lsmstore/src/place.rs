//! Where objects are kept, as somebody typed it: the address of an endpoint, a bucket's name, a prefix. Judged before
//! anything is tried, with errors that say what to type instead.

use std::error::Error;
use std::fmt::{self, Display, Formatter};

/// A place that cannot be one, and what to type instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlaceError {
    /// What is wrong. Never repeats credentials.
    pub what: String,
    /// What to type.
    pub hint: String,
}

impl PlaceError {
    fn new(what: impl Into<String>, hint: impl Into<String>) -> PlaceError {
        PlaceError { what: what.into(), hint: hint.into() }
    }
}

impl Display for PlaceError {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl Error for PlaceError {}

const URL_HINT: &str = "Give scheme, host and port only, as in \"https://s3.eu-central-1.amazonaws.com\" or \
                        \"http://127.0.0.1:9000\".";

/// The address of an S3 endpoint: `http` or `https`, a host, perhaps a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointUrl {
    secure: bool,
    host: String,
    port: Option<u16>,
}

impl EndpointUrl {
    /// Reads an address.
    ///
    /// # Errors
    /// [`PlaceError`] if it is none, has a path, or carries credentials.
    pub fn parse(text: &str) -> Result<EndpointUrl, PlaceError> {
        // Never repeated: it may contain a password.
        if text.contains('@') {
            return Err(PlaceError::new(
                "an endpoint must not carry credentials",
                "Set lsm_s3.access_key_id and lsm_s3.secret_access_key, or AWS_ACCESS_KEY_ID and \
                 AWS_SECRET_ACCESS_KEY in the server's environment.",
            ));
        }
        let bad = |what: &str| PlaceError::new(format!("\"{text}\" is no endpoint: {what}"), URL_HINT);
        let lower = text.to_ascii_lowercase();
        let (secure, rest) = match (lower.strip_prefix("https://"), lower.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (None, Some(rest)) => (false, rest),
            (None, None) => return Err(bad("it does not begin with http:// or https://")),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains(['/', '?', '#']) {
            return Err(bad("it has a path; the bucket is a setting of its own"));
        }
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => {
                let number = port.parse::<u16>().ok().filter(|port| *port != 0);
                (host, Some(number.ok_or_else(|| bad("its port is not a number from 1 to 65535"))?))
            }
            _ => (rest, None),
        };
        let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let fine = match inner {
            Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
            None => !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)),
        };
        if !fine {
            return Err(bad("its host is not a name or an address"));
        }
        Ok(EndpointUrl { secure, host: host.to_owned(), port })
    }

    /// Whether the connection is encrypted.
    pub fn is_secure(&self) -> bool {
        self.secure
    }

    /// Whether it is Amazon's own, where buckets are part of the host's name.
    pub fn is_amazon(&self) -> bool {
        [".amazonaws.com", ".amazonaws.com.cn"].iter().any(|end| self.host.ends_with(end))
    }

    /// The address with `bucket` in front of the host's name.
    pub fn with_bucket(&self, bucket: &str) -> String {
        EndpointUrl { host: format!("{bucket}.{}", self.host), ..self.clone() }.to_string()
    }
}

impl Display for EndpointUrl {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.secure { "https" } else { "http" }, self.host)?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

/// Judges a bucket's name by the rules that all stores share.
///
/// # Errors
/// [`PlaceError`] with the rule that is broken.
pub fn check_bucket(name: &str) -> Result<(), PlaceError> {
    let bad = |what: &str| {
        Err(PlaceError::new(
            format!("\"{name}\" is no bucket's name: {what}"),
            "Use 3 to 63 lower-case letters, digits, hyphens and dots, as in \"my-tables\".",
        ))
    };
    if !(3..=63).contains(&name.len()) {
        return bad("it does not have 3 to 63 characters");
    }
    if !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b)) {
        return bad("it has other characters than lower-case letters, digits, hyphens and dots");
    }
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    if !edge(name.as_bytes().first()) || !edge(name.as_bytes().last()) || name.contains("..") {
        return bad("it begins or ends with a hyphen or dot, or has two dots in a row");
    }
    if name.parse::<std::net::Ipv4Addr>().is_ok() {
        return bad("it looks like an address");
    }
    Ok(())
}

/// Judges a prefix: a path in the bucket, or nothing.
///
/// # Errors
/// [`PlaceError`] with the rule that is broken.
pub fn check_prefix(prefix: &str) -> Result<(), PlaceError> {
    let bad = |what: &str| {
        Err(PlaceError::new(
            format!("\"{prefix}\" is no prefix: {what}"),
            "Use letters, digits and -_.= in parts joined by slashes, as in \"production/main\".",
        ))
    };
    if prefix.is_empty() {
        return Ok(());
    }
    if prefix.starts_with('/') {
        return bad("it begins with a slash");
    }
    if prefix.len() > 512 {
        return bad("it has more than 512 characters");
    }
    for part in prefix.trim_end_matches('/').split('/') {
        if matches!(part, "" | "." | "..") {
            return bad("it has an empty part, or one that is \".\" or \"..\"");
        }
        if !part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.=".contains(&b)) {
            return bad("it has a character that not every store takes");
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_from_what_is_none() {
        for good in
            ["http://127.0.0.1:9000", "https://s3.eu-central-1.amazonaws.com", "http://[::1]:9000", "http://minio"]
        {
            assert_eq!(EndpointUrl::parse(good).unwrap().to_string(), good);
            assert_eq!(EndpointUrl::parse(&format!("{good}/")).unwrap().to_string(), good);
        }
        for bad in ["", "s3://bucket", "minio:9000", "http://", "http://a/b", "http://a:0", "http://a:x", "http://a b"]
        {
            assert!(EndpointUrl::parse(bad).is_err(), "{bad}");
        }
        assert!(EndpointUrl::parse("https://s3.eu-central-1.amazonaws.com").unwrap().is_amazon());
        assert!(!EndpointUrl::parse("https://amazonaws.com.example.org").unwrap().is_amazon());
    }

    #[test]
    fn credentials_in_an_address_are_refused_and_not_repeated() {
        let error = EndpointUrl::parse("https://me:secret@host").unwrap_err();
        assert!(!format!("{error} {}", error.hint).contains("secret@"), "{error}");
        assert!(!error.to_string().contains("me:"));
    }

    #[test]
    fn buckets_and_prefixes_follow_their_rules() {
        for good in ["lsm-postgres", "a.b.c", "0ab"] {
            check_bucket(good).unwrap();
        }
        for bad in ["", "ab", "Upper", "a_b", "-ab", "ab-", "a..b", "10.0.0.1", &"x".repeat(64)] {
            assert!(check_bucket(bad).is_err(), "{bad}");
        }
        for good in ["", "a", "a/b", "a/b/", "x=1/y_2"] {
            check_prefix(good).unwrap();
        }
        for bad in ["/a", "a//b", "../a", "a/..", "a b", "a%2Fb", "ä"] {
            assert!(check_prefix(bad).is_err(), "{bad}");
        }
    }
}

//! Fetching one file over HTTP, in a way that can be broken off and gone on with.
//!
//! What has arrived stands in `NAME.part`, and what the server called that version of it (`ETag` or `Last-Modified`) in
//! `NAME.part.version`: the rest is asked for only of the same version, and a server that has another one by now sends it
//! whole. The file gets its name when it is as long as was announced and its checksum is right, not before.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ureq::http::{Response, StatusCode};
use ureq::{Agent, Body};

use super::checksum::Sums;
use crate::failure::{Failure, Outcome};

/// Who tells how it goes: bytes that are there, and all of them if that is known.
pub trait Watch {
    /// Called again and again.
    fn at(&self, bytes: u64, of: Option<u64>);
}

/// Fetches `address` to `path`. `right` judges the whole file by its checksums: the reason why it is not, if any.
///
/// # Errors
/// A sentence that says what the server did wrong or the system refused; what has arrived stays for the next attempt,
/// except where its checksum is wrong.
pub fn fetch(
    address: &str,
    path: &Path,
    right: impl FnOnce(&Sums) -> Option<String>,
    watch: &impl Watch,
) -> Outcome<Sums> {
    let part = with(path, ".part");
    let version = with(path, ".part.version");
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&part)
        .map_err(Failure::doing("opening", &part))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(Failure::new(format!("{} is being fetched by somebody else", path.display())));
        }
        Err(TryLockError::Error(e)) => return Err(Failure::doing("locking", &part)(e)),
    }
    let there = file.metadata().map_err(Failure::doing("asking about", &part))?.len();
    receive(address, &mut file, &part, &version, there, watch)?;
    file.sync_all().map_err(Failure::doing("writing", &part))?;
    let sums = Sums::of(&part)?;
    // From here on the next attempt must not go on with what is there.
    remove(&version)?;
    if let Some(why) = right(&sums) {
        remove(&part)?;
        return Err(Failure::new(format!("{address}: {} bytes arrived, but {why}; they were thrown away", sums.bytes)));
    }
    fs::rename(&part, path).map_err(Failure::doing("renaming to", path))?;
    Ok(sums)
}

/// Asks for everything, or for what is missing after the first `there` bytes, and appends it.
fn receive(address: &str, file: &mut File, part: &Path, version: &Path, there: u64, watch: &impl Watch) -> Outcome<()> {
    let known = fs::read_to_string(version).ok().filter(|_| there > 0);
    let mut response = ask(address, there, known.as_deref())?;
    if response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
        if total_of(&response) == Some(there) {
            return Ok(());
        }
        // More is there than the server has.
        response = ask(address, 0, None)?;
    }
    let from = match response.status() {
        StatusCode::OK => 0,
        StatusCode::PARTIAL_CONTENT if known.is_some() && start_of(&response) == Some(there) => there,
        StatusCode::PARTIAL_CONTENT => {
            return Err(Failure::new(format!(
                "{address}: asked for the bytes from {there} on, the server sent those of {:?}",
                header(&response, "content-range").unwrap_or_default()
            )));
        }
        status => return Err(Failure::new(format!("{address}: the server said {status}"))),
    };
    let announced = match response.status() {
        StatusCode::PARTIAL_CONTENT => total_of(&response),
        _ => header(&response, "content-length").and_then(|n| n.parse().ok()),
    };
    // Weak tags do not promise the same bytes.
    let tag = header(&response, "etag").filter(|tag| !tag.starts_with("W/"));
    match tag.or_else(|| header(&response, "last-modified")) {
        Some(tag) => fs::write(version, tag).map_err(Failure::doing("writing", version))?,
        None => remove(version)?,
    }
    file.set_len(from).map_err(Failure::doing("shortening", part))?;
    file.seek(SeekFrom::Start(from)).map_err(Failure::doing("writing", part))?;
    let mut at = from;
    let mut body = response.into_body().into_reader();
    let mut buffer = vec![0; 1 << 17];
    let broken = loop {
        watch.at(at, announced);
        match body.read(&mut buffer) {
            Ok(0) => break None,
            Ok(n) => file.write_all(&buffer[..n]).map_err(Failure::doing("writing", part))?,
            Err(e) => break Some(e),
        }
        at = file.stream_position().map_err(Failure::doing("writing", part))?;
    };
    if broken.is_none() && announced.is_none_or(|announced| announced == at) {
        return Ok(());
    }
    let of = announced.map_or_else(|| "an unknown number of".to_owned(), |n| n.to_string());
    let why = broken.map_or_else(String::new, |e| format!(" ({e})"));
    Err(Failure::new(format!("{address}: it ended after {at} of {of} bytes{why}; the same command goes on from there")))
}

fn ask(address: &str, from: u64, version: Option<&str>) -> Outcome<Response<Body>> {
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .timeout_connect(Some(Duration::from_secs(30)))
        .timeout_recv_response(Some(Duration::from_secs(60)));
    let agent: Agent = config.build().into();
    let mut request = agent.get(address).header("accept-encoding", "identity");
    if let Some(version) = version {
        request = request.header("range", format!("bytes={from}-")).header("if-range", version);
    }
    request.call().map_err(|e| Failure::new(format!("{address}: {e}")))
}

fn header(response: &Response<Body>, name: &str) -> Option<String> {
    Some(response.headers().get(name)?.to_str().ok()?.to_owned())
}

/// Of `content-range: bytes 5-9/10` the 5.
fn start_of(response: &Response<Body>) -> Option<u64> {
    header(response, "content-range")?.strip_prefix("bytes ")?.split('-').next()?.parse().ok()
}

/// Of `content-range: bytes 5-9/10` or `bytes */10` the 10.
fn total_of(response: &Response<Body>) -> Option<u64> {
    header(response, "content-range")?.rsplit_once('/')?.1.parse().ok()
}

fn remove(path: &Path) -> Outcome<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Failure::doing("removing", path)(e)),
        _ => Ok(()),
    }
}

fn with(path: &Path, end: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(end);
    name.into()
}

#[cfg(test)]
#[path = "fetch_tests.rs"]
mod tests;

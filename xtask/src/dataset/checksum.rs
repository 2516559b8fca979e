//! Checksums of files, and what is remembered of those that came without one.
//!
//! A set's folder keeps `checksums.tsv`: name, bytes, SHA-256 and address of every file that was fetched into it. What the
//! first download brought is what later ones have to bring.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;

use kriya_datasets::Checksum;
use sha2::{Digest, Sha256};

use crate::failure::{Failure, Outcome};

/// The file in a set's folder that remembers.
pub const RECORD: &str = "checksums.tsv";

/// Both checksums of a file, in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sums {
    /// Its length.
    pub bytes: u64,
    /// As public lists from before 2010 have them.
    pub md5: String,
    /// As everybody else does.
    pub sha256: String,
}

impl Sums {
    /// Reads the file through.
    ///
    /// # Errors
    /// What the system says.
    pub fn of(path: &Path) -> Outcome<Sums> {
        let mut file = File::open(path).map_err(Failure::doing("opening", path))?;
        let (mut md5, mut sha256) = (md5::Md5::new(), Sha256::new());
        let (mut buffer, mut bytes) = (vec![0; 1 << 18], 0);
        loop {
            let n = file.read(&mut buffer).map_err(Failure::doing("reading", path))?;
            if n == 0 {
                let (md5, sha256) = (hexadecimal(&md5.finalize()), hexadecimal(&sha256.finalize()));
                return Ok(Sums { bytes, md5, sha256 });
            }
            md5.update(&buffer[..n]);
            sha256.update(&buffer[..n]);
            bytes += n as u64;
        }
    }

    /// What differs from a published checksum, if anything.
    pub fn differs(&self, from: Checksum) -> Option<String> {
        let (kind, got, expected) = match from {
            Checksum::Md5(expected) => ("MD5", &self.md5, expected),
            Checksum::Sha256(expected) => ("SHA-256", &self.sha256, expected),
        };
        (got != expected).then(|| format!("its {kind} is {got}, published is {expected}"))
    }
}

/// What a folder remembers of a file: bytes and SHA-256.
///
/// # Errors
/// A record that cannot be read.
pub fn recorded(folder: &Path, name: &str) -> Outcome<Option<(u64, String)>> {
    let path = folder.join(RECORD);
    if !path.exists() {
        return Ok(None);
    }
    let text = fs::read_to_string(&path).map_err(Failure::doing("reading", &path))?;
    for line in text.lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        if fields.first() != Some(&name) {
            continue;
        }
        let bytes = fields.get(1).and_then(|bytes| bytes.parse().ok());
        let (Some(bytes), Some(sha256)) = (bytes, fields.get(2)) else {
            return Err(Failure::new(format!("{}: {line:?} is not name, bytes, SHA-256, address", path.display())));
        };
        return Ok(Some((bytes, (*sha256).to_owned())));
    }
    Ok(None)
}

/// Remembers a file.
///
/// # Errors
/// A record that cannot be written.
pub fn record(folder: &Path, name: &str, sums: &Sums, address: &str) -> Outcome<()> {
    let path = folder.join(RECORD);
    let mut file =
        OpenOptions::new().create(true).append(true).open(&path).map_err(Failure::doing("opening", &path))?;
    let line = format!("{name}\t{}\t{}\t{address}\n", sums.bytes, sums.sha256);
    file.write_all(line.as_bytes()).map_err(Failure::doing("writing", &path))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

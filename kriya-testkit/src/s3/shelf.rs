//! Where the server keeps objects: in memory, or each as a file of a folder, so that the next server there finds them.
//!
//! One lock makes each change, its condition included, a single step.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;
use md5::{Digest, Md5};

/// An object as it is listed.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) size: u64,
    pub(crate) tag: String,
    pub(crate) modified: SystemTime,
    /// In memory; without it, in its file.
    bytes: Option<Bytes>,
}

/// On what a PUT depends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Condition {
    None,
    Absent,
    Tag(String),
}

/// Why a shelf does not do it.
#[derive(Debug)]
pub(crate) enum Refusal {
    NoBucket,
    NoObject,
    NoUpload,
    NotSo,
    Io(io::Error),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Refusal {
        Refusal::Io(error)
    }
}

type Bucket = BTreeMap<String, Entry>;

#[derive(Debug, Default)]
struct Content {
    buckets: BTreeMap<String, Bucket>,
    uploads: HashMap<String, BTreeMap<i32, Bytes>>,
    next_upload: u64,
}

#[derive(Debug)]
pub(crate) struct Shelf {
    folder: Option<PathBuf>,
    unconditional: bool,
    content: Mutex<Content>,
}

/// The tag of a body: its MD5, as S3 has it.
pub(crate) fn tag(bytes: &[u8]) -> String {
    Md5::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A name as one file name: everything but letters, digits and -_. is written in hex.
fn escaped(name: &str) -> String {
    let one = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => char::from(byte).to_string(),
        _ => format!("%{byte:02x}"),
    };
    name.bytes().map(one).collect()
}

fn unescaped(name: &str) -> Option<String> {
    let (mut bytes, mut rest) = (Vec::new(), name.as_bytes());
    while let Some((&first, tail)) = rest.split_first() {
        if first == b'%' {
            let code = std::str::from_utf8(tail.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(code, 16).ok()?);
            rest = &tail[2..];
        } else {
            bytes.push(first);
            rest = tail;
        }
    }
    String::from_utf8(bytes).ok()
}

impl Shelf {
    /// What is in `folder`, which is made if it does not exist; or an empty one in memory.
    pub(crate) fn open(folder: Option<PathBuf>, unconditional: bool) -> io::Result<Shelf> {
        let mut content = Content::default();
        if let Some(folder) = &folder {
            fs::create_dir_all(folder)?;
            for bucket in fs::read_dir(folder)? {
                let bucket = bucket?;
                let Some(name) = bucket.file_name().to_str().and_then(unescaped) else { continue };
                content.buckets.insert(name, read_bucket(&bucket.path())?);
            }
        }
        Ok(Shelf { folder, unconditional, content: Mutex::new(content) })
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn file(&self, bucket: &str, key: &str) -> Option<PathBuf> {
        // The prefix keeps "." and ".." from being names.
        self.folder.as_ref().map(|folder| folder.join(escaped(bucket)).join(format!("o{}", escaped(key))))
    }

    pub(crate) fn make_bucket(&self, name: &str) -> io::Result<()> {
        if let Some(folder) = &self.folder {
            fs::create_dir_all(folder.join(escaped(name)))?;
        }
        self.content().buckets.entry(name.to_owned()).or_default();
        Ok(())
    }

    pub(crate) fn has_bucket(&self, name: &str) -> bool {
        self.content().buckets.contains_key(name)
    }

    pub(crate) fn names(&self, bucket: &str) -> Vec<String> {
        self.content().buckets.get(bucket).map(|bucket| bucket.keys().cloned().collect()).unwrap_or_default()
    }

    /// Puts an object if the condition holds; returns its tag.
    pub(crate) fn put(&self, bucket: &str, key: &str, bytes: Bytes, condition: &Condition) -> Result<String, Refusal> {
        let mut content = self.content();
        let there = content.buckets.get_mut(bucket).ok_or(Refusal::NoBucket)?;
        let found = there.get(key);
        match condition {
            _ if self.unconditional => {}
            Condition::None => {}
            Condition::Absent if found.is_some() => return Err(Refusal::NotSo),
            Condition::Absent => {}
            Condition::Tag(wanted) => match found {
                None => return Err(Refusal::NoObject),
                Some(entry) if entry.tag != *wanted => return Err(Refusal::NotSo),
                Some(_) => {}
            },
        }
        let mut entry = Entry { size: bytes.len() as u64, tag: tag(&bytes), modified: SystemTime::now(), bytes: None };
        match self.file(bucket, key) {
            Some(path) => {
                let aside = path.with_file_name(format!("t{}", escaped(&entry.tag)));
                fs::write(&aside, &bytes)?;
                fs::rename(&aside, &path)?;
            }
            None => entry.bytes = Some(bytes),
        }
        let tag = entry.tag.clone();
        there.insert(key.to_owned(), entry);
        Ok(tag)
    }

    pub(crate) fn head(&self, bucket: &str, key: &str) -> Result<Entry, Refusal> {
        let content = self.content();
        let bucket = content.buckets.get(bucket).ok_or(Refusal::NoBucket)?;
        bucket.get(key).cloned().ok_or(Refusal::NoObject)
    }

    /// An object's bytes, of the entry that was looked at.
    pub(crate) fn read(&self, bucket: &str, key: &str, entry: &Entry, range: Range<u64>) -> Result<Bytes, Refusal> {
        let range = range.start as usize..range.end as usize;
        let whole = match (&entry.bytes, self.file(bucket, key)) {
            (Some(bytes), _) => bytes.clone(),
            (None, Some(path)) => Bytes::from(fs::read(path)?),
            (None, None) => return Err(Refusal::NoObject),
        };
        if range.end > whole.len() { Err(Refusal::NoObject) } else { Ok(whole.slice(range)) }
    }

    pub(crate) fn delete(&self, bucket: &str, key: &str) -> Result<(), Refusal> {
        let mut content = self.content();
        let there = content.buckets.get_mut(bucket).ok_or(Refusal::NoBucket)?;
        if there.remove(key).is_some()
            && let Some(path) = self.file(bucket, key)
        {
            fs::remove_file(path)?;
        }
        Ok(())
    }

    /// Objects after `after` whose name begins with `prefix`, in order.
    pub(crate) fn list(&self, bucket: &str, prefix: &str, after: &str) -> Result<Vec<(String, Entry)>, Refusal> {
        let content = self.content();
        let bucket = content.buckets.get(bucket).ok_or(Refusal::NoBucket)?;
        let found = bucket.iter().filter(|(key, _)| key.starts_with(prefix) && key.as_str() > after);
        Ok(found.map(|(key, entry)| (key.clone(), entry.clone())).collect())
    }

    pub(crate) fn begin_upload(&self, bucket: &str) -> Result<String, Refusal> {
        let mut content = self.content();
        if !content.buckets.contains_key(bucket) {
            return Err(Refusal::NoBucket);
        }
        content.next_upload += 1;
        let id = format!("upload-{}", content.next_upload);
        content.uploads.insert(id.clone(), BTreeMap::new());
        Ok(id)
    }

    pub(crate) fn put_part(&self, upload: &str, number: i32, bytes: Bytes) -> Result<String, Refusal> {
        let mut content = self.content();
        let parts = content.uploads.get_mut(upload).ok_or(Refusal::NoUpload)?;
        let tag = tag(&bytes);
        parts.insert(number, bytes);
        Ok(tag)
    }

    /// The parts named, put together.
    pub(crate) fn end_upload(&self, upload: &str, parts: &[i32]) -> Result<Bytes, Refusal> {
        let mut content = self.content();
        let found = content.uploads.remove(upload).ok_or(Refusal::NoUpload)?;
        let mut whole = Vec::new();
        for number in parts {
            whole.extend_from_slice(found.get(number).ok_or(Refusal::NoUpload)?);
        }
        Ok(whole.into())
    }

    pub(crate) fn abort_upload(&self, upload: &str) -> Result<(), Refusal> {
        self.content().uploads.remove(upload).map(drop).ok_or(Refusal::NoUpload)
    }
}

fn read_bucket(folder: &Path) -> io::Result<Bucket> {
    let mut bucket = Bucket::new();
    for file in fs::read_dir(folder)? {
        let file = file?;
        let name = file.file_name().to_str().and_then(|name| name.strip_prefix('o')).and_then(unescaped);
        let Some(key) = name else { continue };
        let metadata = file.metadata()?;
        let tag = tag(&fs::read(file.path())?);
        bucket.insert(key, Entry { size: metadata.len(), tag, modified: metadata.modified()?, bytes: None });
    }
    Ok(bucket)
}

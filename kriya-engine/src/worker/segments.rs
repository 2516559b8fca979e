//! The files of sealed segments: written aside, synced, renamed, uploaded; fetched again when missing or wrong.
//!
//! A file and its object have the same name below `segments/` of the local folder and of the store's prefix. Names carry
//! index, segment number and generation, so none is ever used twice.

use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use kriya_region::Region;
use lsmstore::{Held, InUse, fail};
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, ObjectStoreExt, WriteMultipart};
use vecindex::{F32Rows, Hnsw, SealError, seal};

use crate::catalogue::SegmentRecord;

/// Objects up to this size go in one request.
const ONE_REQUEST: u64 = 8 << 20;
const BUFFER: usize = 1 << 20;
/// Behind the name of a file that is being written.
const ASIDE: &str = ".tmp";

/// Why a segment could not be made or opened.
#[derive(Debug)]
pub(crate) enum SegmentError {
    Local {
        path: PathBuf,
        source: io::Error,
    },
    Object {
        object: String,
        source: object_store::Error,
    },
    /// Object or file is not what the segment's record says.
    Damaged {
        name: String,
        what: String,
    },
    Seal(SealError),
}

impl fmt::Display for SegmentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SegmentError::Local { path, source } => write!(f, "local disk failed: {}: {source}", path.display()),
            SegmentError::Object { object, source } => write!(f, "object store failed: {object}: {source}"),
            SegmentError::Damaged { name, what } => write!(f, "segment file {name} is damaged: {what}"),
            SegmentError::Seal(error) => error.fmt(f),
        }
    }
}

/// The files of a new segment. They go with this, unless it hears that a record in the store names them.
pub(crate) struct Unnamed {
    pub record: SegmentRecord,
    folder: PathBuf,
    named: bool,
    _held: Held,
}

impl Unnamed {
    pub(crate) fn keep(mut self) {
        self.named = true;
    }
}

impl Drop for Unnamed {
    fn drop(&mut self) {
        if !self.named {
            remove_files(&self.folder, [&self.record.rows_object, &self.record.graph_object]);
        }
    }
}

/// Removes the files of a segment, and what of them is under way. What is left behind is removed at the next start.
fn remove_files(folder: &Path, names: [&str; 2]) {
    for name in names {
        let _ = std::fs::remove_file(folder.join(name));
        let _ = std::fs::remove_file(folder.join(aside_of(name)));
    }
}

/// Whether a name is that of a segment's file: index, segment and generation, rows or graph.
fn is_ours(name: &str) -> bool {
    let Some(stem) = name.strip_suffix(".rows").or_else(|| name.strip_suffix(".graph")) else { return false };
    let hex = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    let parts: Vec<&str> = stem.split('-').collect();
    matches!(parts[..], [index, segment, generation]
        if index.len() == 16 && segment.len() == 16 && [index, segment, generation].into_iter().all(hex))
}

fn aside_of(name: &str) -> String {
    format!("{name}{ASIDE}")
}

/// A sealed segment that is mapped. Its files go with the last holder once it was replaced.
pub(crate) struct Sealed {
    pub segment: u64,
    pub record: SegmentRecord,
    pub hnsw: Hnsw<F32Rows>,
    folder: PathBuf,
    obsolete: AtomicBool,
    _held: Held,
}

impl Sealed {
    /// No view names it from now on.
    pub(crate) fn retire(&self) {
        self.obsolete.store(true, Ordering::SeqCst);
    }
}

impl Drop for Sealed {
    fn drop(&mut self) {
        if self.obsolete.load(Ordering::SeqCst) {
            remove_files(&self.folder, [&self.record.rows_object, &self.record.graph_object]);
        }
    }
}

pub(crate) struct SegmentFiles {
    pub folder: PathBuf,
    in_use: Arc<InUse>,
    objects: Arc<dyn ObjectStore>,
    prefix: String,
}

/// A file under way: counts its bytes and their checksum.
struct Aside {
    out: BufWriter<File>,
    bytes: u64,
    crc: u32,
}

impl Write for Aside {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.crc = crc32c::crc32c_append(self.crc, &bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl SegmentFiles {
    pub(crate) fn new(folder: PathBuf, objects: Arc<dyn ObjectStore>, prefix: &str) -> SegmentFiles {
        SegmentFiles { folder, in_use: Arc::default(), objects, prefix: prefix.trim_matches('/').to_owned() }
    }

    fn object(&self, name: &str) -> ObjectPath {
        match self.prefix.as_str() {
            "" => ObjectPath::from(format!("segments/{name}")),
            prefix => ObjectPath::from(format!("{prefix}/segments/{name}")),
        }
    }

    fn local(path: &Path) -> impl FnOnce(io::Error) -> SegmentError + use<> {
        let path = path.to_owned();
        move |source| SegmentError::Local { path, source }
    }

    /// Whether a file of the folder is being written or mapped.
    pub(crate) fn uses(&self, file: &str) -> bool {
        self.in_use.contains(file.strip_suffix(ASIDE).unwrap_or(file))
    }

    fn aside(&self, name: &str) -> Result<Aside, SegmentError> {
        let path = self.folder.join(aside_of(name));
        let file = File::create(&path).map_err(Self::local(&path))?;
        Ok(Aside { out: BufWriter::with_capacity(BUFFER, file), bytes: 0, crc: 0 })
    }

    /// Syncs a file and gives it its name.
    fn keep(&self, name: &str, mut file: Aside) -> Result<(u64, u32), SegmentError> {
        let (aside, path) = (self.folder.join(aside_of(name)), self.folder.join(name));
        let mut finish = || -> io::Result<()> {
            file.out.flush()?;
            file.out.get_ref().sync_data()?;
            std::fs::rename(&aside, &path)?;
            File::open(&self.folder)?.sync_all()
        };
        finish().map_err(Self::local(&path))?;
        Ok((file.bytes, file.crc))
    }

    /// Writes the two files of a segment; every row of `hnsw` must be linked. Its coverage is filled in by the caller.
    pub(crate) fn write(
        &self,
        index: u64,
        segment: u64,
        generation: u64,
        hnsw: &Hnsw<F32Rows>,
    ) -> Result<Unnamed, SegmentError> {
        fail::point("before-segment-files");
        let stem = format!("{index:016x}-{segment:016x}-{generation:x}");
        let record = SegmentRecord {
            rows_object: format!("{stem}.rows"),
            rows_bytes: 0,
            rows_crc: 0,
            graph_object: format!("{stem}.graph"),
            graph_bytes: 0,
            graph_crc: 0,
            rows: 0,
            dim: u16::try_from(hnsw.dim()).unwrap_or(u16::MAX),
            first: 0,
            end: 0,
            exceptions: Vec::new(),
            replaces: Vec::new(),
        };
        let held = self.in_use.hold([record.rows_object.clone(), record.graph_object.clone()]);
        let mut written = Unnamed { record, folder: self.folder.clone(), named: false, _held: held };
        let record = &mut written.record;
        let (mut rows, mut graph) = (self.aside(&record.rows_object)?, self.aside(&record.graph_object)?);
        record.rows = seal(hnsw, &mut rows, &mut graph).map_err(SegmentError::Seal)?.rows;
        (record.rows_bytes, record.rows_crc) = self.keep(&record.rows_object, rows)?;
        (record.graph_bytes, record.graph_crc) = self.keep(&record.graph_object, graph)?;
        Ok(written)
    }

    /// Puts both objects.
    pub(crate) async fn upload(&self, record: &SegmentRecord) -> Result<(), SegmentError> {
        fail::point("before-segment-upload");
        for (name, bytes) in [(&record.rows_object, record.rows_bytes), (&record.graph_object, record.graph_bytes)] {
            self.put(name, bytes).await?;
        }
        fail::point("after-segment-upload");
        Ok(())
    }

    async fn put(&self, name: &str, bytes: u64) -> Result<(), SegmentError> {
        let path = self.folder.join(name);
        let object = self.object(name);
        let failed = |source| SegmentError::Object { object: name.to_owned(), source };
        let mut file = File::open(&path).map_err(Self::local(&path))?;
        if bytes <= ONE_REQUEST {
            let mut all = Vec::new();
            file.read_to_end(&mut all).map_err(Self::local(&path))?;
            self.objects.put(&object, Bytes::from(all).into()).await.map_err(failed)?;
            return Ok(());
        }
        let upload = WriteMultipart::new(self.objects.put_multipart(&object).await.map_err(failed)?);
        send(upload, file, |source| Self::local(&path)(source), failed).await
    }

    /// Maps the files of a segment, fetching what is missing or wrong. With `trusted` only lengths are looked at.
    pub(crate) async fn open(
        &self,
        segment: u64,
        record: SegmentRecord,
        trusted: bool,
    ) -> Result<Sealed, SegmentError> {
        let files = [
            (&record.rows_object, record.rows_bytes, record.rows_crc),
            (&record.graph_object, record.graph_bytes, record.graph_crc),
        ];
        let held = self.in_use.hold([record.rows_object.clone(), record.graph_object.clone()]);
        let mut regions = Vec::new();
        for (name, bytes, crc) in files {
            if name.contains('/') || name.starts_with('.') {
                return Err(SegmentError::Damaged { name: name.clone(), what: "it is not a name of ours".into() });
            }
            if self.check(name, bytes, crc, trusted).is_err() {
                self.fetch(name, bytes, crc).await?;
            }
            let path = self.folder.join(name);
            let region = File::open(&path).and_then(|file| Region::open_file(&file)).map_err(Self::local(&path))?;
            regions.push(Arc::new(region));
        }
        let (Some(graph), Some(rows)) = (regions.pop(), regions.pop()) else {
            return Err(SegmentError::Damaged { name: record.rows_object, what: "a file is missing".into() });
        };
        let hnsw = Hnsw::<F32Rows>::open_sealed(rows, graph)
            .map_err(|error| SegmentError::Damaged { name: record.graph_object.clone(), what: error.to_string() })?;
        Ok(Sealed { segment, record, hnsw, folder: self.folder.clone(), obsolete: AtomicBool::new(false), _held: held })
    }

    fn check(&self, name: &str, bytes: u64, crc: u32, trusted: bool) -> Result<(), SegmentError> {
        let path = self.folder.join(name);
        let mut file = File::open(&path).map_err(Self::local(&path))?;
        let length = file.metadata().map_err(Self::local(&path))?.len();
        let damaged = |what: String| SegmentError::Damaged { name: name.to_owned(), what };
        if length != bytes {
            return Err(damaged(format!("it has {length} bytes, expected {bytes}")));
        }
        if trusted {
            return Ok(());
        }
        let (mut buffer, mut got) = (vec![0; BUFFER], 0);
        loop {
            match file.read(&mut buffer).map_err(Self::local(&path))? {
                0 => break,
                read => got = crc32c::crc32c_append(got, &buffer[..read]),
            }
        }
        if got == crc { Ok(()) } else { Err(damaged(format!("its checksum is {got:08x}, expected {crc:08x}"))) }
    }

    async fn fetch(&self, name: &str, bytes: u64, crc: u32) -> Result<(), SegmentError> {
        let failed = |source| SegmentError::Object { object: name.to_owned(), source };
        let mut stream = self.objects.get(&self.object(name)).await.map_err(failed)?.into_stream();
        let mut file = self.aside(name)?;
        while let Some(part) = stream.next().await {
            file.write_all(&part.map_err(failed)?).map_err(Self::local(&self.folder.join(name)))?;
        }
        if (file.bytes, file.crc) != (bytes, crc) {
            return Err(SegmentError::Damaged {
                name: name.to_owned(),
                what: format!(
                    "the object has {} bytes with checksum {:08x}, expected {bytes} with {crc:08x}",
                    file.bytes, file.crc
                ),
            });
        }
        self.keep(name, file)?;
        Ok(())
    }

    /// The objects of segments in the bucket and their lengths; what is not named as they are is none.
    pub(crate) async fn objects_there(&self) -> Result<Vec<(String, u64)>, object_store::Error> {
        let folder = self.object("");
        let listed: Vec<_> = self.objects.list(Some(&folder)).try_collect().await?;
        let ours = listed.into_iter().filter_map(|meta| {
            let name = meta.location.filename()?.to_owned();
            is_ours(&name).then_some((name, meta.size))
        });
        Ok(ours.collect())
    }

    /// Deletes objects of segments.
    pub(crate) async fn delete_objects(&self, names: &[String]) -> Result<(), object_store::Error> {
        let paths: Vec<_> = names.iter().map(|name| Ok(self.object(name))).collect();
        let mut deleted = self.objects.delete_stream(futures::stream::iter(paths).boxed());
        while let Some(result) = deleted.next().await {
            match result {
                Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Removes every file that is not one of `keep`.
    pub(crate) fn clean(&self, keep: &std::collections::HashSet<String>) -> Result<(), SegmentError> {
        for entry in std::fs::read_dir(&self.folder).map_err(Self::local(&self.folder))? {
            let entry = entry.map_err(Self::local(&self.folder))?;
            if !entry.file_name().to_str().is_some_and(|name| keep.contains(name)) {
                std::fs::remove_file(entry.path()).map_err(Self::local(&entry.path()))?;
            }
        }
        Ok(())
    }
}

/// Sends a file in parts. Where that fails, what the store has of it goes: nobody names the object yet, and parts without
/// one are paid for and not listed.
async fn send(
    mut upload: WriteMultipart,
    mut file: impl Read,
    local: impl Fn(io::Error) -> SegmentError,
    failed: impl Fn(object_store::Error) -> SegmentError,
) -> Result<(), SegmentError> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let error = match (file.read(&mut buffer), upload.wait_for_capacity(4).await) {
            // This one clears up after itself.
            (Ok(0), Ok(())) => return upload.finish().await.map(drop).map_err(failed),
            (Ok(read), Ok(())) => {
                upload.write(&buffer[..read]);
                continue;
            }
            (Err(error), _) => local(error),
            (_, Err(error)) => failed(error),
        };
        let _ = upload.abort().await;
        return Err(error);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use futures::future::BoxFuture;
    use object_store::{MultipartUpload, PutPayload, PutResult, UploadPart};

    use super::*;

    /// Takes some parts, no more, and hears whether it was given up.
    #[derive(Debug)]
    struct Parts {
        left: usize,
        given_up: Arc<AtomicBool>,
    }

    fn full<T>() -> object_store::Result<T> {
        Err(object_store::Error::Generic { store: "test", source: "no more parts".into() })
    }

    impl MultipartUpload for Parts {
        fn put_part(&mut self, _: PutPayload) -> UploadPart {
            let taken = self.left > 0;
            self.left = self.left.saturating_sub(1);
            async move { if taken { Ok(()) } else { full() } }.boxed()
        }

        fn complete<'a, 'b>(&'a mut self) -> BoxFuture<'b, object_store::Result<PutResult>>
        where
            'a: 'b,
            Self: 'b,
        {
            async { full() }.boxed()
        }

        fn abort<'a, 'b>(&'a mut self) -> BoxFuture<'b, object_store::Result<()>>
        where
            'a: 'b,
            Self: 'b,
        {
            self.given_up.store(true, Ordering::SeqCst);
            async { Ok(()) }.boxed()
        }
    }

    #[test]
    fn only_names_of_segments_are_taken_for_ours() {
        for name in ["00000000000000a1-0000000000000002-19a.rows", "00000000000000a1-0000000000000002-0.graph"] {
            assert!(is_ours(name), "{name}");
        }
        for name in [
            "a-b-c.rows",
            "00000000000000a1-0000000000000002-.rows",
            "00000000000000a1-0000000000000002-1.txt",
            ".rows",
        ] {
            assert!(!is_ours(name), "{name}");
        }
    }

    #[tokio::test]
    async fn an_upload_that_fails_anywhere_leaves_no_parts_behind() {
        const PART: usize = 1 << 20;
        // In the first part, later, among the last ones, at the end.
        for left in [0, 4, 15, 16] {
            let given_up = Arc::new(AtomicBool::new(false));
            let parts = Parts { left, given_up: Arc::clone(&given_up) };
            let upload = WriteMultipart::new_with_chunk_size(Box::new(parts), PART);
            let file = io::repeat(7).take(16 * PART as u64);
            let local = |source| SegmentError::Local { path: PathBuf::new(), source };
            let failed = |source| SegmentError::Object { object: "object".into(), source };
            let sent = send(upload, file, local, failed).await;
            assert!(matches!(sent, Err(SegmentError::Object { .. })) && given_up.load(Ordering::SeqCst), "{left}");
        }
    }
}

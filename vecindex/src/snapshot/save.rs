//! Writing a snapshot.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::{ENTRY, Kind, PAGE};
use crate::error::SealError;
use crate::format::{FILE_MAGIC, HEADER, SEALED, at};
use crate::hnsw::Hnsw;
use crate::sealed::{Page, Plan, sealed_bytes, too_large, write_rows};
use crate::storage::{Encoding, F32, F32Rows, Rows, VectorStorage};

/// Tells files apart that are being written to the same name.
static NEXT: AtomicU64 = AtomicU64::new(1);

/// Saves an index, all of whose rows are linked, as one file, in place of what may be there, and returns its length. Rows
/// appended meanwhile are not in it.
///
/// The file is written beside its name (as `.NAME.PID-N.tmp`; a process that is killed leaves that behind), synced,
/// renamed, and its folder is synced.
///
/// # Errors
/// `Pending` if rows are not linked, `File` with what the system says. What was there is then still there.
pub fn save<E: Encoding>(hnsw: &Hnsw<Rows<E>>, path: impl AsRef<Path>) -> Result<u64, SealError> {
    save_at(hnsw, None, path.as_ref())
}

/// As [`save`], with exact rows beside those that are searched, for reranking: as many, in the same order.
///
/// # Errors
/// As [`save`]; `Mismatch` if the exact rows are others.
pub fn save_with_exact<E: Encoding>(
    hnsw: &Hnsw<Rows<E>>,
    exact: &F32Rows,
    path: impl AsRef<Path>,
) -> Result<u64, SealError> {
    save_at(hnsw, Some(exact), path.as_ref())
}

/// Writes the bytes that [`save`] or [`save_with_exact`] puts into the file, and returns how many they are.
///
/// # Errors
/// As [`save_with_exact`], and what the writer says.
pub fn write<E: Encoding>(
    hnsw: &Hnsw<Rows<E>>,
    exact: Option<&F32Rows>,
    out: &mut impl Write,
) -> Result<u64, SealError> {
    let plan = Plan::of(hnsw)?;
    let exact_layout = Rows::<F32>::layout_of(hnsw.dim(), plan.len).ok_or_else(too_large)?;
    let mut parts = vec![(Kind::Rows, plan.rows_bytes()), (Kind::Graph, plan.graph_bytes())];
    if let Some(exact) = exact {
        belongs(exact, hnsw, plan.len)?;
        parts.push((Kind::Exact, sealed_bytes(exact_layout.end)));
    }
    let (header, length) = header(&parts, plan.pair).ok_or_else(too_large)?;
    out.write_all(&header)?;
    for (kind, bytes) in parts {
        match (kind, exact) {
            (Kind::Rows, _) => plan.write_rows(out)?,
            (Kind::Graph, _) => plan.write_graph(out)?,
            (Kind::Exact, Some(exact)) => write_rows(exact, plan.len, plan.pair, &exact_layout, out)?,
            (Kind::Exact, None) => {}
        }
        let beyond = (bytes % PAGE as u64) as usize;
        out.write_all(&[0; PAGE][..(PAGE - beyond) % PAGE])?;
    }
    out.flush()?;
    Ok(length)
}

/// The header of a file with these parts, and the length of the file.
pub(super) fn header(parts: &[(Kind, u64)], pair: u64) -> Option<([u8; HEADER], u64)> {
    let mut page = Page::new(FILE_MAGIC);
    page.word(at::FLAGS, SEALED);
    page.long(at::PAIR, pair);
    page.word(at::PARTS, parts.len() as u32);
    let mut offset = HEADER as u64;
    for (i, (kind, bytes)) in parts.iter().enumerate() {
        let entry = at::TABLE + i * ENTRY;
        page.word(entry, kind.code());
        page.long(entry + 8, offset);
        page.long(entry + 16, *bytes);
        offset = offset.checked_add(*bytes)?.checked_next_multiple_of(PAGE as u64)?;
    }
    page.long(at::LENGTH, offset);
    Some((page.finish(), offset))
}

fn belongs<E: Encoding>(exact: &F32Rows, hnsw: &Hnsw<Rows<E>>, len: u32) -> Result<(), SealError> {
    let (dim, metric) = (hnsw.dim(), hnsw.metric());
    if exact.len() < len || exact.dim() != dim || exact.metric() != metric {
        let (rows, of, by) = (exact.len(), exact.dim(), exact.metric());
        return Err(SealError::Mismatch(format!("{rows} of {of} ({by:?}), expected {len} of {dim} ({metric:?})")));
    }
    Ok(())
}

fn save_at<E: Encoding>(hnsw: &Hnsw<Rows<E>>, exact: Option<&F32Rows>, path: &Path) -> Result<u64, SealError> {
    let failed = |path: &Path, source| SealError::File { path: path.to_owned(), source };
    let aside = aside(path).map_err(|source| failed(path, source))?;
    let written = File::create_new(&aside).map_err(|source| failed(&aside, source)).and_then(|mut file| {
        let length = write(hnsw, exact, &mut file).map_err(|error| match error {
            SealError::Write(source) => failed(&aside, source),
            other => other,
        })?;
        file.sync_all().map_err(|source| failed(&aside, source))?;
        std::fs::rename(&aside, path).map_err(|source| failed(path, source))?;
        Ok(length)
    });
    match written {
        Ok(length) => {
            sync_folder(path).map_err(|source| failed(path, source))?;
            Ok(length)
        }
        Err(error) => {
            // It may not even have been made; what counts is the first error.
            let _ = std::fs::remove_file(&aside);
            Err(error)
        }
    }
}

/// Where a file is written before it gets its name.
fn aside(path: &Path) -> io::Result<PathBuf> {
    let Some(name) = path.file_name() else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the path does not end in the name of a file"));
    };
    let mut aside = std::ffi::OsString::from(".");
    aside.push(name);
    aside.push(format!(".{}-{}.tmp", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
    Ok(path.with_file_name(aside))
}

/// Makes the name of a file durable.
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

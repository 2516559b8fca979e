//! From a mirror (raw blocks) to an object (compressed blocks) and back, verifying every checksum on the way.
//!
//! Both directions are one walk over the index: read a block, check it, write it in the other codec. Separators, filter
//! and properties are taken over; offsets, and so checksums, are new. The result depends on the input alone.

use std::borrow::Cow;
use std::cell::RefCell;

use zstd::bulk::Compressor;
use zstd::zstd_safe::{self, DCtx, InBuffer, OutBuffer, ResetDirective, compress_bound};

use crate::error::Corruption;
use crate::sstable::block::{self, Block, RAW, ZSTD};
use crate::sstable::layout::Layout;
use crate::sstable::write::{Frames, IndexBuilder, Sink};
use crate::sstable::{TableId, TableRef};

/// Largest raw block: one version of the largest key and value. Bounds what a compressed block may grow to.
const MAX_RAW: usize = crate::key::MAX_VALUE_BYTES + crate::key::MAX_KEY_BYTES + (32 << 20);

/// Why a table could not be transcoded.
#[derive(Debug)]
pub(crate) enum TranscodeError {
    Corrupt(Corruption),
    Io(std::io::Error),
}

impl From<Corruption> for TranscodeError {
    fn from(error: Corruption) -> Self {
        TranscodeError::Corrupt(error)
    }
}

impl From<std::io::Error> for TranscodeError {
    fn from(error: std::io::Error) -> Self {
        TranscodeError::Io(error)
    }
}

thread_local! {
    /// To make one takes about as long as to decompress a small block.
    static CONTEXT: RefCell<DCtx<'static>> = RefCell::new(DCtx::create());
}

/// Decompresses one frame. Streamed, so that what is returned grows with what comes out and not with what a header claims;
/// the context's window follows the header, up to 128 MiB.
fn inflate(payload: &[u8]) -> Result<Vec<u8>, String> {
    let failed = |code| zstd_safe::get_error_name(code).to_owned();
    CONTEXT.with_borrow_mut(|context| {
        context.reset(ResetDirective::SessionOnly).map_err(failed)?;
        let mut input = InBuffer::around(payload);
        let mut out = Vec::with_capacity((payload.len() * 4).min(1 << 20));
        loop {
            let begin = out.len();
            let left = context.decompress_stream(&mut OutBuffer::around_pos(&mut out, begin), &mut input);
            match left.map_err(failed)? {
                0 if input.pos == payload.len() => return Ok(out),
                0 => return Err("there is something behind its end".into()),
                _ if out.len() < out.capacity() => return Err("it has no end".into()),
                _ if out.len() >= MAX_RAW => return Err(format!("it has over {MAX_RAW} bytes")),
                _ => out.reserve_exact(out.len().max(1 << 10).min(MAX_RAW - out.len())),
            }
        }
    })
}

/// The payload of a block, decompressed.
pub(crate) fn raw<'a>(name: &str, at: u64, payload: &'a [u8], codec: u8) -> Result<Cow<'a, [u8]>, Corruption> {
    match codec {
        RAW => Ok(Cow::Borrowed(payload)),
        ZSTD => {
            let out = inflate(payload);
            let out =
                out.map_err(|error| Corruption::new(name, at, format!("a block cannot be decompressed: {error}")));
            out.map(Cow::Owned)
        }
        other => Err(Corruption::new(name, at, format!("codec {other} is not supported yet"))),
    }
}

/// Checks every checksum of a table and that its blocks can be walked.
pub(crate) fn verify(name: &str, id: TableId, file: &[u8]) -> Result<(), Corruption> {
    let layout = Layout::read(name, id, file)?;
    let mut at = 0;
    for n in 0..layout.blocks {
        let (_, handle) = layout.block(file, n).ok_or_else(|| index_bad(name, &layout))?;
        if handle.offset != at {
            return Err(Corruption::new(name, handle.offset, format!("a block was expected at {at}")));
        }
        let (payload, codec) = block::verified(name, id, file, handle)?;
        if codec == RAW && Block::new(payload).is_none() {
            return Err(Corruption::new(name, handle.offset, "the tail of a block makes no sense"));
        }
        at += u64::from(handle.len);
    }
    if at != layout.meta {
        return Err(Corruption::new(name, at, "the blocks do not reach to the meta blocks"));
    }
    Ok(())
}

fn index_bad(name: &str, layout: &Layout) -> Corruption {
    Corruption::new(name, layout.index_at, "an entry of the index makes no sense")
}

/// Writes table `id` again with raw (`level` none) or compressed blocks. Returns the length written.
fn transcode(
    name: &str,
    id: TableId,
    file: &[u8],
    level: Option<i32>,
    sink: Sink<'_>,
) -> Result<(u64, Layout), TranscodeError> {
    let layout = Layout::read(name, id, file)?;
    let mut frames = Frames::new(id, sink);
    let mut index = IndexBuilder::default();
    let (mut compressor, mut packed) = (level.map(Compressor::new).transpose()?, Vec::new());
    for n in 0..layout.blocks {
        let (separator, handle) = layout.block(file, n).ok_or_else(|| index_bad(name, &layout))?;
        let (payload, codec) = block::verified(name, id, file, handle)?;
        let payload = raw(name, handle.offset, payload, codec)?;
        packed.clear();
        if let Some(compressor) = &mut compressor {
            packed.reserve(compress_bound(payload.len()));
            compressor.compress_to_buffer(&payload[..], &mut packed)?;
        }
        let smaller = compressor.is_some() && packed.len() < payload.len() / 10 * 9;
        let written = if smaller { frames.put(&packed, ZSTD)? } else { frames.put(&payload, RAW)? };
        index.add(separator, written);
    }
    let filter = &file[layout.filter.0..layout.filter.1];
    let properties = &file[layout.properties_at.0..layout.properties_at.1];
    let length = frames.finish(filter, &index.finish(), properties, &layout.ranges)?;
    Ok((length, layout))
}

/// The object of a mirror file.
pub(crate) fn object_of(info: &TableRef, mirror: &[u8], level: i32) -> Result<Vec<u8>, TranscodeError> {
    let mut out = Vec::with_capacity(mirror.len() / 2);
    let mut sink = |bytes: &[u8]| {
        out.extend_from_slice(bytes);
        Ok(())
    };
    transcode(&info.mirror_name(), info.id, mirror, Some(level), &mut sink)?;
    Ok(out)
}

/// The mirror file of an object.
pub(crate) fn mirror_of(name: &str, info: &TableRef, object: &[u8], sink: Sink<'_>) -> Result<(), TranscodeError> {
    if object.len() as u64 != info.object_len {
        let what = format!("the object has {} bytes, the manifest says {}", object.len(), info.object_len);
        return Err(Corruption::new(name, 0, what).into());
    }
    let (length, layout) = transcode(name, info.id, object, None, sink)?;
    if length != info.mirror_len {
        let what = format!("the table has {length} bytes uncompressed, the manifest says {}", info.mirror_len);
        return Err(Corruption::new(name, layout.meta, what).into());
    }
    Ok(())
}

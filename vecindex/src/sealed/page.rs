//! Writing sealed bytes: a header page, then chunks with their checksums.

use std::io::{self, Write};

use crate::format::{CHUNK, HEADER, SEALED, TRAILER_MAGIC, VERSION, at, trailer_bytes};

/// A header page under construction.
pub(crate) struct Page([u8; HEADER]);

impl Page {
    pub(crate) fn new(magic: [u8; 8]) -> Page {
        let mut page = Page([0; HEADER]);
        page.0[at::MAGIC..at::MAGIC + 8].copy_from_slice(&magic);
        page.word(at::VERSION, VERSION);
        page
    }

    /// That of a sealed structure which ends, without its trailer, at `end`.
    pub(crate) fn sealed(magic: [u8; 8], end: usize, pair: u64) -> Page {
        let mut page = Page::new(magic);
        page.word(at::FLAGS, SEALED);
        page.long(at::LENGTH, (end + trailer_bytes(end)) as u64);
        page.long(at::PAIR, pair);
        page.long(at::CHECKSUMS, end as u64);
        page.word(at::CHUNK, CHUNK as u32);
        page
    }

    pub(crate) fn word(&mut self, at: usize, value: u32) {
        self.0[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    }

    pub(crate) fn long(&mut self, at: usize, value: u64) {
        self.0[at..at + 8].copy_from_slice(&value.to_ne_bytes());
    }

    pub(crate) fn finish(mut self) -> [u8; HEADER] {
        let crc = crc32c::crc32c(&self.0[..at::HEADER_CRC]);
        self.word(at::HEADER_CRC, crc);
        self.0
    }
}

/// Passes bytes on in chunks, each with its checksum.
pub(super) struct Chunks<'a, W> {
    out: &'a mut W,
    buffer: Vec<u8>,
    written: usize,
    checksums: Vec<u8>,
}

impl<'a, W: Write> Chunks<'a, W> {
    pub(super) fn after_header(out: &'a mut W, header: &[u8; HEADER]) -> io::Result<Self> {
        out.write_all(header)?;
        Ok(Chunks { out, buffer: Vec::with_capacity(CHUNK), written: HEADER, checksums: Vec::new() })
    }

    pub(super) fn put(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let n = bytes.len().min(CHUNK - self.buffer.len());
            self.buffer.extend_from_slice(&bytes[..n]);
            bytes = &bytes[n..];
            if self.buffer.len() == CHUNK {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.checksums.extend_from_slice(&crc32c::crc32c(&self.buffer).to_ne_bytes());
        self.out.write_all(&self.buffer)?;
        self.written += self.buffer.len();
        self.buffer.clear();
        Ok(())
    }

    /// Zeros up to an offset of the file.
    pub(super) fn pad_to(&mut self, offset: usize) -> io::Result<()> {
        let at = self.written + self.buffer.len();
        let zeros = [0; 64];
        self.put(&zeros[..(offset.saturating_sub(at)).min(64)])
    }

    pub(super) fn finish(mut self) -> io::Result<()> {
        if !self.buffer.is_empty() {
            self.flush()?;
        }
        let table = crc32c::crc32c(&self.checksums);
        self.out.write_all(&self.checksums)?;
        self.out.write_all(&table.to_ne_bytes())?;
        self.out.write_all(&TRAILER_MAGIC)?;
        self.out.flush()
    }
}
